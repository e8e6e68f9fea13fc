"""Runs to record: a policy decides, and what follows is read off the recorded beacons of a task.

``followed`` plays a run that does what the policy says. An epoch at some batch size and rate brings what the nearest
finished beacon brought in that epoch: its steps, what it added to the sums behind C̄ and L, and its losses. That is no
model of training (``autobatch.envs`` has one), but every figure was measured once, and the sequence answers to the
decisions.

``watched`` shows the policy a recorded journey that takes no notice of it, and so leads it where it would not go.
"""

import math

from autobatch.beacons import Beacon, BeaconLibrary, Branches
from autobatch.policies import Decision, Policy, TaskInfo
from tests.golden.replay import ROOT, SEEN, info_of, library_of, said, seen, started

SEED = 0
"""Seed of the beacons whose figures are taken."""

JOURNEY = 1111
"""Seed of the journey that is watched; it goes from batches of 8 to 512 and back, and ends sound."""

UNMEASURED = 7
"""In every so many epochs no gradients are measured, as happens under a small budget."""

BEFORE = [0, 0.0, 0, None, None, 0.0, 0, None, None, None, None]
"""The observation before the first epoch."""

ALONG = 0.9
"""Share of a gradient's noise that is taken to lie along the mean gradient."""


def followed(policy: str, task: str, *, gradients: bool) -> list[list]:
    """Play a run that does what a policy says.

    Args:
        policy: name of a shipped policy.
        task: name of a shipped task with beacons.
        gradients: whether the policy is told of the gradients.

    Returns:
        (observation, decision) of every epoch until the policy stops, as they are stored.
    """
    info, deciding = info_of(task), started(policy, task)
    course, rows = Course(info, library_of(task), gradients), []
    for _ in range(info.epochs):
        row, decision = _asked(deciding, course.row)
        rows.append([row, _short(said(decision))])
        if decision.stop:
            break
        course.train(decision)
    return rows


def watched(policy: str, task: str) -> list[list]:
    """Ask a policy beside a recorded journey.

    Args:
        policy: name of a shipped policy.
        task: name of a shipped task with branch runs.

    Returns:
        (observation, decision) of every epoch, as they are stored.
    """
    journeys = Branches.load(ROOT / "envs" / task).journeys
    own = next(journey.rows for journey in journeys if (journey.kind, journey.seed) == ("journey", JOURNEY))
    places = [[own[name][at].item() for name in SEEN[:-1]] + [None] for at in range(info_of(task).epochs - 1)]
    deciding, rows = started(policy, task), []
    for place in [BEFORE, *places]:
        row, decision = _asked(deciding, place)
        rows.append([row, _short(said(decision))])
    return rows


def _asked(deciding: Policy, place: list) -> tuple[list, Decision]:
    """Ask at a place, of which the policy sees what is stored, digit for digit."""
    row = _short(place, digits=7)
    return row, deciding.decide(seen(row))


class Course:
    """Where a run stands.

    Args:
        info: the task.
        library: its beacons.
        gradients: whether gradients are measured.
    """

    def __init__(self, info: TaskInfo, library: BeaconLibrary, gradients: bool) -> None:
        self._info = info
        self._beacons = [beacon for beacon in library.beacons if beacon.seed == SEED and beacon.finished]
        self._gradients = gradients
        self._epoch, self._steps, self._c_sum, self._l_sum = 0, 0, 0.0, 0.0
        self.row: list = BEFORE

    def train(self, decision: Decision) -> None:
        """Go on by one epoch; a rate that the policy leaves open is the middle one of the task's."""
        rates = self._info.learning_rates
        lr = rates[len(rates) // 2] if decision.lr is None else decision.lr
        beacon, at = self._nearest(decision.batch_size, lr), self._epoch
        steps, c_sum, l_sum = _gains(beacon, at)
        self._epoch, self._steps = at + 1, self._steps + steps
        self._c_sum, self._l_sum = self._c_sum + c_sum, self._l_sum + l_sum
        losses = [float(beacon.rows[name][at]) for name in ("train_loss", "validation_loss", "validation_error")]
        measured = self._gradients and self._epoch % UNMEASURED
        self.row = [
            self._epoch,
            self._epoch / self._info.epochs,
            decision.batch_size,
            lr,
            self._c_sum / self._steps,
            self._l_sum,
            self._steps,
            *losses,
            _moments(beacon, at, decision.batch_size, l_sum / steps, losses[0]) if measured else None,
        ]

    def _nearest(self, batch_size: int, lr: float) -> Beacon:
        return min(
            self._beacons,
            key=lambda own: (abs(math.log2(own.batch_size / batch_size)), abs(math.log2(own.lr / lr)), own.lr),
        )


def _gains(beacon: Beacon, at: int) -> tuple[int, float, float]:
    """Return the steps of a beacon's epoch, and what they added to C̄ K and to L."""

    def totals(row: int) -> tuple[int, float, float]:
        if row < 0:
            return 0, 0.0, 0.0
        steps, c_bar, l_cum = (beacon.rows[name][row] for name in ("steps", "c_bar", "l_cum"))
        return int(steps), float(c_bar * steps), float(l_cum)

    steps, c_sum, l_sum = (now - before for now, before in zip(totals(at), totals(at - 1), strict=True))
    return steps, c_sum, l_sum


def _moments(beacon: Beacon, at: int, batch_size: int, energy: float, train_loss: float) -> list:
    """Return the moments of an epoch's gradients.

    The energy of a step is lr / B sqrt(tr F), so that the beacon's own L tells the mean squared norm tr F / B. How much
    of it is signal no library tells: a share is assumed that falls with the training loss, as noise grows on signal.
    """
    norm = beacon.batch_size * (energy / float(beacon.rows["lr_effective"][at])) ** 2
    signal = min(0.5, train_loss / 100.0)
    mean_norm = norm * (signal + (1.0 - signal) / batch_size)
    along = mean_norm + ALONG * (norm - mean_norm)
    cosine = signal / (signal + 2.0 * (1.0 - signal) / batch_size)
    return [batch_size, 3, norm, mean_norm, along, cosine]


def _short(value, digits: int = 9):
    """Cut figures to some digits, so that files stay small, and store what is not finite as null."""
    if isinstance(value, list):
        return [_short(one, digits) for one in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
