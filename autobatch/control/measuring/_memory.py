"""Running out of memory: how it is told from other errors, what it leaves behind, and a byte limit for CPUs."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_SIGNS = ("out of memory", "can't allocate memory", "alloc_failed")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error means that memory ran out, on an accelerator or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def allocated(device: torch.device) -> int | None:
    """Return the bytes of all tensors on an accelerator; None on a CPU, whose allocator does not say."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def capacity(device: torch.device) -> int:
    """Return the bytes that tensors on a CUDA device can come to, with what this process holds already."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


class _Saved:
    """One tensor that a forward pass has saved."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor: Tensor | None = tensor


@contextmanager
def saved_tensors(model: nn.Module, limit: int | None = None) -> Iterator[None]:
    """Hold what a forward pass saves for its backward pass, which makes up nearly all memory that grows with a batch.

    Where the pass fails it is let go of, even if the loop's own variables, such as the model's output, still hold the
    pass's graph: what is tried next would have to fit beside it.

    Args:
        model: the model, whose parameters do not count.
        limit: bytes; as soon as more is saved, ``torch.OutOfMemoryError`` is raised. Each storage counts once.

    Yields:
        Nothing.
    """
    counted = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    total = 0
    held: list[weakref.ref[_Saved]] = []

    def pack(tensor: Tensor) -> _Saved:
        nonlocal total
        if limit is not None and (storage := tensor.untyped_storage()).data_ptr() not in counted:
            counted.add(storage.data_ptr())
            total += storage.nbytes()
            if total > limit:
                raise torch.OutOfMemoryError(f"more than {limit:,} bytes are saved for the backward pass")
        saved = _Saved(tensor)
        held.append(weakref.ref(saved))
        return saved

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
            yield
    except BaseException:
        for reference in held:
            if (saved := reference()) is not None:
                saved.tensor = None
        raise
