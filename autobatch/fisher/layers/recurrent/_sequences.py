"""How the sequences of a call lie: by steps, or packed one step after the other, each with the sequences that go on."""

from functools import cached_property

import torch
from torch import Tensor


class Sequences:
    """T steps of N sequences.

    Args:
        sizes: (T,) int64 on the CPU, how many sequences each step has, the longest first; None where all have all.
    """

    def __init__(self, sizes: Tensor | None = None) -> None:
        self.sizes = sizes

    @cached_property
    def there(self) -> Tensor | None:
        """(T, N), whether a sequence has a step; None where all have all."""
        return None if self.sizes is None else torch.arange(int(self.sizes[0])) < self.sizes[:, None]

    @cached_property
    def _ends(self) -> Tensor | None:
        """(N,), the last step of each sequence."""
        return None if self.there is None else self.there.sum(0) - 1

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """Return the shape of ``padded``; none where a tensor is not such sequences."""
        if self.sizes is None:
            return tuple(tensor.shape) if tensor.ndim == 3 else ()
        falling = bool((self.sizes.diff() <= 0).all())
        fits = tensor.ndim == 2 and falling and int(self.sizes.sum()) == len(tensor)
        return (len(self.sizes), int(self.sizes[0]), tensor.shape[1]) if fits else ()

    def padded(self, tensor: Tensor) -> Tensor:
        """Return values of all steps as (T, N, n), zero where a sequence has none."""
        if self.there is None:
            return tensor
        steps = tensor.new_zeros(*self.there.shape, tensor.shape[-1])
        steps[self.there.to(tensor.device)] = tensor
        return steps

    def backwards(self, steps: Tensor) -> Tensor:
        """Return (T, N, n) with each sequence's steps in the other order."""
        if self._ends is None:
            return steps.flip(0)
        order = torch.arange(len(steps))[:, None]
        order = torch.where(order <= self._ends, self._ends - order, order).to(steps.device)
        return steps.gather(0, order[:, :, None].expand_as(steps))

    def with_last(self, steps: Tensor, last: Tensor) -> Tensor:
        """Return (T, N, n) with (N, n) added to each sequence's last step."""
        steps = steps.clone()
        if self._ends is None:
            steps[-1] += last
        else:
            steps[self._ends.to(steps.device), torch.arange(len(last), device=steps.device)] += last
        return steps
