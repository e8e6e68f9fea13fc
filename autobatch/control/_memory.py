"""Running out of memory: how it is told from other errors, and how a byte limit stands in for it on a CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_SIGNS = ("out of memory", "can't allocate memory", "alloc_failed")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error means that memory ran out, on an accelerator or on the CPU.

    Args:
        error: the error.

    Returns:
        Whether it does.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


@contextmanager
def saved_bytes_limit(limit: int, model: nn.Module) -> Iterator[None]:
    """Raise ``torch.OutOfMemoryError`` as soon as a forward pass has saved more than some bytes for its backward pass.

    What is saved makes up nearly all memory that grows with a batch. Each storage counts once, parameters not at all.

    Args:
        limit: bytes.
        model: the model, whose parameters do not count.

    Yields:
        Nothing.
    """
    counted = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            total += storage.nbytes()
            if total > limit:
                raise torch.OutOfMemoryError(f"more than {limit:,} bytes are saved for the backward pass")
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield
