"""The decision log as a person would tell it: what was used when, why, and what else was weighed."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from autobatch.beacons import Landscape
from autobatch.control import DecisionRecord
from autobatch.control.run import LoopConfig
from autobatch.policies import Candidate
from autobatch.policies._wording import brief, count
from autobatch.report._record import RunRecord
from autobatch.report._tables import headed, named_facts
from autobatch.report._words import (
    configuration_words,
    epoch_words,
    epochs_words,
    loss_words,
    percent_words,
    place_words,
    position_words,
    seconds_words,
)
from autobatch.training import EpochRow
from autobatch.training.running import ScoutRecord

SHOWN_CANDIDATES = 5
"""Candidates shown for a change, best predicted score first; the chosen one is shown in any case."""


@dataclass(frozen=True)
class Chapter:
    """A stretch of epochs at one batch size and base learning rate, before the rate falls or while it does.

    Attributes:
        decision: the decision that began it.
        kept: decisions after it that changed nothing.
        epochs: the epochs trained so.
    """

    decision: DecisionRecord
    kept: tuple[DecisionRecord, ...]
    epochs: tuple[EpochRow, ...]


def chapters(decisions: list[DecisionRecord], epochs: list[EpochRow]) -> list[Chapter]:
    """Group a run's decisions by what they changed.

    Args:
        decisions: all decisions in order.
        epochs: the finished epochs.

    Returns:
        One chapter for the first decision and one for each that something began with: another batch size or base
        learning rate, or the fall of the rate.
    """
    begins = [index for index, decision in enumerate(decisions) if decision.turn or index == 0]
    ends = [*begins[1:], len(decisions)] if decisions else []
    found = []
    for begin, end in zip(begins, ends, strict=True):
        until = decisions[end].epoch if end < len(decisions) else math.inf
        rows = tuple(row for row in epochs if decisions[begin].epoch < row.epoch <= until)
        found.append(Chapter(decisions[begin], tuple(decisions[begin + 1 : end]), rows))
    return found


def story(record: RunRecord, *, figures: bool = False) -> RenderableType:
    """Return what ``autobatch explain`` prints.

    Args:
        record: a run, finished or not.
        figures: whether reasons come with the figures behind them, and with the candidates that were weighed.

    Returns:
        Something that a rich console prints.
    """
    told: list[RenderableType] = [_opening(record), *_scouts(record), *_forks(record)]
    before: DecisionRecord | None = None
    for chapter in chapters(record.decisions, record.epochs):
        told += [_heading(chapter, before), Padding(Group(*_body(chapter, record, figures=figures)), (0, 0, 1, 2))]
        before = chapter.decision
    told.append(_ending(record))
    if not figures:
        told.append(Text("\nThe figures behind each reason: autobatch explain -v", style="dim"))
    return Group(*told)


def _opening(record: RunRecord) -> Text:
    text = Text(record.title, style="bold")
    text.append(f"\n{record.does}" if record.does else "", style="not bold")
    changes = sum(decision.turn for decision in record.decisions[1:])
    alone = "no beacons, so as steer" if record.config.policy.kind == "beacon-follow" else "no beacons"
    beacons = alone if record.library is None else count(len(record.library.beacons), "beacon")
    epochs = count(record.epochs[-1].epoch if record.epochs else 0, "epoch")
    counts = ", ".join((count(len(record.decisions), "decision"), count(changes, "change"), epochs, beacons))
    return text.append(f"\n{counts}\n", style="not bold")


def _scouts(record: RunRecord) -> Iterator[RenderableType]:
    """Yield what the scouts came to, and which one went on."""
    scouting = record.scouting
    if scouting is None:
        return
    title = "Scouts: short trainings before the run, the best of which became it"
    headings = ("", "scout", "epochs", "training loss", "validation loss", "took", "")
    table = headed(*headings, words=_WORDY, title=title, style="bold cyan")
    for name, *figures, remark in scout_rows(record):
        won = remark == WON
        table.add_row("→" if won else "", name, *figures, remark, style="bold" if won else "")
    yield Padding(table, (0, 0, 0, 0))
    yield Padding(Text(scouts_sentence(record)), (0, 0, 1, 2))


_WORDY = {"", "scout", "candidate", "tried", "beside"}
"""Columns of words, not of figures."""


def _forks(record: RunRecord) -> Iterator[RenderableType]:
    """Yield what was tried on the run itself."""
    if not record.forks:
        return
    table = headed(*FORK_COLUMNS, words=_WORDY, title=FORKS_TITLE, style="bold cyan")
    for row in fork_rows(record):
        table.add_row(*row)
    yield Padding(table, (0, 0, 1, 0))


FORKS_TITLE = "Forks: another size or rate tried on the run itself, for an epoch from the same state"
"""What stands above a table of forks."""

FORK_COLUMNS = ("epoch", "tried", "beside", "its loss", "loss beside", "thrown away", "")
"""Columns of a table of forks; losses are of averaged weights, on the validation set."""


def fork_rows(record: RunRecord) -> Iterator[tuple[str, ...]]:
    """Yield what each fork of a run came to, as many words as ``FORK_COLUMNS``."""
    for fork in record.forks:
        yield (
            str(fork.epoch + 1),
            configuration_words(fork.fork_batch_size, fork.fork_lr),
            configuration_words(fork.batch_size, fork.lr),
            loss_words(fork.loss + fork.difference),
            loss_words(fork.loss),
            seconds_words(fork.seconds),
            "goes on" if fork.taken else "not taken",
        )


WON = "goes on as the run"
"""What is said of the scout that won."""


def scout_rows(record: RunRecord) -> Iterator[tuple[str, ...]]:
    """Yield what each scout of a run has come to, in words.

    Args:
        record: the run.

    Yields:
        Configuration, epochs, training loss, validation loss, time, and a remark: ``WON``, why it ended early, or that
        it trains or waits.
    """
    in_training = next((scout for scout in record.scouts if scout.record is None), None)
    for scout in record.scouts:
        known = scout.record or (scout.epochs[-1] if scout.epochs else None)
        if scout.record is None:
            remark = "in training" if scout is in_training else "waits"
        else:
            remark = WON if scout.record.won else f"ended early: {scout.record.ended}" if scout.record.ended else ""
        yield (
            configuration_words(scout.batch_size, scout.lr),
            epoch_words(known.epochs if isinstance(known, ScoutRecord) else 0 if known is None else known.epoch),
            loss_words(None if known is None else known.train_loss),
            loss_words(None if known is None else known.validation_loss),
            seconds_words(None if known is None else known.seconds),
            remark,
        )


def scouts_sentence(record: RunRecord) -> str:
    """Say how the scouts are compared, which has won and why, and what the others have cost."""
    scouting = record.scouting
    assert scouting is not None
    if scouting.reason is None:
        more = f" Up to {scouting.more} more may follow, at rates towards where it falls." if scouting.more else ""
        return (
            "The one with the lowest training loss will go on as the run (of few steps: validation loss); what the "
            f"others take is charged to it.{more}"
        )
    lost = sum(scout.seconds for scout in scouting.losers)
    return f"What went on: {scouting.reason}. Those that did not took {seconds_words(lost)}."


def diverged_words(record: RunRecord) -> str:
    """Say in a clause what to do about a run that has diverged."""
    lowest = record.epochs[-1].lr if record.epochs else record.config.task.learning_rates[0]
    lower = ",".join(f"{lowest / factor:.3g}" for factor in (1000, 100, 10))
    how = "Rates(learning_rates=({}))" if isinstance(record.config, LoopConfig) else "--set 'task.learning_rates=[{}]'"
    if not isinstance(record.config, LoopConfig):
        left_open = record.decisions and record.decisions[-1].requested_lr is None
        if left_open or record.config.task.around:  # the rate follows from the optimizer's own
            lower, how = f"{lowest / 10:.3g}", "--set task.optimizer.lr={}"
    return (
        f"a learning rate of {lowest:g} is too high here; choose from lower ones, such as by {how.format(lower)}, or "
        "by a policy with a lower rate"
    )


def _heading(chapter: Chapter, before: DecisionRecord | None) -> Text:
    decision = chapter.decision
    when = "from here" if isinstance(decision.epoch, int) else f"after {count(decision.epoch, 'epoch')}"
    if chapter.epochs:
        parts = any(not isinstance(epoch, int) for epoch in (decision.epoch, *(row.epoch for row in chapter.epochs)))
        when = epochs_words(decision.epoch if parts else chapter.epochs[0].epoch, chapter.epochs[-1].epoch)
    size, rate = f"batch size {decision.batch_size}", f"base rate {decision.lr:g}"
    if before is not None and before.batch_size != decision.batch_size:
        size = f"batch size {before.batch_size} → {decision.batch_size}"
    if before is not None and before.lr != decision.lr:
        rate = f"base rate {before.lr:g} → {decision.lr:g}"
    applied = [row.lr_effective for row in chapter.epochs]
    if applied and any(one != row.lr for one, row in zip(applied, chapter.epochs, strict=True)):
        rate += f", applied {applied[0]:.3g}" + (f" → {applied[-1]:.3g}" if applied[-1] != applied[0] else "")
    return Text(f"{when[0].upper()}{when[1:]}: {size}, {rate}", style="bold cyan")


def _body(chapter: Chapter, record: RunRecord, *, figures: bool) -> Iterator[RenderableType]:
    decision = chapter.decision
    facts = named_facts("dim")
    why = _told(decision.reason, record, figures=figures)
    facts.add_row("Why", why)
    if limit := limit_words(decision):
        facts.add_row("Limited", limit)
    if math.isfinite(decision.c_bar):
        facts.add_row("Stood at", position_sentence(decision, record))
    if decision.target is not None:
        facts.add_row("Steers to", f"{target_words(decision)} at the end of training")
    if chapter.epochs:
        facts.add_row("Then", _then(chapter))
    for row in chapter.epochs:
        if (leapt := record.leap_before(row.epoch)) is not None:
            facts.add_row(f"In epoch {epoch_words(row.epoch)}", leapt)
    kept = [later for later in chapter.kept if not later.stop]
    if kept:
        times = "once" if len(kept) == 1 else f"{len(kept)} times"
        last = _told(kept[-1].reason, record, figures=figures)
        facts.add_row(
            "Kept", f"asked again {times} and kept{', for the same reason' if last == why else f'; last: {last}'}"
        )
    yield facts
    if figures and len(decision.alternatives) > 1:
        yield _candidates(decision, record.config.task.score.replace("_", " "))


def _told(reason: str, record: RunRecord, *, figures: bool) -> str:
    if not figures:
        return brief(reason)
    of_scouts = None if record.scouting is None else record.scouting.reason
    return reason if of_scouts is None else reason.replace(of_scouts, brief(of_scouts))  # its figures stand above


def position_sentence(decision: DecisionRecord, record: RunRecord) -> str:
    """Say where a run stood when it decided, and where that is from where the best beacons stood at that time.

    Args:
        decision: a decision made after a measurement.
        record: the run.

    Returns:
        For example ``"C̄ 41.2, L 3.10 after epoch 4: C̄ 0.21 decades above the optimum region, L inside it"``.
    """
    library = record.library
    row = next((row for row in record.epochs if row.epoch == decision.epoch), None)
    if row is not None and (row.c_bar, row.l_cum) == (decision.c_bar, decision.l_cum):
        place = f"{record.position_after(decision.epoch)} after epoch {epoch_words(decision.epoch)}"
    else:  # within an epoch
        place = f"{place_words(decision.c_bar, decision.l_cum)} in epoch {math.floor(decision.epoch) + 1}"
    if library is None or decision.l_cum <= 0:
        return place
    landscape = Landscape.fit(library, progress=decision.progress)
    away = landscape.displacement(decision.c_bar, decision.l_cum).tolist()
    return f"{place}: {displacement_words(away, of=' of that time')}"


def displacement_words(displacement: Sequence[float], of: str = "") -> str:
    """Say how far from the optimum region a position is.

    Args:
        displacement: signed (Δlog10 C̄, Δlog10 L), zero inside.
        of: which region, where it is not that at the end of training.

    Returns:
        For example ``"C̄ 1.6 times that of the optimum region's edge"`` or ``"inside the optimum region"``.
    """
    sides = [
        f"{symbol} {10 ** abs(decades):.2f} times too {'high' if decades > 0 else 'low'}"
        for symbol, decades in zip(("C̄", "L"), displacement, strict=True)
        if abs(decades) >= 0.005
    ]
    region = f"the beacons' optimum region{of}"
    return f"outside {region} ({', '.join(sides)})" if sides else f"inside {region}"


def _then(chapter: Chapter) -> str:
    """Return what the chapter's validation came to, the figures that the loop gave."""
    epochs = [chapter.epochs[0], *chapter.epochs[1:][-1:]]
    told = {
        "validation loss": [loss_words(row.validation_loss) for row in epochs],
        "error": [percent_words(row.validation_error) for row in epochs],
    }
    unknown = loss_words(math.nan)
    known = {name: words for name, words in told.items() if words != [unknown] * len(words)}
    return ", ".join(f"{name} {' → '.join(words)}" for name, words in known.items()) or "nothing was validated"


