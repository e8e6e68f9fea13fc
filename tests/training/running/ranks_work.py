"""What the two processes of test_ranks.py do: each body is called on both, with a folder that they share."""

import datetime
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from autobatch._errors import AutoBatchError, ConfigError, OutputError
from autobatch.beacons import CostTable
from autobatch.policies import PolicySpec
from autobatch.policies.steer import _forks
from autobatch.training import EpochRow, RunConfig, RunObserver, load_run_config, run
from tests.training.kills import assert_same_run
from tests.training.tiny import dropout_task, tiny_config, tiny_task

RANKS = 2
_TIMEOUT = datetime.timedelta(seconds=60)
_STEPS = CostTable(
    device="steps",
    step_seconds={8: 1.0, 16: 1.0},
    measuring_seconds={8: 0.1, 16: 0.1},
    epoch_seconds=0.0,
)


class Watched(RunObserver):
    """Remembers notes and, after so many steps or epochs of scouts, breaks the run off."""

    def __init__(self, fuse: int = -1, scout_fuse: int = -1) -> None:
        self.notes: list[str] = []
        self.fuse = fuse
        self.scout_fuse = scout_fuse

    def note(self, message: str) -> None:
        self.notes.append(message)

    def step(self, step: int, steps: int) -> None:
        self.fuse -= 1
        if self.fuse == 0:
            raise KeyboardInterrupt

    def scout_epoch(self, row: EpochRow, epochs: int) -> None:
        self.scout_fuse -= 1
        if self.scout_fuse == 0:
            raise KeyboardInterrupt


def plain() -> RunConfig:
    return tiny_config(task=tiny_task(optimizer={"name": "adamw"}))


def own() -> RunConfig:
    task = tiny_task(optimizer={"name": "torch.optim:NAdam", "lr": 0.01, "weight_decay": 0.01})
    return tiny_config(task=task, trust_code=True)


def scouted() -> RunConfig:
    policy = PolicySpec(name="steer", kind="steer", parameters={"hardly_begun": 2.0})
    return tiny_config(policy, tiny_task(epochs=6, learning_rates=[0.05, 0.1, 0.2], threads=1))


def forking() -> RunConfig:
    parameters = {"scouts": 0, "length": 1.0, "decay": 0.1, "fork_share": 0.2}
    task = tiny_task(epochs=24, learning_rates=[0.05], batch_sizes=[8, 16], threads=1)
    return tiny_config(PolicySpec(name="steer", kind="steer", parameters=parameters), task, costs=_STEPS)


def with_forks(patch: pytest.MonkeyPatch, *, taken: bool) -> None:
    """Have runs begin at 8 and try 16, and take it or not."""
    patch.setattr("autobatch.policies.steer._search.SIZE", 8)
    patch.setattr(_forks, "TOLERANCE", 1e9 if taken else -1e9)


def trained(place: Path) -> None:
    """A run, which the test holds to that of one process."""
    run(plain(), place / "whole")


def own_optimizer(place: Path) -> None:
    """A run under an optimizer that a factory makes, which the test holds to that of one process."""
    run(own(), place / "own")


def goes_on(place: Path) -> None:
    """A run that is broken off in the middle of epochs ends as if it never had been."""
    out = place / "resumed"
    for attempt, fuse in enumerate((5, 13)):
        with pytest.raises(KeyboardInterrupt):
            run(plain() if not attempt else load_run_config(out), out, Watched(fuse), resume=bool(attempt))
    summary = run(load_run_config(out), out, resume=True)
    assert_same_run(place / "whole", out)
    assert run(load_run_config(out), out, resume=True) == summary or dist.get_rank()
    dist.barrier()


def begins(place: Path) -> None:
    """A run that the test goes on with in one process."""
    with pytest.raises(KeyboardInterrupt):
        run(plain(), place / "begun", Watched(15))


def scouts(place: Path) -> None:
    """Scouts are trainings of all processes; broken off in one, they go on."""
    run(scouted(), place / "scouted")
    out = place / "scouts-resumed"
    with pytest.raises(KeyboardInterrupt):
        run(scouted(), out, Watched(scout_fuse=2))
    run(load_run_config(out), out, resume=True)


def forks(place: Path) -> None:
    """The first process's policy says what is tried and what is taken."""
    for taken in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            with_forks(patch, taken=taken and dist.get_rank() == 0)
            run(forking(), place / f"forked-{taken}")


def batch_norm(place: Path) -> None:
    """Each process's shares have statistics of their own, which is said; the running ones are the same on all."""
    watched = Watched()
    run(tiny_config(task=dropout_task(), trust_code=True), place / "normed", watched)
    assert any("1 BatchNorm layers take their statistics over each process's share" in note for note in watched.notes)


def refused(place: Path) -> None:
    """What one process would be refused, all are, with the first one's word."""
    kind, message = (OutputError, "holds a run already") if dist.get_rank() == 0 else (AutoBatchError, "rank 0.*holds")
    with pytest.raises(kind, match=message):
        run(plain(), place / "whole")
    with pytest.raises(ConfigError, match="9"):
        run(tiny_config(task=tiny_task(batch_sizes=[9, 16])), place / "odd")


BODIES: dict[str, Callable[[Path], Any]] = {
    body.__name__: body for body in (trained, own_optimizer, goes_on, begins, scouts, forks, batch_norm, refused)
}


def process(rank: int, directory: Path) -> None:
    """Be one of the processes for all bodies."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{directory}/init", rank=rank, world_size=RANKS, timeout=_TIMEOUT)
    for name, body in BODIES.items():
        try:
            body(directory)
        except BaseException:
            (directory / f"{name}.{rank}").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        dist.barrier()
    (directory / f"done.{rank}").touch()
    dist.destroy_process_group()
