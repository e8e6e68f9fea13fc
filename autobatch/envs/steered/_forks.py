"""What a fork on fitted dynamics would measure."""

import numpy as np

from autobatch._arrays import Floats

NOISE = 2
"""Standard normals that a fork on fitted dynamics uses."""

_ERROR, _POWER, _SPREAD = 0.42, 1.59, 0.39
"""Standard error of a fork's difference by how trainings scatter, and by how much its logarithm varies."""

_SCATTER = 2.1
"""Standard errors by which the difference varies about what is predicted, from order to order and state to state."""


def measured(ratio: Floats, scatter: Floats, noise: Floats) -> tuple[Floats, Floats]:
    """Return what a fork would measure where fitted dynamics say what its two epochs come to.

    Args:
        ratio: predicted validation loss of what is tried over that of what is in force, shape (n,).
        scatter: ``Outcome.scatter`` of what is tried, shape (n,).
        noise: standard normals, shape (n, NOISE); zeros for what is to be expected.

    Returns:
        The logarithm of the ratio as measured and its standard error, shape (n,); their coefficients are those of
        ``benchmarks/steering/fork_scatter.py page``.
    """
    error = _ERROR * scatter**_POWER * np.exp(_SPREAD * noise[:, 1])
    return np.log(ratio) + _SCATTER * error * noise[:, 0], error