def _candidates(decision: DecisionRecord, score: str) -> Table:
    unknown = sum(not candidate.known for candidate in decision.alternatives)
    beyond = f", {unknown} of them where the landscape knows nothing" if unknown else ""
    title = f"\nWeighed {len(decision.alternatives)} candidates{beyond}"
    headings = ("", "candidate", f"predicted {score}", "rest takes", "C̄ at the end", "L at the end")
    table = headed(*headings, words=_WORDY, title=title, style="dim")
    for cells, chosen in shown_candidates(decision):
        table.add_row("→" if chosen else "", *cells, style="bold" if chosen else "")
    return table


def shown_candidates(decision: DecisionRecord) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Yield what is told of the best predicted candidates of a decision and the chosen one, and whether it is that."""
    known = sorted((one for one in decision.alternatives if one.known), key=lambda candidate: candidate.score)
    chosen, best = (decision.batch_size, decision.lr), known[:SHOWN_CANDIDATES]
    for one in [*best, *(own for own in decision.alternatives if own not in best)]:
        is_chosen = (one.batch_size, one.lr) == chosen
        if is_chosen or one in best:
            yield _cells(one), is_chosen


def limit_words(decision: DecisionRecord) -> str:
    """Return why something else was applied than asked for; empty where nothing was."""
    if not decision.limit:
        return ""
    asked = configuration_words(decision.requested_batch_size, decision.requested_lr)
    return f"{asked} was asked for; {decision.limit}"


def target_words(decision: DecisionRecord) -> str:
    """Return where a decision steers to."""
    return "-" if decision.target is None else place_words(*decision.target)


def _cells(candidate: Candidate) -> tuple[str, ...]:
    score = f"{loss_words(candidate.score)} ± {loss_words(candidate.uncertainty)}" if candidate.known else "not known"
    return (
        configuration_words(candidate.batch_size, candidate.lr),
        score,
        seconds_words(candidate.seconds),
        position_words(candidate.c_bar),
        position_words(candidate.l_cum),
    )


def _ending(record: RunRecord) -> Text:
    summary = record.summary
    if summary is None:
        return Text(f"Not finished: {record.how_to_go_on}.", style="bold")
    how = "finished" if summary.stopped_because == "finished" else f"ended early: {summary.stopped_because}"
    of = f" of {record.config.task.epochs}" if summary.ended_early else ""
    epochs = "epoch" if summary.epochs == 1 and not of else "epochs"
    text = Text(f"The run {how} after {epoch_words(summary.epochs)}{of} {epochs}", style="bold")
    of_variance = "" if summary.deviations is None else " (1 - R²)"
    figures = {
        "validation loss": loss_words(summary.validation_loss),
        f"validation error{of_variance}": percent_words(summary.validation_error),
        f"test error{of_variance}": percent_words(summary.test_error),
    }
    known = [f"{name} {words}" for name, words in figures.items() if words != loss_words(math.nan)]
    text.append(f": {', '.join(known)}." if known else ".", style="not bold")
    if summary.stopped_because != "finished":
        text.append(f"\nWhat to do: {diverged_words(record)}.", style="not bold")
    if summary.ended_early:
        text.append(f"\nIt was ended by the policy: {summary.ended_early}.", style="not bold")
    if record.library is not None and summary.c_bar and summary.l_cum:
        place = displacement_words(Landscape.fit(record.library).displacement(summary.c_bar, summary.l_cum).tolist())
        text.append(f"\nAt the end {place_words(summary.c_bar, summary.l_cum)}: {place}.", style="not bold")
    return text
