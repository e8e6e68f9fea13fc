"""Timing this machine once: seconds by batch size, for decisions that must not read a clock in mid-run."""

import hashlib
import json
import os
import platform
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autobatch._errors import AutoBatchError, ConfigError, first_line
from autobatch._files import write_whole
from autobatch._plain import to_json
from autobatch.beacons import CostTable
from autobatch.control.measuring import is_out_of_memory
from autobatch.fisher import FisherProbe
from autobatch.optim import observing
from autobatch.training._engine import Engine, reproducible
from autobatch.training.data import Data
from autobatch.training.task import TaskSpec

ROUNDS = 5
"""Times that each batch size is timed, in turn, so that a slow moment hits all of them alike."""

ROUND_SECONDS = 0.05
"""Seconds of steps in a round: small batches are timed over several steps."""

QUANTILE = 0.25
"""Which of several times counts. What else a machine does only ever adds time, so a low quantile is the steadiest."""


def device_kind(device: torch.device, threads: int) -> str:
    """Return the kind of device that a cost table holds for.

    Args:
        device: the device of a run.
        threads: its CPU threads.

    Returns:
        Such as ``"cpu x86_64, 1 thread"`` or ``"cuda NVIDIA H200"``.
    """
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"{device.type} {platform.machine()}, {threads} thread{'s' if threads != 1 else ''}"


def covers(table: CostTable, task: TaskSpec, device: torch.device) -> bool:
    """Say whether a cost table was made on the run's kind of device and has every batch size of the task's ladder."""
    same_device = table.device == device_kind(device, task.threads)
    return same_device and set(task.batch_sizes) <= set(table.step_seconds)


def calibrate(
    task: TaskSpec, data: Data, device: torch.device, batch_sizes: Sequence[int], *, trust_code: bool = False
) -> CostTable:
    """Time plain steps, measured steps and what an epoch takes besides.

    Args:
        task: the task.
        data: its data, on the device.
        device: where to time.
        batch_sizes: the batch sizes to time.
        trust_code: allow the task to name factories to import.

    Returns:
        The table.

    Raises:
        DoesNotFitError: batches of one of these sizes do not fit into memory.
        ConfigError: the model fails with them.
    """
    with reproducible(device, task.threads):
        bench = _Bench(Engine(task, data, device, seed=0, trust_code=trust_code))
        plain: dict[int, list[float]] = {size: [] for size in batch_sizes}
        measured: dict[int, list[float]] = {size: [] for size in batch_sizes}
        besides = []
        repeats = {}
        for size in batch_sizes:
            with _told_of(size):
                repeats[size] = bench.repeats(size)
        for _ in range(ROUNDS):
            for size in batch_sizes:
                plain[size].append(bench.time(lambda size=size: bench.step(size), repeats[size]))  # type: ignore[misc]
                measured[size].append(bench.time(lambda size=size: bench.measured_step(size), 1))  # type: ignore[misc]
            besides.append(bench.time(bench.besides, 1))
    return CostTable(
        device=device_kind(device, task.threads),
        step_seconds={size: steadiest(plain[size]) for size in batch_sizes},
        # Of each its own low quantile, since that of their differences would be the round with the slowest plain step.
        measuring_seconds={size: max(steadiest(measured[size]) - steadiest(plain[size]), 1e-6) for size in batch_sizes},
        epoch_seconds=steadiest(besides),
    )


def cached_calibration(
    task: TaskSpec,
    data: Data,
    device: torch.device,
    payload: Mapping[str, Any],
    *,
    fresh: bool,
    trust_code: bool,
    before_timing: Callable[[], None] = lambda: None,
) -> tuple[CostTable, bool]:
    """Return this machine's cost table of a task, timed now or kept from an earlier run.

    The table is kept in the user's cache folder so that all runs on one machine decide alike; where that folder cannot
    be written, every run times anew and keeps the table with its own records.

    Args:
        task: the task.
        data: its data, on the device.
        device: the device of the run.
        payload: the task's fingerprint payload.
        fresh: time now even where a table is kept.
        trust_code: allow the task to name factories to import.
        before_timing: called where the machine is timed now, before it is.

    Returns:
        The table, and whether it was timed now.
    """
    path = _cache_path(task, device, payload)
    if not fresh and (kept := _kept_table(path)) is not None:
        return kept, False
    before_timing()
    table = calibrate(task, data, device, task.batch_sizes, trust_code=trust_code)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_json(table.to_dict(), indent=2).encode())
    except (OSError, AutoBatchError):
        pass
    return table, True


