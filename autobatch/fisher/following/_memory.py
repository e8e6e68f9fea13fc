"""Memory that is written in parts, such as ``keys[..., :d].copy_(x)``: whose values lie where in it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from autobatch.fisher.following._layout import BatchLayout

_Place = tuple[tuple[int, ...], tuple[int, ...], int]


@dataclass
class Memory:
    """One storage, and the layouts of the tensors that were written into it, in order."""

    storage: torch.UntypedStorage  # the memory, kept so that no other comes to lie there
    # Shape, strides and offset of what was written, size of its elements, and how samples lay in it; None where that
    # was not known.
    writes: list[tuple[_Place, int, Tensor]] | None = field(default_factory=list)

    def write(self, tensor: Tensor, layout: BatchLayout | None, batch: int) -> None:
        """Note that a tensor of this memory was written with samples that lie like this, None for nobody knows how."""
        if layout is None or layout.claims:
            self.writes = None
        elif self.writes is not None:
            self.writes.append((_place(tensor), tensor.element_size(), layout.labels(tensor, batch)))

    def samples(self, tensor: Tensor) -> Tensor | None:
        """Return the sample of each element of a tensor here, -1 where nothing was written; None where unknown."""
        size = tensor.element_size()
        if self.writes is None or any(other != size for _, other, _ in self.writes):
            return None
        everywhere = torch.full((self.storage.nbytes() // size,), -1, device=tensor.device)
        for place, _, labels in self.writes:
            everywhere.as_strided(*place).copy_(labels)
        return everywhere.as_strided(*_place(tensor))


def _place(tensor: Tensor) -> _Place:
    return tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
