"""The parts of a page: runs of one task, each with its own name and colour, and the beacons beside them."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from autobatch._artefacts import told_path
from autobatch._errors import LibraryError
from autobatch._plain import Epochs
from autobatch.beacons import BeaconLibrary, Landscape
from autobatch.control import DecisionRecord
from autobatch.report._comparison import Comparison, compare, verdict
from autobatch.report._record import RunRecord
from autobatch.report._summary import without_comparison
from autobatch.report._words import epoch_words
from autobatch.training import EpochRow

COLOURS = 7
"""Colours of runs, ``--run-0`` and so on in the style sheet; the eighth run has the first colour and another mark."""

_MARKS = ("circle", "square", "diamond", "triangle-up", "pentagon", "hexagon", "triangle-down", "star")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SIGNS = ("disc", "ring", "block", "frame", "disc")


@dataclass(frozen=True, eq=False)
class ReportedRun:
    """A run on a page.

    Attributes:
        record: the run.
        number: its place in its section, from 0.
        label: what tells it from the others there.
    """

    record: RunRecord
    number: int
    label: str

    @property
    def group(self) -> str:
        """Name of everything that is shown or hidden with the run."""
        return f"run-{self.number}"

    @property
    def colour(self) -> str:
        """Its colour, from the style sheet."""
        return f"var(--run-{self.number % COLOURS})"

    @property
    def mark(self) -> str:
        """Its mark in the plane."""
        return _MARKS[(self.number + self.number // COLOURS) % len(_MARKS)]

    @property
    def sign(self) -> str:
        """Its sign in legends, among those of the same colour."""
        return _SIGNS[self.number // COLOURS % len(_SIGNS)]

    @property
    def dash(self) -> str:
        """Its line."""
        return _DASHES[self.number // COLOURS % len(_DASHES)]

    @cached_property
    def comparison(self) -> Comparison | None:
        """The beacons beside it; None where there is nothing to compare with."""
        refused = self.record.summary is not None and self.record.summary.best_beacon is None
        if self.record.library is None or refused:
            return None
        try:
            summary, record = self.record.summary, self.record
            thrown = ((), ()) if summary is None else (summary.scouts, summary.forks)
            return compare(record.epochs, record.config.costs, self.record.library, *thrown)
        except LibraryError:
            return None

    @cached_property
    def decisions(self) -> dict[Epochs, DecisionRecord]:
        """Its decisions by the epoch after which they were made."""
        return {decision.epoch: decision for decision in self.record.decisions}

    @property
    def measured(self) -> bool:
        """Whether it has a position in the plane after any epoch."""
        return any(has_place(row) for row in self.record.epochs)

    def verdict(self) -> tuple[str, str]:
        """Return what kind of judgement there is (``gain``, ``no-gain``, ``open`` or ``none``), and it in words."""
        summary, comparison = self.record.summary, self.comparison
        if summary is None:
            rows, epochs = self.record.epochs, self.record.planned_epochs
            if self.record.scouts_are_training:
                return "open", "Not begun: its scouts are training."
            return "open", f"Not finished: {epoch_words(rows[-1].epoch if rows else 0)} of {epochs} epochs so far."
        if comparison is None:
            early = "" if summary.stopped_because == "finished" else f"Ended early: {summary.stopped_because}. "
            return "none", f"{early}{without_comparison(self.record)}"
        words = verdict(summary, comparison)
        return ("gain" if words.startswith("Gain") else "no-gain"), words


@dataclass(frozen=True, eq=False)
class Section:
    """Runs that are compared with one another, since their task is the same.

    Attributes:
        number: its place on the page, from 0.
        runs: the runs.
        library: the beacons of their task; None where there are none.
        landscape: the landscape at the end of training; None where the beacons have none.
    """

    number: int
    runs: tuple[ReportedRun, ...]
    library: BeaconLibrary | None
    landscape: Landscape | None

    @property
    def task(self) -> str:
        """The task's name."""
        return self.runs[0].record.config.task.name

    @property
    def score(self) -> str:
        """The figure that ranks runs."""
        return self.runs[0].record.config.task.score


def sections(records: Sequence[RunRecord]) -> list[Section]:
    """Put runs of the same task together, in the order of the runs."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        task = record.config.task
        payload = {"name": task.name, "score": task.score, **task.fingerprint_payload("", 0)}
        groups.setdefault(json.dumps(payload, sort_keys=True), []).append(record)
    return [_section(number, group) for number, group in enumerate(groups.values())]


def has_place(row: EpochRow) -> bool:
    """Whether an epoch ended at a position that logarithmic axes can show."""
    return row.c_bar > 0 and row.l_cum > 0 and math.isfinite(row.c_bar) and math.isfinite(row.l_cum)


def _section(number: int, records: Sequence[RunRecord]) -> Section:
    library = next((record.library for record in records if record.library is not None), None)
    landscape = None
    if library is not None:
        with suppress(LibraryError):
            landscape = Landscape.fit(library)
    runs = [ReportedRun(record, place, label) for place, (record, label) in enumerate(_labelled(records))]
    return Section(number, tuple(runs), library, landscape)


def _labelled(records: Sequence[RunRecord]) -> Iterable[tuple[RunRecord, str]]:
    names = [f"{record.config.policy.name}, seed {record.config.seed}" for record in records]
    often = Counter(names)
    for record, name in zip(records, names, strict=True):
        yield record, name if often[name] == 1 else f"{name} ({told_path(record.path)})"
