"""The spectrum of a Gram matrix F, and what counts as a non-zero eigenvalue.

Source: Liao, Drummond, Reid, Carneiro, TPAMI 2018, eqs. (6)-(8); the rules are those of ``docs/concepts/measure.md``.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autobatch._errors import MeasureError, near_names

RANK_RULES = ("precision", "paper")


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The eigenvalues of one step's Gram matrix F = JᵀJ, and the figures that the paper takes from them.

    Attributes:
        eigenvalues: all B eigenvalues of F, float64, ascending; round-off can make the smallest slightly negative.
        condition_number: truncated condition number c_k = sqrt(lambda_max / smallest non-zero lambda) (below eq. 7);
            NaN where no eigenvalue counts as non-zero.
        trace: trace of F, the sum of squared norms of the per-sample gradients (l_k of eq. 8 is lr / B * sqrt(trace)).
        rank: how many eigenvalues count as non-zero.
        rule: how "non-zero" was decided, ``"precision"`` or ``"paper"``.
        bn: what a column of J means under BatchNorm: ``"rows"`` (train mode), ``"eval"`` (running statistics) or
            ``"none"`` (no BatchNorm was used).
    """

    eigenvalues: npt.NDArray[np.float64]
    condition_number: float
    trace: float
    rank: int
    rule: str
    bn: str

    @property
    def batch_size(self) -> int:
        """Examples in the measured step, B."""
        return len(self.eigenvalues)


def spectrum_of(gram: Tensor, gradient_eps: float, rule: str = "precision", bn: str = "none") -> Spectrum:
    """Decompose a Gram matrix.

    With ``rule="precision"`` a singular value of J is non-zero when sigma > B * eps * sigma_max, where eps belongs to
    the dtype in which the *gradients* were computed: below that, a singular value is round-off of the backward pass.
    With ``rule="paper"`` only eigenvalues <= 0 are dropped, as the authors' code does.

    Args:
        gram: (B, B) float64, symmetric.
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
    eigenvalues: npt.NDArray[Any] = np.asarray(torch.linalg.eigvalsh(gram).cpu().numpy(), dtype=np.float64)
    largest = float(eigenvalues[-1]) if len(eigenvalues) else 0.0
    threshold = 0.0
    if rule == "precision":
        threshold = max(largest, 0.0) * (len(eigenvalues) * gradient_eps) ** 2
    kept = eigenvalues[eigenvalues > threshold]
    condition_number = math.sqrt(largest / float(kept[0])) if len(kept) else math.nan
    return Spectrum(eigenvalues, condition_number, float(gram.diagonal().sum()), len(kept), rule, bn)
