"""What lies in a run directory, and its records as they are read back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autobatch._errors import CheckpointError, OutputError, near_names
from autobatch._files import seen_in, write_whole
from autobatch._plain import Epochs, Plain, plain
from autobatch.control._decision_record import DecisionRecord
from autobatch.control.measuring import MeasuredStep
from autobatch.control.run._files import read_lines, read_whole

CONFIG = "config.yaml"
EPOCHS = "epochs.jsonl"
MEASUREMENTS = "measurements.jsonl"
DECISIONS = "decisions.jsonl"
CHECKPOINT = "checkpoint/latest.safetensors"
BEST_CHECKPOINT = "checkpoint/best.pt"
SUMMARY = "summary.json"
SCOUTING = "scouts.json"
SCOUTS = "scouts"
FORKS = "forks.json"
BRANCH_RUNS = "branches.parquet"

RUN_FILES = (CONFIG, EPOCHS, MEASUREMENTS, DECISIONS, "checkpoint", SUMMARY, SCOUTING, SCOUTS, FORKS, BRANCH_RUNS)
"""What a run directory holds; plane.png is drawn into it by a report."""

Row = TypeVar("Row")


@dataclass(frozen=True)
class EpochRow(Plain):
    """One line of ``epochs.jsonl``, of an epoch or of a part of one that is decided on. Totals are since the start.

    Attributes:
        epoch: finished epochs, with a part of one where ``autobatch run`` decides within epochs.
        progress: examples seen / examples of the whole training, in (0, 1].
        batch_size: global batch size of the epoch.
        lr: base learning rate of the epoch.
        lr_effective: learning rate after the schedule's factor.
        c_bar: C̄_K after the epoch; NaN before the first measurement.
        l_cum: L_K after the epoch.
        steps: optimizer steps, total.
        samples: measured steps, total.
        examples: training examples seen, total.
        train_loss: mean training loss over the epoch's examples, as trained.
        validation_loss: mean validation loss after the epoch.
        validation_error: share of validation examples classified wrongly, in [0, 1].
        seconds: wall time of training, measuring and validation, total.
        measuring_seconds: the part of ``seconds`` that measuring took, total.
    """

    epoch: Epochs
    progress: float
    batch_size: int
    lr: float
    lr_effective: float
    c_bar: float
    l_cum: float
    steps: int
    samples: int
    examples: int
    train_loss: float
    validation_loss: float
    validation_error: float
    seconds: float
    measuring_seconds: float


class Summary(BaseModel):
    """How a run ended; saved as ``summary.json``. None stands for a figure that is not finite or not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field(description="The task's name.")
    policy: str = Field(description="The policy's name.")
    seed: int = Field(description="The run's seed.")
    device: str = Field(description="Kind of device, such as 'cpu x86_64, 1 thread'.")
    epochs: Epochs = Field(description="Finished epochs.")
    stopped_because: str = Field(description="'finished', or 'diverged: ...' with what was seen.")
    test_error: float | None = Field(
        description="Share of test examples classified wrongly at the end, or of a quantity's variance that is left."
    )
    test_loss: float | None = Field(description="Mean test loss at the end.")
    validation_error: float | None = Field(description="Validation error after the last epoch, in [0, 1].")
    validation_loss: float | None = Field(description="Mean validation loss after the last epoch.")
    train_loss: float | None = Field(description="Mean training loss of the last epoch.")
    c_bar: float | None = Field(description="C̄_K at the end.")
    l_cum: float | None = Field(description="L_K at the end.")
    examples: int = Field(description="Training examples seen, by scouts and forks that lost too.")
    optimizer_steps: int = Field(description="Optimizer steps taken, by scouts and forks that lost too.")
    samples: int = Field(description="Measured steps, of scouts and forks that lost too.")
    seconds: float = Field(description="Wall time of training, measuring and validation, scouts and forks included.")
    measuring_seconds: float = Field(description="The part of 'seconds' that measuring took.")
    measuring_share: float = Field(description="measuring_seconds / seconds.")
    measuring_share_modelled: float | None = Field(
        default=None,
        description="Measuring over unmeasured training by the cost table, which the budget bounds; None without one.",
    )
    measuring_budget: float | None = Field(
        description="Share that measuring was allowed; None where it was not budgeted."
    )
    batch_sizes: dict[int, Epochs] = Field(description="Epochs spent at each batch size.")
    best_beacon: dict[str, Any] | None = Field(
        description="The best fixed beacon: the same figures as mean and spread over its seeds; None without a library."
    )
    ended_early: str | None = Field(
        default=None, description="Why the policy ended the training before the task's last epoch; None where not."
    )
    scouting_seconds: float = Field(
        default=0.0, description="The part of 'seconds' that went into scouts which did not become the run."
    )
    scouts: list[dict[str, Any]] = Field(
        default_factory=list, description="What each scout came to, as in scouts.json; empty where there were none."
    )
    scouts_before: int = Field(default=0, description="Scouts of a loop of one's own that were made before the run.")
    scouts_before_seconds: float = Field(
        default=0.0,
        description="Wall time of those, beside 'seconds'; without that of one whose state the run goes on from.",
    )
    forking_seconds: float = Field(
        default=0.0, description="The part of 'seconds' that went into epochs of forks that were thrown away."
    )
    forks: list[dict[str, Any]] = Field(
        default_factory=list, description="What each fork came to, as in forks.json; empty where there were none."
    )
    shares_loss: float | None = Field(
        default=None, description="Loss of one who guesses by the classes' shares in training; None where not known."
    )
    deviations: list[float] | None = Field(
        default=None,
        description="Of predicted quantities, the standard deviation of each in training, in its own unit: losses are "
        "squared errors in it. None of classes, and of loops of one's own.",
    )
    best_beacon_missing: str | None = Field(default=None, description="Why there is no best beacon to compare with.")

    def save(self, out: Path) -> None:
        """Write ``summary.json`` into a run directory."""
        write_whole(out / SUMMARY, (self.model_dump_json(indent=2) + "\n").encode())


