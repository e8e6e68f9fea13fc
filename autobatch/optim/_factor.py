"""One Kronecker factor: a running second moment, whole or projected, with an inverse that follows it."""

import math
from typing import Any

import torch
from torch import Tensor

from autobatch.optim._inverse import damped_inverse, drift, updated_inverse
from autobatch.optim._moments import Moment

PARTS = ("moment", "inverse", "damping", "basis", "trace")


class Factor:
    """A view of one factor in a parameter's state, where all that it knows is kept.

    Whole, it is a running mean M of XᵀX / n, (d, d), and (M + δI)⁻¹. Projected to rank r it is a basis Q (d, r), the
    running mean of QᵀXᵀXQ / n, (r, r), its inverse, and the trace of M; what lies outside of the basis is divided by
    the mean of M's other eigenvalues, which the traces tell, plus δ. A basis is turned towards the leading
    eigenvectors, by one orthogonal iteration, whenever the inverse is made anew.

    Args:
        state: the parameter's state.
        side: "input" or "output".
        width: d.
        rank: r; None for the whole factor.
    """

    def __init__(self, state: dict[str, Any], side: str, width: int, rank: int | None) -> None:
        self._state = state
        self._side = side
        self._width = width
        self._rank = rank if rank is not None and rank < width else None

    def _get(self, part: str) -> Tensor:
        value: Tensor = self._state[f"{self._side}_{part}"]
        return value

    def _set(self, part: str, value: Tensor) -> None:
        self._state[f"{self._side}_{part}"] = value.contiguous()

    @property
    def inverted(self) -> bool:
        """Whether there is an inverse."""
        return f"{self._side}_inverse" in self._state

    @property
    def fits(self) -> bool:
        """Whether what is known, if anything is, is of d elements and of this rank."""
        moment, basis = (self._state.get(f"{self._side}_{part}") for part in ("moment", "basis"))
        if moment is None:
            return True
        width = len(moment) if basis is None else len(basis)
        return width == self._width and (None if basis is None else basis.shape[1]) == self._rank

    @property
    def mean_eigenvalue(self) -> Tensor:
        """The trace of M over d."""
        return self._get("trace") / self._width

    def learn(self, moment: Moment, scale: float, keep: float) -> None:
        """Take in what a step says, M <- keep M + (1 - keep) scale XᵀX, and let the inverse follow where it can.

        That is where there are fewer vectors than the inverse has rows: of more, its update would cost more than a new
        inverse.

        Args:
            moment: XᵀX.
            scale: what makes it a mean.
            keep: weight of what was, in [0, 1].
        """
        if f"{self._side}_moment" not in self._state:
            self._begin(moment)
            keep = 0.0
        rows = moment.rows()
        if self._rank is not None:
            basis = self._get("basis")
            rows = None if rows is None else rows @ basis
        seen = basis.mT @ moment.times(basis) if self._rank is not None else moment.total()
        self._get("moment").mul_(keep).add_(seen, alpha=(1.0 - keep) * scale)
        self._get("trace").mul_(keep).add_(moment.trace(), alpha=(1.0 - keep) * scale)
        if self.inverted and rows is not None and len(rows) < len(seen) and keep > 0.0:
            scaled = rows * math.sqrt(scale * len(rows))
            self._set("inverse", updated_inverse(self._get("inverse"), scaled, keep))

    def drifted(self, bound: float) -> bool:
        """Whether the inverse is missing, or further than ``bound`` from that of M with its damping."""
        return not self.inverted or not drift(self._get("inverse"), self._get("moment"), self._get("damping")) <= bound

    def invert(self, damping: Tensor, moment: Moment) -> None:
        """Make the inverse anew.

        Args:
            damping: δ.
            moment: the last step's XᵀX, towards which a basis is turned too.
        """
        if self._rank is not None:
            self._turn(moment)
        self._set("damping", damping)
        self._set("inverse", damped_inverse(self._get("moment"), damping))

    def apply(self, matrix: Tensor) -> Tensor:
        """Return the inverse times a matrix (d, k)."""
        inverse = self._get("inverse")
        if self._rank is None:
            return inverse @ matrix
        basis = self._get("basis")
        inside = basis.mT @ matrix
        others = (self._get("trace") - self._get("moment").trace()).clamp_min(0.0) / (self._width - self._rank)
        damped = others + self._get("damping")
        outside = torch.where(damped > 0.0, 1.0 / damped, 0.0) * (matrix - basis @ inside)
        return basis @ (inverse @ inside) + outside

    def _begin(self, moment: Moment) -> None:
        like = moment.trace()
        size = self._rank or self._width
        self._set("moment", like.new_zeros(size, size))
        self._set("trace", torch.zeros_like(like))
        if self._rank is not None:
            generator = torch.Generator().manual_seed(self._width)
            drawn = torch.randn(self._width, size, generator=generator, dtype=torch.float64).to(like)
            self._set("basis", _orthonormal(_leaning(moment.times(drawn), drawn)))

    def _turn(self, moment: Moment) -> None:
        basis, own = self._get("basis"), self._get("moment")
        share = own.trace() / self._get("trace").clamp_min(torch.finfo(own.dtype).tiny)
        fresh = moment.times(basis) / moment.trace().clamp_min(torch.finfo(own.dtype).tiny)
        held = basis @ own / own.trace().clamp_min(torch.finfo(own.dtype).tiny)
        turned = _orthonormal(_leaning(share * held + fresh, basis))
        change = turned.mT @ basis
        self._set("basis", turned)
        self._set("moment", change @ own @ change.mT)


def split_damping(damping: float, inputs: Factor, outputs: Factor) -> tuple[Tensor, Tensor]:
    """Return what is added to A and to B, whose product is λ, by the ratio of their mean eigenvalues."""
    ratio = inputs.mean_eigenvalue / outputs.mean_eigenvalue
    balance = torch.where(ratio.isfinite() & (ratio > 0.0), ratio, 1.0).sqrt()
    return math.sqrt(damping) * balance, math.sqrt(damping) / balance


def _leaning(matrix: Tensor, spare: Tensor) -> Tensor:
    """Return columns with a trace of others, so that they are independent where the first are not."""
    small = torch.finfo(matrix.dtype).tiny
    leaning: Tensor = matrix / matrix.norm().clamp_min(small) + 1e-4 * spare / spare.norm()
    return leaning


def _orthonormal(matrix: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.qr(matrix)[0]
    return basis
