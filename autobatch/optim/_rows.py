"""J of a network's outputs, one parameter at a time: rows are (output, sample), and nothing is P wide at once."""

from collections.abc import Iterator

import torch
from torch import Tensor

from autobatch.fisher import Jacobian, factors_of, is_turned

_ELEMENTS = 1 << 22
"""Elements of J that are formed at a time."""

_SAME = 1e-3
"""How far apart sums over positions in another order may be, in half precision too."""


class Rows:
    """J of one parameter, (C N, elements), by the passes of the outputs.

    Args:
        parameter: the parameter.
        outputs: C.
        samples: N.
    """

    def __init__(self, parameter: Tensor, outputs: int, samples: int) -> None:
        self.parameter = parameter
        self._samples = samples
        self._passes: list[list[Jacobian]] = [[] for _ in range(outputs)]

    def take(self, output: int, uses: list[Jacobian]) -> None:
        """Take the gradients of one output."""
        self._passes[output] = uses

    @property
    def taken(self) -> bool:
        """Whether any output's gradients came."""
        return any(self._passes)

    @property
    def units(self) -> int:
        """Size of the parameter's dimension 0."""
        return len(self.parameter) if self.parameter.ndim else 1

    def block(self, lo: int, hi: int) -> Tensor:
        """Return J of rows lo to hi of the parameter, (C N, hi - lo, elements of a row) in float64."""
        shape = self._samples, hi - lo, self.parameter.numel() // self.units
        blocks = []
        for uses in self._passes:
            total = self.parameter.new_zeros(shape, dtype=torch.float64)
            for use in uses:
                total += use.block(lo, hi).view(shape)
            blocks.append(total)
        return torch.cat(blocks)

    def blocks(self, spare: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """Yield J piece by piece: a slice of the parameter's rows, and their block.

        Args:
            spare: elements per row of the parameter that the caller needs besides.
        """
        each = len(self._passes) * self._samples * self.parameter.numel() // self.units + spare
        size = max(1, _ELEMENTS // each)
        for lo in range(0, self.units, size):
            hi = min(lo + size, self.units)
            yield slice(lo, hi), self.block(lo, hi)

    def factors(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return output gradients and inputs of all positions, and the row of J that each belongs to; or None.

        Returns:
            (n, rows) and (n, width) in float64, (n,) integers; J is the sum of their outer products.
        """
        lefts, rights, places = [], [], []
        for output, uses in enumerate(self._passes):
            for use in uses:
                if (factors := factors_of(use)) is None:
                    return None
                left, right = factors
                samples = torch.arange(self._samples, device=left.device) + output * self._samples
                lefts.append(left.flatten(0, 1).double())
                rights.append(right.flatten(0, 1).double())
                places.append(samples.repeat_interleave(left.shape[1]))
        return (torch.cat(lefts), torch.cat(rights), torch.cat(places)) if lefts else None

    @property
    def turned(self) -> set[bool]:
        """Whether the parameter's rows are inputs, of each use; more than one answer as of a weight tied to itself."""
        return {is_turned(use) for uses in self._passes for use in uses}

    def shifts(self, weight: "Rows") -> bool:
        """Return whether this is the bias of a weight's outputs: its J is their gradients."""
        factors = weight.factors()
        if factors is None or self.parameter.shape != (weight.units,) or weight.turned != {False}:
            return False
        left, _, places = factors
        own = self.block(0, self.units).flatten(1)
        return bool((torch.zeros_like(own).index_add_(0, places, left) - own).norm() <= _SAME * own.norm())

    def gram(self) -> Tensor:
        """Return J Jᵀ, (C N, C N)."""
        factors = self.factors()
        size = len(self._passes) * self._samples
        if factors is not None and len(factors[0]) == size:
            left, right, places = factors
            if bool((places == torch.arange(size, device=places.device)).all()):
                return (left @ left.mT) * (right @ right.mT)
        total = self.parameter.new_zeros(size, size, dtype=torch.float64)
        for _, block in self.blocks():
            flat = block.flatten(1)
            total += flat @ flat.mT
        return total

    def transposed(self, weights: Tensor) -> Tensor:
        """Return Jᵀ times a vector (C N,), in the parameter's shape."""
        if (factors := self.factors()) is not None:
            left, right, places = factors
            found = (left * weights[places].unsqueeze(1)).mT @ right
        else:
            found = torch.cat([torch.einsum("n,nrw->rw", weights, block) for _, block in self.blocks()])
        return found.view(self.parameter.shape)
