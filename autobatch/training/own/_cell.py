"""One beacon of a loop of somebody's own: its controller, its rows, and how it ended."""

import gc
import logging
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autobatch._artefacts import holds_beacons
from autobatch._errors import AutoBatchError, ConfigError
from autobatch.beacons import Beacon, BeaconKey, BeaconLibrary, LibraryInfo, write_beacon
from autobatch.beacons._columns import FINISHED
from autobatch.beacons._info import merged_info
from autobatch.control import AutoBatchController, MeasureAtInterval
from autobatch.control._own_task import LOOP, check_own_task, loop_facts
from autobatch.policies import PolicySpec, make_policy
from autobatch.training._calibrate import device_kind
from autobatch.training._crew import Report
from autobatch.training._engine import EXPLODED
from autobatch.training._versions import software_versions

Train = Callable[[AutoBatchController], object]
"""A loop: trains with the controller that it is given, and may return a mapping with ``test_error``, ``test_loss``."""

_LOGGER = logging.getLogger(__name__)

DEVICE = "device"
"""Key of a library's versions under which the kind of device stands."""

WHOLE = 1_000
"""What a cell reports when it has come to its end; half of it stands for half of the training."""

_FIGURES = {"val_loss": "validation_loss", "val_error": "validation_error"}
_END_TOLERANCE = 1e-3


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


class CellEnd(NamedTuple):
    """How a cell ended.

    Attributes:
        stopped_because: ``"finished"``, or why the beacon ended early.
        device: kind of device that it trained on.
    """

    stopped_because: str
    device: str


class CellRecorder:
    """Records one beacon after another, in this process or in one of a crew's.

    Args:
        plan: what they have in common.
    """

    def __init__(self, plan: CellPlan) -> None:
        self._plan = plan
        self._on_accelerator = False

    def __call__(self, key: BeaconKey, report: Report) -> CellEnd:
        """Train one beacon and write its file.

        Args:
            key: which one.
            report: told after every epoch how much of ``WHOLE`` is done.

        Returns:
            How it ended.

        Raises:
            AutoBatchError: the loop did not keep to what a recording needs, or raised; the message says where.
        """
        if self._on_accelerator:
            gc.collect()  # a controller and its hooks refer to one another: the last cell's memory waits for this
        if self._plan.threads is not None:
            torch.set_num_threads(self._plan.threads)
        cell = _Cell(self._plan, key, report)
        returned: object = None
        try:
            returned = called(self._plan.train, cell.controller)
        except _Diverged:
            pass
        except AutoBatchError:
            if cell.diverged is None:
                raise
        finally:
            self._on_accelerator = not cell.device.startswith("cpu")
            cell.release()
        beacon = cell.beacon(_test_figures(returned))
        if is_writer():
            info = cell.info()
            check_belongs(self._plan.out, info)
            write_beacon(self._plan.out, beacon, info)
        return CellEnd(beacon.stopped_because, cell.device)


