"""Batches as loaders make them: tensors in any nest of tuples, lists and mappings, cut and joined along dimension 0."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from autobatch._errors import AutoBatchError


def examples_in(batch: Any) -> int:
    """Return how many examples a batch has: the size of dimension 0 of its first tensor that has one.

    Args:
        batch: tensors in any nest of tuples, lists and mappings.

    Returns:
        Examples.

    Raises:
        AutoBatchError: it holds no tensor with a dimension.
    """
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
    size = examples_in(batch)

    def cut(leaves: Sequence[Any]) -> Any:
        leaf = leaves[0]
        sized = isinstance(leaf, list) or (isinstance(leaf, Tensor) and leaf.ndim)
        return leaf[start:stop] if sized and len(leaf) == size else leaf

    return _walk([batch], cut)


def joined(batches: Sequence[Any]) -> Any:
    """Join batches of one structure into one.

    Args:
        batches: the batches, at least one.

    Returns:
        The same nest, with tensors joined along dimension 0, and lists that hold no tensors end to end.
    """

    def join(leaves: Sequence[Any]) -> Any:
        first = leaves[0]
        if isinstance(first, list):
            return [value for leaf in leaves for value in leaf]
        return torch.cat(list(leaves)) if isinstance(first, Tensor) and first.ndim else first

    return batches[0] if len(batches) == 1 else _walk(batches, join)


def _leaves(batch: Any) -> Iterator[Any]:
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, tuple | list):
        for value in batch:
            yield from _leaves(value)
    else:
        yield batch


def _walk(nests: Sequence[Any], combine: Callable[[Sequence[Any]], Any]) -> Any:
    """Go through nests of one structure side by side, and make one of them."""
    first = nests[0]
    if isinstance(first, Mapping):
        values = {key: _walk([nest[key] for nest in nests], combine) for key in first}
        return values if type(first) is dict else type(first)(values)  # type: ignore[call-arg]
    if isinstance(first, tuple) or (
        isinstance(first, list) and any(isinstance(value, Tensor | Mapping | tuple | list) for value in first)
    ):
        items = [_walk([nest[index] for nest in nests], combine) for index in range(len(first))]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    return combine(nests)
