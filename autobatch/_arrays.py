"""Arrays as type checkers know them."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
"""An array of float64 of any shape; docstrings say which."""
