"""The scouts of a run: short trainings at fixed configurations before it, the best of which becomes the run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autobatch._errors import ConfigError
from autobatch._files import write_whole
from autobatch._plain import Epochs
from autobatch._steps import epochs_of
from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.beacons._columns import FINISHED
from autobatch.control._ranks import Ranks
from autobatch.control._state import adopted_state
from autobatch.control.measuring import is_out_of_memory
from autobatch.control.run import CHECKPOINT, CONFIG, DECISIONS, EPOCHS, MEASUREMENTS, EpochRow
from autobatch.control.run._files import read_lines, write_lines
from autobatch.policies import PolicySpec, make_policy, planned_epochs
from autobatch.policies.steer import DID_NOT_FIT, Scout, ScoutingPolicy, ScoutPlan, clearly_worse, hopeless
from autobatch.training._checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from autobatch.training._recorded import recording_info
from autobatch.training._run import RunConfig, RunObserver, kept_config
from autobatch.training._trial import Trial
from autobatch.training.data import Data
from autobatch.training.running._branches import keep_branches, scout_journeys
from autobatch.training.running._known import KnownBeacons, KnownCosts, info_of
from autobatch.training.running._scout_words import told_plan, told_schedule, told_scout
from autobatch.training.running._scouting import Scouting, ScoutRecord, record_of, save_scouting, scout_directory
from autobatch.training.running._session import Session, config_yaml


def train_scouts(
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

    Of several processes each has the same figures and makes the same choices; the first writes. A scout that does not
    fit into memory has lost; of several processes it ends the training of all.

    Returns:
        The policy's state to begin the run with where no scout can go on; None where one does, or there are none.

    Raises:
        ConfigError: no scout fits into memory.
    """
    ranks = Ranks(None, device)
    task = replace(info_of(config, data, config.costs), scouts_go_on=True)
    policy.reset(task, library)
    plan = policy.scouts()
    for line in (told_schedule(policy, task), *([told_plan(policy, task)] if not plan.configurations else ())):
        if line:
            observer.note(line)
    if not plan.configurations:
        return None
    observer.scouting(told_plan(policy, task))
    scouts: list[Scout] = []
    records: list[ScoutRecord] = []
    each = epochs_of(plan.epochs, task.periods)
    while len(scouts) < len(plan.configurations):
        batch_size, lr = plan.configurations[len(scouts)]
        scouted = scout_config(config, batch_size, lr)
        training = Session(
            config=scouted,
            out=scout_directory(out, batch_size, lr, config.seed),
            observer=_ScoutObserver(observer, each),
            data=data,
            device=device,
            policy=make_policy(scouted.policy),
            library=KnownBeacons(None, "a scout is a beacon itself"),
            costs=KnownCosts(config.costs, None),
        )
        waiting = plan.configurations[len(records) :]
        so_far = Scouting(None, tuple(records), waiting, each, more=plan.more)
        # What --resume needs; not before a scout can be carried out.
        kept = None if scouts else config_yaml(config, out)
        ranks.first_makes(partial(_keep, out, so_far, kept))
        training.begin()
        scout, record = _trained(training, plan=plan, key=(batch_size, lr), others=scouts)
        scouts.append(scout)
        records.append(record)
        observer.scouted(told_scout(records[-1]))
        plan = policy.scouts(scouts)
    if all(scout.ended == DID_NOT_FIT for scout in scouts):
        raise ConfigError(
            f"no scout fits into memory, the smallest at batch size {min(scout.batch_size for scout in scouts)}; give "
            "smaller ones (task.batch_sizes), or a smaller model"
        )
    choice = policy.take(scouts)
    marked = tuple(replace(record, won=place == choice.scout) for place, record in enumerate(records))
    scouting = Scouting(choice.reason, marked, epochs=each, planned=planned_epochs(policy, task) // task.periods)
    ranks.first_makes(partial(_settle, config, out, data, scouting, scouts))
    observer.scouted(choice.reason)
    if choice.scout is None:
        return policy.state_dict()
    winner = scouts[choice.scout]
    source = scout_directory(out, winner.batch_size, winner.lr, config.seed)
    ranks.first_makes(lambda: adopt(source, out, config, policy.state_dict(), scouting))
    return None


def _keep(out: Path, scouting: Scouting, config: bytes | None) -> None:
    if config is not None:
        write_whole(out / CONFIG, config)
    save_scouting(out, scouting)


def _settle(config: RunConfig, out: Path, data: Data, scouting: Scouting, scouts: Sequence[Scout]) -> None:
    if journeys := scout_journeys(config, out, scouts):
        keep_branches(out, journeys, recording_info(config.task, data))
    save_scouting(out, scouting)


def scout_config(config: RunConfig, batch_size: int, lr: float) -> RunConfig:
    """Return the configuration of a scout of a run: the same with a fixed policy."""
    policy = PolicySpec.fixed(batch_size, lr, name="scout")
    return config.model_copy(update={"policy": policy})


def _trained(
    training: Session, *, plan: ScoutPlan, key: tuple[int, float], others: Sequence[Scout]
) -> tuple[Scout, ScoutRecord]:
    """Return a scout at its end, and what it has cost, an epoch that did not fit into memory included."""
    try:
        scout = train_scout(training.trial, training.period, training.rows, plan=plan, key=key, others=others)
    except Exception as error:
        if not is_out_of_memory(error) or training.ranks.size > 1:  # the others wait for its gradients
            raise
        scout = Scout(*key, (), (), DID_NOT_FIT, periods=training.config.periods)
        return scout, replace(record_of(training.rows, scout), seconds=training.controller.seconds)
    return scout, record_of(training.rows, scout)


def train_scout(
    trial: Trial,
    period: Callable[[], object],
    rows: Sequence[EpochRow],
    *,
    plan: ScoutPlan,
    key: tuple[int, float],
    others: Sequence[Scout],
) -> Scout:
    """Train a scout as long as it may win against others.

    Args:
        trial: its training.
        period: trains the next decision period, and adds its figures to ``rows``.
        rows: the periods so far, those of an earlier start among them.
        plan: what scouts are for.
        key: batch size and base learning rate.
        others: the scouts before.

    Returns:
        The scout, at its end.
    """
    periods = trial.config.periods
    while True:
        scout = Scout(
            *key,
            tuple(row.train_loss for row in rows),
            tuple(float(getattr(row, trial.config.task.score)) for row in rows),
            None if trial.stopped_because == FINISHED else trial.stopped_because,
            periods=periods,
            score=trial.config.task.score,
        )
        if scout.ended is not None or len(rows) >= plan.epochs:
            return scout
        if rows and not plan.whole and (why := hopeless(scout, others, clearly_worse(rows[-1].steps))):
            return replace(scout, ended=why)
        period()


def adopt(source: Path, out: Path, config: RunConfig, policy_state: dict[str, Any], scouting: Scouting) -> None:
    """Make a scout's training the beginning of the run; the checkpoint comes last, so that a kill repeats it.

    Args:
        source: the scout's directory.
        out: the run directory.
        config: the run's configuration.
        policy_state: state of the run's policy.
        scouting: what the scouts came to; the wall time of those that lost is charged to the run, and by the cost table
            their measuring counts against its budget.

    Raises:
        CheckpointError: the scout's directory is damaged.
        OutputError: ``out`` cannot be written.
    """
    checkpoint = read_checkpoint(source / CHECKPOINT)
    controller = adopted_state(checkpoint.record["controller"], policy_state)
    if config.costs is not None and "training" in controller["measuring"]:
        trained, measured = _modelled(scouting.losers, config.costs)
        account = controller["measuring"]
        account = {
            **account, "training": account["training"] + trained, "measuring": account["measuring"] + measured
        }  # fmt: skip
        controller["measuring"] = account
    record = {
        **checkpoint.record,
        "config": kept_config(config, out),
        "controller": controller,
        "seconds": float(checkpoint.record["seconds"]) + sum(scout.seconds for scout in scouting.losers),
        "adopted": True,
    }
    for name in (EPOCHS, MEASUREMENTS, DECISIONS):
        lines = read_lines(source / name)
        if name == DECISIONS:
            lines = [{**line, "reason": f"as a scout; {scouting.reason}"} for line in lines]
        write_lines(out / name, lines)
    write_checkpoint(out / CHECKPOINT, Checkpoint(checkpoint.tensors, record))


def _modelled(scouts: Sequence[ScoutRecord], costs: CostTable) -> tuple[float, float]:
    """Return what scouts took by the cost table: seconds of training without measuring, and of measuring."""
    trained = [costs.training_seconds(one.batch_size, one.optimizer_steps, one.epochs) for one in scouts]
    return sum(trained), sum(costs.measuring(one.batch_size) * one.samples for one in scouts)


@dataclass
class _ScoutObserver(RunObserver):
    """Tells a run's observer of the decision periods of a scout, which trains ``epochs`` at most."""

    observer: RunObserver
    epochs: Epochs

    def epoch_finished(self, row: EpochRow) -> None:
        """Pass a period on."""
        self.observer.scout_epoch(row, self.epochs)
