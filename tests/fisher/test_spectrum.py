"""What counts as a non-zero eigenvalue, and the figures taken from a spectrum."""

import math

import numpy as np
import pytest
import torch

from autobatch._errors import MeasureError
from autobatch.fisher import spectrum_of

EPS = torch.finfo(torch.float32).eps


def gram_with(*eigenvalues: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(
        torch.randn(len(eigenvalues), len(eigenvalues), dtype=torch.float64, generator=generator)
    )
    gram = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    return (gram + gram.T) / 2


def test_figures() -> None:
    spectrum = spectrum_of(gram_with(1.0, 4.0, 16.0, 100.0), EPS, bn="rows")
    np.testing.assert_allclose(spectrum.eigenvalues, [1.0, 4.0, 16.0, 100.0])
    assert spectrum.condition_number == pytest.approx(10.0)
    assert spectrum.trace == pytest.approx(121.0)
    assert (spectrum.rank, spectrum.rule, spectrum.bn, spectrum.batch_size) == (4, "precision", "rows", 4)


def test_round_off_of_the_gradients_is_not_an_eigenvalue() -> None:
    above, below = (3 * EPS * factor for factor in (2.0, 0.5))  # singular values beside B * eps * sigma_max
    spectrum = spectrum_of(gram_with(below**2, above**2, 1.0), EPS)
    assert spectrum.rank == 2
    assert spectrum.condition_number == pytest.approx(1 / above, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_what_exceeds_the_round_off_of_a_typical_row(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    trace = 3.0
    below, above = (factor * (4 * eps) ** 2 * trace / 128 for factor in (0.5, 2.0))
    rest = torch.linspace(0.01, 0.02, 125, dtype=torch.float64).tolist()
    gram = torch.diag(torch.tensor([below, above, *rest, trace - below - above - sum(rest)], dtype=torch.float64))
    spectrum = spectrum_of(gram, eps)
    assert spectrum.trace == pytest.approx(trace)
    assert spectrum.rank == 127
    assert spectrum.condition_number == pytest.approx(math.sqrt(float(gram[-1, -1]) / above))


def test_the_paper_s_rule_drops_exact_zeros_only() -> None:
    gram = torch.diag(torch.tensor([0.0, 1e-30, 1.0], dtype=torch.float64))
    spectrum = spectrum_of(gram, EPS, rule="paper")
    assert spectrum.rank == 2
    assert spectrum.condition_number == pytest.approx(1e15)
    assert spectrum_of(gram, EPS).rank == 1


@pytest.mark.parametrize("rule", ["precision", "paper"])
def test_zero_matrix(rule: str) -> None:
    spectrum = spectrum_of(torch.zeros(3, 3, dtype=torch.float64), EPS, rule)
    assert spectrum.rank == 0
    assert spectrum.trace == 0.0
    assert math.isnan(spectrum.condition_number)


def test_errors() -> None:
    with pytest.raises(MeasureError, match="not finite"):
        spectrum_of(torch.full((2, 2), math.inf, dtype=torch.float64), EPS)
    with pytest.raises(MeasureError, match=r"rule='precison'.*did you mean 'precision'"):
        spectrum_of(torch.eye(2, dtype=torch.float64), EPS, rule="precison")
