"""Batches as loaders make them: tensors in any nest of tuples, lists and mappings, cut and joined along dimension 0."""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autobatch._errors import AutoBatchError


def examples_in(batch: Any) -> int:
    """Return how many examples a batch has: the size of dimension 0 of its first tensor that has one."""
    for leaf in _leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim:
            return len(leaf)
    raise AutoBatchError(
        f"a batch of type {type(batch).__name__} holds no tensor with a dimension to count examples by"
    )


def part_of(batch: Any, start: int, stop: int) -> Any:
    """Return some of a batch's examples; what is not as long as the batch is passed on as it is.

    Args:
        batch: tensors in any nest of tuples, lists and mappings.
        start: the first example.
        stop: the example after the last.

    Returns:
        The same nest, with views of the tensors.
    """
    return _walk([batch], [examples_in(batch)], lambda values: values[0][start:stop])


def joined(batches: Sequence[Any]) -> Any:
    """Join batches of one structure into one; what is not as long as its batch is taken from the first.

    Args:
        batches: the batches, at least one.

    Returns:
        The same nest, with tensors joined along dimension 0, and lists with an entry an example end to end.

    Raises:
        AutoBatchError: tensors differ in another dimension, or the batches in structure.
    """

    def join(values: Sequence[Any]) -> Any:
        if isinstance(values[0], Tensor):
            if len({value.shape[1:] for value in values}) > 1:
                raise AutoBatchError(
                    f"batches cannot be joined: their tensors have shapes {[tuple(value.shape) for value in values]}; "
                    "pad all of them to one length, or let the stream give single examples and collate what comes out"
                )
            return torch.cat(list(values))
        return type(values[0])(entry for value in values for entry in value)

    return batches[0] if len(batches) == 1 else _walk(batches, [examples_in(batch) for batch in batches], join)


def _leaves(batch: Any) -> Iterator[Any]:
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, tuple | list):
        for value in batch:
            yield from _leaves(value)
    else:
        yield batch


def _by_example(value: Any, examples: int) -> bool:
    """Return whether a part of a nest has an entry for each example: a tensor, or a list such as one of strings."""
    if isinstance(value, Tensor):
        return value.ndim > 0 and len(value) == examples
    if not isinstance(value, tuple | list) or hasattr(value, "_fields") or len(value) != examples:
        return False
    tensors = [leaf for leaf in _leaves(value) if isinstance(leaf, Tensor)]
    return not tensors or not all(_by_example(tensor, examples) for tensor in tensors)


def _named(key: Any, nests: Sequence[Any], sizes: Sequence[int], combine: Callable[[Sequence[Any]], Any]) -> Any:
    try:
        return _walk(nests, sizes, combine)
    except AutoBatchError as error:
        raise AutoBatchError(f"element {key!r}: {error}") from None


def _walk(nests: Sequence[Any], sizes: Sequence[int], combine: Callable[[Sequence[Any]], Any]) -> Any:
    """Go through nests of one structure side by side, and make one of them."""
    first = nests[0]
    if all(map(_by_example, nests, sizes)):
        return combine(nests)
    if isinstance(first, Mapping):
        if any(nest.keys() != first.keys() for nest in nests):
            raise AutoBatchError(
                f"batches cannot be joined: their keys are {[sorted(nest, key=str) for nest in nests]}"
            )
        values = {key: _named(key, [nest[key] for nest in nests], sizes, combine) for key in first}
        if not isinstance(first, MutableMapping):
            return type(first)(values)  # type: ignore[call-arg]
        own = copy.copy(first)  # a defaultdict, for one, cannot be made of its items alone
        own.update(values)
        return own
    if isinstance(first, tuple | list):
        items = [_named(at, values, sizes, combine) for at, values in enumerate(zip(*nests, strict=False))]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    return first
