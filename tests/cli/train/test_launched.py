"""``autobatch run`` under torchrun's own agent: several processes, one of which is killed, and no directory."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from autobatch.cli import main
from autobatch.control import AutoBatchController
from autobatch.training._engine import Engine
from tests.conftest import say_so
from tests.processes import FORKED
from tests.training.kills import assert_close_runs

RUN = ["run", "--env", "tiny", "--policy", "0:8 1e:32 2e:16", "--device", "cpu", "--out"]


def trained(home: Path) -> None:
    """Be one of the processes; the second is killed in its third epoch, the first time."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, (home / "printed").open("a") as printed, redirect_stdout(printed):
        patch.chdir(home)
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        patch.setattr(Figure, "savefig", say_so)
        if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
            patch.setattr(Engine, "train_period", dying(Engine.train_period))
        code = main([*RUN, "killed", "--quiet"])
    if code:
        sys.exit(code)


def dying(train_period: Callable[..., float]) -> Callable[..., float]:
    def train(engine: Engine, controller: AutoBatchController, after_step: Callable[[int, int], None]) -> float:
        def stepped(step: int, steps: int) -> None:
            after_step(step, steps)
            if controller.epoch == 2 and step == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        return train_period(engine, controller, stepped)

    return train


def launch(home: Path) -> None:
    """Be torchrun's agent."""
    settings = LaunchConfig(
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
    elastic_launch(settings, trained)(home)


@pytest.mark.skipif(
    "AUTOBATCH_ELASTIC" not in os.environ,
    reason="torchrun's agent takes half a minute, minutes on a machine that does other things: set AUTOBATCH_ELASTIC=1",
)
@pytest.mark.usefixtures("unpainted")
def test_a_killed_process_is_started_again_and_the_run_goes_on(home: Path) -> None:
    assert main([*RUN, "whole", "--quiet"]) == 0
    # What is printed is told by a file: processes that are forked have the standard output of whoever forked first.
    agent = FORKED.Process(target=launch, args=(home,))
    agent.start()
    agent.join()
    assert agent.exitcode == 0
    assert_close_runs(home / "whole", home / "killed")
    assert (home / "printed").read_text() == "killed\n"  # by the first process alone


def test_processes_need_a_directory_that_they_share(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "test"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert main(["run", "--env", "tiny", "--policy", "s8-lr0.1"]) == 2
    assert "say which it is, --out DIR" in " ".join(capsys.readouterr().err.split())
