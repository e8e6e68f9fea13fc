"""The end of a run as a person judges it: figures beside the beacons', what was decided, a verdict, what to do next."""

import math
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autobatch.control import DecisionRecord
from autobatch.control.run import LoopConfig
from autobatch.policies._wording import count
from autobatch.policies.baselines import notation
from autobatch.policies.steer import LEARNT_NOTHING
from autobatch.report._comparison import Comparison, compare, verdict
from autobatch.report._record import RunRecord, used_by
from autobatch.report._story import diverged_words
from autobatch.report._tables import headed, named_facts
from autobatch.report._words import (
    applied_words,
    configuration_words,
    count_words,
    epoch_words,
    loss_words,
    parts_of,
    path_words,
    percent_words,
    seconds_words,
)
from autobatch.training import EpochRow, Summary


def summary_view(record: RunRecord) -> RenderableType:
    """Return what ``autobatch run`` prints at the end.

    Args:
        record: a finished run.

    Returns:
        Something that a rich console prints. An unfinished run is a ValueError.
    """
    return Group(end_view(record), _files(record.path))


def end_view(record: RunRecord) -> RenderableType:
    """Return how a finished run ended, without what to do with its files."""
    summary = record.summary
    if summary is None:
        raise ValueError(f"the run in {record.path} has no summary yet")
    comparison = None
    if summary.best_beacon is not None and record.library is not None:
        comparison = compare(record.epochs, record.config.costs, record.library, summary.scouts, summary.forks)
    return Group(
        _heading(record, summary),
        _figures(summary, comparison),
        _facts(record, summary, comparison),
    )


def _heading(record: RunRecord, summary: Summary) -> Text:
    text = Text(record.title, style="bold")
    how = "" if summary.stopped_because == "finished" else f", ended early: {summary.stopped_because}"
    return text.append(f": {count(summary.epochs, 'epoch')} on {summary.device}{how}\n", style="not bold")


def _figures(summary: Summary, comparison: Comparison | None) -> Table:
    headings = ["", "this run"]
    if comparison is not None:
        best = comparison.best
        seeds = count(len(best.seeds), "seed")
        diverged = f"{comparison.diverged} diverged, left out" if comparison.diverged else "least … greatest"
        headings.append(f"best fixed beacon\n{configuration_words(best.batch_size, best.lr)}, {seeds}")
        headings.append(f"all {comparison.beacons} beacons\n{diverged}")
    table = headed(*headings, words=("",))
    table.columns[1].style = "bold"
    for label, own, figure, words in (
        ("validation loss", summary.validation_loss, "validation_loss", loss_words),
        ("validation error", summary.validation_error, "validation_error", percent_words),
        ("test error", summary.test_error, "test_error", percent_words),
        ("examples", summary.examples, "examples", count_words),
        ("optimizer steps", summary.optimizer_steps, "steps", count_words),
    ):
        cells = (
            () if comparison is None else (comparison.best_words(figure, words), comparison.range_words(figure, words))
        )
        scored = comparison is not None and comparison.score == figure
        told = f"{label} (1 - R²)" if summary.deviations is not None and figure.endswith("_error") else label
        table.add_row(f"{told} (the score)" if scored else told, words(own), *cells)
        if figure == "test_error" and summary.test_loss is not None:
            if comparison is None:
                table.add_row("test loss", loss_words(summary.test_loss))
            if len(deviations := summary.deviations or []) == 1:
                table.add_row("test error in its unit (RMSE)", f"{math.sqrt(summary.test_loss) * deviations[0]:.5g}")
    _add_times(table, summary, comparison)
    return table


def _add_times(table: Table, summary: Summary, comparison: Comparison | None) -> None:
    if comparison is None:
        table.add_row("time", seconds_words(summary.seconds))
        return
    table.add_row(
        "time by the clock (1)",
        seconds_words(summary.seconds),
        seconds_words(comparison.best.training_seconds),
        comparison.range_words("training_seconds", seconds_words),
    )
    if comparison.seconds is not None:
        table.add_row(
            "time by one cost table (2)", seconds_words(comparison.seconds), seconds_words(comparison.best_seconds), ""
        )