def summed(row: EpochRow, seconds: float, thrown: Sequence[Any] = ()) -> dict[str, Any]:
    """Return what a summary takes from the last epoch of a run.

    Args:
        row: the epoch.
        seconds: wall time of the run.
        thrown: records of scouts and forks that lost, whose cost counts.

    Returns:
        Fields of a ``Summary`` by name.
    """
    measuring = row.measuring_seconds + sum(one.measuring_seconds for one in thrown)
    return {
        **{name: plain(getattr(row, name)) for name in ("train_loss", "validation_loss", "validation_error", "c_bar")},
        "l_cum": plain(row.l_cum) if row.samples else None,
        "epochs": row.epoch,
        "examples": row.examples + sum(one.examples for one in thrown),
        "optimizer_steps": row.steps + sum(one.optimizer_steps for one in thrown),
        "samples": row.samples + sum(one.samples for one in thrown),
        "seconds": seconds,
        "measuring_seconds": measuring,
        "measuring_share": measuring / seconds if seconds else 0.0,
    }


def no_run(path: Path) -> str:
    """Say that a directory holds no run, and which beside it do, those whose names come near if any does."""
    beside = [found.parent.name for found in seen_in(path.parent, f"*/{CONFIG}")]
    near = f"; in {path.parent}: {near_names(path.name, beside)}" if beside else ""
    return f"{path}: holds no run ({CONFIG} is missing){near}"


def refuse_occupied(out: Path, instead: str) -> None:
    """Refuse a directory that holds a run already; ``instead`` says how that run would go on."""
    found = next((name for name in RUN_FILES if (out / name).exists()), None)
    if found is not None:
        raise OutputError(f"{out}: holds a run already ({found}); {instead}, or choose another directory")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: expected a directory, found a file")


def load_summary(out: Path) -> Summary:
    """Read the summary of the finished run in ``out``.

    Args:
        out: a run directory.

    Returns:
        The summary.

    Raises:
        CheckpointError: ``out`` holds no finished run, or its ``summary.json`` is damaged.
    """
    path = out / SUMMARY
    try:
        return Summary.model_validate_json(read_whole(path, "finished run"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise CheckpointError(f"{path}: damaged: {place}: {first['msg']}") from None


def load_epochs(out: Path) -> list[EpochRow]:
    """Read the finished epochs of the run in ``out``; a half-written last line is left out.

    Args:
        out: a run directory.

    Returns:
        One row an epoch.

    Raises:
        CheckpointError: a line is damaged.
    """
    return _rows(out / EPOCHS, EpochRow.from_dict)


def load_decisions(out: Path) -> list[DecisionRecord]:
    """Return the decisions of the run in ``out``, as ``load_epochs`` does its epochs."""
    return _rows(out / DECISIONS, DecisionRecord.from_dict)


def load_measurements(out: Path) -> list[MeasuredStep]:
    """Return the measured steps of the run in ``out``, as ``load_epochs`` does its epochs."""
    return _rows(out / MEASUREMENTS, MeasuredStep.from_dict)


def _rows(path: Path, read: Callable[[dict[str, Any]], Row]) -> list[Row]:
    rows = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            rows.append(read(line))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise CheckpointError(f"{path}, line {number}: damaged: {error!r}") from None
    return rows
