"""Carrying a run out: from a configuration to a run directory with a summary in it."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from autobatch._errors import CheckpointError, LibraryError, OutputError
from autobatch._files import alone_in, naming_output, write_whole
from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.beacons._info import differing_keys
from autobatch.control import steps_per_epoch
from autobatch.control.run import (
    CHECKPOINT,
    CONFIG,
    DECISIONS,
    EPOCHS,
    MEASUREMENTS,
    RUN_FILES,
    SUMMARY,
    EpochRow,
    Summary,
    best_beacon,
    load_epochs,
    load_summary,
)
from autobatch.control.run._files import append_lines, keep_lines, plain
from autobatch.policies import BeaconFollowPolicy, Policy, make_policy, planned_epochs
from autobatch.policies.steer import ForkingPolicy, Scout, ScoutingPolicy
from autobatch.training._calibrate import cached_calibration, covers, device_kind, kept_calibration
from autobatch.training._checkpoint import Checkpoint, read_checkpoint, restore, snapshot, write_checkpoint
from autobatch.training._engine import reproducible, resolve_device
from autobatch.training._forking import ForkRecord, fork_epoch, forks_to_list, save_forks, told_fork
from autobatch.training._run import RunConfig, RunInfo, RunObserver, kept_config, load_run_config, with_kept_paths
from autobatch.training._scouting import (
    Scouting,
    ScoutRecord,
    adopt,
    chosen,
    load_scouting,
    record_of,
    save_scouting,
    scout_config,
    scout_directory,
    told_plan,
    told_schedule,
    told_scout,
    train_scout,
)
from autobatch.training._trial import BN, FINISHED, Trial
from autobatch.training.data import Data, load_data
from autobatch.training.task import check_ladder, run_task_info

SLOW, SLOW_SECONDS = 3.0, 5.0
"""How many times what the cost table says an epoch takes, and how many seconds more, before that is worth a line."""

# What may differ between a run and its continuation: where things lie, and what only matters at the start.
_MAY_DIFFER = ("task_path", "data_dir", "trust_code", "calibrate", "costs")


def run(
    config: RunConfig,
    out: Path,
    observer: RunObserver | None = None,
    *,
    resume: bool = False,
    data: Data | None = None,
) -> Summary:
    """Train as ``config`` says, keeping every record in ``out``.

    A ``KeyboardInterrupt`` passes through; the run can then be resumed, as after any other sudden end.

    Args:
        config: the configuration.
        out: the run directory; it is made, and must not hold a run unless ``resume``.
        observer: what watches the run.
        resume: continue the run that ``out`` holds from its last checkpoint, bit-identically.
        data: the task's data, where they are loaded on the run's device already.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        OutputError: ``out`` cannot be written, or holds a run already.
        CheckpointError: the run in ``out`` is damaged or has another configuration.
        ConfigError: the configuration cannot be carried out.
        DataError: the data are missing or damaged.
        LibraryError: the policy needs beacons, and they are missing, damaged or of another task.
    """
    out, observer = Path(out), observer or RunObserver()
    device = resolve_device(config.device)
    config = config.model_copy(update={"device": str(device)})
    if resume:
        config = _continued(config, out)
        if (out / SUMMARY).exists():
            return load_summary(out)
    else:
        refuse_occupied(out)
    data = data or load_data(config.task, config.data_dir, device)
    check_ladder(config.task, len(data.train_labels))
    policy = make_policy(config.policy)
    library = library_of(config, data, policy)
    if policy.needs_library and library.missing is not None:
        observer.note(_told_missing(library))
    costs = _costs(config, data=data, device=device, policy=policy, library=library, observer=observer)
    config = config.model_copy(update={"costs": costs.table})
    with _place(out), reproducible(device, config.task.threads):
        if not resume:  # another run may have come and gone since that was asked
            refuse_occupied(out)
        elif (out / SUMMARY).exists():
            return load_summary(out)
        begin_with = None
        if (out / CHECKPOINT).exists():
            pass
        elif library.of_other_length is not None and isinstance(policy, BeaconFollowPolicy):
            begin_with = _from_other_length(config, library.of_other_length, data=data, policy=policy)
        elif isinstance(policy, ScoutingPolicy):
            begin_with = _scout(
                config, out, data=data, device=device, policy=policy, library=library.beacons, observer=observer
            )
        return _Session(
            config=config,
            out=out,
            observer=observer,
            data=data,
            device=device,
            policy=policy,
            library=library,
            costs=costs,
            begin_with=begin_with,
        ).carry_out()


@contextmanager
def _place(out: Path) -> Iterator[None]:
    """Make the run directory and keep other processes out of it; where nothing was kept, it goes again."""
    fresh = not out.exists()
    with naming_output(out):
        out.mkdir(parents=True, exist_ok=True)
    with alone_in(out, busy="another process is training this run; wait for it, or choose another directory"):
        try:
            yield
        except BaseException:
            if fresh:
                with suppress(OSError):  # there is something in it
                    out.rmdir()
            raise


def _scout(
    config: RunConfig,
    out: Path,
    *,
    data: Data,
    device: torch.device,
    policy: ScoutingPolicy,
    library: BeaconLibrary | None,
    observer: RunObserver,
) -> dict[str, Any] | None:
    """Train the scouts that a policy asks for, or go on with them, and make the best one the run's beginning.

    Returns:
        The policy's state to begin the run with where no scout can go on; None where one does, or there are none.
    """
    task = run_task_info(
        config.task,
        train_size=len(data.train_labels),
        costs=config.costs,
        seed=config.seed,
        num_classes=data.num_classes,
    )
    policy.reset(task, library)
    plan = policy.scouts()
    for line in (told_schedule(policy, task), *([told_plan(plan, task)] if not plan.configurations else ())):
        if line:
            observer.note(line)
    if not plan.configurations:
        return None
    observer.scouting(told_plan(plan, task))
    scouts: list[Scout] = []
    records: list[ScoutRecord] = []
    while len(scouts) < len(plan.configurations):
        batch_size, lr = plan.configurations[len(scouts)]
        training = _ScoutTraining(
            scout_config(config, batch_size, lr),
            out,
            data=data,
            device=device,
            after_epoch=partial(observer.scout_epoch, epochs=plan.epochs),
        )
        if not scouts:  # what --resume needs; not before a scout can be carried out
            write_whole(out / CONFIG, _yaml(config, out))
        waiting = plan.configurations[len(records) :]
        save_scouting(out, Scouting(None, tuple(records), waiting, plan.epochs, more=plan.more))
        training.begin()
        scout = train_scout(training, plan, config.task.score, (batch_size, lr), scouts)
        scouts.append(scout)
        records.append(record_of(training.rows, scout, won=False))
        observer.scouted(told_scout(records[-1]))
        plan = policy.scouts(scouts)
    choice = policy.take(scouts)
    scouting = replace(chosen(choice, records, plan), planned=planned_epochs(policy, task))
    save_scouting(out, scouting)
    observer.scouted(choice.reason)
    if choice.scout is None:
        return policy.state_dict()
    winner = scouts[choice.scout]
    source = scout_directory(out, winner.batch_size, winner.lr, config.seed)
    adopt(source, out, config, policy.state_dict(), scouting)
    return None


class _ScoutTraining:
    """One scout, in a run directory of its own."""

    def __init__(
        self, config: RunConfig, out: Path, *, data: Data, device: torch.device, after_epoch: Callable[[EpochRow], None]
    ) -> None:
        parameters = config.policy.parameters
        self._after_epoch = after_epoch
        self._session = _Session(
            config=config,
            out=scout_directory(out, parameters["batch_size"], parameters["lr"], config.seed),
            observer=RunObserver(),
            data=data,
            device=device,
            policy=make_policy(config.policy),
            library=_Library(None, "a scout is a beacon itself"),
            costs=_Costs(config.costs, None),
        )
        self._rows: list[EpochRow] = []

    def begin(self) -> None:
        """Start the scout, or bring it to where it stood."""
        self._session.begin()
        self._rows = load_epochs(self._session.out)

    @property
    def rows(self) -> Sequence[EpochRow]:
        """The epochs so far, those of an earlier start among them."""
        return self._rows

    @property
    def stopped_because(self) -> str | None:
        """Why the scout cannot go on; None while it can."""
        because = self._session.trial.stopped_because
        return None if because == FINISHED else because

    def epoch(self) -> EpochRow:
        """Train the next epoch, keep it, and return its figures."""
        row = self._session.epoch()
        self._rows.append(row)
        self._after_epoch(row)
        return row


@dataclass(frozen=True)
class _Library:
    """The beacons of a run's task, or why there are none, and those of the same task at another length."""

    beacons: BeaconLibrary | None
    missing: str | None
    of_other_length: BeaconLibrary | None = None