def _facts(record: RunRecord, summary: Summary, comparison: Comparison | None) -> Table:
    table = named_facts()
    facts = run_facts(record)
    if record.epochs:
        facts.insert(3, ("To paste", paste_words(record)))
    for name, words in facts:
        table.add_row(name, words)
    if comparison is None:
        table.add_row("Verdict", without_comparison(record))
        return table
    table.add_row("Verdict", Text(verdict(summary, comparison), style="bold"))
    if comparison.expected > comparison.best.mean[comparison.score]:
        table.add_row(
            "",
            f"Of the best of {comparison.beacons} beacons a part is luck: fresh trainings at the best fixed "
            f"configuration are expected at {loss_words(comparison.expected)}, and the verdict goes by that.",
        )
    table.add_row(
        "", "One run says little by itself: the ± is over the beacon's seeds, so try --seed 1, 2, ... as well."
    )
    table.add_row(
        "(1)", "This run's includes its measuring; the beacons' are without, as recorded, maybe several side by side."
    )
    if comparison.seconds is not None and record.config.costs is not None:
        table.add_row(
            "(2)",
            f"Like with like: steps × seconds a step on {record.config.costs.device}, this run's measuring added.",
        )
    table.add_row(
        "", f"Recording the beacons once took {seconds_words(comparison.recording_seconds)}, counted nowhere here."
    )
    return table


def run_facts(record: RunRecord) -> list[tuple[str, str]]:
    """Return what a run used, and what became of it where it has ended, as names and words."""
    rows, summary = record.epochs, record.summary
    used, ends = used_by(record.config, rows, record.decisions)
    made = [one for one in record.decisions if not one.stop]
    base, applied = [one.lr for one in used], [one.lr_effective for one in used]
    raised = any(after.falls and after.batch_size > before.batch_size for before, after in pairwise(made))
    facts = [
        ("Batch size", path_words((one.batch_size for one in used), parts_of(ends)) or "no epoch yet"),
        ("Base rate", path_words((one.lr for one in used), parts_of(ends)) or "no epoch yet"),
        ("Applied rate", applied_words(base, applied, raised=raised)),
    ]
    if summary is None:
        return facts
    if summary.stopped_because != "finished":
        facts.append(("What to do", diverged_words(record)))
    if summary.scouts:
        facts.append(("Scouts", _scouting_words(summary)))
    if summary.scouts_before:
        took = seconds_words(summary.scouts_before_seconds)
        told = f"{summary.scouts_before} made before this run, which took {took} more than the time above"
        facts.append(("Scouts", told))
    if summary.forks:
        facts.append(("Forks", _forking_words(summary)))
    if summary.ended_early:
        spared = summary.ended_early.partition(": stop")[2]  # what that spares, and what it gives up
        back = next((one.back_to for one in reversed(record.decisions) if one.back_to is not None), None)
        from_there = "" if back is None else f", the last one from the weights after epoch {epoch_words(back)}"
        ended = f"by the policy, after {summary.epochs} of {record.config.task.epochs} epochs{from_there}{spared}"
        facts.append(("Ended", ended))
    if unlearnt := _unlearnt_words(summary):
        facts.append(("Learnt", unlearnt))
    facts.append(("Measuring", _measuring_words(summary, rows)))
    if summary.samples:
        facts.append(("Position", f"{record.position_after(rows[-1].epoch)} at the end"))
    return facts


def paste_words(record: RunRecord) -> str:
    """Return what a run used in Megatron-LM's notation, which another trainer takes, and so does ``--policy``.

    Args:
        record: the run; it has an epoch.

    Returns:
        The batch sizes by examples and, where there is more than one, by epochs; the base rates where they change. What
        was trained in vain, as the training went back to weights of before, is left out.
    """
    rows = record.epochs
    sizes, rates = [float(row.batch_size) for row in rows], [row.lr for row in rows]
    ends = [float(row.examples) for row in rows]
    epoch = rows[-1].examples / rows[-1].epoch
    made = [one for one in record.decisions if not one.stop]
    starts = [float(one.example) for one in made]
    if len(made) > 1 and all(later > earlier for earlier, later in pairwise(starts)):  # runs of before say no example
        made, starts = _not_in_vain(made, starts, epoch)
        sizes, rates, ends = [float(one.batch_size) for one in made], [one.lr for one in made], starts[1:]
    vain = ", without what was trained in vain" if any(one.back_to is not None for one in record.decisions) else ""
    told = f"'{notation(sizes, ends)}' (from example:batch size, as for Megatron-LM{vain})"
    if len(set(sizes)) > 1:
        starts = [end / epoch for end in ends]
        whole = all(abs(start - round(start)) * epoch < 1 for start in starts)
        if whole or isinstance(record.config, LoopConfig):  # within epochs 'autobatch run' would not follow it
            told += f"; by epochs '{notation(sizes, starts, 'e')}'"
    if len(set(rates)) > 1:
        told += f"; base rates '{notation(rates, ends)}'"
    return told


