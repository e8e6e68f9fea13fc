"""One training that is kept in a run directory: begun, gone on with, and carried out to its summary."""

import gc
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from autobatch._errors import CheckpointError
from autobatch._files import naming_output, write_whole
from autobatch._plain import plain
from autobatch._steps import epochs_of
from autobatch._yaml import dump_yaml
from autobatch.beacons import Journey
from autobatch.beacons._columns import FINISHED
from autobatch.beacons._info import told_differences
from autobatch.control import DecisionRecord
from autobatch.control.measuring import MeasuredStep, is_out_of_memory
from autobatch.control.run import (
    BEST_CHECKPOINT,
    CHECKPOINT,
    CONFIG,
    EPOCHS,
    EpochRow,
    RunFiles,
    Summary,
    best_beacon,
    load_epochs,
)
from autobatch.policies import Policy, planned_epochs
from autobatch.policies._wording import in_epochs
from autobatch.policies.steer import Fork, ForkingPolicy
from autobatch.training._calibrate import device_kind
from autobatch.training._checkpoint import Checkpoint, put_back, read_checkpoint, write_checkpoint
from autobatch.training._engine import batch_norms, check_together
from autobatch.training._recorded import recording_info
from autobatch.training._run import RunConfig, RunInfo, RunObserver, kept_config, with_kept_paths
from autobatch.training._trial import Trial
from autobatch.training.data import Data
from autobatch.training.running._branches import fork_branches, keep_branches
from autobatch.training.running._forking import ForkRecord, fork_epoch, save_forks, told_fork
from autobatch.training.running._known import KnownBeacons, KnownCosts
from autobatch.training.running._scouting import ScoutRecord, load_scouting

SLOW, SLOW_SECONDS = 3.0, 5.0
"""How many times what the cost table says an epoch takes, and how many seconds more, before that is worth a line."""


# What may differ between a run and its continuation: where things lie, and what only matters at the start.
_MAY_DIFFER = ("task_path", "data_dir", "trust_code", "calibrate", "costs")


