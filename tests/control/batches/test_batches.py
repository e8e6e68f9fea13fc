"""Every epoch sees every example once, in batches that are never starved."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autobatch.control import batch_bounds, derive_seed, full_steps_per_epoch, permutation, steps_per_epoch


@given(dataset_size=st.integers(1, 3000), data=st.data())
def test_batches_cover_the_epoch_and_none_is_small_or_huge(dataset_size: int, data: st.DataObject) -> None:
    batch_size = data.draw(st.integers(1, dataset_size))
    bounds = batch_bounds(dataset_size, batch_size)
    sizes = [stop - start for start, stop in bounds]
    assert [index for start, stop in bounds for index in range(start, stop)] == list(range(dataset_size))
    assert len(bounds) == steps_per_epoch(dataset_size, batch_size)
    assert all(size == batch_size for size in sizes[:-1])
    assert batch_size / 2 <= sizes[-1] < 1.5 * batch_size
    full = full_steps_per_epoch(dataset_size, batch_size)
    assert (
        full == 1 if len(sizes) == 1 else sizes[:full] == [batch_size] * full == [s for s in sizes if s == batch_size]
    )


@pytest.mark.parametrize(
    ("dataset_size", "batch_size", "sizes"),
    [(12, 4, [4, 4, 4]), (14, 4, [4, 4, 4, 2]), (13, 4, [4, 4, 5]), (5, 4, [5]), (6, 4, [4, 2]), (4, 4, [4])],
)
def test_remainders(dataset_size: int, batch_size: int, sizes: list[int]) -> None:
    assert [stop - start for start, stop in batch_bounds(dataset_size, batch_size)] == sizes


def test_permutations_follow_from_seed_and_epoch_alone() -> None:
    torch.manual_seed(1)
    first = permutation(100, seed=3, epoch=2)
    torch.manual_seed(2)
    assert torch.equal(first, permutation(100, seed=3, epoch=2))
    assert torch.equal(first.sort().values, torch.arange(100))
    others = [permutation(100, 3, 1), permutation(100, 4, 2), permutation(100, 2, 3)]
    assert not any(torch.equal(first, other) for other in others)


def test_seeds_of_different_purposes_differ() -> None:
    seeds = {
        derive_seed(seed, purpose, epoch) for seed in range(5) for purpose in ("a", "b", "a/1") for epoch in range(5)
    }
    assert len(seeds) == 5 * 3 * 5
    assert all(0 <= seed < 2**63 for seed in seeds)
