"""Few eigenvalues by Lanczos and inertia, against all of them."""

import math

import numpy as np
import pytest
import torch

from autobatch.fisher import _eigen, _spectrum, spectrum_of
from autobatch.fisher._eigen import all_eigenvalues, eigenvalues_above, largest_eigenvalue

SIZE = 160
EPS = torch.finfo(torch.float32).eps
THRESHOLD = (SIZE * EPS) ** 2

GENERATOR = np.random.default_rng(0)
SPECTRA = {
    "graded over 12 decades": np.geomspace(1e-12, 1, SIZE),
    "graded over 6 decades": np.geomspace(1e-6, 1, SIZE),
    "one above a narrow bulk": np.append(GENERATOR.uniform(1e-3, 2e-3, SIZE - 1), 1.0),
    "rank 90": np.append(np.zeros(SIZE - 90), np.geomspace(1e-5, 1, 90)),
    "rank 1": np.append(np.zeros(SIZE - 1), 1.0),
    "a cluster at the threshold": np.concatenate([
        np.geomspace(1e-13, 1e-11, 50),
        THRESHOLD * (1 + 1e-3 * GENERATOR.standard_normal(60)),
        np.geomspace(1e-4, 1, 50),
    ]),
    "many equal": np.repeat([1e-14, 1e-6, 1e-2, 1.0], SIZE // 4),
}


def gram_with(eigenvalues: np.ndarray) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    size = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    gram = basis @ torch.diag(torch.from_numpy(eigenvalues)) @ basis.T
    return (gram + gram.T) / 2


@pytest.mark.parametrize("name", SPECTRA)
def test_rank_and_both_ends(name: str) -> None:
    gram = gram_with(SPECTRA[name])
    expected = all_eigenvalues(gram)
    kept = expected[expected > THRESHOLD]
    largest = largest_eigenvalue(gram)
    assert largest == pytest.approx(kept[-1], rel=1e-9)
    found = eigenvalues_above(gram, THRESHOLD, largest)
    assert found is not None
    rank, smallest = found
    assert rank == len(kept)
    assert smallest == pytest.approx(kept[0], rel=1e-3)


def test_samples_without_gradient() -> None:
    gram = gram_with(np.geomspace(1e-5, 1, SIZE))
    gram[::3] = 0
    gram[:, ::3] = 0
    expected = all_eigenvalues(gram)
    rank, smallest = eigenvalues_above(gram, THRESHOLD, float(expected[-1]))
    assert rank == SIZE - len(range(0, SIZE, 3))
    assert smallest == pytest.approx(expected[expected > THRESHOLD][0], rel=1e-3)


def test_the_same_matrix_gives_the_same_figures() -> None:
    gram = gram_with(SPECTRA["graded over 6 decades"])
    assert largest_eigenvalue(gram) == largest_eigenvalue(gram)
    assert eigenvalues_above(gram, THRESHOLD, 1.0) == eigenvalues_above(gram, THRESHOLD, 1.0)


def test_what_cannot_be_told() -> None:
    gram = gram_with(SPECTRA["graded over 6 decades"])
    assert eigenvalues_above(gram, 1e-15, 1.0) is None  # a threshold within round-off of F
    diagonal = torch.diag(torch.linspace(1, 4, 4, dtype=torch.float64))
    assert eigenvalues_above(diagonal, 2.0, 4.0) is None  # a threshold that is an eigenvalue


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_batches_have_the_figures_of_small_ones(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    gram, eps = gram_with(SPECTRA[name]), torch.finfo(dtype).eps
    small = spectrum_of(gram, eps)
    monkeypatch.setattr(_spectrum, "DENSE_LIMIT", SIZE - 1)
    large = spectrum_of(gram, eps, bn="rows")
    assert len(small.eigenvalues) == SIZE
    assert len(large.eigenvalues) == min(small.rank, 2)
    assert (large.batch_size, large.rank, large.trace, large.bn) == (SIZE, small.rank, small.trace, "rows")
    assert large.condition_number == pytest.approx(small.condition_number, rel=1e-3)
    assert large.eigenvalues[-1] == pytest.approx(small.eigenvalues[-1], rel=1e-9)
    assert large.condition_number == pytest.approx(math.sqrt(large.eigenvalues[-1] / large.eigenvalues[0]))


def test_large_batches_that_need_all_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    gram = gram_with(SPECTRA["graded over 6 decades"])
    monkeypatch.setattr(_spectrum, "DENSE_LIMIT", SIZE - 1)
    # The paper's rule, and float64 gradients, whose threshold lies within round-off of F.
    for spectrum in (spectrum_of(gram, EPS, "paper"), spectrum_of(gram, torch.finfo(torch.float64).eps)):
        np.testing.assert_array_equal(spectrum.eigenvalues, all_eigenvalues(gram))
    monkeypatch.setattr(_eigen, "eigsh", _does_not_converge)
    np.testing.assert_array_equal(spectrum_of(gram, EPS).eigenvalues, all_eigenvalues(gram))


def _does_not_converge(*_: object, **__: object) -> np.ndarray:
    raise _eigen.ArpackError(-9)


def test_large_zero_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_spectrum, "DENSE_LIMIT", 2)
    spectrum = spectrum_of(torch.zeros(5, 5, dtype=torch.float64), EPS)
    assert (spectrum.rank, spectrum.trace) == (0, 0.0)
    assert math.isnan(spectrum.condition_number)
    np.testing.assert_array_equal(spectrum.eigenvalues, np.zeros(5))
