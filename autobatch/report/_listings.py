"""Tables of what can be named: envs, policies, and the configurations of a library."""

import math
from contextlib import suppress
from pathlib import Path

from rich.table import Table

from autobatch._artefacts import artefact_names, find_artefact, find_library, holds_beacons, library_names
from autobatch._errors import AutoBatchError, LibraryError
from autobatch._remote import Place
from autobatch.beacons import BeaconLibrary, FixedResult
from autobatch.policies import load_policy_spec, policy_kind
from autobatch.policies.baselines import SHORTHANDS
from autobatch.report._tables import headed
from autobatch.report._words import configuration_words, count_words, loss_words, percent_words, seconds_words
from autobatch.training import TaskSpec, load_task


def env_table() -> Table:
    """Return the known tasks, one a row; one that cannot be read is listed with the reason."""
    headings = ("name", "dataset", "model", "batch sizes", "rates", "epochs", "beacons", "found in")
    table = headed(*headings, words=headings)
    for name in artefact_names("envs"):
        folder = find_artefact("envs", name).parent
        try:
            task = load_task(name)
        except AutoBatchError as error:
            table.add_row(name, f"cannot be read: {error}", "", "", "", "", "", str(folder))
            continue
        table.add_row(name, *_task_cells(task), _recorded(folder), _shown(folder))
    return table


def libraries_table() -> Table:
    """Return the beacon libraries that are found, one a row; one that cannot be read is listed with the reason."""
    headings = ("env", "beacons", "configurations", "seeds", "best fixed", "its score", "recorded in", "found in")
    table = headed(*headings, words=headings)
    for name in library_names():
        folder = find_library(name)
        if not holds_beacons(folder):  # a task without beacons hides a library of the same name
            continue
        try:
            table.add_row(name, *_library_cells(BeaconLibrary.load(folder)), _shown(folder))
        except LibraryError as error:
            table.add_row(name, f"cannot be read: {error}", "", "", "", "", "", _shown(folder))
    return table


def policy_table() -> Table:
    """Return the policies that have a YAML file, one a row; one that cannot be read is listed with the reason."""
    headings = ("name", "what it does", "needs", "changes", "when to choose it", "found in")
    table = headed(*headings, words=headings)
    for name in artefact_names("policies"):
        path = find_artefact("policies", name)
        try:
            spec = load_policy_spec(name)
        except AutoBatchError as error:
            table.add_row(name, f"cannot be read: {error}", "", "", "", _shown(path.parent))
            continue
        kind = policy_kind(spec.kind)
        table.add_row(name, spec.description, kind.needs, kind.changes, kind.when, _shown(path.parent))
    return table


def shorthand_line() -> str:
    """Return the sentence about names that are policies without a file."""
    return f"Without a file: names in the paper's notation, such as {', '.join(SHORTHANDS)}."


def library_table(library: BeaconLibrary) -> Table:
    """Return the final figures of every configuration of a library, best first."""
    headings = ("batch size", "rate", "seeds", "validation loss", "validation error", "test error", "steps")
    note = "mean ± standard deviation over seeds, best first; * on the machine that recorded it, measuring left out"
    table = headed(*headings, "C̄", "L", "time*", note=note)
    results = sorted(library.results(), key=lambda result: (_rank(result, library.score), result.batch_size, result.lr))
    for result in results:
        table.add_row(*_result_cells(result, library))
    return table


def _rank(result: FixedResult, score: str) -> float:
    return result.mean[score] if not result.diverged else math.inf


def _result_cells(result: FixedResult, library: BeaconLibrary) -> list[str]:
    seeds = str(len(result.seeds)) + (f", {len(result.diverged)} diverged" if result.diverged else "")
    try:
        end = library.at(result.batch_size, result.lr, 1.0)
        position = [f"{end.c_bar:.3g}", f"{end.l_cum:.3g}"]
    except LibraryError:  # all its seeds diverged before anything was measured
        position = ["-", "-"]
    return [
        str(result.batch_size),
        f"{result.lr:g}",
        seeds,
        _with_spread(loss_words(result.mean["validation_loss"]), loss_words(result.std["validation_loss"])),
        _with_spread(percent_words(result.mean["validation_error"]), percent_words(result.std["validation_error"])),
        _with_spread(percent_words(result.mean["test_error"]), percent_words(result.std["test_error"])),
        count_words(result.mean["steps"]),
        *position,
        seconds_words(result.training_seconds),
    ]


def _with_spread(mean: str, spread: str) -> str:
    return mean if spread == "-" else f"{mean} ± {spread}"


def _task_cells(task: TaskSpec) -> list[str]:
    subset = f" ({task.dataset.subset:,} {task.dataset.examples})" if task.dataset.subset else ""
    depth = f"-{task.model.depth}" if task.model.depth else ""
    sizes, rates = task.batch_sizes, task.learning_rates
    return [
        f"{task.dataset.name}{subset}",
        f"{task.model.name}{depth}",
        f"{sizes[0]} … {sizes[-1]} ({len(sizes)})",
        f"{rates[0]:g} … {rates[-1]:g} ({len(rates)})",
        str(task.epochs),
    ]


def _library_cells(library: BeaconLibrary) -> list[str]:
    best = library.best_fixed()
    score = library.score
    seconds = sum(beacon.final("seconds") for beacon in library.beacons)
    return [
        str(len(library.beacons)),
        str(len(library.configurations)),
        str(len({beacon.seed for beacon in library.beacons})),
        configuration_words(best.batch_size, best.lr),
        f"{score.replace('_', ' ')} {_with_spread(loss_words(best.mean[score]), loss_words(best.std[score]))}",
        seconds_words(seconds),
    ]


def _recorded(folder: Path) -> str:
    if not holds_beacons(folder):
        return "none"
    try:
        return str(len(BeaconLibrary.load(folder).beacons))
    except LibraryError:
        return "cannot be read"


def _shown(folder: Place) -> str:
    """Return a folder relative to the working directory where it lies inside."""
    if isinstance(folder, Path):
        with suppress(ValueError):
            return f"./{folder.resolve().relative_to(Path.cwd())}"
    return str(folder)