def called(train: Train, controller: AutoBatchController) -> object:
    """Call a loop.

    Args:
        train: the loop.
        controller: what it trains with.

    Returns:
        What it returns.

    Raises:
        AutoBatchError: it raised; where that was an error of its own, the message has its frames.
    """
    try:
        return train(controller)
    except AutoBatchError:
        raise
    except Exception as error:
        # The loop's own frames only.
        told = traceback.format_exception(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
        raise AutoBatchError(f"train raised\n{''.join(told).rstrip()}") from None


class Watching(Protocol):
    """What a ``RecordingController`` tells of."""

    given: set[str]
    """Names of the figures that the loop has given."""

    def attach(self, model: nn.Module, optimizer: Optimizer, **sizes: Any) -> None:
        """Take down what the loop is; the controller is attached to it."""
        ...

    def observe(self, figures: Mapping[str, Any]) -> None:
        """Take down where the controller stands at the end of a decision period, or of an epoch."""
        ...


class RecordingController(AutoBatchController):
    """A controller that tells a cell when it is attached, and where it stands at the end of each decision period."""

    cell: Watching

    def attach(self, model: nn.Module, optimizer: Optimizer, **sizes: Any) -> "RecordingController":
        """Attach, and start the cell's clock.

        Args:
            model: the network in training.
            optimizer: its optimizer.
            sizes: dataset size and epochs.

        Returns:
            The controller.
        """
        super().attach(model, optimizer, **sizes)
        self._training.periods.watcher = self._observe
        self.cell.attach(model, optimizer, **sizes)
        return self

    def end_epoch(self, **figures: Any) -> Any:
        """Note which figures the loop has, and end the epoch.

        Args:
            figures: the figures.

        Returns:
            What the controller returns.
        """
        self.cell.given |= {name for name, value in figures.items() if value is not None}
        return super().end_epoch(**figures)

    def _observe(self, figures: Mapping[str, float]) -> None:
        self.cell.observe({
            "progress": self.progress,
            "batch_size": self.batch_size,
            "lr_effective": self.lr_effective,
            "c_bar": self.c_bar,
            "l_cum": self.l_cum,
            "steps": self.steps,
            "samples": self.samples,
            "examples": self.examples,
            "measuring_seconds": self.measuring_seconds,
            **figures,
        })


class _Diverged(BaseException):
    """Ends a loop whose training has diverged; no Exception, so that the loop does not take it for its own."""


class _Cell:
    def __init__(self, plan: CellPlan, key: BeaconKey, report: Report) -> None:
        self.plan = plan
        self.key = key
        self.given: set[str] = set()
        self.diverged: str | None = None
        self.device = ""
        self._report = report
        self._rows: list[dict[str, Any]] = []
        self._facts: dict[str, Any] | None = None
        self._model: nn.Module | None = None
        self._started = 0.0
        self.controller = self._make_controller()
        self.controller.cell = self

    def _make_controller(self) -> RecordingController:
        key, options = self.key, self.plan.options
        policy = PolicySpec(name="fixed", kind="fixed", parameters={"batch_size": key.batch_size, "lr": key.lr})
        return RecordingController(**{
            **options,
            "policy": make_policy(policy),
            "batch_sizes": (key.batch_size,),
            "rates": replace(options["rates"], learning_rates=(key.lr,)),
            "measuring": replace(options["measuring"], steps=MeasureAtInterval(self.plan.interval, self.plan.floor)),
            "task": replace(options["task"], name=self.plan.task_name, score=self.plan.score),
            "seed": key.seed,
        })

    def release(self) -> None:
        """Let go of the model, so that the next cell has its memory."""
        self._model = None

    def attach(self, model: nn.Module, optimizer: Optimizer, **sizes: Any) -> None:
        """Take down what the loop is, refuse it where the beacons that are there are of another, start the clock."""
        told = {**self.plan.options, **{name: size for name, size in sizes.items() if size is not None}}
        self._facts = loop_facts(
            model,
            optimizer,
            dataset_size=told["dataset_size"],
            epochs=told["epochs"],
            decide_every=told["plan"].decide_every,
            loss_reduction=told["measuring"].loss_reduction,
        )
        library = recorded_library(self.plan.out)
        if library is not None:
            check_own_task(library, self._facts)
        self._model = model
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        self.device = device_kind(device, torch.get_num_threads())
        self._started = time.perf_counter()

    def observe(self, figures: Mapping[str, Any]) -> None:
        """Take down an epoch, or a decision period of one.

        Args:
            figures: where the controller stands, and what the loop told at the end of the epoch.

        Raises:
            ConfigError: the batch size is not the beacon's.
            _Diverged: the training has diverged.
        """
        if figures["batch_size"] != self.key.batch_size:
            raise ConfigError(
                f"the controller trained with batch size {figures['batch_size']} in place of {self.key.batch_size}"
            )
        error = figures["validation_error"]
        if math.isfinite(error) and not 0.0 <= error <= 1.0:
            raise ConfigError(f"end_epoch(val_error=...): expected a share in [0, 1], got {error}")
        self._rows.append({
            **figures,
            "epoch": len(self._rows) + 1,
            "seconds": time.perf_counter() - self._started,
        })
        self._report(min(WHOLE, int(WHOLE * figures["progress"])))
        self.diverged = self.diverged or divergence(
            figures, self._model, self.plan.task.get("num_classes"), f"in row {len(self._rows)}"
        )
        if self.diverged is not None:
            self.controller.stop(self.diverged)
            raise _Diverged

    def beacon(self, test: Mapping[str, float]) -> Beacon:
        """Return the beacon that the loop has trained.

        Args:
            test: test figures, as far as there are.

        Returns:
            The beacon.

        Raises:
            AutoBatchError: the loop did not train to the end.
        """
        self._check_end()
        if self.diverged is not None:
            test = {}
        return Beacon.from_records(
            *self.key,
            records=self._rows,
            test_error=test.get("test_error", math.nan),
            test_loss=test.get("test_loss", math.nan),
            stopped_because=FINISHED if self.diverged is None else f"diverged: {self.diverged}",
        )

    def info(self) -> LibraryInfo:
        """Return what the beacon has in common with the others.

        Returns:
            The common facts.
        """
        return LibraryInfo(
            task={**self.plan.task, LOOP: self._facts},
            task_name=self.plan.task_name,
            score=self._score(),
            bn=self.plan.options["measuring"].bn,
            sampling_interval=self.plan.interval,
            versions={**software_versions(), DEVICE: self.device},
            commands=(self.plan.command,) if self.plan.command else (),
        )

    def _check_end(self) -> None:
        if self._facts is None:
            raise AutoBatchError(
                "train(controller) never attached the controller: call controller.attach(model, optimizer, "
                "dataset_size=..., epochs=...) in it"
            )
        if not self._rows:
            raise AutoBatchError(
                "train(controller) returned without an epoch: loop while not controller.finished, and call "
                "controller.end_epoch(...) after each"
            )
        row = self._rows[-1]
        if self.diverged is not None:
            return
        if row["progress"] < 1.0 - _END_TOLERANCE:
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
        if self.plan.score is not None:
            return self.plan.score
        last = self._rows[-1]
        known = [figure for figure in _FIGURES.values() if math.isfinite(last[figure])]
        if self.diverged is None and known:
            return known[0]
        return next((figure for name, figure in _FIGURES.items() if name in self.given), "validation_loss")


def divergence(figures: Mapping[str, Any], model: nn.Module | None, classes: int | None, when: str) -> str | None:
    """Say what shows that a training has diverged.

    NaN as a figure alone does not: it also stands for one that a loop does not know.

    Args:
        figures: training loss and validation figures.
        model: the network.
        classes: classes of the task, where it is a classification.
        when: when they were seen, for the message.

    Returns:
        What shows it; None where nothing does.
    """
    for figure in ("train_loss", "validation_loss", "validation_error"):
        if math.isinf(figures[figure]):
            return f"the {figure.replace('_', ' ')} became {figures[figure]} {when}"
    if model is not None and not _finite(model):
        return f"the parameters are no longer finite {when}"
    limit = EXPLODED * math.log(classes) if classes else math.inf
    if figures["train_loss"] > limit:
        loss = figures["train_loss"]
        return f"the training loss of {loss:.4g} exceeds {limit:.4g}, {EXPLODED:g} times that of guessing, {when}"
    return None


def recorded_library(out: Path) -> BeaconLibrary | None:
    """Return the beacons that a folder has.

    Args:
        out: the folder; it need not exist.

    Returns:
        The library; None where there is none.

    Raises:
        LibraryError: a file is damaged, or of another task than the others.
    """
    return BeaconLibrary.load(out) if holds_beacons(out) else None


def check_belongs(out: Path, info: LibraryInfo) -> None:
    """Refuse to add beacons to those of another task.

    Args:
        out: the library's folder.
        info: common facts of the beacons to be added.

    Raises:
        LibraryError: the folder holds beacons of another task, loop, score or measuring interval.
    """
    library = recorded_library(out)
    if library is None:
        return
    if LOOP in info.task:
        check_own_task(library, info.task[LOOP])
    merged_info([(f"the library in {out}", library.info), ("this recording", info)])


def is_writer() -> bool:
    """Say whether this process writes: where several train together, the first does."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


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


def _finite(model: nn.Module) -> bool:
    checks = [_whole(torch.isfinite(parameter.detach()).all()) for parameter in model.parameters()]
    return not checks or bool(torch.stack([check.to(checks[0].device) for check in checks]).all())


def _whole(check: Tensor) -> Tensor:
    """Return what all processes say of a parameter that is spread over them."""
    whole: Tensor = check.full_tensor() if hasattr(check, "full_tensor") else check
    return whole