def _told_missing(library: _Library) -> str:
    if library.of_other_length is None:
        return f"no beacons to follow ({library.missing}): scouts go first"
    return (
        f"the beacons of this task trained {library.of_other_length.epochs} epochs, this run's length is another: it "
        "starts from the best of them, without scouts, and steers by the plan of 'steer'"
    )


@dataclass(frozen=True)
class _Costs:
    """A cost table and where it comes from, both None where none is needed."""

    table: CostTable | None
    source: str | None


class _Session:
    def __init__(
        self,
        *,
        config: RunConfig,
        out: Path,
        observer: RunObserver,
        data: Data,
        device: torch.device,
        policy: Policy,
        library: _Library,
        costs: _Costs,
        begin_with: dict[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.out = out
        self.observer = observer
        self.data = data
        self.library = library
        self.costs = costs
        self.device = device
        self.policy = policy
        self.begin_with = begin_with
        self.kind = device_kind(device, config.task.threads)
        self.trial = Trial(config, data=data, device=device, policy=policy, library=library.beacons, costs=config.costs)
        self.controller = self.trial.controller
        self.epochs_at: Counter[int] = Counter()
        self.row: EpochRow | None = None
        self.told_slow = False
        self.forks: list[ForkRecord] = []

    def begin(self) -> None:
        """Start the run, or bring it to where it stood."""
        with naming_output(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        write_whole(self.out / CONFIG, _yaml(self.config, self.out))
        seconds = self._restore()
        self._announce()
        self.trial.seconds += seconds

    def carry_out(self) -> Summary:
        """Return how the run ended, having started or continued it."""
        self.begin()
        while not self.controller.finished:
            self.epoch()
        summary = self._summary()
        write_whole(self.out / SUMMARY, (summary.model_dump_json(indent=2) + "\n").encode())
        self.observer.finished(summary)
        return summary

    def _restore(self) -> float:
        # Brings records and state to the last checkpoint, and says at how many seconds it stands.
        path = self.out / CHECKPOINT
        checkpoint = read_checkpoint(path) if path.exists() else None
        epoch = _restored_epoch(checkpoint, path)
        adopted = checkpoint is not None and bool(checkpoint.record.get("adopted"))
        for name in (EPOCHS, MEASUREMENTS):
            keep_lines(self.out / name, epoch)
        keep_lines(self.out / DECISIONS, epoch - adopted)  # what a scout has decided for the next epoch does not hold
        rows = load_epochs(self.out)
        if checkpoint is None:
            (self.out / DECISIONS).unlink(missing_ok=True)
            scouting = None
            if self.begin_with is not None:  # no scout can go on: the run begins where the policy says after them
                scouting = load_scouting(self.out)
                self.policy.load_state_dict(self.begin_with)
                self.controller.redecide()
            append_lines(self.out / DECISIONS, [self.controller.decision.to_dict()])
            return sum(scout.seconds for scout in scouting.losers) if scouting is not None else 0.0
        if [row.epoch for row in rows] != list(range(1, epoch + 1)):
            raise CheckpointError(f"{self.out / EPOCHS}: expected the epochs 1 to {epoch} of the checkpoint beside it")
        try:
            _check_same(kept_config(self.config, self.out), with_kept_paths(checkpoint.record["config"], self.out))
            self.controller.load_state_dict(checkpoint.record["controller"])
            seconds = float(checkpoint.record["seconds"])
            self.trial.stopped_because = str(checkpoint.record["stopped_because"])
            forks = checkpoint.record.get("forks", ())  # checkpoints of older versions have none
            self.forks = [ForkRecord.from_dict(fork) for fork in forks]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path}: damaged: {error!r}") from None
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        if self.controller.epoch != epoch:
            raise CheckpointError(f"{path}: damaged: it is of epoch {epoch} and of epoch {self.controller.epoch}")
        restore(checkpoint, self.trial.engine.model, self.trial.engine.optimizer, path)
        if adopted:
            append_lines(self.out / DECISIONS, [self.controller.redecide().to_dict()])
        self.epochs_at = Counter(row.batch_size for row in rows)
        self.row = rows[-1]
        return seconds

    def _announce(self) -> None:
        beacons = self.library.beacons
        task = self.controller.task
        self.observer.started(
            RunInfo(
                out=self.out,
                device=self.kind,
                train_size=len(self.data.train_labels),
                validation_size=len(self.data.validation_labels),
                test_size=len(self.data.test_labels),
                examples=self.config.task.dataset.examples,
                num_classes=self.data.num_classes,
                parameters=self.trial.engine.parameters,
                epochs=planned_epochs(self.policy, task),
                resumed_epoch=self.controller.epoch,
                beacons=None if beacons is None else len(beacons.beacons),
                costs_source=self.costs.source,
                seconds=self._seconds_left(),
            )
        )
        self.observer.decided(self.controller.decision)

    def _seconds_left(self) -> tuple[float, float] | None:
        """Return shortest and longest time of what is left, at the fixed size or at any of the ladder."""
        costs, task = self.costs.table, self.controller.task
        if costs is None:
            return None
        epochs = planned_epochs(self.policy, task) - self.controller.epoch
        fixed = self.config.policy.kind == "fixed"
        sizes = (self.controller.batch_size,) if fixed else self.config.task.batch_sizes
        each = [costs.training_seconds(size, epochs * steps_per_epoch(task.train_size, size), epochs) for size in sizes]
        budget = task.measuring_budget if self.config.measure and not self.config.recording else 0.0
        return min(each), max(each) * (1.0 + budget)

    def epoch(self) -> EpochRow:
        """Train the next epoch, keep it, and return its figures."""
        controller = self.controller
        began, before = controller.epoch, self.row
        fork = self.policy.fork(controller.observation) if isinstance(self.policy, ForkingPolicy) else None
        if fork is None or not isinstance(self.policy, ForkingPolicy):
            self.row = self.trial.epoch(self.observer.step)
            measurements = controller.measurements
        else:
            self.observer.note(told_fork(fork))
            forked = fork_epoch(self.trial, self.policy, fork, self.observer.step)
            self.row, measurements = forked.row, forked.measurements
            if forked.record is not None:
                self.forks.append(forked.record)
                self.observer.note(forked.record.reason)
                if forked.record.taken:  # what this epoch was to be trained under, it was not
                    keep_lines(self.out / DECISIONS, began - 1)
                    append_lines(self.out / DECISIONS, [forked.decision.to_dict()])
        decided = controller.decision.epoch == controller.epoch  # also where it says that the training ends
        decision = controller.decision if decided else None
        self.epochs_at[self.row.batch_size] += 1
        append_lines(self.out / MEASUREMENTS, [measurement.to_dict() for measurement in measurements])
        append_lines(self.out / DECISIONS, [] if decision is None else [decision.to_dict()])
        append_lines(self.out / EPOCHS, [self.row.to_dict()])
        self._save()
        self.observer.epoch_finished(self.row)
        if fork is None:
            self._tell_slow(self.row, before)
        if decision is not None:
            self.observer.decided(decision)
        return self.row

    def _tell_slow(self, row: EpochRow, before: EpochRow | None) -> None:
        """Say once where an epoch takes many times what the cost table has for it, as beside other work."""
        costs = self.config.costs
        if self.told_slow or costs is None or row.batch_size not in costs.step_seconds:
            return
        steps, taken, measuring = (
            getattr(row, name) - (0 if before is None else getattr(before, name))
            for name in ("steps", "seconds", "measuring_seconds")
        )
        modelled = costs.training_seconds(row.batch_size, steps, 1)
        taken -= measuring
        if taken > SLOW * modelled and taken - modelled > SLOW_SECONDS:
            self.told_slow = True
            threads = self.config.task.threads
            fewer = "; OMP_NUM_THREADS=1 keeps threads from waiting for one another" if threads > 1 else ""
            self.observer.note(
                f"an epoch takes {taken / modelled:.0f} times as long here as the cost table ({costs.device}) says: is "
                f"there other work on this machine?{fewer}; decisions go by the table, --calibrate times this machine"
            )

    def _save(self) -> None:
        record = {
            "epoch": self.controller.epoch,
            "config": kept_config(self.config, self.out),
            "controller": self.controller.state_dict(),
            "seconds": self.trial.seconds,
            "stopped_because": self.trial.stopped_because,
            "forks": forks_to_list(self.forks),
        }
        if self.forks:
            save_forks(self.out, self.forks)
        tensors = snapshot(self.trial.engine.model, self.trial.engine.optimizer)
        write_checkpoint(self.out / CHECKPOINT, Checkpoint(tensors, record))

    def _summary(self) -> Summary:
        assert self.row is not None
        seconds = self.trial.seconds
        test_loss = test_error = None
        if self.trial.stopped_because == FINISHED:
            test_loss, test_error = self.trial.engine.test()
        row, config = self.row, self.config
        scouting = load_scouting(self.out)
        losers = scouting.losers if scouting is not None else ()
        thrown: tuple[ScoutRecord | ForkRecord, ...] = (*losers, *self.forks)
        measuring = row.measuring_seconds + sum(one.measuring_seconds for one in thrown)
        budgeted = config.measure and not config.recording
        best, missing = _best_beacon(self.library)
        return Summary(
            task=config.task.name,
            policy=config.policy.name,
            seed=config.seed,
            device=self.kind,
            epochs=row.epoch,
            stopped_because=self.trial.stopped_because,
            test_error=test_error,
            test_loss=_known(test_loss),
            validation_error=row.validation_error,
            validation_loss=_known(row.validation_loss),
            train_loss=_known(row.train_loss),
            c_bar=_known(row.c_bar),
            l_cum=_known(row.l_cum) if row.samples else None,
            examples=row.examples + sum(one.examples for one in thrown),
            optimizer_steps=row.steps + sum(one.optimizer_steps for one in thrown),
            samples=row.samples + sum(one.samples for one in thrown),
            seconds=seconds,
            measuring_seconds=measuring,
            measuring_share=measuring / seconds,
            measuring_share_modelled=self.controller.measuring_share_modelled,
            measuring_budget=config.task.measuring.budget if budgeted else None,
            batch_sizes=dict(sorted(self.epochs_at.items())),
            ended_early=self.controller.stopped_because if self.trial.stopped_because == FINISHED else None,
            scouting_seconds=sum(scout.seconds for scout in losers),
            scouts=[plain(asdict(scout)) for scout in scouting.scouts] if scouting is not None else [],
            forking_seconds=sum(fork.seconds for fork in self.forks),
            forks=forks_to_list(self.forks),
            best_beacon=best,
            best_beacon_missing=missing,
        )


def library_of(config: RunConfig, data: Data, policy: Policy) -> _Library:
    """Return the beacons of a run's task.

    A policy that does without beacons, or that scouts instead, runs on where they are missing or do not fit.

    Args:
        config: the run's configuration.
        data: its data.
        policy: its policy.

    Returns:
        The beacons, or why there are none.

    Raises:
        LibraryError: the policy needs beacons, and they are missing, damaged or of another task.
    """
    needed = policy.needs_library and not isinstance(policy, ScoutingPolicy)
    if config.recording:
        return _Library(None, "this run records a beacon itself")
    if config.task_path is None:
        missing = f"the task '{config.task.name}' has no env folder, so no beacons"
        if needed:
            raise LibraryError(f"policy '{config.policy.name}' needs beacons: {missing}")
        return _Library(None, missing)
    library = None
    try:
        library = BeaconLibrary.load(config.task_path)
        library.check_task(config.task.fingerprint_payload(data.fingerprint, data.num_classes))
        if library.bn != BN:
            raise LibraryError(
                f"the beacon library of '{library.task_name}' has 'bn' {library.bn!r}, here it is {BN!r}"
            )
    except LibraryError as error:
        if needed:
            raise
        # The summary keeps this: it tells nothing of the machine, and is UTF-8 whatever the folder's name is.
        told = str(error).replace(str(config.task_path), config.task_path.name).encode(errors="replace").decode()
        return _Library(None, told, library if _serves_at_another_length(config, data, library) else None)
    return _Library(library, None)


def _serves_at_another_length(config: RunConfig, data: Data, library: BeaconLibrary | None) -> bool:
    payload = config.task.fingerprint_payload(data.fingerprint, data.num_classes)
    if library is None or library.bn != BN or not library.is_other_length(payload):
        return False
    try:
        return library.best_fixed().batch_size in config.task.batch_sizes
    except LibraryError:  # all of them diverged
        return False


def _from_other_length(
    config: RunConfig, library: BeaconLibrary, *, data: Data, policy: BeaconFollowPolicy
) -> dict[str, Any]:
    """Return the policy's state to begin the run with."""
    policy.reset(
        run_task_info(config.task, train_size=len(data.train_labels), costs=config.costs, seed=config.seed), None
    )
    policy.begin_from(library)
    return policy.state_dict()


def _costs(
    config: RunConfig,
    *,
    data: Data,
    device: torch.device,
    policy: Policy,
    library: _Library,
    observer: RunObserver,
) -> _Costs:
    """Return the one clock that decisions may depend on."""
    budgeted = config.measure and not config.recording
    if not (budgeted or policy.needs_library or isinstance(policy, ScoutingPolicy)):
        return _Costs(None, None)
    if config.costs is not None:
        return _Costs(config.costs, "kept from the run's start")
    if not config.calibrate:
        known = known_costs(config, data=data, device=device, library=library)
        if known.table is not None:
            return known
    table, timed = cached_calibration(
        config.task,
        data,
        device,
        config.task.fingerprint_payload(data.fingerprint, data.num_classes),
        fresh=config.calibrate,
        trust_code=config.trust_code,
        before_timing=lambda: observer.note("timing this machine, a few seconds"),
    )
    return _Costs(table, "timed at the run's start" if timed else "timed on this machine in an earlier run")


def known_costs(config: RunConfig, *, data: Data, device: torch.device, library: _Library) -> _Costs:
    """Return what is known of a run's costs before anything is timed.

    Args:
        config: the run's configuration.
        data: its data.
        device: its device.
        library: its beacons.

    Returns:
        The table and where it comes from, both None where nothing is known.
    """
    beacons = library.beacons or library.of_other_length
    recorded = beacons.costs if beacons is not None else None
    if recorded is not None and covers(recorded, config.task, device):
        return _Costs(recorded, "recorded with the beacons on this kind of device")
    payload = config.task.fingerprint_payload(data.fingerprint, data.num_classes)
    kept = kept_calibration(config.task, device, payload)
    return _Costs(kept, None if kept is None else "timed on this machine in an earlier run")


def _best_beacon(library: _Library) -> tuple[dict[str, Any] | None, str | None]:
    return (None, library.missing) if library.beacons is None else best_beacon(library.beacons)


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def refuse_occupied(out: Path) -> None:
    """Refuse a directory that holds a run already.

    Args:
        out: the directory.

    Raises:
        OutputError: it does, or is a file.
    """
    found = next((name for name in RUN_FILES if (out / name).exists()), None)
    if found is not None:
        raise OutputError(
            f"{out}: holds a run already ({found}); continue it with --resume {out}, or choose another directory"
        )
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: expected a directory, found a file")


def _continued(config: RunConfig, out: Path) -> RunConfig:
    stored = load_run_config(out)
    try:
        _check_same(kept_config(config, out), kept_config(stored, out))
    except CheckpointError as error:
        raise CheckpointError(f"{out / CONFIG}: {error}") from None
    return config.model_copy(update={"costs": config.costs or stored.costs})


def _check_same(config: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    mine, theirs = ({key: value for key, value in own.items() if key not in _MAY_DIFFER} for own in (config, stored))
    differing = differing_keys(mine, theirs)
    if differing:
        raise CheckpointError(
            "the run was started with another configuration: "
            + "; ".join(f"'{key}' was {old} and is {new}" for key, new, old in differing)
        )


def _restored_epoch(checkpoint: Checkpoint | None, path: Path) -> int:
    epoch = 0 if checkpoint is None else checkpoint.record.get("epoch")
    if not isinstance(epoch, int) or (checkpoint is not None and epoch < 1):
        raise CheckpointError(f"{path}: damaged: 'epoch' is {epoch!r}")
    return epoch


def _yaml(config: RunConfig, out: Path) -> bytes:
    content: str = yaml.safe_dump(kept_config(config, out), sort_keys=False, allow_unicode=True)
    return content.encode()
