"""The measure held against theory: eigenvalues of wide networks' Fisher matrices (``benchmarks/fisher/theory.py``)."""

import importlib.util
import statistics
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fisher" / "theory.py"


@pytest.fixture(scope="module")
def theory() -> ModuleType:
    spec = importlib.util.spec_from_file_location("theory", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("depth", "outputs", "softmax"), [(3, 1, False), (5, 1, False), (3, 3, False), (3, 10, True)])
def test_eigenvalues_of_a_wide_network_are_those_of_theory(
    theory: ModuleType, depth: int, outputs: int, softmax: bool
) -> None:
    """At a width of 1,024 also a regression: the check of the sums took a weight of a million entries for wrong."""
    draws = [theory.ratio(1024, depth, outputs, seed, softmax=softmax) for seed in range(3)]
    for name in draws[0]:
        mean = statistics.mean(draw[name] for draw in draws)
        if softmax and name == "largest":  # theory has a bound
            assert 0.5 < mean <= 1.1
        else:
            assert mean == pytest.approx(1.0, abs=0.1), name


def test_more_and_fewer_samples(theory: ModuleType) -> None:
    for count in (8, 64):
        draws = [theory.ratio(512, 3, 1, seed, count=count) for seed in range(4)]
        for name in draws[0]:
            assert statistics.mean(draw[name] for draw in draws) == pytest.approx(1.0, abs=0.15), name


def test_overlaps_by_hand(theory: ModuleType) -> None:
    """Two layers: the first's inputs do not overlap, the second's do by 1 / π; derivatives overlap by a half."""
    own, pair = theory.overlaps(2)
    assert own == 2.0
    assert pair == pytest.approx(1 / 3.141592653589793)
