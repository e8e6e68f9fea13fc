"""Stratified, seeded draws from labelled examples."""

import torch
from torch import Tensor

from autobatch._errors import DataError
from autobatch.control.batches import derive_generator
from autobatch.training.task import TEST_SHARE, DatasetSpec


def draw_stratified(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw examples so that each class has its share among them.

    Every class gets the integer part of its exact share; the places left go to the largest remainders (Hamilton's
    method; on a tie to the lower class).

    Args:
        labels: int64, (N,).
        count: how many to draw, at most N.
        generator: a CPU generator.

    Returns:
        Ascending indices, int64, (count,).
    """
    sizes = torch.bincount(labels).tolist()
    shares = [size * count for size in sizes]  # in units of 1 / len(labels), so that everything stays exact
    taken = [share // len(labels) for share in shares]
    by_remainder = sorted(range(len(sizes)), key=lambda label: (-(shares[label] % len(labels)), label))
    for label in by_remainder[: count - sum(taken)]:
        taken[label] += 1
    chosen = []
    for label, size in enumerate(sizes):
        members = torch.nonzero(labels == label).squeeze(1)
        chosen.append(members[torch.randperm(size, generator=generator)[: taken[label]]])
    return torch.cat(chosen).sort().values


def draw_subset(labels: Tensor, count: int, seed: int) -> Tensor:
    """Draw a task's ``subset`` of the training examples.

    Args:
        labels: labels of all training examples.
        count: how many to draw.
        seed: the task's ``split_seed``.

    Returns:
        Ascending indices.

    Raises:
        DataError: there are fewer than ``count``.
    """
    if count > len(labels):
        raise DataError(f"key 'dataset.subset': expected at most {len(labels)}, the training examples, got {count}")
    return draw_stratified(labels, count, derive_generator(seed, "subset"))


def split_off(labels: Tensor, share: float, seed: int, part: str) -> tuple[Tensor, Tensor]:
    """Split a share off labelled examples.

    Args:
        labels: int64, (N,).
        share: what share to split off, in (0, 1).
        seed: the task's ``split_seed``.
        part: what is split off, ``"validation"`` or ``"test"``; each has its own draws.

    Returns:
        Ascending indices of what stays and of what is split off.

    Raises:
        DataError: one of the two would be empty.
    """
    count = round(share * len(labels))
    if not 0 < count < len(labels):
        raise DataError(
            f"key 'dataset.{part}': a share of {share:g} of {len(labels)} examples gives {count} of them to {part}; "
            f"expected some for both sides"
        )
    chosen = draw_stratified(labels, count, derive_generator(seed, part))
    stays = torch.ones(len(labels), dtype=torch.bool)
    stays[chosen] = False
    return torch.nonzero(stays).squeeze(1), chosen


def parts_of(strata: Tensor, spec: DatasetSpec, own: int | None = None) -> dict[str, Tensor]:
    """Cut examples into a task's three parts.

    Args:
        strata: int64, (N,): what each part gets its share of, classes or zeros.
        spec: the shares, the subset and the seed.
        own: how many come first that are not of a test part of its own; None where one is to be drawn.

    Returns:
        Ascending indices of ``"train"``, ``"validation"`` and ``"test"``.

    Raises:
        DataError: a part would be empty, or the subset is larger than what is left for it.
    """
    if own is None:
        kept, test = split_off(strata, TEST_SHARE if spec.test is None else spec.test, spec.split_seed, "test")
    else:
        kept, test = torch.arange(own), torch.arange(own, len(strata))
    if spec.subset is not None:
        kept = kept[draw_subset(strata[kept], spec.subset, spec.split_seed)]
    train, validation = split_off(strata[kept], spec.validation, spec.split_seed, "validation")
    return {"train": kept[train], "validation": kept[validation], "test": test}
