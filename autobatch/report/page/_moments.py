"""What is told of a run after each epoch: where it stood, and what was decided there and why."""

import math
from collections.abc import Iterator
from typing import Any

from autobatch._plain import Epochs
from autobatch.control import DecisionRecord
from autobatch.policies._wording import brief
from autobatch.report._record import RunRecord
from autobatch.report._story import limit_words, position_sentence, target_words
from autobatch.report._words import count_words, epoch_words, loss_words, percent_words, seconds_words
from autobatch.report.page._markup import Html, joined, tag
from autobatch.report.page._section import ReportedRun, Section, has_place
from autobatch.report.page._tables import candidates, change_words, swatch
from autobatch.training import EpochRow


def moments(section: Section, run: ReportedRun) -> list[dict[str, Any]]:
    """Return the moments of a run, one an epoch and one for the start, for a script to show one at a time.

    Args:
        section: the runs and their beacons.
        run: the run.

    Returns:
        One dictionary a moment: its epoch, whether something was changed there, ``place`` and ``target`` as (C̄, L)
        where they are known, and the ``card`` that tells it as HTML.
    """
    found: list[dict[str, Any]] = []
    before: DecisionRecord | None = None
    for epoch, row in _moments_of(run):
        decision = run.decisions.get(epoch)
        target = None if decision is None else decision.target
        sound = target is not None and all(math.isfinite(value) and value > 0 for value in target)
        found.append({
            "epoch": epoch,
            "name": epoch_words(epoch),
            "changed": decision is not None and (decision.turn or decision.stop),
            "place": [row.c_bar, row.l_cum] if row is not None and has_place(row) else None,
            "target": list(target) if target is not None and sound else None,
            "card": str(_card(section, run, epoch, row=row, decision=decision, before=before)),
        })
        before = decision or before
    return found


def _moments_of(run: ReportedRun) -> Iterator[tuple[Epochs, EpochRow | None]]:
    yield 0, None
    yield from ((row.epoch, row) for row in run.record.epochs)


def _card(
    section: Section,
    run: ReportedRun,
    epoch: Epochs,
    *,
    row: EpochRow | None,
    decision: DecisionRecord | None,
    before: DecisionRecord | None,
) -> Html:
    total = run.record.config.task.epochs
    heading = tag(
        "h4", swatch(run), f"{run.label}: " + (f"after epoch {epoch_words(epoch)} of {total}" if epoch else "start")
    )
    facts = [] if row is None else list(_stood(run.record, row))
    if decision is not None:
        facts += _decided(run, decision, before)
    told = tag("dl", *(tag("div", tag("dt", name), tag("dd", words)) for name, words in facts))
    weighed = decision is not None and len(decision.alternatives) > 1
    return joined(heading, told, candidates(decision, section.score, unfolded=True) if decision and weighed else "")


def _stood(record: RunRecord, row: EpochRow) -> Iterator[tuple[str, str]]:
    yield "Trained at", f"batch size {row.batch_size}, applied rate {row.lr_effective:g}"
    if math.isfinite(row.c_bar):
        yield "Stands at", record.position_after(row.epoch)
        if (leapt := record.leap_before(row.epoch)) is not None:
            yield "C̄", leapt
    yield "Validation", f"loss {loss_words(row.validation_loss)}, error {percent_words(row.validation_error)}"
    yield "Training", f"loss {loss_words(row.train_loss)}"
    yield (
        "So far",
        f"{count_words(row.examples)} examples, {count_words(row.steps)} steps, {seconds_words(row.seconds)}",
    )


def _decided(run: ReportedRun, decision: DecisionRecord, before: DecisionRecord | None) -> Iterator[tuple[str, str]]:
    yield "Decides", change_words(decision, before)
    yield "Why", (short := brief(decision.reason))
    if short != decision.reason:
        yield "Figures", decision.reason
    if limit := limit_words(decision):
        yield "Limited", limit
    if decision.turn and math.isfinite(decision.c_bar):
        yield "Is", position_sentence(decision, run.record).rpartition(": ")[2]
    if decision.target is not None:
        yield "Steers to", f"{target_words(decision)} at the end"
