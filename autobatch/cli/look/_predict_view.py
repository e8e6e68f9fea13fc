"""A prediction as a person reads it: the position, what it promises, the best beacons, and how far to trust it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autobatch.beacons import BeaconLibrary, FinalPrediction, Landscape, PredictionQuality, RunPlace
from autobatch.report import loss_words, percent_words
from autobatch.report._story import displacement_words
from autobatch.report._tables import headed, named_facts
from autobatch.report._words import configuration_words, place_words
from autobatch.training import Summary

WEAK = 0.5
"""Rank correlation below which a prediction is said to be no ground for a choice."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to in the end.

    Attributes:
        validation_loss: final validation loss; NaN where it is not known.
        validation_error: final validation error; NaN where it is not known.
        test_error: final test error; NaN where it is not known.
        early: why the run ended early; empty where it finished.
    """

    validation_loss: float
    validation_error: float
    test_error: float = math.nan
    early: str = ""

    @classmethod
    def of(cls, summary: Summary) -> "Outcome":
        """Return the outcome that a summary states."""
        loss, error, test = (
            math.nan if value is None else value
            for value in (summary.validation_loss, summary.validation_error, summary.test_error)
        )
        return cls(loss, error, test, "" if summary.stopped_because == "finished" else summary.stopped_because)

    def figure(self, name: str) -> float:
        """Return a figure by the name that beacons have for it."""
        value: float = getattr(self, name)
        return value


@dataclass(frozen=True)
class Told:
    """What is known of a run besides where it stood.

    Attributes:
        title: what to call it.
        configuration: batch size and base learning rate that it goes on with.
        outcome: what it came to; None while it goes on.
        switched: whether its configuration has changed so far.
        same_task: whether its task was compared with the library's.
    """

    title: str
    configuration: tuple[int, float]
    outcome: Outcome | None
    switched: bool
    same_task: bool


def prediction_view(
    prediction: FinalPrediction,
    table: Sequence[PredictionQuality],
    library: BeaconLibrary,
    place: RunPlace,
    told: Told,
) -> RenderableType:
    """Return what ``autobatch predict`` prints."""
    text = Text(told.title, style="bold")
    epochs = place.epoch / place.progress
    ended = f"epoch {place.epoch} of {epochs:.0f}, " if place.epoch and abs(epochs - round(epochs)) < 1e-6 else ""
    text.append(f" after {ended}{_share(place.progress)} of the training\n", style="not bold")
    interpolated = next((one.measured_at for one in table if one.measured_at > one.progress), None)
    notes = "\n".join(_notes(prediction, library, told, interpolated))
    return Group(
        text,
        _facts(prediction, library, told),
        _best(prediction),
        _quality(prediction, table),
        Text(f"\n{notes}" if notes else "", style="yellow"),
    )


def _facts(prediction: FinalPrediction, library: BeaconLibrary, told: Told) -> Table:
    facts = named_facts()
    where = Landscape.fit(library, prediction.progress).displacement(prediction.c_bar, prediction.l_cum)
    place = place_words(prediction.c_bar, prediction.l_cum)
    facts.add_row("Stands at", f"{place}: {displacement_words(where.tolist())}")
    facts.add_row("", _known(prediction))
    own = configuration_words(prediction.batch_size, prediction.lr)
    facts.add_row("Going on", f"with {own} to the end, of which there {_beacons(prediction, library)}")
    low, high = prediction.interval
    figure = _name(prediction.figure)
    facts.add_row(
        "Predicted",
        Text(f"final {figure} {_words(prediction.figure, prediction.score)}", style="bold").append(
            f", {_words(prediction.figure, low)} to {_words(prediction.figure, high)} "
            f"for {_share(prediction.level)} of such runs",
            style="not bold",
        ),
    )
    others = [f"{_name(name)} {_words(name, value)}" for name, value in prediction.figures.items()]
    if others:
        facts.add_row("", f"and {', '.join(others)} (without an interval)")
    first, last = prediction.rank_interval
    facts.add_row(
        "Rank",
        Text(f"{prediction.rank} of {prediction.configurations} configurations", style="bold").append(
            f", {first} to {last} by the interval; 1 is the best", style="not bold"
        ),
    )
    if told.outcome is not None:
        facts.add_row("Came to", _outcome(prediction, told.outcome))
    return facts


def _beacons(prediction: FinalPrediction, library: BeaconLibrary) -> str:
    found = library.beacons_at(prediction.batch_size, prediction.lr)
    diverged = sum(not beacon.finished for beacon in found)
    count = {0: "is no beacon", 1: "is one beacon"}.get(len(found), f"are {len(found)} beacons")
    return f"{count}, {diverged} of which diverged" if diverged else count


def _known(prediction: FinalPrediction) -> str:
    if prediction.known and prediction.known_end:
        return "Beacons stood near there at this time, and ended near where this run leads."
    if prediction.known:
        return "Beacons stood near there at this time, but none ended near where this run leads: an extrapolation."
    if prediction.known_end:
        return "No beacon stood near there at this time, though some ended near where this run leads: take care."
    return "No beacon stood near there, and none ended near where this run leads: an extrapolation."


def _outcome(prediction: FinalPrediction, outcome: Outcome) -> str:
    actual = outcome.figure(prediction.figure)
    if outcome.early:
        return f"it ended early: {outcome.early}"
    if not math.isfinite(actual):
        return f"the run is finished, but its final {_name(prediction.figure)} is not known"
    low, high = prediction.interval
    inside = "inside" if low <= actual <= high else "outside"
    others = [
        f", {_name(name)} {_words(name, outcome.figure(name))}"
        for name in prediction.figures
        if math.isfinite(outcome.figure(name))
    ]
    words = _words(prediction.figure, actual)
    return f"{_name(prediction.figure)} {words}, {inside} the interval{''.join(others)}"


def _best(prediction: FinalPrediction) -> Table:
    figure = _name(prediction.figure)
    headings = ("rank", "configuration", "its beacons", "a new run of it", "this run, switched now")
    note = "ended at, mean ± deviation over seeds; predicted, by the landscape of where beacons ended, for both"
    table = headed(*headings, words=("configuration",), title=f"\nBest beacons, by {figure}", note=note)
    for rank, one in enumerate(prediction.best, start=1):
        spread = f" ± {_words(prediction.figure, one.spread)}" if math.isfinite(one.spread) else ""
        table.add_row(
            str(rank),
            configuration_words(one.batch_size, one.lr),
            _words(prediction.figure, one.score) + spread,
            _words(prediction.figure, one.fresh),
            _words(prediction.figure, one.switched) if one.known else "not known",
        )
    return table


def _quality(prediction: FinalPrediction, table: Sequence[PredictionQuality]) -> Table:
    figure = _name(prediction.figure)
    unit = "of the logarithm, about a relative error" if figure.endswith("loss") else "as it is"
    shown = headed(
        "after",
        "predicted without",
        "runs (configurations)",
        "rank correlation",
        f"that of the {figure} then",
        "regret",
        "error",
        f"in the {_share(prediction.quality.level)} interval",
        words=("predicted without",),
        title="\nHow good such predictions are on these beacons",
        note="one run of every configuration that finished, averaged over seeds; regret: what the one predicted best "
        f"ended above the best; error: root mean square, {unit}",
    )
    now = [one for one in (prediction.quality, prediction.seed_quality) if one is not None]
    for one in table:
        if one != prediction.quality:
            shown.add_row(*_cells(one, prediction.figure))
    for one in now:
        cells = _cells(one, prediction.figure)
        shown.add_row(f"{cells[0]}, now", *cells[1:], style="bold")
    return shown


def _cells(quality: PredictionQuality, figure: str) -> list[str]:
    interpolated = "" if quality.measured_at == quality.progress else "*"
    return [
        _share(quality.progress) + interpolated,
        f"its {quality.held_out}",
        f"{quality.runs} ({quality.configurations})",
        _two(quality.rank_correlation),
        _two(quality.early_rank_correlation),
        _words(figure, quality.regret),
        _two(quality.error) if figure.endswith("loss") else percent_words(quality.error),
        f"{100 * quality.coverage:.0f} %" if math.isfinite(quality.coverage) else "-",
    ]


def _notes(prediction: FinalPrediction, library: BeaconLibrary, told: Told, interpolated: float | None) -> list[str]:
    notes = _warnings(prediction, library)
    asked = prediction.quality.level
    if not told.same_task:
        notes.append(
            f"That the run is of the task '{library.task_name}' (data, model, optimizer, schedule, length) is taken on "
            "trust: it has no config.yaml of 'autobatch run'."
        )
    if told.switched:
        notes.append("This run has changed its configuration, which no beacon did: the figures above are not of such.")
    if prediction.within_first_epoch:
        notes.append(
            "The run stands within its first epoch, where nothing is recorded: the beacons' positions are interpolated."
        )
    if prediction.level < asked:
        notes.append(
            f"{_share(asked)} was asked for; {prediction.quality.configurations} configurations that finished vouch "
            f"for {_share(prediction.level)} at most, with the largest error among them."
        )
    if interpolated is not None:
        notes.append(
            f"* within the first epoch nothing is recorded; the figures are of its end, after {_share(interpolated)}."
        )
    return notes


def _warnings(prediction: FinalPrediction, library: BeaconLibrary) -> list[str]:
    warnings = []
    if any(not beacon.finished for beacon in library.beacons_at(prediction.batch_size, prediction.lr)):
        warnings.append("Beacons of this configuration diverged: expect that of this run, whatever the figures say.")
    quality, figure = prediction.quality, _name(prediction.figure)
    if not quality.rank_correlation >= WEAK:
        warnings.append(
            f"A rank correlation of {_two(quality.rank_correlation)} is too little to choose a new configuration by."
        )
    if quality.early_rank_correlation > quality.rank_correlation:
        warnings.append(
            f"The {figure} at this time ranks new configurations better here ({_two(quality.early_rank_correlation)} "
            f"against {_two(quality.rank_correlation)}): look at that as well."
        )
    return warnings


def _share(share: float) -> str:
    return f"{100 * share:.3g} %"


def _two(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _name(figure: str) -> str:
    return figure.replace("_", " ")


def _words(figure: str, value: float) -> str:
    return loss_words(value) if figure.endswith("_loss") else percent_words(value)
