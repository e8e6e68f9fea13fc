"""What a run left on disk, read back for reports."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from autobatch._errors import CheckpointError, LibraryError
from autobatch._files import seen_in
from autobatch._plain import Epochs
from autobatch._ranges import check_path
from autobatch._show import Shown
from autobatch.beacons import BeaconLibrary
from autobatch.control import DecisionRecord, MeasuredStep
from autobatch.control.measuring import FEW, leap_words
from autobatch.control.run import EPOCHS, SCOUTING, SCOUTS, LoopConfig, is_loop, load_loop_config, load_measurements
from autobatch.policies import make_policy, planned_epochs, policy_kind
from autobatch.policies._wording import count
from autobatch.report._words import epoch_words, position_words
from autobatch.training import (
    EpochRow,
    RunConfig,
    Summary,
    load_decisions,
    load_epochs,
    load_run_config,
    load_scouting,
    load_summary,
)
from autobatch.training.running import ForkRecord, Scouting, ScoutRecord, load_forks, scout_directory
from autobatch.training.task import run_task_info

AS_STEER = "The best of a few short trainings goes on; then the rate falls early, and training mostly ends early."
"""What ``policies/steer.yaml`` says of it, which others may have put in its place."""


@dataclass(frozen=True)
class RunScout:
    """A scout of a run.

    Attributes:
        batch_size: global batch size.
        lr: base learning rate.
        epochs: its finished epochs.
        record: what it came to; None while it trains or waits.
    """

    batch_size: int
    lr: float
    epochs: list[EpochRow]
    record: ScoutRecord | None


@dataclass(frozen=True, repr=False)
class RunRecord(Shown):
    """One run directory.

    Attributes:
        path: the directory.
        config: the run's configuration.
        epochs: its finished epochs.
        decisions: its decisions, the first one made before the first epoch.
        summary: how it ended; None while it has not.
        library: the beacons that it can be compared with; None where there are none of its task.
        scouting: what its scouts have come to so far; None where it has none.
        scouts: the scouts themselves, those that wait among them.
        measurements: its measured steps, as far as they are known.
        forks: what was tried on the run itself.
    """

    path: Path
    config: RunConfig | LoopConfig
    epochs: list[EpochRow]
    decisions: list[DecisionRecord]
    summary: Summary | None
    library: BeaconLibrary | None
    scouting: Scouting | None = None
    scouts: tuple[RunScout, ...] = ()
    measurements: Sequence[MeasuredStep] = ()
    forks: Sequence[ForkRecord] = ()

    def __repr__(self) -> str:
        done = self.epochs[-1].epoch if self.epochs else 0
        how = "" if self.summary is None else f", {self.summary.ended_early or self.summary.stopped_because}"
        return f"<RunRecord {self.title}: epoch {epoch_words(done)} of {self.planned_epochs}{how}>"

    @property
    def planned_epochs(self) -> int:
        """Epochs after which the run's policy plans to end it; the task's where it plans no other end."""
        planned = [one.planned for one in self.decisions if one.planned is not None]
        if isinstance(self.config, LoopConfig):
            return self.config.planned_epochs * planned[-1] // planned[0] if planned else self.config.planned_epochs
        if planned:
            return planned[-1] // self.config.periods
        if self.scouting is not None and self.scouting.planned:
            return self.scouting.planned
        kind, task = policy_kind(self.config.policy.kind).build, self.config.task
        if not hasattr(kind, "planned_epochs") or (getattr(kind, "needs_library", False) and self.library is not None):
            return task.epochs
        policy = make_policy(self.config.policy)
        info = run_task_info(task, train_size=1, costs=None, seed=self.config.seed, periods=self.config.periods)
        policy.reset(info, None)
        return planned_epochs(policy, info) // info.periods

    @property
    def scouts_are_training(self) -> bool:
        """Whether its scouts are still to be compared."""
        return self.scouting is not None and self.scouting.reason is None

    def position_after(self, epoch: Epochs) -> str:
        """Say where the run stood after an epoch, and where its C̄ rests on few measured steps."""
        row = next(row for row in self.epochs if row.epoch == epoch)
        few = f" (from {count(row.samples, 'measured step')} only)" if 0 < row.samples < FEW else ""
        asked = row.samples and isinstance(self.config, RunConfig) and not self.config.measure
        lacking = ", both by the steps alone that the policy asked for: L lacks all before them" if asked else ""
        return f"C̄ {position_words(row.c_bar)}{few}, L {position_words(row.l_cum)}{lacking}"

    def leap_before(self, epoch: Epochs) -> str | None:
        """Say why C̄ has leapt in the epoch, or part of one, that ended so; None where it has not, or nobody knows."""
        for before, after in pairwise(self.epochs):
            if after.epoch == epoch:
                own = [sample for sample in self.measurements if before.steps < sample.step <= after.steps]
                return leap_words(before.c_bar, after.c_bar, own)
        return None

    @property
    def how_to_go_on(self) -> str:
        """How the run goes on where it was interrupted, a clause."""
        if isinstance(self.config, LoopConfig):
            return "its loop goes on by load_state_dict()"
        return f"autobatch run --resume {shlex.quote(str(self.path))} goes on"

    @property
    def does(self) -> str:
        """What its policy does, in a sentence; of beacon-follow without beacons what steer does."""
        policy = self.config.policy
        return AS_STEER if policy.kind == "beacon-follow" and self.library is None else policy.description

    @property
    def title(self) -> str:
        """Task, policy and seed, for headings."""
        return f"{self.config.task.name}, {self.config.policy.name}, seed {self.config.seed}"


def read_run(path: str | Path) -> RunRecord:
    """Read a run directory, finished or not.

    Args:
        path: the run directory.

    Returns:
        The run.

    Raises:
        CheckpointError: the directory holds no run, or a file in it is damaged.
    """
    path = check_path(path, "path")
    config = load_config(path)
    record = RunRecord(
        path=path,
        config=config,
        epochs=load_epochs(path),
        decisions=load_decisions(path),
        summary=load_summary(path) if (path / "summary.json").exists() else None,
        library=comparable_library(config, path),
        measurements=load_measurements(path),
        forks=load_forks(path),
    )
    return with_scouts(checked(record))


def checked(record: RunRecord) -> RunRecord:
    """Return a run; refuse one that has ended and lacks epochs of which its summary speaks."""
    found = record.epochs[-1].epoch if record.epochs else 0
    if record.summary is not None and record.summary.epochs != found:
        raise CheckpointError(
            f"{record.path / EPOCHS}: damaged: it ends with epoch {epoch_words(found)}, and the run ended after epoch "
            f"{epoch_words(record.summary.epochs)}"
        )
    return record


def load_config(path: Path) -> RunConfig | LoopConfig:
    """Read what a run depends on, be it one of 'autobatch run' or of a loop of one's own."""
    return load_loop_config(path) if is_loop(path) else load_run_config(path)


