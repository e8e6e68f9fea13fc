"""The flat view of an observation that learned policies and environments share: float32 in [-1, 1], with masks.

Everything is relative: to the task's ladders, to the best fixed beacon, and to where the beacons stood at the same
progress. So a policy that was learned on one task can be asked on another.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch.beacons import BeaconLibrary
from autobatch.policies._moves import Moves
from autobatch.policies._protocol import Observation, TaskInfo
from autobatch.policies._quality import HIGHEST
from autobatch.policies.view._batch import ObservationBatch
from autobatch.policies.view._beacons import NEAREST, BeaconTracks
from autobatch.policies.view._costs import EpochCosts

SCHEMA = 1
"""Version of the flat view; a learned policy refuses any other."""

_OWN = (
    ("progress", "examples seen / examples of the training, from -1 to 1"),
    ("epochs left", "decades of epochs left, 3 at 1"),
    ("milestones passed", "share of the schedule's milestones that are passed"),
    ("next milestone", "progress left until the next milestone, 1 where none is left"),
    ("batch rung", "rung of the ladder, lowest -1, highest 1"),
    ("rate rung", "rung of the learning rates, lowest -1, highest 1"),
    ("quality", "normalised validation quality: 0 is guessing, 2/3 the best fixed beacon"),
    ("against the best", "score against the best fixed beacon's at equal progress, log10 ratio"),
    ("score slope", "log10 of the score minus that of an epoch ago"),
    ("generalisation gap", "log10 ratio of validation loss to training loss"),
    ("validation error", "share of validation examples classified wrongly"),
    ("C slope", "log10 C̄ minus that of an epoch ago"),
    ("L slope", "log10 L minus that of an epoch ago"),
    ("cost so far", "modelled seconds so far / those of the whole best fixed beacon, 0 at -1, 2 at 1"),
    (
        "cost to come",
        "modelled seconds at the end if nothing changes / those of the best fixed beacon, 0 at -1, 2 at 1",
    ),
    ("cost one rung up", "log2 ratio of an epoch's cost one rung up to one here"),
    ("cost one rung down", "log2 ratio of an epoch's cost one rung down to one here"),
    ("training set", "log10 of the training examples, 7 at 1"),
    ("largest batch", "log10 of the ladder's largest batch over the training examples"),
    ("ladder length", "rungs of the ladder, 16 at 1"),
    ("region C", "log10 C̄ minus that of the nearest good beacon, in spans of the beacons"),
    ("region L", "log10 L minus that of the nearest good beacon, in spans of the beacons"),
    ("promised quality", "final quality of the nearest beacons, nearer ones weighing more"),
)
_BY_BEACON = (
    ("C", "log10 C̄ minus the beacon's, in spans of the beacons"),
    ("L", "log10 L minus the beacon's, in spans of the beacons"),
    ("batch", "rungs from here to the beacon's batch size, ladder lengths"),
    ("rate", "rungs from here to the beacon's rate, ladder lengths"),
    ("quality", "the beacon's final quality"),
)
_MASKS = (
    ("started", "1 once a batch size is in use"),
    ("scored", "1 where the validation score is known"),
    ("placed", "1 where C̄ and L are known"),
    ("moving", "1 where the figures of an epoch ago are known"),
    ("has beacons", "1 where the task has beacons"),
    ("has costs", "1 where seconds by batch size are known"),
)

ENTRIES: tuple[tuple[str, str], ...] = (
    *_OWN,
    *((f"beacon {rank} {name}", meaning) for rank in range(1, NEAREST + 1) for name, meaning in _BY_BEACON),
    *_MASKS,
)
"""(name, meaning) of every entry, in order. An entry whose mask is 0 is 0."""


@dataclass(frozen=True)
class Trail:
    """What must be remembered from one decision to the next.

    Attributes:
        last: the observation of the last decision.
        previous: the one before it; None at first.
        spent: modelled seconds so far, without measuring; progress where no costs are known.
    """

    last: Observation
    previous: Observation | None
    spent: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; a figure that is not finite is None."""
        return {
            "last": _plain(self.last),
            "previous": None if self.previous is None else _plain(self.previous),
            "spent": self.spent,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> "Trail":
        """Read back what ``to_dict`` returned."""
        previous = state["previous"]
        return cls(_observation(state["last"]), None if previous is None else _observation(previous), state["spent"])


class ObservationView:
    """Turns observations of one task into flat arrays.

    Args:
        task: the task.
        library: its beacons; None masks what rests on them.
    """

    names: tuple[str, ...] = tuple(name for name, _ in ENTRIES)
    size = len(ENTRIES)

    def __init__(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        self.task = task
        self.moves = Moves(task.batch_sizes, task.learning_rates)
        self._costs = EpochCosts(task, library)
        self._tracks = None if library is None else BeaconTracks(task, library)
        self._log_sizes = np.log(np.asarray(task.batch_sizes, dtype=np.float64))
        self._log_rates = np.log(np.asarray(task.learning_rates, dtype=np.float64))

    def follow(self, trail: Trail | None, observation: Observation) -> Trail:
        """Return what must be remembered, now that an observation has come.

        Args:
            trail: what was remembered so far; None at the first observation.
            observation: the new one.

        Returns:
            The new trail.
        """
        if trail is not None and observation.epoch == trail.last.epoch:  # asked again before the same epoch
            return replace(trail, last=observation)
        # Where earlier decisions are not known, a training counts as if it had always been as it is.
        before, last, spent = (0, None, 0.0) if trail is None else (trail.last.epoch, trail.last, trail.spent)
        if observation.epoch:
            spent += self._costs.between(observation.batch_size, observation.epoch - before)
        return Trail(observation, last, spent)

    def array(self, observation: Observation, trail: Trail) -> NDArray[np.float32]:
        """Return one observation as a flat array.

        Args:
            observation: the observation.
            trail: what ``follow`` returned for it.

        Returns:
            float32, shape (size,), in [-1, 1].
        """
        before = trail.previous
        known = {field: np.array([float(getattr(observation, field))]) for field in _OF_OBSERVATION}
        earlier = (
            (before.c_bar, before.l_cum, getattr(before, self.task.score)) if before is not None else (np.nan,) * 3
        )
        c_before, l_before, score_before = (np.array([float(value)]) for value in earlier)
        batch = ObservationBatch(
            **known, c_before=c_before, l_before=l_before, score_before=score_before, spent=np.array([trail.spent])
        )
        flat: NDArray[np.float32] = self.arrays(batch)[0]
        return flat

    def arrays(self, batch: ObservationBatch) -> NDArray[np.float32]:
        """Return many observations as flat arrays.

        Args:
            batch: the observations, n of them.

        Returns:
            float32, shape (n, size), in [-1, 1].
        """
        flat = np.zeros((len(batch.epoch), self.size))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            self._fill(flat, batch)
        # One place for what is not known: NaN and infinities become the neutral 0 of a masked entry.
        np.copyto(flat, 0.0, where=~np.isfinite(flat))
        return np.clip(flat, -1.0, 1.0).astype(np.float32)

    def _fill(self, flat: Floats, batch: ObservationBatch) -> None:
        task = self.task
        started = batch.batch_size > 0
        rungs, rates = self._rungs(batch, started)
        score = _positive(batch.validation_loss if task.score == "validation_loss" else batch.validation_error)
        log_c, log_l = np.log10(batch.c_bar), np.log10(batch.l_cum)
        placed = np.isfinite(log_c) & np.isfinite(log_l)
        milestones = np.asarray(task.milestones, dtype=np.float64)
        passed = (batch.progress[:, None] >= milestones - 1e-9).sum(axis=1)
        ahead = np.append(milestones, 1.0 + 1e-9)[passed] - batch.progress
        columns: list[Any] = [
            2.0 * batch.progress - 1.0,
            np.log10(np.maximum(task.epochs - batch.epoch, 1.0)) / 3.0,
            passed / max(len(milestones), 1),
            np.where(passed < len(milestones), ahead, 1.0),
            _from_minus_one(rungs, len(self._log_sizes)),
            _from_minus_one(rates, len(self._log_rates)),
            np.nan,
            np.nan,
            np.log10(score / _positive(batch.score_before)) / 0.5,
            np.log10(_positive(batch.validation_loss) / _positive(batch.train_loss)),
            batch.validation_error,
            log_c - np.log10(batch.c_before),
            (log_l - np.log10(batch.l_before)) / 0.5,
            *self._costs.entries(batch, rungs),
            np.log10(task.train_size) / 7.0,
            np.log10(task.batch_sizes[-1] / task.train_size) / 4.0,
            len(task.batch_sizes) / 16.0,
        ]
        for index, column in enumerate(columns):
            flat[:, index] = column
        if self._tracks is not None:
            tracks = self._tracks
            flat[:, 6] = tracks.quality(score) / HIGHEST
            flat[:, 7] = tracks.against_best(batch.progress, score)
            own = len(columns)
            # Before the first position there is nothing to be near to.
            places = tracks.entries(batch.progress, log_c, log_l, rungs, rates)
            flat[:, own : own + places.shape[1]] = np.where(placed[:, None], places, 0.0)
        scored = np.isfinite(score) & started
        flat[:, 6:8] *= scored[:, None]
        moving = started & (np.isfinite(batch.c_before) | np.isfinite(batch.score_before))
        masks = (started, scored, placed, moving, self._tracks is not None, self._costs.known)
        for index, mask in enumerate(masks, start=self.size - len(masks)):
            flat[:, index] = np.asarray(mask)

    def _rungs(self, batch: ObservationBatch, started: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        start = self.moves.start
        sizes = np.where(started, batch.batch_size, self.task.batch_sizes[start[0]])
        rates = np.where(batch.lr > 0.0, batch.lr, self.task.learning_rates[start[1]])
        return _nearest(self._log_sizes, np.log(sizes)), _nearest(self._log_rates, np.log(rates))


_OF_OBSERVATION = tuple(
    field.name for field in fields(ObservationBatch) if field.name in {own.name for own in fields(Observation)}
)


def _nearest(ladder: Floats, values: Floats) -> NDArray[np.intp]:
    rungs: NDArray[np.intp] = np.abs(values[:, None] - ladder).argmin(axis=1)
    return rungs


def _positive(values: Floats) -> Floats:
    """Return figures that have a logarithm: an error of exactly 0 is the best there is, not one that is not known."""
    return np.maximum(values, 1e-6)


def _from_minus_one(rungs: NDArray[np.intp], count: int) -> Floats:
    return 2.0 * rungs / max(count - 1, 1) - 1.0


def _plain(observation: Observation) -> dict[str, Any]:
    figures = asdict(replace(observation, gradients=None))  # the view has no entry of the gradients, nor of memory
    del figures["gradients"], figures["fits"]
    return {key: value if math.isfinite(value) else None for key, value in figures.items()}


def _observation(state: Mapping[str, Any]) -> Observation:
    blank = Observation(0, 0.0, 0, np.nan, np.nan, np.nan, 0, np.nan, np.nan, np.nan)
    return replace(blank, **{key: value for key, value in state.items() if value is not None})
