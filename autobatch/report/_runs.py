"""All runs below a folder: where each stands and what it came to, a line a run."""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from autobatch._errors import AutoBatchError, CheckpointError, ConfigError, near_names
from autobatch._files import somebody_in
from autobatch._plain import Epochs
from autobatch.control.run import CONFIG, SCOUTING, SUMMARY, LoopConfig, summed
from autobatch.report._record import load_config, used_by
from autobatch.report._tables import headed
from autobatch.report._words import epoch_words, loss_words, parts_of, path_words, percent_words, seconds_words
from autobatch.training import Summary, load_decisions, load_epochs, load_summary

STATES: Final = ("finished", "stopped", "diverged", "interrupted", "running", "damaged")
"""What a run can be in."""

_LONGEST_PATH = 28
"""Characters of a batch-size path that a line has room for."""


@dataclass(frozen=True)
class RunFacts:
    """One run of a listing. What is not known, or not yet, is None.

    Attributes:
        run: the run directory.
        env: the task's name.
        policy: the policy's name.
        seed: the run's seed.
        state: ``finished``; ``stopped`` by its policy before the last epoch; ``diverged``; ``interrupted``; ``running``
            in a process of this machine; or ``damaged``.
        epochs: finished epochs.
        planned_epochs: epochs of the whole training.
        batch_sizes: the batch sizes of successive epochs, or of parts of them, in words.
        validation_loss: validation loss after the last epoch so far.
        validation_error: validation error after the last epoch so far, in [0, 1].
        test_error: final test error, in [0, 1].
        test_loss: final test loss.
        examples: training examples seen.
        optimizer_steps: steps taken.
        samples: measured steps.
        seconds: time by the clock, measuring included.
        measuring_seconds: the part of it that measuring took.
        stopped_because: ``"finished"``, why it ended before the task's last epoch, or what is damaged; None while it
            has not ended.
    """

    run: str
    env: str | None
    policy: str | None
    seed: int | None
    state: str
    epochs: Epochs = 0
    planned_epochs: int | None = None
    batch_sizes: str = ""
    validation_loss: float | None = None
    validation_error: float | None = None
    test_error: float | None = None
    test_loss: float | None = None
    examples: int = 0
    optimizer_steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    measuring_seconds: float = 0.0
    stopped_because: str | None = None


COLUMNS: Final = {field.name: field.type for field in fields(RunFacts)}
"""Names and types of a listing's columns."""

_FIGURES: Final = COLUMNS.keys() - {"run", "env", "policy", "seed", "state", "planned_epochs", "batch_sizes"}


def find_runs(folder: Path) -> list[Path]:
    """Find the run directories in and below a folder; the scouts of a run are parts of it and not listed.

    Args:
        folder: the folder.

    Returns:
        The directories, sorted; the folder itself where it is one.
    """
    return sorted(_found(folder))


def load_run_facts(folder: Path) -> list[RunFacts]:
    """Read where the runs below a folder stand. One that is damaged is among them, with the reason.

    Args:
        folder: the folder.

    Returns:
        One entry a run, sorted by directory.

    Raises:
        CheckpointError: there is no such folder.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: there is no such folder; 'autobatch run' makes runs, by default in runs/")
    return [_facts(path) for path in find_runs(folder)]


def chosen_runs(
    runs: Sequence[RunFacts],
    *,
    envs: Collection[str] = (),
    policies: Collection[str] = (),
    seeds: Collection[int] = (),
    states: Collection[str] = (),
) -> list[RunFacts]:
    """Return the runs that fit everything that is asked for.

    Args:
        runs: the runs.
        envs: names of tasks; any where empty, as with the others.
        policies: names of policies.
        seeds: seeds.
        states: states.

    Returns:
        The runs that fit.

    Raises:
        ConfigError: no run has one of the names; the message names near ones.
    """
    kept = list(runs)
    for what, asked in (("env", envs), ("policy", policies), ("seed", seeds), ("state", states)):
        known = set(STATES) if what == "state" else {getattr(run, what) for run in runs} - {None}
        for one in asked:
            if what != "seed" and one not in known:
                raise ConfigError(f"no run has {what} {one!r}: {near_names(str(one), known)}")
        kept = [run for run in kept if not asked or getattr(run, what) in asked]
    return kept


def runs_table(runs: Sequence[RunFacts]) -> Table:
    """Return runs as a table, a line each."""
    words = ("run", "task", "policy", "seed", "state", "epochs", "batch size")
    table = headed(*words, "val. loss", "val. error", "test error", "steps", "time", words=words)
    for column in table.columns:
        column.no_wrap = True
    for run in runs:
        of = "" if run.planned_epochs in {None, run.epochs} else f"/{run.planned_epochs}"
        table.add_row(
            run.run,
            run.env or "-",
            run.policy or "-",
            "-" if run.seed is None else str(run.seed),
            run.state,
            f"{epoch_words(run.epochs)}{of}",
            _short(run.batch_sizes),
            loss_words(run.validation_loss),
            percent_words(run.validation_error),
            percent_words(run.test_error),
            f"{run.optimizer_steps:,}",
            seconds_words(run.seconds),
        )
    return table


def facts_dicts(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """Return runs as dictionaries of plain values, the columns of ``RunFacts`` by name."""
    return [asdict(run) for run in runs]


def _found(folder: Path) -> Iterator[Path]:
    if (folder / CONFIG).is_file() or (folder / SCOUTING).is_file():  # what lies below it are its scouts
        yield folder
        return
    try:
        inside = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError:  # may not be read
        return
    for one in inside:
        if not one.name.startswith("."):
            yield from _found(one)


def _facts(path: Path) -> RunFacts:
    try:
        config = load_config(path)
        ended = load_summary(path) if (path / SUMMARY).exists() else None
        rows = load_epochs(path)
        used, ends = used_by(config, rows, load_decisions(path) if isinstance(config, LoopConfig) else ())
    except AutoBatchError as error:
        return RunFacts(str(path), None, None, None, "damaged", stopped_because=str(error))
    known = dict(ended) if ended is not None else summed(rows[-1], rows[-1].seconds) if rows else {}
    if ended is not None:
        known["stopped_because"] = ended.ended_early or ended.stopped_because
    return RunFacts(
        run=str(path),
        env=config.task.name,
        policy=config.policy.name,
        seed=config.seed,
        state=_state(path, ended),
        planned_epochs=config.task.epochs,
        batch_sizes=path_words((one.batch_size for one in used), parts_of(ends)),
        **{name: value for name, value in known.items() if name in _FIGURES},
    )


def _state(path: Path, ended: Summary | None) -> str:
    if ended is None:
        return "running" if somebody_in(path) else "interrupted"
    if ended.stopped_because != "finished":
        return "diverged"
    return "stopped" if ended.ended_early else "finished"


def _short(path: str) -> str:
    if len(path) <= _LONGEST_PATH:
        return path
    sizes = [float(stretch.partition(" ")[0]) for stretch in path.split(" → ")]
    highest = f" … {max(sizes):g}" if max(sizes) > max(sizes[0], sizes[-1]) else ""
    return f"{sizes[0]:g}{highest} … {sizes[-1]:g} ({len(sizes) - 1} changes)"
