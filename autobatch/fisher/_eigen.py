"""Eigenvalues of a Gram matrix: all of them, or of a large batch only those that its figures need.

All B eigenvalues cost about 4/3 B³ operations, half of them bound by memory. The figures need three numbers: the
largest eigenvalue, how many lie above a threshold, and the smallest of those. Lanczos iteration gives the first from
products F v. One factorisation F - threshold = L D Lᵀ (B³/3 operations) gives the other two: D has as many positive
eigenvalues as F has above the threshold (Sylvester's law of inertia), and solving with it makes the smallest of them
the largest eigenvalue of (F - threshold)⁻¹, so Lanczos again (shift and invert). ``benchmarks/fisher/eigen.py``
compares both.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor

# Relative residual at which Lanczos stops. The error of an eigenvalue is at most that, and mostly its square; the
# threshold hangs on the largest eigenvalue.
_TOLERANCE_LARGEST = 1e-6
_TOLERANCE_SMALLEST = 1e-3
# Distance that a threshold must keep from round-off of F, about B * eps * lambda_max, for the inertia to be sure.
_MARGIN = 100.0


def all_eigenvalues(gram: Tensor) -> npt.NDArray[np.float64]:
    """Return every eigenvalue of (B, B) float64, symmetric: (B,), ascending."""
    eigenvalues: npt.NDArray[np.float64] = np.asarray(torch.linalg.eigvalsh(gram).cpu().numpy(), dtype=np.float64)
    return eigenvalues


def largest_eigenvalue(gram: Tensor) -> float | None:
    """Return lambda_max of (B, B) float64, symmetric, on the CPU; None where the Lanczos iteration did not converge."""
    return _lanczos(len(gram), lambda vector: gram @ vector, _TOLERANCE_LARGEST)


def eigenvalues_above(gram: Tensor, threshold: float, largest: float) -> tuple[int, float] | None:
    """Return how many eigenvalues lie above a threshold, and the smallest of them, from one factorisation.

    F is (B, B) float64, symmetric, on the CPU; it needs as much memory again twice. The threshold lies between zero and
    ``largest``, lambda_max. None where the threshold is not clear of round-off of F, the factorisation met a zero pivot
    (the threshold *is* an eigenvalue) or the iteration did not converge.
    """
    size = len(gram)
    if threshold < _MARGIN * size * torch.finfo(torch.float64).eps * largest:
        return None
    shifted = gram.clone()
    shifted.diagonal().sub_(threshold)
    factors, pivots, info = torch.linalg.ldl_factor_ex(shifted)
    if int(info) != 0:
        return None
    del shifted
    # Pivots below zero come in pairs, each a 2 x 2 block of D: one eigenvalue of either sign (Bunch and Kaufman 1977).
    single = pivots > 0
    rank = int((factors.diagonal()[single] > 0).sum()) + int((~single).sum()) // 2
    inverse = _lanczos(
        size, lambda vector: torch.linalg.ldl_solve(factors, pivots, vector[:, None])[:, 0], _TOLERANCE_SMALLEST
    )
    return None if inverse is None or inverse <= 0 else (rank, threshold + 1 / inverse)


def _lanczos(size: int, product: Callable[[Tensor], Tensor], tolerance: float) -> float | None:
    # The start is random but always the same: a regular one could be orthogonal to the eigenvector looked for.
    start = np.random.default_rng(0).standard_normal(size)

    def multiply(vector: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
        return product(torch.from_numpy(np.ascontiguousarray(vector).reshape(-1))).numpy()

    operator = LinearOperator((size, size), matvec=multiply, dtype=np.float64)
    try:
        return float(eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)[0])
    except ArpackError:
        return None