@dataclass(kw_only=True, eq=False)
class Session:
    """A training, and the directory that it is kept in.

    Attributes:
        config: what it depends on.
        out: the run directory.
        observer: what watches it.
        data: the task's data, on the device.
        device: where it trains.
        policy: what decides.
        library: the task's beacons.
        costs: what steps cost, and where that is known from.
        begin_with: state of the policy that it begins with; None where it begins by itself.
    """

    config: RunConfig
    out: Path
    observer: RunObserver
    data: Data
    device: torch.device
    policy: Policy
    library: KnownBeacons
    costs: KnownCosts
    begin_with: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Set the training up."""
        config = self.config
        self.trial = Trial(
            config,
            data=self.data,
            device=self.device,
            policy=self.policy,
            library=self.library.beacons,
            costs=config.costs,
        )
        self.ranks = self.trial.ranks
        together = f", {self.ranks.size} processes" if self.ranks.size > 1 else ""
        self.kind = device_kind(self.device, config.task.threads) + together
        self.controller = self.trial.controller
        self.log = RunFiles(self.out if self.ranks.leads else None, config.periods)
        self.told_slow = False
        self.forks: list[ForkRecord] = []
        self.best_written: int | None = None

    @property
    def rows(self) -> Sequence[EpochRow]:
        """The finished epochs, those of an earlier start among them."""
        return self.log.epochs

    def begin(self) -> None:
        """Start the run, or bring it to where it stood. Of several processes the first writes, and all read."""
        if self.config.recording and self.ranks.size > 1:
            check_together(self.config.task, self.trial.engine.model)
        seconds = self._restore()
        self._announce()
        self.controller.seconds = seconds

    def carry_out(self) -> Summary:
        """Return how the run ended, having started or continued it."""
        self.begin()
        while not self.controller.finished:
            self.period()
        summary = self._summary()
        self.ranks.first_makes(lambda: self._write_summary(summary))
        self.observer.finished(summary)
        return summary

    def _write_summary(self, summary: Summary) -> None:
        (self.out / BEST_CHECKPOINT).unlink(missing_ok=True)
        self.log.ended(summary)

    def _restore(self) -> float:
        # Brings records and state to the last checkpoint, and says at how many seconds it stands.
        path = self.out / CHECKPOINT
        checkpoint = read_checkpoint(path) if path.exists() else None
        periods = _restored_periods(checkpoint, path)
        adopted = checkpoint is not None and bool(checkpoint.record.get("adopted"))
        self.ranks.first_makes(self._prepare)
        if checkpoint is None:
            scouting = None
            if self.begin_with is not None:  # no scout can go on: the run begins where the policy says after them
                scouting = load_scouting(self.out)
                self.policy.load_state_dict(self.begin_with)
                self.controller.redecide()
            self.log.decisions = [self.controller.decision]
            self.ranks.first_makes(self.log.begin)
            return sum(scout.seconds for scout in scouting.losers) if scouting is not None else 0.0
        try:
            check_same(kept_config(self.config, self.out), with_kept_paths(checkpoint.record["config"], self.out))
            self.controller.load_state_dict(checkpoint.record["controller"])
            seconds = float(checkpoint.record["seconds"])
            self.trial.stopped_because = str(checkpoint.record["stopped_because"])
            forks = checkpoint.record.get("forks", ())  # checkpoints of older versions have none
            self.forks = [ForkRecord.from_dict(fork) for fork in forks]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path}: damaged: {error!r}") from None
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        finished, an_epoch = self.controller.finished_periods, self.config.periods
        if finished != periods:
            told = [in_epochs(number, an_epoch) for number in (periods, finished)]
            raise CheckpointError(f"{path}: damaged: it is of {told[0]} and of {told[1]}")
        self.ranks.first_makes(self._cut)
        self.log.epochs = load_epochs(self.out)
        if [row.epoch for row in self.rows] != [epochs_of(period, an_epoch) for period in range(1, periods + 1)]:
            raise CheckpointError(
                f"{self.out / EPOCHS}: expected the {in_epochs(periods, an_epoch)} of the checkpoint beside it"
            )
        put_back(checkpoint.tensors, self.trial.engine.model, self.trial.engine.optimizer, str(path))
        self._restore_best()
        if adopted:  # what the scout has decided for the next epoch does not hold
            self.controller.redecide()
            self.ranks.first_makes(partial(self.log.decided, self.controller.decision))
        return seconds

    def _prepare(self) -> None:
        with naming_output(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        write_whole(self.out / CONFIG, config_yaml(self.config, self.out))

    def _cut(self) -> None:
        """Drop what was written after the checkpoint."""
        now = self.controller
        self.log.load()
        self.log.cut(progress=now.progress, examples=now.examples, steps=now.steps, last=now.decision)

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
                predicted=self.data.predicted,
                parameters=self.trial.engine.parameters,
                epochs=planned_epochs(self.policy, task) // task.periods,
                periods=task.periods,
                resumed_epoch=self.rows[-1].epoch if self.rows else 0,
                beacons=None if beacons is None else len(beacons.beacons),
                costs_source=self.costs.source,
                seconds=self._seconds_left(),
            )
        )
        self.observer.decided(self.controller.decision)
        if (norms := batch_norms(self.trial.engine.model)) and self.ranks.size > 1:
            self.observer.note(
                f"{norms} BatchNorm layers take their statistics over each process's share, one of {self.ranks.size} "
                "parts of a batch, as DistributedDataParallel has it: this is not the training of one process"
            )

    def _seconds_left(self) -> tuple[float, float] | None:
        """Return shortest and longest time of what is left, at the fixed size or at any of the ladder."""
        costs, task = self.costs.table, self.controller.task
        if costs is None:
            return None
        epochs = planned_epochs(self.policy, task) - self.controller.finished_periods
        fixed = self.config.policy.kind == "fixed"
        sizes = (self.controller.batch_size,) if fixed else self.config.task.batch_sizes
        each = [costs.whole_epochs(size, task.train_size, epochs) for size in sizes]
        budget = task.measuring_budget if self.config.measure and not self.config.recording else 0.0
        return min(each), max(each) * (1.0 + budget)

    def period(self) -> EpochRow:
        """Train to the next decision, keep that, and return its figures.

        Where a batch does not fit into memory that the policy has gone over to, the period is trained again with the
        largest that does.

        Returns:
            The period's figures.
        """
        while True:
            batch_size, seconds = self.controller.batch_size, self.controller.seconds
            try:
                return self._period()
            except Exception as error:
                if not (is_out_of_memory(error) and self._has_smaller(batch_size)):
                    raise
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            seconds = max(seconds, self.controller.seconds)
            self._restore()
            self.controller.redecide()
            self.controller.seconds = seconds
            decision = self.controller.decision
            self.log.decided(decision)
            self.observer.note(
                f"batches of {batch_size} do not fit into memory: the epoch is trained again with {decision.batch_size}"
            )

    def _has_smaller(self, batch_size: int) -> bool:
        """Whether the policy can do with smaller batches, and there is something to begin the period from."""
        held = self.config.recording or self.config.policy.kind == "fixed" or self.ranks.size > 1
        fits = self.controller.fits
        return not held and bool(self.rows) and fits is not None and fits < batch_size

    def _period(self) -> EpochRow:
        controller = self.controller
        fork = self._fork()
        branches: list[Journey] = []
        if fork is None or not isinstance(self.policy, ForkingPolicy):
            row, measurements = self.trial.period(self.observer.step), controller.measurements
        else:
            self.observer.note(told_fork(fork))
            forked = fork_epoch(self.trial, self.policy, fork, self.observer.step)
            row, measurements = forked.kept.row, forked.kept.measurements
            tried = [(one.row, one.stopped_because) for one in forked.tried]
            before = self.rows[-1] if self.rows else None
            branches = fork_branches(self.config, before, tried, steered=controller.task.steered)
            if forked.record is not None:
                self.forks.append(forked.record)
                self.observer.note(forked.record.reason)
                if forked.record.taken:  # what this epoch was to be trained under, it was not
                    why = replace(forked.kept.decision, reason=forked.record.reason)
                    self.ranks.first_makes(partial(self.log.decided, why))
        decided = controller.decision.epoch == row.epoch  # also where it says that the training ends
        decision = controller.decision if decided else None
        if not self.ranks.leads:
            self.log.epoch(row)
        self.ranks.first_makes(partial(self._keep, row, measurements, decision, branches))
        self.observer.epoch_finished(row)
        if fork is None:
            self._tell_slow()
        if decision is not None:
            self.observer.decided(decision)
        return row

    def _fork(self) -> Fork | None:
        """Return what the policy wants tried beside the coming epoch; of several processes the first one's is asked."""
        policy = self.policy
        if not isinstance(policy, ForkingPolicy) or self.config.periods > 1:  # parts of epochs are too short for it
            return None
        fork = self.ranks.first_makes(
            lambda: None if (own := policy.fork(self.controller.observation)) is None else asdict(own)
        )
        return None if fork is None else Fork(**fork)

    def _keep(
        self,
        row: EpochRow,
        measurements: Sequence[MeasuredStep],
        decision: DecisionRecord | None,
        branches: Sequence[Journey],
    ) -> None:
        """Write what a decision period came to, and then the checkpoint."""
        if branches:
            keep_branches(self.out, branches, recording_info(self.config.task, self.data))
        self.log.measured(measurements)
        if decision is not None:
            self.log.decided(decision)
        self.log.epoch(row)
        self._save()

    def _keep_best(self) -> None:
        """Write the weights that the training may go back to, where they are others than those of the file."""
        best = self.controller.kept["best"]
        if best is not None and best["period"] != self.best_written:
            content = io.BytesIO()
            torch.save(best, content)
            write_whole(self.out / BEST_CHECKPOINT, content.getvalue())
            self.best_written = best["period"]

    def _restore_best(self) -> None:
        path = self.out / BEST_CHECKPOINT
        if not path.exists():
            return
        try:
            best = torch.load(path, weights_only=True)
            self.controller.kept = {"best": best, "last": None}
        except (OSError, EOFError, RuntimeError, ValueError, CheckpointError, UnpicklingError) as error:
            raise CheckpointError(f"{path}: truncated, damaged, or no weights of autobatch") from error
        self.best_written = best["period"]

    def _tell_slow(self) -> None:
        """Say once where the last epoch took many times what the cost table has for it, as beside other work."""
        costs, row = self.config.costs, self.rows[-1]
        if self.told_slow or costs is None or row.batch_size not in costs.step_seconds:
            return
        steps, taken, measuring = (
            getattr(row, name) - (getattr(self.rows[-2], name) if len(self.rows) > 1 else 0)
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
            "epoch": self.controller.finished_periods,
            "config": kept_config(self.config, self.out),
            "controller": self.controller.state_dict(),
            "seconds": self.controller.seconds,
            "stopped_because": self.trial.stopped_because,
            "forks": [plain(fork.to_dict()) for fork in self.forks],
        }
        self._keep_best()
        if self.forks:
            save_forks(self.out, self.forks)
        write_checkpoint(self.out / CHECKPOINT, Checkpoint(self.trial.engine.snapshot(), record))

    def _summary(self) -> Summary:
        test_loss = test_error = None
        if self.trial.stopped_because == FINISHED:
            test_loss, test_error = self.trial.engine.test()
        config, beacons = self.config, self.library.beacons
        scouting = load_scouting(self.out)
        losers = scouting.losers if scouting is not None else ()
        thrown: tuple[ScoutRecord | ForkRecord, ...] = (*losers, *self.forks)
        budgeted = config.measure and not config.recording
        best, missing = (None, self.library.missing) if beacons is None else best_beacon(beacons)
        return self.log.summed_up(
            config,
            self.controller.seconds,
            thrown,
            device=self.kind,
            stopped_because=self.trial.stopped_because,
            test_error=test_error,
            test_loss=plain(test_loss),
            measuring_share_modelled=self.controller.measuring_share_modelled,
            measuring_budget=config.task.measuring.budget if budgeted else None,
            ended_early=self.controller.stopped_because if self.trial.stopped_because == FINISHED else None,
            scouting_seconds=sum(scout.seconds for scout in losers),
            scouts=[plain(scout.to_dict()) for scout in scouting.scouts] if scouting is not None else [],
            forking_seconds=sum(fork.seconds for fork in self.forks),
            forks=[plain(fork.to_dict()) for fork in self.forks],
            shares_loss=self.data.shares_loss,
            deviations=None if self.data.deviations is None else self.data.deviations.tolist(),
            best_beacon=best,
            best_beacon_missing=missing,
        )


def check_same(config: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    before = {"periods": 1} | {**stored}  # runs of older versions decided between epochs, and did not say so
    mine, theirs = ({key: value for key, value in own.items() if key not in _MAY_DIFFER} for own in (config, before))
    if differing := told_differences(theirs, mine):
        raise CheckpointError(f"the run was started with another configuration: {differing}")


def _restored_periods(checkpoint: Checkpoint | None, path: Path) -> int:
    periods = 0 if checkpoint is None else checkpoint.record.get("epoch")
    if not isinstance(periods, int) or (checkpoint is not None and periods < 1):
        raise CheckpointError(f"{path}: damaged: 'epoch' is {periods!r}")
    return periods


def config_yaml(config: RunConfig, out: Path) -> bytes:
    return dump_yaml(kept_config(config, out)).encode()
