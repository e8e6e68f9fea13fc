"""Two pieces of evidence on where a run will end, and how they are put together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch.beacons._library import BeaconLibrary
from autobatch.beacons.landscape import Landscape, modelled
from autobatch.beacons.predict._forecast import Place, forecast

Run = tuple[Place, int, float]
"""A run: where it stands, its batch size and its base learning rate."""

_LEAST_SPREAD = 1e-6


@dataclass(frozen=True, eq=False)
class Evidence:
    """What two landscapes say of some runs; every array has the shape (n,), figures are in modelled units.

    Attributes:
        here: the final figure that the landscape at the present progress gives for the present position.
        here_error: its standard error.
        ahead: the final figure that the landscape of the ends gives for the position that the run is forecast to end
            at; NaN where nothing can be forecast.
        ahead_error: its standard error.
        known_here: whether beacons stood near the present position at the present progress.
        known_ahead: whether beacons ended near the forecast end.
        recorded: whether the run's configuration has beacons.
    """

    here: Floats
    here_error: Floats
    ahead: Floats
    ahead_error: Floats
    known_here: NDArray[np.bool_]
    known_ahead: NDArray[np.bool_]
    recorded: NDArray[np.bool_]

    def weighed(self, noise: float) -> tuple[Floats, Floats]:
        """Return the predictions that follow, and the spread that scales their intervals.

        A configuration that has beacons is predicted by its forecast end alone, any other by the mean of both pieces
        of evidence, whose disagreement counts as spread.

        Args:
            noise: variance of a run around its configuration's mean.

        Returns:
            Predictions and spreads, shape (n,), in modelled units.
        """
        alone = self.recorded & np.isfinite(self.ahead)
        lost = ~np.isfinite(self.ahead)
        ahead = np.where(lost, self.here, self.ahead)
        ahead_error = np.where(lost, self.here_error, self.ahead_error)
        predicted = np.where(alone, ahead, (self.here + ahead) / 2)
        error = np.where(
            alone, ahead_error, np.hypot((self.here_error + ahead_error) / 2, np.abs(self.here - ahead) / 2)
        )
        return predicted, np.maximum(np.sqrt(error**2 + noise), _LEAST_SPREAD)


def gather(library: BeaconLibrary, here: Landscape, ahead: Landscape, runs: Sequence[Run]) -> Evidence:
    """Ask both landscapes about some runs.

    Args:
        library: the beacons that forecasts are made from.
        here: the landscape at the runs' present progress.
        ahead: the landscape of the same figure at the end.
        runs: the runs, which are taken to have had their configuration from the start.

    Returns:
        What they say.
    """
    now = here.predict([place.c_bar for place, _, _ in runs], [place.l_cum for place, _, _ in runs])
    ends = [forecast(library, place, batch_size, lr) for place, batch_size, lr in runs]
    whole = [{(batch_size, lr): 1.0} for _, batch_size, lr in runs]
    then = ahead.predict([end.c_bar for end in ends], [end.l_cum for end in ends], whole)
    is_loss = here.points.is_loss
    return Evidence(
        here=modelled(now.score, is_loss),
        here_error=_modelled_error(now.score, now.uncertainty, is_loss),
        ahead=modelled(then.score, is_loss),
        ahead_error=_modelled_error(then.score, then.uncertainty, is_loss),
        known_here=now.known,
        known_ahead=then.known,
        recorded=np.array([bool(library.beacons_at(batch_size, lr)) for _, batch_size, lr in runs]),
    )


def unmodelled(values: Floats, is_loss: bool) -> Floats:
    """Return figures from modelled units in their own: losses, or errors within [0, 1]."""
    return np.exp(values) if is_loss else np.clip(values, 0.0, 1.0)


def _modelled_error(score: Floats, error: Floats, is_loss: bool) -> Floats:
    return error / score if is_loss else error
