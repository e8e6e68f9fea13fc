"""``autobatch run`` under torchrun's own agent: several processes, one of which is killed, and no directory."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from autobatch.cli import main
from autobatch.control import AutoBatchController
from autobatch.training._engine import Engine
from tests.training.kills import assert_close_runs

RUN = ["run", "--env", "tiny", "--policy", "0:8 1e:32 2e:16", "--device", "cpu", "--out"]


def trained(home: Path, out: str, kill: bool) -> None:
    """Be one of the processes; the second is killed in its third epoch, the first time."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        if kill and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            patch.setattr(Engine, "train_epoch", dying(Engine.train_epoch))
        code = main([*RUN, out, "--quiet"])
    if code:
        sys.exit(code)


def dying(train_epoch: Callable[..., float]) -> Callable[..., float]:
    def train(engine: Engine, controller: AutoBatchController, after_step: Callable[[int, int], None]) -> float:
        def stepped(step: int, steps: int) -> None:
            after_step(step, steps)
            if controller.epoch == 2 and step == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        return train_epoch(engine, controller, stepped)

    return train


@pytest.mark.skipif(
    "AUTOBATCH_ELASTIC" not in os.environ,
    reason="torchrun's agent takes half a minute, and has failed once in some twenty times: set AUTOBATCH_ELASTIC=1",
)
def test_a_killed_process_is_started_again_and_the_run_goes_on(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        run_id="test",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=1,
        monitor_interval=0.05,
        start_method="forkserver",
    )
    for out, kill in (("whole", False), ("killed", True)):
        elastic_launch(launch, trained)(home, out, kill)
    assert_close_runs(home / "whole", home / "killed")
    printed = capfd.readouterr().out.split()
    assert printed == ["whole", "killed"]  # by the first process alone


def test_processes_need_a_directory_that_they_share(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "test"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert main(["run", "--env", "tiny", "--policy", "s8-lr0.1"]) == 2
    assert "say which it is, --out DIR" in " ".join(capsys.readouterr().err.split())
