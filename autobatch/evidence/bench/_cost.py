"""What a run has cost, in every unit that comparisons count by."""

from collections.abc import Sequence
from dataclasses import dataclass

from autobatch.beacons import CostTable
from autobatch.report._comparison import modelled_course
from autobatch.training import EpochRow, Summary


@dataclass(frozen=True)
class RunCost:
    """What one run has cost, measuring included.

    Attributes:
        seconds: time by the clock.
        modelled_seconds: time by the cost table.
        optimizer_steps: steps taken.
        examples: training examples seen.
        seconds_after: time by the clock after each epoch.
        modelled_after: time by the cost table after each epoch.
        examples_after: training examples seen after each epoch.
    """

    seconds: float
    modelled_seconds: float
    optimizer_steps: int
    examples: int
    seconds_after: list[float]
    modelled_after: list[float]
    examples_after: list[int]


def run_cost(summary: Summary, rows: Sequence[EpochRow], costs: CostTable) -> RunCost:
    """Return what a run has cost. This is the one place where comparisons take it from.

    What scouts and forks have thrown away is charged to the totals, where its summary has charged it already, and to
    the courses: time where it went by, examples to every entry.

    Args:
        summary: how the run ended.
        rows: its epochs.
        costs: the cost table of the comparison.

    Returns:
        Its cost.
    """
    modelled = modelled_course(list(rows), costs, summary.scouts, summary.forks)
    thrown = summary.examples - rows[-1].examples if rows else 0
    return RunCost(
        seconds=summary.seconds,
        modelled_seconds=modelled[-1] if modelled else 0.0,
        optimizer_steps=summary.optimizer_steps,
        examples=summary.examples,
        seconds_after=[row.seconds for row in rows],
        modelled_after=modelled,
        examples_after=[row.examples + thrown for row in rows],
    )
