"""The free check of a measured step: per-sample gradients must add up to the gradients that the parameters got."""

import itertools
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
# Numbers that a CPU adds up in float32 to better than 1e-6.
_LONG_SUM = 1 << 16
_WHOLE = "the model"
# Terms of a convolution's sum from which adding one to the next may show: 12,544 were seen to.
_LONG_CHAIN = 4096


@dataclass(frozen=True)
class Arrived:
    """What is known of the gradient that a parameter got in a pass."""

    norms: Sequence[Tensor]  # of the gradients that arrived; it is their sum
    eps: float  # machine epsilon of their arithmetic
    slack: Sequence[Tensor] = ()  # what else may be round-off in its norm, in units of eps
    terms: int = 0  # that the library's sum adds one to the next

    @property
    def doubt(self) -> str:
        """What else may be wrong where per-sample gradients do not add up to what arrived; empty where nothing may.

        Over a constant background, as of handwritten digits, a convolution's gradient under BatchNorm is the small
        difference of large sums, and a CPU's float32 sum was off by 0.2 %.
        """
        if self.terms < _LONG_CHAIN or self.eps < torch.finfo(torch.float32).eps:
            return ""
        return (
            f"; or the library's own sum over {self.terms:,} positions is off by that, as where images have a constant "
            "background: gradients='rows' (reuse_weight_gradient=True of a controller) takes the one of the samples"
        )


def norm_of(gradient: Tensor) -> Tensor:
    """Return the norm of a gradient, NaN for one that is not held in full.

    In two stages, the second in float64: in one, the CPU's float32 sum over a million entries is off by 1e-5, which is
    more than the check of the sums allows for, and float64 throughout takes thirty times as long.
    """
    if gradient.layout is not torch.strided:
        return torch.full((), torch.nan, dtype=torch.float32, device=gradient.device)
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient.resolve_conj())
    dtype = gradient.dtype if gradient.dtype in {torch.float32, torch.float64} else torch.float32
    if gradient.ndim > 1:
        kept = 0  # what follows lies together in memory, across which a sum takes ten times as long
        if gradient.numel() > _LONG_SUM * gradient.shape[0]:
            kept = max(range(gradient.ndim), key=lambda dim: gradient.shape[dim])
        others = tuple(dim for dim in range(gradient.ndim) if dim != kept)
        gradient = torch.linalg.vector_norm(gradient, dim=others, dtype=dtype)
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=torch.float64)
    return norm


def slack_of_positions(gradient: Tensor, batch: int, elements: int) -> list[Tensor]:
    """Return how far a bias's gradient may be off: terms that cancel over positions leave their round-off.

    ``gradient`` is that of an output, of which the bias gets the sum over samples and positions. The bound of the
    error's norm is in units of eps; there is none where there are few positions.
    """
    positions = gradient.numel() // max(1, batch * elements)
    if positions < _MANY_POSITIONS:
        return []
    wide = torch.float32 if gradient.dtype in {torch.float16, torch.bfloat16} else None
    sizes = math.sqrt(positions * batch) * torch.linalg.vector_norm(gradient, dtype=wide)
    return [_POSITIONS_MARGIN * math.sqrt(positions) * sizes]


@dataclass(frozen=True)
class SumCheck:
    """Holds 1ᵀF1 = ||gradient||², parameter by parameter, where the measure keeps them apart."""

    batch: int  # samples in the pass
    arrived: Mapping[str, Arrived]  # what each parameter got, by name
    # For each, 1ᵀF1 and the trace of F, (2,) float64, before the parameter and with it.
    pairs: Sequence[tuple[Tensor, Tensor]]

    @classmethod
    def of(
        cls,
        batch: int,
        expected: Mapping[str, Arrived],
        found: Mapping[str, tuple[Tensor, Tensor]] | None,
        gram: Tensor,
    ) -> Self:
        """Return the check of a pass, not yet read from the device: of all F, where no sums by parameter were found."""
        nothing = torch.zeros(2, dtype=torch.float64, device=gram.device)
        if found is not None or not expected:
            return cls(batch, expected, [(found or {}).get(name, (nothing, nothing)) for name in expected])
        norms = [norm for each in expected.values() for norm in each.norms]
        slack = [some for each in expected.values() for some in each.slack]
        whole = Arrived(norms, max(each.eps for each in expected.values()), slack)
        return cls(batch, {_WHOLE: whole}, [(nothing, torch.stack([gram.sum(), gram.trace()]))])

    def run(self) -> tuple[bool, tuple[str, ...]]:
        """Return whether gradients are finite, and the parameters whose whole gradient may be as small as round-off.

        Raises:
            MeasureError: where a parameter's per-sample gradients do not add up to its gradient.
        """
        rows = self._rows()
        if not all(math.isfinite(value) for row in rows for value in row):
            return False, ()
        everything = math.sqrt(self.batch * max(0.0, sum(trace for _, _, trace, _ in rows)))
        void = []
        for (name, arrived), (total, expected, trace, slack) in zip(self.arrived.items(), rows, strict=True):
            eps, single = arrived.eps, torch.finfo(torch.float32).eps
            margin = eps * (_HALF_MARGIN if eps > single else _MARGIN)
            norms = math.sqrt(self.batch * max(0.0, trace))
            error = margin * (norms + _SHARE_OF_ALL * everything) + min(eps, single) * slack
            if not arrived.norms and norms > error:
                raise MeasureError(
                    f"parameter {name!r} got no gradient, but what it was used in did: it was frozen after its use, or"
                    " the backward pass was told of other parameters alone (inputs=..., torch.autograd.grad): freeze"
                    " it before the call of the model, or say params=..., those that count"
                )
            gram = (_GRAM_SINGLE if eps >= single else _GRAM_DOUBLE) * (norms**2 + 1e-3 * everything**2)
            tolerance = error * error + 2.0 * error * math.sqrt(expected) + gram
            if abs(total - expected) > tolerance:
                raise MeasureError(
                    f"parameter {name!r}: its per-sample gradients add up to a squared norm of {total:.6g}, but it got"
                    f" {expected:.6g}: some use of a parameter was not seen, or its gradient was changed on the way"
                    f"{arrived.doubt}"
                )
            if expected <= tolerance:
                void.append(name)
        return True, tuple(void)

    def _rows(self) -> list[tuple[float, float, float, float]]:
        """Return each parameter's 1ᵀF1 of its own F, squared norm of its gradient, trace of its own F, and slack."""
        if not self.pairs:
            return []
        sums = torch.stack([sums for pair in self.pairs for sums in pair]).tolist()
        squares = _squares([each.norms for each in self.arrived.values()])
        slacks = _squares([each.slack for each in self.arrived.values()])
        return [
            (after[0] - before[0], square, after[1] - before[1], math.sqrt(slack))
            for before, after, square, slack in zip(sums[::2], sums[1::2], squares, slacks, strict=True)
        ]


def _squares(norms: Sequence[Sequence[Tensor]]) -> list[float]:
    """Return the sum of squares of each group of norms."""
    flat = [norm for group in norms for norm in group]
    if not flat:
        return [0.0] * len(norms)
    if len({(norm.dtype, norm.device) for norm in flat}) > 1:
        flat = [norm.to(flat[0].device, torch.float64) for norm in flat]
    values = iter([value * value for value in torch.stack(flat).tolist()])  # a power would raise where this is infinite
    return [sum(itertools.islice(values, len(group))) for group in norms]