def kept_calibration(task: TaskSpec, device: torch.device, payload: Mapping[str, Any]) -> CostTable | None:
    """Return this machine's cost table of a task where an earlier run has kept one, else None."""
    return _kept_table(_cache_path(task, device, payload))


class DoesNotFitError(ConfigError):
    """Batches of a task do not fit into memory.

    Args:
        batch_size: their size.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__(
            f"timing this machine: batches of {batch_size} do not fit into memory; leave {batch_size} out of "
            "batch_sizes"
        )
        self.batch_size = batch_size


class _Bench:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._probe = FisherProbe(
            engine.model,
            gradients="rows" if engine.task.measuring.reuse_weight_gradient else "library",
            **engine.task.measuring.sketch,
        )
        data = engine.data
        size = len(data.train_labels)
        self._order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).to(engine.device)
        engine.model.train()

    def step(self, batch_size: int) -> None:
        """One step as the engine does it, with a learning rate of zero so that the weights stay sound."""
        inputs, labels = self._batch(batch_size)
        with observing(self._engine.optimizer):
            self._engine.passed(inputs, labels)[1].backward()  # type: ignore[no-untyped-call]
        self._update(inputs, labels)

    def measured_step(self, batch_size: int) -> None:
        """The same, measured as the engine does it, with the eigenvalues that wait there for the end of the epoch."""
        inputs, labels = self._batch(batch_size)
        with self._probe, observing(self._engine.optimizer, self._probe):
            self._probe.backward(self._engine.passed(inputs, labels)[1])
        self._update(inputs, labels)
        self._probe.spectrum()

    def besides(self) -> None:
        """What an epoch does besides its steps."""
        self._engine.augmented(0)
        self._engine.validate()
        self._engine.model.train()

    def time(self, action: Callable[[], None], repeats: int) -> float:
        """Return the seconds of one action."""
        self._synchronise()
        start = time.perf_counter()
        for _ in range(repeats):
            action()
        self._synchronise()
        return (time.perf_counter() - start) / repeats

    def repeats(self, batch_size: int) -> int:
        """Return how many steps fill a round; this also warms everything up."""
        self.step(batch_size)
        self.measured_step(batch_size)
        return max(1, round(ROUND_SECONDS / self.time(lambda: self.step(batch_size), 1)))

    def _batch(self, batch_size: int) -> tuple[Tensor, Tensor]:
        data, indices = self._engine.data, self._order[:batch_size]
        inputs = self._engine.normalised(data.train_inputs.index_select(0, indices))
        return inputs, data.train_labels.index_select(0, indices)

    def _update(self, inputs: Tensor, labels: Tensor) -> None:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = 0.0
        self._engine.update(inputs, labels)

    def _synchronise(self) -> None:
        if self._engine.device.type == "cuda":
            torch.cuda.synchronize(self._engine.device)


@contextmanager
def _told_of(batch_size: int) -> Iterator[None]:
    """Say of an error that the model raises with batches of one size which size that is, and what to do."""
    try:
        yield
    except AutoBatchError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise DoesNotFitError(batch_size) from error
        kind, says, frame = type(error).__name__, first_line(error), _innermost(error)
        said = kind if says == kind else f"{kind}: {says}"
        raise ConfigError(
            f"timing this machine: the model fails with batches of {batch_size}: {said} "
            f"({frame.filename}:{frame.lineno}); leave {batch_size} out of batch_sizes, or mend the model"
        ) from error


def _innermost(error: Exception) -> traceback.FrameSummary:
    """Return where an error comes from: the innermost frame of the user's code, any where there is none."""
    installed = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    others = [*installed, Path(__file__).parents[1]]
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(place) for place in others)]
    return (theirs or frames)[-1]


def steadiest(seconds: Sequence[float]) -> float:
    """Return which of several times of one thing counts."""
    return sorted(seconds)[int(QUANTILE * len(seconds))]


def _cache_path(task: TaskSpec, device: torch.device, payload: Mapping[str, Any]) -> Path:
    key = {
        "task": payload,
        "device": device_kind(device, task.threads),
        "batch_sizes": task.batch_sizes,
        "reuse_weight_gradient": task.measuring.reuse_weight_gradient,
        **task.measuring.sketch,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "autobatch" / "costs" / f"{digest[:32]}.json"


def _kept_table(path: Path) -> CostTable | None:
    try:
        return CostTable.from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, AutoBatchError):
        return None
