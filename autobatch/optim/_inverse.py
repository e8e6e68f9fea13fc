"""Inverses of damped second moments: of one matrix or a batch of them, of singular ones, and by recursion."""

import torch
from torch import Tensor


def damped_inverse(matrix: Tensor, damping: Tensor | float) -> Tensor:
    """Return (matrix + damping I)⁻¹; the pseudo-inverse of each matrix that is singular.

    Args:
        matrix: symmetric and positive semi-definite, (..., n, n).
        damping: at least 0.

    Returns:
        The inverse, contiguous; NaN where the matrix is not finite.
    """
    damped = matrix.clone()
    damped.diagonal(dim1=-2, dim2=-1).add_(damping)
    factor, failed = torch.linalg.cholesky_ex(damped)
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    # A matrix that is singular but for round-off has a factor too, with a pivot that is nothing but that.
    least = factor.diagonal(dim1=-2, dim2=-1).amin(-1)
    eps = torch.finfo(matrix.dtype).eps * matrix.shape[-1]
    regular = (failed == 0) & (least.square() > eps * damped.diagonal(dim1=-2, dim2=-1).amax(-1))
    inverse: Tensor = torch.cholesky_inverse(torch.where(regular[..., None, None], factor, identity))
    if not bool(regular.all()):
        finite = damped.isfinite().flatten(-2).all(-1)
        inverse[~finite] = torch.nan
        singular = finite & ~regular
        inverse[singular] = torch.linalg.pinv(damped[singular], rtol=eps, hermitian=True)
    return inverse.contiguous()


def updated_inverse(inverse: Tensor, rows: Tensor, keep: float) -> Tensor:
    """Return the inverse of keep M + (1 - keep) / n XᵀX from that of M, by Woodbury's identity.

    Of one row that is Sherman and Morrison's formula. What M had for damping is multiplied by ``keep`` too.

    Args:
        inverse: of M, (d, d).
        rows: X, (n, d).
        keep: in (0, 1].

    Returns:
        The inverse, (d, d).
    """
    weight = (1.0 - keep) / len(rows)
    seen = rows @ inverse
    inner = seen @ rows.mT * weight
    inner.diagonal().add_(keep)
    correction: Tensor = seen.mT @ torch.linalg.solve(inner, seen)
    return (inverse - weight * correction) / keep


def drift(inverse: Tensor, matrix: Tensor, damping: Tensor) -> float:
    """Return how far a matrix is from being the inverse that it should be.

    Args:
        inverse: what is held for (matrix + damping I)⁻¹.
        matrix: symmetric, (n, n).
        damping: at least 0.

    Returns:
        The norm of (matrix + damping I) inverse z - z over that of z, for one z that is drawn once and for all.
    """
    generator = torch.Generator().manual_seed(len(matrix))
    direction = torch.randn(len(matrix), generator=generator, dtype=torch.float64).to(matrix)
    found = inverse @ direction
    found = matrix @ found + damping * found
    return float((found - direction).norm() / direction.norm())
