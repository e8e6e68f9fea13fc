"""The tables of a page: the runs' figures beside the best fixed beacon's, and every decision with its reason."""

import math
from collections.abc import Iterable, Iterator, Sequence

from autobatch.control import DecisionRecord
from autobatch.policies._wording import brief, count
from autobatch.report._comparison import Comparison, Words
from autobatch.report._story import (
    FORK_COLUMNS,
    WON,
    fork_rows,
    limit_words,
    scout_rows,
    scouts_sentence,
    shown_candidates,
    target_words,
)
from autobatch.report._words import (
    configuration_words,
    count_words,
    epoch_words,
    loss_words,
    percent_words,
    seconds_words,
)
from autobatch.report.page._markup import Html, joined, tag
from autobatch.report.page._section import ReportedRun, Section


def loss_or_power(loss: float | None) -> str:
    """Return a loss with four decimals, or with a power of ten where a training has blown up."""
    return f"{loss:.3g}" if loss is not None and 1e4 <= loss < math.inf else loss_words(loss)


FIGURES: tuple[tuple[str, str, Words], ...] = (
    ("Test error", "test_error", percent_words),
    ("Validation loss", "validation_loss", loss_or_power),
    ("Validation error", "validation_error", percent_words),
    ("Examples", "examples", count_words),
    ("Steps", "steps", count_words),
)
"""Heading, name in a ``FixedResult`` and words of the figures that runs and beacons share."""

DECISION_HEADS = {
    "epoch": "After epoch",
    "change": "Batch size, base rate",
    "why": "Why",
    "target": "Steers to",
    "limited": "Limited",
    "weighed": "Weighed",
}
"""Columns of the table of decisions, by the names that the style sheet knows them by."""


def own_figure(run: ReportedRun, figure: str) -> float | None:
    """Return a run's latest figure, under its name in a ``FixedResult``; None where it is not known (yet)."""
    summary = run.record.summary
    if summary is not None:
        value: float | None = getattr(summary, "optimizer_steps" if figure == "steps" else figure)
        return value
    last = run.record.epochs[-1] if run.record.epochs else None
    return getattr(last, figure, None)


def own_seconds(run: ReportedRun) -> tuple[float | None, float | None]:
    """Return a run's seconds by the clock, and the part that measuring took; None where it has not begun."""
    last = run.record.summary or (run.record.epochs[-1] if run.record.epochs else None)
    return (None, None) if last is None else (last.seconds, last.measuring_seconds)


def figures_table(section: Section) -> Html:
    """Return the figures of the runs, of the best fixed beacon and of all beacons, with notes beneath."""
    comparison = next((run.comparison for run in section.runs if run.comparison is not None), None)
    modelled = comparison is not None and comparison.seconds is not None
    heads = ["Run"] + [f"{head}{' (the score)' if name == section.score else ''}" for head, name, _ in FIGURES]
    heads += ["Time by the clock (1)" if comparison else "Time by the clock"]
    heads += ["Time by one cost table (2)"] * modelled + ["Measuring"]
    rows = [_row(heads, _run_cells(run, modelled=modelled), "own") for run in section.runs]
    if comparison is not None:
        rows += [_row(heads, cells, "") for cells in _beacon_rows(section, comparison, modelled=modelled)]
    return joined(_figures(f"Where the runs ended on {section.task}", heads, rows), *_notes(comparison))


def _figures(caption: str, heads: Sequence[str], rows: Sequence[Html]) -> Html:
    return tag("div", _table(heads, rows, "figures stacks", caption), class_="scrolls")


def _table(heads: Iterable[str], rows: Sequence[Html], kind: str, caption: str = "") -> Html:
    columns = tag("tr", *(tag("th", head, scope="col") for head in heads))
    told = tag("caption", caption, class_="hidden") if caption else ""
    return tag("table", told, tag("thead", columns), tag("tbody", *rows), class_=kind)


MANY_DECISIONS = 120
"""Decisions of a run beyond which a page lists those that changed something alone, so that it stays small."""


def decisions_table(section: Section, run: ReportedRun) -> Html:
    """Return every decision of a run, of a long one those that changed something."""
    told: list[dict[str, str]] = []
    before: DecisionRecord | None = None
    for decision in run.record.decisions:
        told.append({
            "epoch": epoch_words(decision.epoch),
            "change": change_words(decision, before),
            "why": why(decision),
            "target": target_words(decision),
            "limited": limit_words(decision) or "-",
            "weighed": candidates(decision, section.score)
            if not told or decision.turn or decision.stop
            else _count_of_candidates(decision),
        })
        before = decision
    many = len(told) > MANY_DECISIONS
    columns = [name for name in DECISION_HEADS if any(cells[name] != "-" for cells in told)]
    rows = [
        tag(
            "tr",
            *(_cell(DECISION_HEADS[name], cells[name], name) for name in columns),
            class_="changed" if decision.turn or decision.stop or number == 0 else "kept",
        )
        for number, (decision, cells) in enumerate(zip(run.record.decisions, told, strict=True))
        if not many or decision.turn or decision.stop or number == 0
    ]
    return _table((DECISION_HEADS[name] for name in columns), rows, "decisions stacks", f"Decisions of {run.label}")


def scouts_table(run: ReportedRun) -> Html:
    """Return what the scouts of a run came to, with sentences beneath."""
    heads = ["Scout", "Epochs", "Training loss", "Validation loss", "Took", ""]
    rows = [_row(heads, list(cells), "own" if cells[-1] == WON else "") for cells in scout_rows(run.record)]
    return joined(_figures(f"Scouts of {run.label}", heads, rows), tag("p", scouts_sentence(run.record), class_="note"))