def _not_in_vain(
    made: list[DecisionRecord], starts: list[float], epoch: float
) -> tuple[list[DecisionRecord], list[float]]:
    """Return the decisions that the last weights come from, and the examples that these had seen at each."""
    kept: list[tuple[DecisionRecord, float]] = []
    in_vain = [(0.0, 0.0)]  # from which example on, and how many of those before
    for one, start in zip(made, starts, strict=True):
        if one.back_to is not None:
            there = one.back_to * epoch
            there -= next(vain for since, vain in reversed(in_vain) if since <= there)
            in_vain.append((start, start - there))
            kept = [(before, at) for before, at in kept if at < there]
        kept.append((one, start - in_vain[-1][1]))
    return [one for one, _ in kept], [at for _, at in kept]


def without_comparison(record: RunRecord) -> str:
    """Return the sentences in the place of a verdict where there are no beacons to compare a finished run with."""
    if record.summary is not None and record.summary.stopped_because != "finished":
        return "Diverged, so there is nothing to compare."
    missing = record.summary.best_beacon_missing if record.summary is not None else None
    return (
        "None, as there are no beacons (trainings at fixed settings) to compare this run with: "
        f"{missing or 'they cannot be read'}."
    )


def _scouting_words(summary: Summary) -> str:
    """Return in a clause what scouting came to."""
    won = next((scout for scout in summary.scouts if scout["won"]), None)
    went_on = "none went on" if won is None else f"{configuration_words(won['batch_size'], won['lr'])} went on"
    return (
        f"{len(summary.scouts)} made, {went_on}; the others took {seconds_words(summary.scouting_seconds)}, "
        f"{percent_words(summary.scouting_seconds / summary.seconds)} of the time, counted above"
    )


def _forking_words(summary: Summary) -> str:
    """Return in a clause what the forks of a run came to."""
    taken = sum(bool(fork["taken"]) for fork in summary.forks)
    return (
        f"another size or rate tried on the run itself {count(len(summary.forks), 'time')}, {taken} taken; the epochs "
        f"thrown away took {seconds_words(summary.forking_seconds)}, counted above"
    )


def _unlearnt_words(summary: Summary) -> str:
    """Say that a run has learnt nothing that shows; empty where it has, where it diverged, or where nobody knows."""
    loss, guessed, who = summary.validation_loss, summary.shares_loss, "by the classes' shares"
    if summary.deviations is not None:
        guessed, who = 1.0, "the mean"
    if loss is None or guessed is None or loss < LEARNT_NOTHING * guessed:
        return ""
    return f"nothing that shows in its validation loss, {loss_words(loss)}: who guesses {who} has {loss_words(guessed)}"


def _measuring_words(summary: Summary, rows: Sequence[EpochRow]) -> str:
    """Return in a clause what measuring took, in scouts and forks that lost too."""
    if not summary.samples:
        return "nothing was measured"
    modelled = ""
    if summary.measuring_share_modelled is not None and summary.measuring_budget is not None:
        modelled = (
            f"; by the cost table, which measured steps are chosen by, {100 * summary.measuring_share_modelled:.1f} % "
            f"of the training, budget {100 * summary.measuring_budget:g} %"
        )
        if summary.measuring_share_modelled > 1.2 * summary.measuring_budget:
            modelled += " (a few steps an epoch, and those that the policy asks for, are measured whatever that takes)"
    epochs = summary.examples * rows[-1].epoch / rows[-1].examples
    lost = " with those that were thrown away" if summary.examples > rows[-1].examples else ""
    return (
        f"{count_words(summary.samples)} steps of {count_words(summary.optimizer_steps)}, "
        f"{summary.samples / epochs:.1f} an epoch{lost}: {seconds_words(summary.measuring_seconds)}, "
        f"{100 * summary.measuring_share:.1f} % of the time{modelled}"
    )


def _files(path: Path) -> Text:
    name, picture = shlex.quote(str(path)), path / "plane.png"
    return Text(
        f"\nFiles are in {path}{f' (the journey: {picture})' if picture.exists() else ''}.\n"
        f"Next: autobatch explain {name}\n"
        f"      autobatch report {name}"
    )
