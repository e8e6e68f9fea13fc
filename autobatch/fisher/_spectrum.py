"""The spectrum of a Gram matrix F, and what counts as a non-zero eigenvalue.

Source: Liao, Drummond, Reid, Carneiro, TPAMI 2018, eqs. (6)-(8); the rules are those of ``docs/concepts/measure.md``.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autobatch._errors import MeasureError, near_names
from autobatch.fisher._eigen import all_eigenvalues, eigenvalues_above, largest_eigenvalue

RANK_RULES = ("precision", "paper")

# Largest batch of which the CPU computes all eigenvalues; ``benchmarks/fisher/eigen.py``. A GPU computes them all.
DENSE_LIMIT = 1024
# Round-off of half-precision gradients, in units of eps times the norm of a row; ``benchmarks/fisher/precision.py``.
_HALF_PRECISION_MARGIN = 4.0


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The eigenvalues of one step's Gram matrix F = JᵀJ, and the figures that the paper takes from them.

    Attributes:
        eigenvalues: eigenvalues of F, float64, ascending: all B of them, where round-off can make the smallest slightly
            negative; of a batch above 1,024 on the CPU only those that the figures need, the smallest that counts as
            non-zero (to 0.1 %) and the largest. ``len(eigenvalues) == batch_size`` tells which.
        batch_size: examples in the measured step, B.
        condition_number: truncated condition number c_k = sqrt(lambda_max / smallest non-zero lambda) (below eq. 7);
            NaN where no eigenvalue counts as non-zero.
        trace: trace of F, the sum of squared norms of the per-sample gradients (l_k of eq. 8 is lr / B * sqrt(trace)).
        rank: how many eigenvalues count as non-zero.
        rule: how "non-zero" was decided, ``"precision"`` or ``"paper"``.
        bn: what a column of J means under BatchNorm: ``"rows"`` (train mode), ``"eval"`` (running statistics) or
            ``"none"`` (no BatchNorm was used).
        sketch_rows: rows of the sketch that F was made of; 0 where it was exact.
    """

    eigenvalues: npt.NDArray[np.float64]
    batch_size: int
    condition_number: float
    trace: float
    rank: int
    rule: str
    bn: str
    sketch_rows: int = 0


def spectrum_of(gram: Tensor, gradient_eps: float, rule: str = "precision", bn: str = "none") -> Spectrum:
    """Decompose a Gram matrix.

    What counts as non-zero is decided by singular values sigma of J, the roots of F's eigenvalues, with eps of the
    dtype in which the *gradients* were computed. Round-off changes J by some E, and no singular value by more than
    ||E|| (Weyl), so one below ||E|| says nothing.

    - ``rule="precision"``, float32 and float64 gradients: sigma > B * eps * sigma_max, the usual rule for the
      numerical rank of a matrix with B columns (as ``numpy.linalg.matrix_rank``'s): the worst case, in which the errors
      of all samples line up. Up to a c of 1e3, float32 gives the c of float64 to 1 %. Where samples are fitted
      well, ``softmax - one_hot`` cancels: a c beyond 1e4 can then be off by a third, though it passes the rule.
    - ``rule="precision"``, bfloat16 and float16 gradients: sigma > 4 * eps * sqrt(trace / B), where sqrt(trace / B) is
      the root mean square norm of a sample's gradient. B * eps would leave nothing of them (of bfloat16 and B = 128
      it is sigma_max itself). Rounding changes each sample's gradient by a few eps of its own norm, in a direction of
      its own; B such errors have singular values of about that size, whatever B. A c of bfloat16 beyond some hundreds
      is cut there, of float16 beyond some thousands.
    - ``rule="paper"``: all but eigenvalues <= 0, as in the authors' code. The smallest one kept may be round-off.

    Above B = 1,024 on the CPU, ``"precision"`` computes only the eigenvalues that it needs, with the same rank and the
    smallest one to 0.1 %: a third of the time at B = 8,192, 11 s of one core. ``"paper"`` always needs all of them, for
    its smallest lies at round-off, and so does ``"precision"`` with float64 gradients.

    Args:
        gram: (B, B) float64, symmetric, positive semi-definite but for round-off.
        gradient_eps: machine epsilon of the gradients' dtype, such as ``torch.finfo(torch.float32).eps``.
        rule: ``"precision"`` or ``"paper"``.
        bn: the meaning to note in the result.

    Returns:
        The spectrum. Of a zero matrix: trace 0, rank 0, condition number NaN.

    Raises:
        MeasureError: where the rule is not known, or F holds a NaN or an infinity.
    """
    if rule not in RANK_RULES:
        raise MeasureError(f"rule={rule!r}: expected one of {', '.join(RANK_RULES)}; {near_names(rule, RANK_RULES)}")
    if not bool(torch.isfinite(gram).all()):
        raise MeasureError(
            "the gradients of this step are not finite (NaN or infinity in the Gram matrix): the training has diverged,"
            " or a loss scale overflowed; no spectrum exists"
        )
    batch_size, trace = len(gram), float(gram.diagonal().sum())
    found: tuple[npt.NDArray[np.float64], int] | None = None
    if rule == "precision" and gram.device.type == "cpu" and batch_size > DENSE_LIMIT:
        found = _extremes(gram, gradient_eps, trace)
    if found is None:
        eigenvalues = all_eigenvalues(gram)
        largest = float(eigenvalues[-1]) if batch_size else 0.0
        threshold = _threshold(batch_size, gradient_eps, largest, trace) if rule == "precision" else 0.0
        found = eigenvalues, int((eigenvalues > threshold).sum())
    eigenvalues, rank = found
    condition_number = math.nan
    if rank:
        smallest = eigenvalues[batch_size - rank] if len(eigenvalues) == batch_size else eigenvalues[0]
        condition_number = math.sqrt(eigenvalues[-1] / smallest)
    return Spectrum(eigenvalues, batch_size, condition_number, trace, rank, rule, bn)


def _threshold(batch_size: int, gradient_eps: float, largest: float, trace: float) -> float:
    """Return what an eigenvalue must exceed under the rule "precision"."""
    if gradient_eps > torch.finfo(torch.float32).eps:
        return (_HALF_PRECISION_MARGIN * gradient_eps) ** 2 * max(trace, 0.0) / batch_size
    # F is summed in float64: below B * eps of that, an eigenvalue is F's own round-off, however exact the gradients.
    own = batch_size * torch.finfo(torch.float64).eps
    return max(largest, 0.0) * max((batch_size * gradient_eps) ** 2, own)


def _extremes(gram: Tensor, gradient_eps: float, trace: float) -> tuple[npt.NDArray[np.float64], int] | None:
    """Return the smallest non-zero and the largest eigenvalue, and the rank; None where all are needed to tell."""
    if trace == 0.0:
        return np.zeros(len(gram)), 0
    largest = largest_eigenvalue(gram)
    if largest is None:
        return None
    above = eigenvalues_above(gram, _threshold(len(gram), gradient_eps, largest, trace), largest)
    if above is None:
        return None
    rank, smallest = above
    return np.array([smallest, largest][-min(rank, 2) :]), rank
