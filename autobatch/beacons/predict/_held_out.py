"""Recorded runs predicted as if they were new: without their configuration, or without their seed."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch._errors import LibraryError
from autobatch.beacons._beacon import Beacon
from autobatch.beacons._journey import standing
from autobatch.beacons._library import BeaconLibrary
from autobatch.beacons.landscape import Landscape, Rule, landscape_points, modelled
from autobatch.beacons.predict._points import pooled_variance
from autobatch.beacons.predict._rule import Evidence, Run, gather

HeldOut = Literal["configuration", "seed"]
"""What a predicted run shares with no beacon that its prediction is fitted to."""

_RULE: Rule = "gaussian-process"
_LEAST_CONFIGURATIONS = 3


@dataclass(frozen=True, eq=False)
class HeldOutRuns:
    """Beacons of configurations that finished, each predicted from others; every array has the shape (n,).

    Attributes:
        group: index of each run's configuration.
        seed: seed of each run.
        own: final score of each run, in modelled units.
        score: the final score that each run is ranked by: its configuration's seed mean where that was held out; its
            own where the seed was, since the mean would contain what the prediction was fitted to.
        early: validation figure of each run at that progress (of the next epoch's end between epochs), in the score's
            unit.
        evidence: what is said of each run.
        noise: variance of a run around its configuration's mean, in modelled units.
    """

    group: NDArray[np.int64]
    seed: NDArray[np.int64]
    own: Floats
    score: Floats
    early: Floats
    evidence: Evidence
    noise: float

    @property
    def configurations(self) -> int:
        """How many configurations are judged."""
        return len(np.unique(self.group))


def first_progress(library: BeaconLibrary) -> float:
    """Return the end of the first epoch, from which on every beacon has a measured row."""
    return max(float(beacon.rows["progress"][0]) for beacon in library.beacons)


@lru_cache(maxsize=64)
def held_out_runs(library: BeaconLibrary, progress: float, held_out: HeldOut, rule: Rule = _RULE) -> HeldOutRuns | None:
    """Predict every recorded run of a configuration that finished from beacons that it shares nothing with.

    Args:
        library: the beacons.
        progress: where the runs are taken to stand, in (0, 1].
        held_out: ``"configuration"``: nothing fitted has seen the run's configuration; ``"seed"``: nothing fitted has
            seen the run's seed, and its configuration is recorded under others.
        rule: how the landscapes predict.

    Returns:
        The predicted runs; None where ``"seed"`` finds fewer than three configurations with two seeds.

    Raises:
        LibraryError: fewer than three configurations finished.
    """
    sound = [own for own, beacons in library.by_configuration.items() if all(beacon.finished for beacon in beacons)]
    if len(sound) < _LEAST_CONFIGURATIONS:
        raise LibraryError(
            f"a prediction needs three configurations that finished, the library of '{library.task_name}' "
            f"has {len(sound)}"
        )
    parts = _by_configuration if held_out == "configuration" else _by_seed
    runs: list[Beacon] = []
    evidence: list[Evidence] = []
    for beacons, own in parts(library, progress, sound, rule):
        runs += beacons
        evidence.append(own)
    if len({(run.batch_size, run.lr) for run in runs}) < _LEAST_CONFIGURATIONS:
        return None
    is_loss = library.score.endswith("_loss")
    finals = {own: np.array([beacon.final(library.score) for beacon in library.beacons_at(*own)]) for own in sound}
    ended = np.array([run.final(library.score) for run in runs])
    means = np.array([finals[run.batch_size, run.lr].mean() for run in runs])
    place = {own: index for index, own in enumerate(sound)}
    return HeldOutRuns(
        group=np.array([place[run.batch_size, run.lr] for run in runs]),
        seed=np.array([run.seed for run in runs]),
        own=modelled(ended, is_loss),
        score=means if held_out == "configuration" else ended,
        early=np.array([_early(run, library.score, progress) for run in runs]),
        evidence=_joined(evidence),
        noise=pooled_variance(list(finals.values()), is_loss),
    )


def _by_configuration(
    library: BeaconLibrary, progress: float, sound: list[tuple[int, float]], rule: Rule
) -> Iterable[tuple[tuple[Beacon, ...], Evidence]]:
    points = landscape_points(library, progress)
    ends = _ends_without(library, rule)
    for own in sound:
        others = replace(library, beacons=tuple(b for b in library.beacons if (b.batch_size, b.lr) != own))
        here = Landscape(points.without(points.configurations.index(own)), progress, rule)
        beacons = library.beacons_at(*own)
        yield beacons, gather(others, here, ends[own], [_run(beacon, progress) for beacon in beacons])


def _by_seed(
    library: BeaconLibrary, progress: float, sound: list[tuple[int, float]], rule: Rule
) -> Iterable[tuple[tuple[Beacon, ...], Evidence]]:
    for seed in sorted({beacon.seed for beacon in library.beacons}):
        rest = tuple(beacon for beacon in library.beacons if beacon.seed != seed)
        left = {(beacon.batch_size, beacon.lr) for beacon in rest}
        beacons = tuple(
            beacon for own in sound if own in left for beacon in library.beacons_at(*own) if beacon.seed == seed
        )
        if beacons:
            others = replace(library, beacons=rest)
            here, ahead = (Landscape.fit(others, at, rule) for at in (progress, 1.0))
            yield beacons, gather(others, here, ahead, [_run(beacon, progress) for beacon in beacons])


@lru_cache(maxsize=8)
def _ends_without(library: BeaconLibrary, rule: Rule) -> dict[tuple[int, float], Landscape]:
    # Where runs end does not depend on where they stand now: fitted once for all values of progress.
    points = landscape_points(library, 1.0)
    return {
        own: Landscape(points.without(index), 1.0, rule)
        for index, own in enumerate(points.configurations)
        if points.finished[index]
    }


def _run(beacon: Beacon, progress: float) -> Run:
    place = standing(beacon, progress)
    assert place is not None, "a beacon that finished has a position"
    return place, beacon.batch_size, beacon.lr


def _early(beacon: Beacon, score: str, progress: float) -> float:
    rows = beacon.rows
    index = int(np.searchsorted(rows["progress"], progress - 1e-9))
    return float(rows[score][min(index, len(rows[score]) - 1)])


def _joined(parts: list[Evidence]) -> Evidence:
    names = ("here", "here_error", "ahead", "ahead_error", "known_here", "known_ahead", "recorded")
    return Evidence(**{name: np.concatenate([np.atleast_1d(getattr(part, name)) for part in parts]) for name in names})
