"""Two short trainings: the first epochs of one whose size is fixed and of one that follows the beacons."""

import tempfile
from pathlib import Path
from typing import Any

from autobatch.policies import load_policy_spec
from autobatch.training import EpochRow, RunConfig, RunObserver, load_epochs, load_task, run
from tests.golden.replay import ROOT, library_of

FILE = Path(__file__).resolve().parent / "trainings.json"
LENGTH = 3
"""Epochs that are trained, of the tasks' forty: the schedule and the beacons are those of the whole training."""

TRAININGS = {
    "digits-mlp, fixed": ("digits-mlp", "fixed"),
    "digits-resnet8, beacon-follow": ("digits-resnet8", "beacon-follow"),
}
EXACT = ("epoch", "batch_size", "lr", "steps", "samples", "examples")
ROUNDED = ("c_bar", "l_cum", "train_loss", "validation_loss", "validation_error")
EPOCHS = (*EXACT, *ROUNDED)
"""The columns of a recorded epoch."""


class _Enough(RunObserver):
    def epoch_finished(self, row: EpochRow) -> None:
        if row.epoch == LENGTH:
            raise KeyboardInterrupt


def train(name: str) -> list[list[Any]]:
    """Train, and stop after a few epochs as a user would.

    Args:
        name: one of ``TRAININGS``.

    Returns:
        The figures of ``EPOCHS`` after each epoch.
    """
    task, policy = TRAININGS[name]
    config = RunConfig(
        task=load_task(ROOT / "envs" / task).model_copy(update={"threads": 1}),
        task_path=ROOT / "envs" / task,
        policy=load_policy_spec(ROOT / "policies" / f"{policy}.yaml"),
        device="cpu",
        costs=library_of(task).costs,  # else this machine would be timed, and its times decide what is measured
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            run(config, Path(folder) / "run", _Enough())
        except KeyboardInterrupt:
            return [[getattr(row, column) for column in EPOCHS] for row in load_epochs(Path(folder) / "run")]
    raise AssertionError("the training ended before it was stopped")
