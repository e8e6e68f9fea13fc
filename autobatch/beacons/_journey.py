"""Where a beacon stands between its epochs."""

from dataclasses import dataclass

import numpy as np

from autobatch.beacons._beacon import Beacon


@dataclass(frozen=True)
class Standing:
    """A place in the plane at one progress.

    Attributes:
        progress: examples seen / examples of the whole training, in [0, 1].
        c_bar: C̄_K (paper, eq. 7).
        l_cum: L_K (paper, eq. 8).
        steps: K, optimizer steps that C̄_K averages over; a real number between epochs.
    """

    progress: float
    c_bar: float
    l_cum: float
    steps: float

    @property
    def c_sum(self) -> float:
        """S = C̄_K K, the sum whose mean C̄_K is; 0 before the first step."""
        return self.c_bar * self.steps if self.steps > 0 else 0.0


def standing(beacon: Beacon, progress: float) -> Standing | None:
    """Return where a beacon stands at some progress.

    K, L_K and S = C̄_K K are running totals, so they are interpolated linearly between epochs, from 0 at progress 0;
    C̄_K is S / K. Beyond the last sound row of a beacon that diverged they go on at their mean rate so far: K in
    proportion to progress, and with it L_K, at an unchanged C̄_K. This puts a diverged beacon where it was heading, not
    where it broke.

    Args:
        beacon: the beacon.
        progress: in [0, 1].

    Returns:
        The standing; None for a diverged beacon that has no sound position at all.
    """
    rows = beacon.rows
    sound = np.isfinite(rows["c_bar"]) & np.isfinite(rows["l_cum"]) & (rows["c_bar"] > 0.0) & (rows["l_cum"] > 0.0)
    # A row counts while all rows before it are sound too: what follows a broken row is an artefact of the break.
    length = int(np.argmin(sound)) if not sound.all() else len(sound)
    if length == 0:
        return None
    grid = np.concatenate([[0.0], rows["progress"][:length]])
    steps = np.concatenate([[0.0], rows["steps"][:length].astype(np.float64)])
    c_sums = steps * np.concatenate([[0.0], rows["c_bar"][:length]])
    l_sums = np.concatenate([[0.0], rows["l_cum"][:length]])
    if progress <= 0.0:
        return Standing(0.0, float(rows["c_bar"][0]), 0.0, 0.0)
    onward = 1.0 if beacon.finished else max(1.0, progress / float(grid[-1]))
    at_steps, at_c, at_l = (float(np.interp(progress, grid, totals)) for totals in (steps, c_sums, l_sums))
    return Standing(progress, at_c / at_steps, at_l * onward, at_steps * onward)
