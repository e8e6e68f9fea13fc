"""What a landscape says of positions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a landscape says of some positions; all arrays have the positions' shape (0-d for a single one).

    Attributes:
        score: predicted seed-mean final score; lower is better. NaN where the position is not finite.
        uncertainty: one standard error of it.
        known: whether beacons are near: inside their convex hull in scaled axes, widened by the median distance between
            nearest neighbours. Elsewhere the score is an extrapolation.
    """

    score: Floats
    uncertainty: Floats
    known: NDArray[np.bool_]
