"""What is told of a run after each epoch: where it stood, and what was decided there and why."""

import math
from collections.abc import Iterator
from typing import Any

from autobatch.control import DecisionRecord
from autobatch.report._story import position_sentence
from autobatch.report._words import count_words, loss_words, percent_words, position_words, seconds_words
from autobatch.report.page._markup import Html, tag
from autobatch.report.page._section import ReportedRun, Section, has_place
from autobatch.report.page._tables import change_words, decision_id, limit_words, swatch, target_words
from autobatch.training import EpochRow


def moments(section: Section) -> Html:
    """Return the cards of all runs, one an epoch and one for the start, for a script to show one at a time.

    Args:
        section: the runs and their beacons.

    Returns:
        Templates.
    """
    return Html("".join(card for run in section.runs for card in _cards(section, run)))


def places(run: ReportedRun) -> list[dict[str, Any]]:
    """Return where a run stood at each of its moments and where it was steered to.

    Args:
        run: the run.

    Returns:
        One dictionary a moment: its epoch, whether something was changed there, and ``place`` and ``target`` as (C̄, L)
        where they are known.
    """
    found = []
    for epoch, row in _moments_of(run):
        decision = run.decisions.get(epoch)
        target = None if decision is None else decision.target
        sound = target is not None and all(math.isfinite(value) and value > 0 for value in target)
        found.append({
            "epoch": epoch,
            "changed": decision is not None and (decision.turn or decision.stop),
            "place": [row.c_bar, row.l_cum] if row is not None and has_place(row) else None,
            "target": list(target) if target is not None and sound else None,
        })
    return found


def _moments_of(run: ReportedRun) -> Iterator[tuple[int, EpochRow | None]]:
    yield 0, None
    yield from ((row.epoch, row) for row in run.record.epochs)


def _cards(section: Section, run: ReportedRun) -> Iterator[Html]:
    before: DecisionRecord | None = None
    for index, (epoch, row) in enumerate(_moments_of(run)):
        decision = run.decisions.get(epoch)
        total = run.record.config.task.epochs
        heading = tag("h4", swatch(run), f"{run.label}: " + (f"after epoch {epoch} of {total}" if epoch else "start"))
        facts = [] if row is None else list(_stood(row))
        if decision is not None:
            facts += _decided(run, decision, before)
        told = tag("dl", *(tag("div", tag("dt", name), tag("dd", words)) for name, words in facts))
        name = decision_id(section, run, epoch) if decision is not None else None
        yield tag("template", heading, told, id=f"moment-{section.number}-{run.number}-{index}", data_decision=name)
        before = decision or before


def _stood(row: EpochRow) -> Iterator[tuple[str, str]]:
    yield "Trained at", f"batch size {row.batch_size}, rate {row.lr_effective:g}"
    if math.isfinite(row.c_bar):
        yield "Stands at", f"C̄ {position_words(row.c_bar)}, L {position_words(row.l_cum)}"
    yield "Validation", f"loss {loss_words(row.validation_loss)}, error {percent_words(row.validation_error)}"
    yield "Training", f"loss {loss_words(row.train_loss)}"
    yield (
        "So far",
        f"{count_words(row.examples)} examples, {count_words(row.steps)} steps, {seconds_words(row.seconds)}",
    )


def _decided(run: ReportedRun, decision: DecisionRecord, before: DecisionRecord | None) -> Iterator[tuple[str, str]]:
    yield "Decides", change_words(decision, before)
    yield "Why", decision.reason
    if limit := limit_words(decision):
        yield "Limited", limit
    if decision.turn and math.isfinite(decision.c_bar):
        yield "Is", position_sentence(decision, run.record.library).rpartition(": ")[2]
    if decision.target is not None:
        yield "Steers to", f"{target_words(decision)} at the end"
