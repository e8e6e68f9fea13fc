"""Beacons of a training loop of somebody's own: the grid of fixed runs, resumable, in one process or several."""

import logging
import multiprocessing
import pickle
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autobatch._errors import AutoBatchError, ConfigError, LibraryError
from autobatch._files import naming_output
from autobatch._ranges import check_path, check_whole
from autobatch.beacons import BeaconLibrary, compact
from autobatch.beacons._info import SCORES, merged_info
from autobatch.beacons.storage import BEACONS
from autobatch.cells import Cell, CellEnd, Cells, Event, Plan, Work, work_at
from autobatch.control._ranks import Ranks
from autobatch.control.measuring import FLOOR, INTERVAL, check_interval
from autobatch.control.settings._own_task import LOOP
from autobatch.training._versions import DEVICE, code_version
from autobatch.training.own._beacon_cell import CellPlan, CellRecorder, is_writer, recorded_library
from autobatch.training.own._cell import Train
from autobatch.training.own._costs import recorded_costs
from autobatch.training.own._options import grouped
from autobatch.training.recording import Ledger, RecordingObserver, grid_of, work_off

_LOGGER = logging.getLogger(__name__)

_OURS = frozenset({"model", "optimizer", "policy", "batch_sizes", "library", "scouts", "advise", "seed", "out"})
_OURS_WITHIN = {"rates": ("learning_rates",), "measuring": ("steps",), "task": ("name", "score")}


