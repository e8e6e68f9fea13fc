"""The scouts of a run, trained one after another in run directories of their own."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autobatch._files import write_whole
from autobatch.beacons import BeaconLibrary
from autobatch.control._ranks import Ranks
from autobatch.control.run import CONFIG, EpochRow
from autobatch.policies import make_policy, planned_epochs
from autobatch.policies.steer import Scout, ScoutingPolicy
from autobatch.training._run import RunConfig, RunObserver
from autobatch.training.data import Data
from autobatch.training.running._known import KnownBeacons, KnownCosts, info_of
from autobatch.training.running._scouting import (
    Scouting,
    ScoutRecord,
    adopt,
    record_of,
    save_scouting,
    scout_config,
    scout_directory,
    told_plan,
    told_schedule,
    told_scout,
    train_scout,
)
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

    Of several processes each has the same figures and makes the same choices; the first writes.

    Returns:
        The policy's state to begin the run with where no scout can go on; None where one does, or there are none.
    """
    ranks = Ranks(None, device)
    task = info_of(config, data, config.costs)
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
        scouted = scout_config(config, batch_size, lr)
        training = Session(
            config=scouted,
            out=scout_directory(out, batch_size, lr, config.seed),
            observer=_ScoutObserver(observer, plan.epochs),
            data=data,
            device=device,
            policy=make_policy(scouted.policy),
            library=KnownBeacons(None, "a scout is a beacon itself"),
            costs=KnownCosts(config.costs, None),
        )
        waiting = plan.configurations[len(records) :]
        so_far = Scouting(None, tuple(records), waiting, plan.epochs, more=plan.more)
        # What --resume needs; not before a scout can be carried out.
        kept = None if scouts else config_yaml(config, out)
        ranks.first_makes(partial(_keep, out, so_far, kept))
        training.begin()
        key = (batch_size, lr)
        scout = train_scout(training.trial, training.epoch, training.rows, plan=plan, key=key, others=scouts)
        scouts.append(scout)
        records.append(record_of(training.rows, scout))
        observer.scouted(told_scout(records[-1]))
        plan = policy.scouts(scouts)
    choice = policy.take(scouts)
    marked = tuple(replace(record, won=place == choice.scout) for place, record in enumerate(records))
    scouting = Scouting(choice.reason, marked, epochs=plan.epochs, planned=planned_epochs(policy, task))
    ranks.first_makes(partial(save_scouting, out, scouting))
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


@dataclass
class _ScoutObserver(RunObserver):
    """Tells a run's observer of the epochs of a scout, which trains ``epochs`` at most."""

    observer: RunObserver
    epochs: int

    def epoch_finished(self, row: EpochRow) -> None:
        """Pass an epoch on."""
        self.observer.scout_epoch(row, self.epochs)