def used_by(
    config: RunConfig | LoopConfig, rows: Sequence[EpochRow], decisions: Sequence[DecisionRecord]
) -> tuple[Sequence[EpochRow | DecisionRecord], list[Epochs]]:
    """Return what has used a batch size and a rate: epochs, or parts of them where a loop decided on each.

    Of a loop that decides within epochs an epoch's row has what that ended with alone.

    Args:
        config: the run's.
        rows: its epochs.
        decisions: what was decided.

    Returns:
        What was used, in its order, and where each but maybe the last has ended, in epochs.
    """
    trained = rows[-1].examples if rows else 0
    made = [one for one in decisions if not one.stop and one.example < trained]
    if isinstance(config, LoopConfig) and len(made) > 1 and not isinstance(made[1].epoch, int):
        return made, [one.epoch for one in made[1:]]
    return rows, [row.epoch for row in rows]


def with_scouts(record: RunRecord) -> RunRecord:
    """Return a run with its scouts as they are on disk."""
    scouting = load_scouting(record.path)
    if scouting is None:
        return record
    keys: list[tuple[int, float, ScoutRecord | None]] = [
        (scout.batch_size, scout.lr, scout) for scout in scouting.scouts
    ]
    keys += [(batch_size, lr, None) for batch_size, lr in scouting.waiting]
    scouts = tuple(
        RunScout(size, lr, load_epochs(scout_directory(record.path, size, lr, record.config.seed)), own)
        for size, lr, own in keys
    )
    return replace(record, scouting=scouting, scouts=scouts)


def scout_files(path: Path) -> list[Path]:
    """Return the files of a run that tell of its scouts, those that need not exist among them."""
    return [path / SCOUTING, *seen_in(path / SCOUTS, "*/epochs.jsonl")]


def comparable_library(config: RunConfig | LoopConfig, path: Path) -> BeaconLibrary | None:
    """Load the beacons of a run's task, if they can be compared with the run.

    A report does not load the dataset, so the data themselves are taken to be those of the library; the run has checked
    them when it started.

    Args:
        config: the run's configuration.
        path: the run directory.

    Returns:
        The library; None where there is none, it cannot be read, or it was recorded for another task.
    """
    place = config.library_path(path) if isinstance(config, LoopConfig) else config.task_path
    if place is None:
        return None
    try:
        library = BeaconLibrary.load(place)
    except LibraryError:
        return None
    if isinstance(config, LoopConfig):  # its controller has compared what can be seen of the loop
        return library
    recorded = library.task
    payload = config.task.fingerprint_payload(
        str(recorded.get("data_fingerprint")), int(recorded.get("num_classes") or 0)
    )
    same_task = all(recorded.get(key) == value for key, value in payload.items())
    return library if same_task else None