def record_beacons(
    train: Train,
    *,
    batch_sizes: Sequence[int],
    lrs: Sequence[float],
    seeds: Sequence[int] = (0, 1, 2),
    out: str | Path = "envs/own",
    task: Mapping[str, Any] | None = None,
    task_name: str | None = None,
    score: str | None = None,
    num_classes: int | None = None,
    interval: int = INTERVAL,
    floor: int = FLOOR,
    options: Mapping[str, Any] | None = None,
    jobs: int = 1,
    observer: RecordingObserver | None = None,
) -> BeaconLibrary:
    """Train a loop of your own at every fixed batch size and learning rate of a grid, and keep the runs as beacons.

        def train(controller):
            torch.manual_seed(controller.seed)
            model = Net()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            controller.attach(model, optimizer, dataset_size=len(train_set), epochs=10)
            loader = DataLoader(train_set, batch_sampler=controller.batch_sampler)
            while not controller.finished:
                for x, y in loader:
                    with controller.step() as step:
                        step.backward(F.cross_entropy(model(x), y))
                    optimizer.step()
                    optimizer.zero_grad()
                controller.end_epoch(val_loss=validate(model))

        record_beacons(train, batch_sizes=(16, 64), lrs=(0.05, 0.1), seeds=(0, 1, 2), out="envs/mine")
        train(AutoBatchController(policy="beacon-follow", library="envs/mine", batch_sizes=(16, 64), ...))

    Beacons that ``out`` has already are not trained again. One that was interrupted starts anew; ``KeyboardInterrupt``
    passes through, with all that is finished kept. One whose ``train`` raises is left out and the others go on: at the
    end a ``UserWarning`` names those left out, or an error where not one was recorded. One that diverges (parameters
    that are no longer finite, an infinite figure, or, where ``num_classes`` is given, a training loss of ten times that
    of guessing) is ended at the end of that epoch and kept as diverged.

    At the end all beacons are gathered in ``out/beacons.parquet``, with the seconds that steps and samples took by
    batch size, where all were recorded on one kind of device.

    Args:
        train: the loop. It is called with a controller without a model, and must attach it, train until
            ``controller.finished`` and give ``end_epoch`` a validation loss or error. Where it returns a mapping, its
            ``test_error`` and ``test_loss`` are kept for reports. It should seed the generators it uses with
            ``controller.seed``.
        batch_sizes: batch sizes of the grid.
        lrs: base learning rates of the grid, those of the optimizer's first parameter group.
        seeds: seeds of the grid.
        out: the library's folder.
        task: what else makes beacons comparable and cannot be seen from the loop, such as ``{"data": "leaves v2",
            "schedule": "cosine"}``; JSON-able. What can be seen (sizes, epochs, optimizer, number of parameters) is
            noted beside it, and checked whenever a controller uses the library.
        task_name: the task's name, for people; by default that of the folder.
        score: the figure that ranks runs, ``"validation_loss"`` or ``"validation_error"``; by default what the loop
            gives, the loss where it gives both.
        num_classes: classes, where the task is a classification; diverged beacons then count as guessing.
        interval: steps from one measured step to the next.
        floor: measured steps an epoch, or a decision period of one, at least.
        options: further arguments of ``AutoBatchController`` that the loop needs, such as
            ``{"measuring": Measuring(loss_reduction="sum"), "plan": BatchPlan(decide_every=0.1)}``.
        jobs: trainings side by side, each in a process of its own. ``train`` must then be a function at the top of a
            module, and a script must call this below ``if __name__ == "__main__":``. With 1, the default, everything
            happens in this process.
        observer: what watches the recording; every finished beacon is also logged.

    Returns:
        The library, with what was there before.

    Raises:
        ConfigError: an argument cannot be used.
        LibraryError: ``out`` holds beacons of another task or loop, or damaged ones.
        OutputError: ``out`` cannot be written.
        AutoBatchError: not one of the missing beacons could be recorded; the message says why.
    """
    grid = grid_of(batch_sizes, lrs, seeds, "lrs")
    plan = CellPlan(
        train=train,
        out=check_path(out, "out"),
        task=_task(task, num_classes),
        task_name=task_name if task_name is not None else Path(out).resolve().name,
        score=score,
        interval=interval,
        floor=floor,
        options=grouped(options or {}, ours=_OURS, within=_OURS_WITHIN, who="options", sets="the recording"),
        command=_command(train, batch_sizes=batch_sizes, lrs=lrs, seeds=seeds),
        threads=max(1, torch.get_num_threads() // jobs) if jobs > 1 else None,
    )
    _check(plan, jobs)
    library = recorded_library(plan.out)
    if library is not None:
        _check_library(plan, library)
        plan = replace(plan, score=library.score)
    found = {beacon.key for beacon in library.beacons} if library is not None else set()
    missing = [key for key in grid if key not in found]
    if missing:
        with naming_output(plan.out):
            plan.out.mkdir(parents=True, exist_ok=True)
        cells = [Cell(key.name, 1.0, key._asdict()) for key in missing]
        ledger = _Ledger(cells, len(grid) - len(missing), observer or RecordingObserver())
        if _together():
            work_off(_work_of(plan), ledger)
        else:
            _work_at(plan, cells, jobs, ledger)
        _gather(plan.out, ledger)
    return BeaconLibrary.load(plan.out)


def _work_of(plan: CellPlan, _cells: Plan | None = None) -> Work:
    """Return what records a cell."""
    return CellRecorder(plan)


def _together() -> bool:
    """Say whether several processes train each beacon together: no cell is one process's own then."""
    return Ranks().group is not None


def _work_at(plan: CellPlan, cells: Sequence[Cell], jobs: int, ledger: Ledger) -> None:
    folder = Cells(plan.out / BEACONS.name)
    info = plan.info({}, plan.score or SCORES[0], {})
    fingerprint = {"task": info.task, "interval": plan.interval, "floor": plan.floor, "code": code_version()}
    planned = Plan(f"beacons of {_named(plan.train)}", fingerprint, {}, tuple(cells))
    try:
        work_at(folder, planned, partial(_work_of, plan), jobs, ledger.take)
    finally:
        folder.abandon()


class _Ledger(Ledger):
    """What has become of the beacons, told to the log too."""

    def take(self, cell: Cell, event: Event, value: object = None) -> None:
        """Take down what happened to a beacon."""
        if event == "failed":
            value = _with_hint(str(value))
            _LOGGER.error("beacon %s failed: %s", cell.name, value)
        super().take(cell, event, value)
        if isinstance(value, CellEnd):
            now = self.progress()
            _LOGGER.info("beacon %d of %d, %s: %s", now.done, now.total, cell.name, value.stopped_because)


def _gather(out: Path, ledger: _Ledger) -> None:
    """Compact what was recorded, with the cost table, and tell of what failed; an error where nothing was recorded."""
    if not ledger.ended:
        name, message = next(iter(ledger.failed.items()))
        others = ", ".join(list(ledger.failed)[1:])
        raise AutoBatchError(
            f"no beacon could be recorded; {name}: {message}" + (f"\nAlso failed: {others}" if others else "")
        )
    if is_writer():
        library = BeaconLibrary.load(out)
        device = library.info.versions.get(DEVICE, "")
        one_device = {end.device for end in ledger.ended.values()} == {device}
        costs = recorded_costs(library.beacons, device) if one_device else None
        compact(out, costs if costs is not None and costs.step_seconds else None)
    if _together():
        torch.distributed.barrier()
    if ledger.failed:
        failed = "".join(f"\n  {name}: {message.splitlines()[-1]}" for name, message in ledger.failed.items())
        warnings.warn(
            f"{len(ledger.failed)} of {len(ledger.failed) + len(ledger.ended)} beacons could not be recorded, "
            f"{out} is without them:{failed}",
            stacklevel=3,
        )


def _with_hint(message: str) -> str:
    if not message.startswith("its process died"):
        return message
    return (
        f"{message}; with jobs > 1 a script must call record_beacons below 'if __name__ == \"__main__\":', and its "
        "train must not need more memory than there is for all side by side"
    )


def _task(task: Mapping[str, Any] | None, num_classes: int | None) -> dict[str, Any]:
    own = dict(task or {})
    if LOOP in own:
        raise ConfigError(f"task: the key '{LOOP}' is kept for what the controller sees of the loop")
    if num_classes is None:
        return own
    num_classes = check_whole(num_classes, "num_classes", least=2)
    if own.setdefault("num_classes", num_classes) != num_classes:
        raise ConfigError(f"num_classes: is {num_classes}, and {own['num_classes']!r} in 'task'")
    return own


def _check(plan: CellPlan, jobs: int) -> None:
    """Refuse what cannot be recorded, before anything trains."""
    if not callable(plan.train):
        raise ConfigError(f"train: expected a function of a controller, got {plan.train!r}")
    if plan.score is not None and plan.score not in SCORES:
        raise ConfigError(f"score: expected one of {', '.join(SCORES)}, got {plan.score!r}")
    check_interval(plan.interval, plan.floor)
    try:
        plan.info({}, SCORES[0], {})
    except LibraryError as error:
        raise ConfigError(f"task: {error}") from None
    if jobs < 1:
        raise ConfigError(f"jobs: expected at least 1, got {jobs}")
    if jobs > 1:
        _check_processes(plan)


def _check_processes(plan: CellPlan) -> None:
    """Refuse what other processes cannot be told to train, or where this is one that should train itself."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigError("jobs: with more than 1, call record_beacons below 'if __name__ == \"__main__\":'")
    if _together():
        raise ConfigError("jobs: expected 1 in a distributed training, whose processes train together")
    script = getattr(sys.modules["__main__"], "__file__", None)
    in_main = getattr(plan.train, "__module__", "") == "__main__"
    interactive = in_main if script is None else not Path(script).is_file()
    try:
        pickle.dumps(plan)
    except Exception as error:
        problem = str(error)
    else:
        problem = "this is an interactive session" if interactive else ""
    if problem:
        raise ConfigError(
            "jobs: with more than 1, train must be a function at the top of a module and options must be picklable "
            f"({problem}); or use jobs=1"
        )


def _check_library(plan: CellPlan, library: BeaconLibrary) -> None:
    """Refuse to go on with beacons that are not of this task, as far as can be said before training."""
    if LOOP not in library.task:
        raise LibraryError(
            f"{plan.out}: holds beacons of the task '{library.task_name}', recorded by 'autobatch beacons record'; "
            "choose another folder"
        )
    info = plan.info(library.task[LOOP], plan.score or library.score, {})
    merged_info([(f"the library in {plan.out}", library.info), ("this recording", info)])


def _command(train: Train, **grid: Sequence[Any]) -> str:
    sides = ", ".join(f"{side}={tuple(values)}" for side, values in grid.items())
    return f"autobatch.record_beacons({_named(train)}, {sides})"


def _named(train: Train) -> str:
    return f"{getattr(train, '__module__', '?')}.{getattr(train, '__qualname__', type(train).__qualname__)}"
