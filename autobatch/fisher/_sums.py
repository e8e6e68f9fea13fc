"""The free check of a measured step: per-sample gradients must add up to the gradients that the parameters got."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from autobatch._errors import MeasureError

# Round-off of a sum over samples, in units of eps times the sum of the samples' norms: of gradients in single and
# double precision, whose own sums over positions may cancel; of those that are rounded once, to half or TF32.
_MARGIN = 50.0
_HALF_MARGIN = 8.0
# Round-off of a library's sum over many positions, in units of eps times the root of a sample's positions times the sum
# of the terms' sizes. Half of it was seen (a convolution's bias on a CPU), and nothing where there are few.
_POSITIONS_MARGIN = 8.0
_MANY_POSITIONS = 128
# What of that a parameter may show of the whole model's norms: a gradient that is zero but for round-off.
_SHARE_OF_ALL = 0.1
# Round-off of entries of F, relative to the norms of their rows; see ``GramAccumulator``.
_GRAM_SINGLE = 1e-6
_GRAM_DOUBLE = 1e-12
_WHOLE = "the model"


@dataclass(frozen=True)
class Arrived:
    """What is known of the gradient that a parameter got in a pass.

    Attributes:
        norms: of the gradients that arrived; it is their sum.
        eps: machine epsilon of their arithmetic.
        slack: what else may be round-off in its norm, in units of eps.
    """

    norms: Sequence[Tensor]
    eps: float
    slack: Sequence[Tensor] = ()


def slack_of_positions(gradient: Tensor, batch: int, elements: int) -> list[Tensor]:
    """Return how far a bias's gradient may be off: terms that cancel over positions leave their round-off.

    Args:
        gradient: of an output, of which the bias gets the sum over samples and positions.
        batch: samples.
        elements: of the bias.

    Returns:
        Bound of the error's norm in units of eps; nothing where there are few positions.
    """
    positions = gradient.numel() // max(1, batch * elements)
    if positions < _MANY_POSITIONS:
        return []
    wide = torch.float32 if gradient.dtype in {torch.float16, torch.bfloat16} else None
    sizes = math.sqrt(positions * batch) * torch.linalg.vector_norm(gradient, dtype=wide)
    return [_POSITIONS_MARGIN * math.sqrt(positions) * sizes]


@dataclass(frozen=True)
class SumCheck:
    """Holds 1ᵀF1 = ||gradient||², parameter by parameter, where the measure keeps them apart.

    Args:
        batch: samples in the pass.
        names: of the parameters.
        eps: machine epsilon of each one's gradients.
        sums: (n, 4) float64: 1ᵀF1 of a parameter's own F, the squared norm of its gradient, the trace of its own F, and
            its slack.
    """

    batch: int
    names: tuple[str, ...]
    eps: tuple[float, ...]
    sums: Tensor

    @classmethod
    def of(
        cls,
        batch: int,
        expected: Mapping[str, Arrived],
        found: Mapping[str, tuple[Tensor, Tensor]] | None,
        gram: Tensor,
    ) -> Self:
        """Put a pass's sums together, without waiting for the device.

        Args:
            batch: samples in the pass.
            expected: what each parameter got.
            found: 1ᵀF1 and the trace of F before each parameter and with it; None where they are not kept apart.
            gram: F of the pass.

        Returns:
            The check.
        """
        if not expected:
            return cls(batch, (), (), torch.zeros(0, 4, dtype=torch.float64))
        squares = _squares([each.norms for each in expected.values()], gram.device)
        slacks = _squares([each.slack for each in expected.values()], gram.device)
        eps = tuple(each.eps for each in expected.values())
        if found is None:
            whole = torch.stack([gram.sum(), squares.sum(), gram.trace(), slacks.sum().sqrt()])
            return cls(batch, (_WHOLE,), (max(eps),), whole.unsqueeze(0))
        nothing = torch.zeros(2, dtype=torch.float64, device=gram.device)
        pairs = [found.get(name, (nothing, nothing)) for name in expected]
        own = torch.stack([after for _, after in pairs]) - torch.stack([before for before, _ in pairs])
        return cls(batch, tuple(expected), eps, torch.stack([own[:, 0], squares, own[:, 1], slacks.sqrt()], 1))

    def run(self) -> tuple[bool, tuple[str, ...]]:
        """Compare the sums.

        Returns:
            Whether the gradients are finite, and the parameters of which the check says nothing: round-off may be as
            large as their whole gradient.

        Raises:
            MeasureError: where a parameter's per-sample gradients do not add up to its gradient.
        """
        rows = self.sums.tolist()
        if not all(math.isfinite(value) for row in rows for value in row):
            return False, ()
        everything = math.sqrt(self.batch * max(0.0, sum(trace for _, _, trace, _ in rows)))
        void = []
        for name, eps, (total, expected, trace, slack) in zip(self.names, self.eps, rows, strict=True):
            single = torch.finfo(torch.float32).eps
            margin = eps * (_HALF_MARGIN if eps > single else _MARGIN)
            norms = math.sqrt(self.batch * max(0.0, trace))
            error = margin * (norms + _SHARE_OF_ALL * everything) + min(eps, single) * slack
            gram = (_GRAM_SINGLE if eps >= single else _GRAM_DOUBLE) * (norms**2 + 1e-3 * everything**2)
            tolerance = error * error + 2.0 * error * math.sqrt(expected) + gram
            if abs(total - expected) > tolerance:
                raise MeasureError(
                    f"parameter {name!r}: its per-sample gradients add up to a squared norm of {total:.6g}, but it got"
                    f" {expected:.6g}: some use of a parameter was not seen, or its gradient was changed on the way"
                )
            if expected <= tolerance:
                void.append(name)
        return True, tuple(void)


def _squares(norms: Sequence[Sequence[Tensor]], device: torch.device) -> Tensor:
    """Return the sum of squares of each group of norms, (n,) float64."""
    flat = [norm for group in norms for norm in group]
    if not flat:
        return torch.zeros(len(norms), dtype=torch.float64, device=device)
    if len({norm.dtype for norm in flat}) > 1:
        flat = [norm.to(torch.float64) for norm in flat]
    squares = torch.stack([norm.to(device) for norm in flat]).to(torch.float64).square()
    if all(len(group) == 1 for group in norms):
        return squares
    owners = torch.repeat_interleave(torch.tensor([len(group) for group in norms])).to(device)
    return squares.new_zeros(len(norms)).index_add(0, owners, squares)
