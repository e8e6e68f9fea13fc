"""Inverses of damped, singular and changing matrices."""

import pytest
import torch
from torch import Tensor

from autobatch.optim._inverse import damped_inverse, drift, updated_inverse


def rows(count: int, width: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count), dtype=torch.float64)


def test_a_batch_of_matrices_of_which_one_is_singular() -> None:
    regular, singular = rows(6, 4), rows(2, 4)
    matrices = torch.stack([regular.mT @ regular, singular.mT @ singular, torch.zeros(4, 4, dtype=torch.float64)])
    found = damped_inverse(matrices, 0.0)
    torch.testing.assert_close(found[0], torch.linalg.inv(matrices[0]))
    torch.testing.assert_close(found[1], torch.linalg.pinv(matrices[1], hermitian=True, rtol=1e-12))
    assert not found[2].any()
    damped = matrices + 0.1 * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(damped_inverse(matrices, 0.1), torch.linalg.inv(damped))


def test_what_is_not_finite_stays_so_alone() -> None:
    matrices = torch.eye(3).repeat(2, 1, 1)
    matrices[1, 0, 0] = torch.inf
    found = damped_inverse(matrices, 0.0)
    torch.testing.assert_close(found[0], torch.eye(3))
    assert found[1].isnan().all()


@pytest.mark.parametrize("count", [1, 3])
def test_the_recursion_is_the_inverse_of_the_mean(count: int) -> None:
    """One row is Sherman and Morrison's formula, three Woodbury's."""
    matrix = torch.cov(rows(20, 5).mT) + 0.1 * torch.eye(5, dtype=torch.float64)
    new = rows(count, 5)
    expected = torch.linalg.inv(0.9 * matrix + 0.1 / count * new.mT @ new)
    torch.testing.assert_close(updated_inverse(torch.linalg.inv(matrix), new, 0.9), expected)


def test_drift_is_the_residual() -> None:
    matrix = torch.eye(5, dtype=torch.float64)
    damping = torch.tensor(1.0, dtype=torch.float64)
    assert drift(0.5 * matrix, matrix, damping) == pytest.approx(0.0, abs=1e-12)
    assert drift(0.55 * matrix, matrix, damping) == pytest.approx(0.1)
