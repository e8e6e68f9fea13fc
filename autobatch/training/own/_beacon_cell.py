"""One beacon of a loop of somebody's own: what it is recorded with, its rows, and how it ended."""

import gc
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from autobatch._artefacts import holds_beacons
from autobatch._errors import AutoBatchError, ConfigError
from autobatch.beacons import Beacon, BeaconKey, BeaconLibrary, LibraryInfo, write_beacon
from autobatch.beacons._columns import END_TOLERANCE, FINISHED
from autobatch.beacons._info import merged_info
from autobatch.cells import Cell, CellEnd, Report
from autobatch.control import MeasureAtInterval
from autobatch.control._ranks import Ranks
from autobatch.control.settings._own_task import LOOP, check_own_task
from autobatch.policies import PolicySpec, make_policy
from autobatch.training._calibrate import device_kind
from autobatch.training._versions import DEVICE, software_versions
from autobatch.training.own._cell import LoopCell, RecordingController, Train, divergence

_LOGGER = logging.getLogger(__name__)

_FIGURES = {"val_loss": "validation_loss", "val_error": "validation_error"}


@dataclass(frozen=True)
class CellPlan:
    """What all beacons of one recording have in common.

    Attributes:
        train: the loop.
        out: the library's folder.
        task: what the user says of the task.
        task_name: its name, for people.
        score: the figure that ranks runs; None takes what the loop gives, the loss where it gives both.
        interval: steps from one sample to the next.
        floor: samples an epoch at least.
        options: further arguments of the controller, grouped.
        command: what asked for the recording.
        threads: CPU threads of each process; None leaves them.
    """

    train: Train
    out: Path
    task: Mapping[str, Any]
    task_name: str
    score: str | None
    interval: int
    floor: int
    options: Mapping[str, Any]
    command: str = ""
    threads: int | None = None

    def info(self, loop: object, score: str, versions: Mapping[str, str]) -> LibraryInfo:
        """Return what the beacons have in common; ``loop`` is what could be seen of the loop."""
        return LibraryInfo(
            task={**self.task, LOOP: loop},
            task_name=self.task_name,
            score=score,
            bn=self.options["measuring"].bn,
            sampling_interval=self.interval,
            versions=versions,
            commands=(self.command,) if self.command else (),
        )


class CellRecorder:
    """Records one beacon after another, in this process or in one of several.

    Args:
        plan: what they have in common.
    """

    def __init__(self, plan: CellPlan) -> None:
        self._plan = plan
        self._on_accelerator = False

    def __call__(self, cell: Cell, report: Report) -> CellEnd:
        """Train one beacon and write its file; ``report`` is told the share that is done."""
        if self._on_accelerator:
            gc.collect()  # a controller and its hooks refer to one another: the last cell's memory waits for this
        if self._plan.threads is not None:
            torch.set_num_threads(self._plan.threads)
        training = _BeaconCell(self._plan, BeaconKey(**cell.what), report)
        returned: object = None
        try:
            returned = training.call(self._plan.train)
        except _Diverged:
            pass
        except AutoBatchError:
            if training.diverged is None:
                raise
        finally:
            self._on_accelerator = not training.device.startswith("cpu")
        beacon = training.beacon(_test_figures(returned))
        if is_writer():
            info = training.info()
            library = recorded_library(self._plan.out)
            if library is not None:
                check_own_task(library, info.task[LOOP])
                merged_info([(f"the library in {self._plan.out}", library.info), ("this recording", info)])
            write_beacon(self._plan.out, beacon, info)
        return CellEnd(beacon.stopped_because, training.device)


class _Diverged(BaseException):
    """Ends a loop whose training has diverged; no Exception, so that the loop does not take it for its own."""