def forks_table(run: ReportedRun) -> Html:
    """Return what was tried on a run itself."""
    heads = [name[:1].upper() + name[1:] for name in FORK_COLUMNS]
    return _figures(f"Forks of {run.label}", heads, [_row(heads, list(cells), "") for cells in fork_rows(run.record)])


def why(decision: DecisionRecord) -> str:
    """Return a decision's reason in a short sentence; where something was changed, the figures unfold."""
    short = brief(decision.reason)
    if short == decision.reason or not (decision.turn or decision.stop):
        return short
    return tag("details", tag("summary", short), decision.reason)


def _count_of_candidates(decision: DecisionRecord) -> str:
    return f"{len(decision.alternatives)} candidates" if len(decision.alternatives) > 1 else "-"


def change_words(decision: DecisionRecord, before: DecisionRecord | None) -> str:
    """Return what a decision changed, such as ``64 → 128, base rate 0.05, applied 0.025``."""
    if decision.stop:
        return "ends the training"
    size, rate = f"{decision.batch_size}", f"{decision.lr:g}"
    if before is not None and before.batch_size != decision.batch_size:
        size = f"{before.batch_size} → {size}"
    if before is not None and before.lr != decision.lr:
        rate = f"{before.lr:g} → {rate}"
    kept = "keeps " if before is not None and not decision.turn else ""
    applied = f", applied {decision.lr_effective:.3g}" if decision.lr_effective != decision.lr else ""
    return f"{kept}{size}, base rate {rate}{applied}"


def candidates(decision: DecisionRecord, score: str, *, unfolded: bool = False) -> Html:
    """Return the candidates that a decision weighed, the best predicted first, to be unfolded; a dash for none."""
    if len(decision.alternatives) < 2:
        return Html("-")
    shown = list(shown_candidates(decision))
    heads = ("Candidate", f"Predicted {score.replace('_', ' ')}", "Rest takes", "Final C̄", "Final L")
    rows = [
        tag(
            "tr", tag("th", name, scope="row"), *(tag("td", words) for words in cells), class_="chosen" if own else None
        )
        for (name, *cells), own in shown
    ]
    table = _table(heads, rows, "candidates")
    unknown = sum(not own.known for own in decision.alternatives)
    left_out = len(decision.alternatives) - len(shown)
    notes = [f"{left_out} more"] if left_out else []
    notes += [f"the landscape knows nothing of {unknown}"] if unknown else []
    return tag(
        "details",
        tag("summary", f"{len(decision.alternatives)} candidates"),
        tag("div", table, class_="scrolls"),
        tag("p", "; ".join(notes), class_="note") if notes else "",
        open=unfolded,
    )


def _row(heads: list[str], cells: list[str], kind: str) -> Html:
    others = (_cell(head, cell) for head, cell in zip(heads[1:], cells[1:], strict=True))
    return tag("tr", tag("th", cells[0], scope="row", data_head=heads[0]), *others, class_=kind or None)


def _cell(head: str, content: str, kind: str | None = None) -> Html:
    if kind == "epoch":
        return tag("th", content, scope="row", data_head=head)
    return tag("td", content, data_head=head, class_="empty" if content == "-" else kind)


def _run_cells(run: ReportedRun, *, modelled: bool) -> list[str]:
    seconds, measuring = own_seconds(run)
    cells: list[str] = [joined(swatch(run), run.label)]
    cells += [words(own_figure(run, name)) for _, name, words in FIGURES]
    cells.append(seconds_words(seconds))
    if modelled:
        cells.append(seconds_words(run.comparison.seconds) if run.comparison else "-")
    share = 100 * measuring / seconds if seconds and measuring is not None else 0.0
    cells.append(f"{seconds_words(measuring)}, {share:.1f} %" if measuring else "nothing measured")
    return cells


def swatch(run: ReportedRun) -> Html:
    """Return a run's sign, in its colour, to stand before its name."""
    return tag("span", class_=f"sign {run.sign}", style=f"color:{run.colour}", aria_hidden="true")


def _beacon_rows(section: Section, comparison: Comparison, *, modelled: bool) -> Iterator[list[str]]:
    best = comparison.best
    seeds = count(len(best.seeds), "seed")
    cells = [f"best fixed beacon, {configuration_words(best.batch_size, best.lr)}, {seeds}"]
    cells += [comparison.best_words(name, words) for _, name, words in FIGURES]
    cells.append(seconds_words(best.training_seconds))
    if modelled:
        by_table = {run.comparison.best_seconds for run in section.runs if run.comparison is not None}
        cells.append(seconds_words(by_table.pop()) if len(by_table) == 1 else "-")
    yield [*cells, "-"]
    diverged = f", {comparison.diverged} diverged and left out" if comparison.diverged else ""
    cells = [f"all {comparison.beacons} beacons{diverged}"]
    cells += [comparison.range_words(name, words) for _, name, words in FIGURES]
    cells.append(comparison.range_words("training_seconds", seconds_words))
    yield [*cells, *["-"] * modelled, "-"]


def _notes(comparison: Comparison | None) -> Iterator[Html]:
    if comparison is None:
        return
    notes = ["(1) A run's includes its measuring; the beacons' are without, as recorded, maybe several side by side."]
    if comparison.seconds is not None:
        notes.append("(2) Like with like: steps × seconds a step on the run's device, the run's measuring added.")
    notes.append(
        "± is over the beacon's seeds; one run says little by itself. Recording the beacons once took "
        f"{seconds_words(comparison.recording_seconds)}, counted nowhere here."
    )
    yield tag("p", " ".join(notes), class_="note")
