"""The beacon library of one task."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from autobatch._errors import LibraryError
from autobatch._remote import Place, place_of
from autobatch._show import Shown
from autobatch.beacons._beacon import Beacon, check_scored
from autobatch.beacons._chance import chance
from autobatch.beacons._costs import CostTable
from autobatch.beacons._info import LibraryInfo, as_stored, differing_keys, told_differences
from autobatch.beacons._journey import Standing, standing
from autobatch.beacons._results import FixedResult, fixed_result
from autobatch.beacons.storage import BEACONS


@dataclass(frozen=True, eq=False, repr=False)
class BeaconLibrary(Shown):
    """All beacons of one task.

    Attributes:
        beacons: the beacons, ordered by batch size, learning rate and seed.
        info: what they have in common; its fields can be read off the library too.
    """

    beacons: tuple[Beacon, ...]
    info: LibraryInfo

    def __post_init__(self) -> None:
        """Order the beacons and refuse none, the same one twice, or one without a score."""
        beacons = tuple(sorted(self.beacons, key=lambda beacon: beacon.key))
        if not beacons:
            raise LibraryError(
                "a beacon library needs at least one beacon; record some with 'autobatch beacons record'"
            )
        for one, other in pairwise(beacons):
            if one.key == other.key:
                raise LibraryError(f"beacon {one.name} is in the library twice")
        for beacon in beacons:
            check_scored(beacon, self.info.score)
        object.__setattr__(self, "beacons", beacons)

    def __repr__(self) -> str:
        return (
            f"<BeaconLibrary {self.info.task_name}: {len(self.beacons)} beacons at "
            f"{len({(one.batch_size, one.lr) for one in self.beacons})} configurations, "
            f"{len({one.seed for one in self.beacons})} seeds>"
        )

    @classmethod
    def load(cls, path: str | Place) -> "BeaconLibrary":
        """Read a library; nothing in a file is ever executed.

        Args:
            path: an env directory (``beacons.parquet`` and the single files in ``beacons/``), or a Parquet file; a URL
                such as ``"s3://bucket/envs/leaves"`` for object storage.

        Returns:
            The library.

        Raises:
            LibraryError: there is no beacon, or a file is damaged, foreign, of another version or task.
        """
        return cls(*BEACONS.read(place_of(path)))

    def save(self, path: str | Place) -> Place:
        """Write the library to one Parquet file, at once or not at all.

        Args:
            path: the file, or an existing directory, which gets ``beacons.parquet``; or the URL of one.

        Returns:
            The file.

        Raises:
            OutputError: the file cannot be written.
        """
        return BEACONS.save_at(path, self.beacons, self.info)

    @property
    def task(self) -> Mapping[str, Any]:
        """Fingerprint payload of the task that the beacons were recorded for."""
        return self.info.task

    @property
    def task_name(self) -> str:
        """The task's name, for people."""
        return self.info.task_name

    @property
    def score(self) -> str:
        """The figure that ranks runs; lower is better."""
        return self.info.score

    @property
    def bn(self) -> str:
        """Meaning of a sample's gradient through BatchNorm."""
        return self.info.bn

    @property
    def costs(self) -> CostTable | None:
        """Seconds by batch size, where they were timed."""
        return self.info.costs

    @property
    def chance_score(self) -> float:
        """Score of one who guesses (``chance``).

        Raises:
            LibraryError: the task does not say how many classes it has.
        """
        classes = self.task.get("num_classes")
        if not isinstance(classes, int) or classes < 1:
            raise LibraryError(
                f"the library of task '{self.task_name}' has diverged beacons, which stand at chance level, but its "
                f"task does not say how many classes it has ('num_classes' is {classes!r}); "
                "autobatch.record_beacons takes num_classes="
            )
        return chance(self.score, classes)

    @cached_property
    def diverged_score(self) -> float:
        """Score that a diverged beacon counts with: chance level, where the task says how many classes it has.

        Elsewhere it is worse than the worst beacon that finished by the whole range of those that did, in logarithms of
        a loss, and at least twice the worst loss or half of what an error has left to 1.

        Raises:
            LibraryError: the task does not say how many classes it has, and no beacon finished.
        """
        finals = [beacon.final(self.score) for beacon in self.beacons if beacon.finished]
        if self.task.get("num_classes") is not None or not finals:
            return self.chance_score
        best, worst = min(finals), max(finals)
        if not self.score.endswith("_loss"):
            return min(1.0, worst + max(worst - best, (1.0 - worst) / 2.0))
        return worst * max(worst / best, 2.0) if best > 0.0 else worst + 2.0 * (worst - best) + 1.0

    @cached_property
    def by_configuration(self) -> Mapping[tuple[int, float], tuple[Beacon, ...]]:
        """The beacons of every (batch size, learning rate), one a seed."""
        groups: dict[tuple[int, float], list[Beacon]] = {}
        for beacon in self.beacons:
            groups.setdefault((beacon.batch_size, beacon.lr), []).append(beacon)
        return {configuration: tuple(beacons) for configuration, beacons in groups.items()}

    @property
    def configurations(self) -> tuple[tuple[int, float], ...]:
        """Every (batch size, base learning rate) that has beacons, ascending."""
        return tuple(self.by_configuration)

    def beacons_at(self, batch_size: int, lr: float) -> tuple[Beacon, ...]:
        """Return the beacons of one configuration.

        Args:
            batch_size: global batch size.
            lr: base learning rate.

        Returns:
            One beacon a seed; empty where the configuration was not recorded.
        """
        return self.by_configuration.get((batch_size, lr), ())

    @property
    def epochs(self) -> int | None:
        """Length of the trainings in epochs, where the task has it."""
        epochs = self.task.get("epochs")
        return epochs if isinstance(epochs, int) else None

    def is_other_length(self, payload: Mapping[str, Any]) -> bool:
        """Say whether nothing but the length of the training sets a task apart from the library's.

        Args:
            payload: fingerprint payload of the task to be run.

        Returns:
            Whether the beacons are of the same task at another length.
        """
        differing = [key for key, *_ in differing_keys(self.task, as_stored(payload))]
        return self.epochs is not None and differing == ["epochs"]

    def check_task(self, payload: Mapping[str, Any]) -> None:
        """Refuse a library that was recorded for another task.

        Args:
            payload: fingerprint payload of the task to be run.

        Raises:
            LibraryError: the payloads differ; the message names every differing key with both values.
        """
        if differing := told_differences(self.task, as_stored(payload), "is {} in the library and {} here"):
            raise LibraryError(
                f"the beacon library of '{self.task_name}' was recorded for another task: {differing}; record beacons "
                "for this task with 'autobatch beacons record'"
            )

    def results(self) -> tuple[FixedResult, ...]:
        """Return the final figures of every configuration, by batch size and learning rate."""
        return tuple(fixed_result(beacons) for beacons in self.by_configuration.values())

    def best_fixed(self) -> FixedResult:
        """Return the configuration with the lowest seed-mean final score; all of its seeds finished.

        Returns:
            Its final figures.

        Raises:
            LibraryError: every configuration has a diverged seed.
        """
        return min(self._sound_results(), key=lambda result: result.mean[self.score])

    def expected_best(self) -> float:
        """Return the final score to expect of a fresh training at the best fixed configuration.

        The best of many configurations by their mean over a few seeds is the best partly by luck. So each seed in turn
        is left out: the others choose, and it judges (leave-one-out cross-validation). With one seed there is nothing
        to leave out, and the best score itself is returned.

        Returns:
            The mean over the seeds of the judged scores, in the score's unit.

        Raises:
            LibraryError: every configuration has a diverged seed.
        """
        sound = [
            {beacon.seed: beacon.final(self.score) for beacon in self.by_configuration[result.batch_size, result.lr]}
            for result in self._sound_results()
        ]
        judged = []
        for seed in sorted({seed for scores in sound for seed in scores}):
            others = [
                (math.fsum(scores.values()) - scores[seed]) / (len(scores) - 1)
                if len(scores) > 1 and seed in scores
                else math.inf
                for scores in sound
            ]
            best = min(range(len(sound)), key=others.__getitem__)
            if math.isfinite(others[best]):
                judged.append(sound[best][seed])
        return math.fsum(judged) / len(judged) if judged else self.best_fixed().mean[self.score]

    def fastest_within(self, tolerance: float) -> FixedResult:
        """Return the fastest configuration that is nearly as good as the best.

        Args:
            tolerance: how much higher than the best its mean score may be, in the score's unit.

        Returns:
            The final figures of the one with the least training time, measuring not counted.

        Raises:
            LibraryError: every configuration has a diverged seed.
        """
        limit = self.best_fixed().mean[self.score] + tolerance
        within = [result for result in self._sound_results() if result.mean[self.score] <= limit]
        return min(within, key=lambda result: result.training_seconds)

    def at(self, batch_size: int, lr: float, progress: float) -> Standing:
        """Return where a recorded configuration stands at some progress, on the mean over its seeds.

        Args:
            batch_size: global batch size of a recorded configuration.
            lr: its base learning rate.
            progress: examples seen / examples of the whole training, in [0, 1].

        Returns:
            C̄, L and steps, interpolated linearly between epochs; L and steps are 0 at progress 0.

        Raises:
            LibraryError: the configuration was not recorded, or none of its beacons has a sound position.
        """
        found = [standing(beacon, progress) for beacon in self.beacons_at(batch_size, lr)]
        if not found:
            raise LibraryError(f"the library of '{self.task_name}' has no beacon at batch size {batch_size}, lr {lr!r}")
        return _seed_mean(progress, [place for place in found if place is not None], batch_size, lr)

    def _sound_results(self) -> list[FixedResult]:
        sound = [result for result in self.results() if not result.diverged]
        if not sound:
            raise LibraryError(f"the library of '{self.task_name}' has no configuration all of whose seeds finished")
        return sound


def _seed_mean(progress: float, places: Sequence[Standing], batch_size: int, lr: float) -> Standing:
    if not places:
        raise LibraryError(
            f"no beacon at batch size {batch_size}, lr {lr!r} has a sound position: all diverged at once"
        )
    count = len(places)
    return Standing(
        progress=progress,
        c_bar=sum(place.c_bar for place in places) / count,
        l_cum=sum(place.l_cum for place in places) / count,
        steps=sum(place.steps for place in places) / count,
    )