class _BeaconCell(LoopCell):
    def __init__(self, plan: CellPlan, key: BeaconKey, report: Report) -> None:
        options = plan.options
        policy = PolicySpec.fixed(key.batch_size, key.lr)
        controller = RecordingController(**{
            **options,
            "policy": make_policy(policy),
            "batch_sizes": (key.batch_size,),
            "rates": replace(options["rates"], learning_rates=(key.lr,)),
            "measuring": replace(options["measuring"], steps=MeasureAtInterval(plan.interval, plan.floor)),
            "task": replace(options["task"], name=plan.task_name, score=plan.score),
            "seed": key.seed,
        })
        super().__init__(controller, plan.options)
        self.diverged: str | None = None
        self.device = ""
        self._plan = plan
        self._key = key
        self._report = report

    def attach(self, model: nn.Module, optimizer: Optimizer, **sizes: Any) -> None:
        """Take down what the loop is, and refuse it where the beacons that are there are of another."""
        super().attach(model, optimizer, **sizes)
        assert self.facts is not None
        library = recorded_library(self._plan.out)
        if library is not None:
            check_own_task(library, self.facts)
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.device = device_kind(device, torch.get_num_threads())
        self._report(0.0)

    def observe(self, figures: Mapping[str, Any]) -> None:
        """Take down the figures of an epoch, or a decision period; the batch size must be the beacon's."""
        if figures["batch_size"] != self._key.batch_size:
            raise ConfigError(
                f"the controller trained with batch size {figures['batch_size']} in place of {self._key.batch_size}"
            )
        number = len(self.rows) + 1
        self.rows.append({**figures, "epoch": number})
        self._report(min(1.0, float(figures["progress"])))
        classes = self._plan.task.get("num_classes")
        self.diverged = self.diverged or divergence(figures, self.model, classes, f"in row {number}")
        if self.diverged is not None:
            self.controller.stop(self.diverged)
            raise _Diverged

    def beacon(self, test: Mapping[str, float]) -> Beacon:
        """Return the beacon that the loop has trained, with the test figures that there are."""
        self._check_end()
        if self.diverged is not None:
            test = {}
        return Beacon.from_records(
            *self._key,
            records=self.rows,
            test_error=test.get("test_error", math.nan),
            test_loss=test.get("test_loss", math.nan),
            stopped_because=FINISHED if self.diverged is None else f"diverged: {self.diverged}",
        )

    def info(self) -> LibraryInfo:
        """Return what the beacon has in common with the others."""
        return self._plan.info(self.facts, self._score(), {**software_versions(), DEVICE: self.device})

    def _check_end(self) -> None:
        self.check_attached()
        if not self.rows:
            raise AutoBatchError(
                "train(controller) returned without an epoch: loop while not controller.finished, and call "
                "controller.end_epoch(...) after each"
            )
        row = self.rows[-1]
        if self.diverged is not None:
            return
        if row["progress"] < 1.0 - END_TOLERANCE:
            why = "stopped the training early" if self.controller.finished else "returned"
            raise AutoBatchError(
                f"train(controller) {why} after {100 * row['progress']:.3g} % of the training, but a beacon needs all "
                "of it: loop while not controller.finished, without stop=True"
            )
        score = self._score()
        if not math.isfinite(row[score]):
            argument = next(name for name, figure in _FIGURES.items() if figure == score)
            raise AutoBatchError(
                f"the last epoch ended without a finite {score.replace('_', ' ')}, by which beacons are judged: "
                f"end_epoch({argument}={row[score]})"
            )

    def _score(self) -> str:
        """Return the figure that ranks the beacons: as asked, else the loss where the loop has one, else the error."""
        if self._plan.score is not None:
            return self._plan.score
        last = self.rows[-1]
        known = [figure for figure in _FIGURES.values() if math.isfinite(last[figure])]
        if self.diverged is None and known:
            return known[0]
        return next((figure for name, figure in _FIGURES.items() if name in self.given), "validation_loss")


def recorded_library(out: Path) -> BeaconLibrary | None:
    """Return the beacons that a folder has; None where there are none."""
    return BeaconLibrary.load(out) if holds_beacons(out) else None


def is_writer() -> bool:
    """Say whether this process writes: where several train together, the first does."""
    return Ranks().leads


def _test_figures(returned: object) -> dict[str, float]:
    if not isinstance(returned, Mapping):
        return {}
    figures = {}
    for name in ("test_error", "test_loss"):
        try:
            figure = float(returned.get(name, math.nan))
        except (TypeError, ValueError):
            figure = math.inf
        if math.isinf(figure) or (name == "test_error" and not (0.0 <= figure <= 1.0 or math.isnan(figure))):
            # The training is not lost for a figure that only reports show.
            wanted = "a share in [0, 1]" if name == "test_error" else "a finite number"
            _LOGGER.warning("train returned %s %r, expected %s: left out", name, returned[name], wanted)
            figure = math.nan
        figures[name] = figure
    return figures
