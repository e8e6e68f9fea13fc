"""What writes a run's files while it trains, one of ``autobatch run`` or of a loop of one's own."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from autobatch._plain import Epochs
from autobatch._steps import epochs_of
from autobatch.control._decision_record import DecisionRecord
from autobatch.control.measuring import MeasuredStep
from autobatch.control.run._files import append_lines, write_lines
from autobatch.control.run._records import (
    DECISIONS,
    EPOCHS,
    MEASUREMENTS,
    SUMMARY,
    EpochRow,
    Summary,
    load_decisions,
    load_epochs,
    load_measurements,
    summed,
)

_PASSED = 1e-9


class RunFiles:
    """Keeps the epochs and decisions of a training, and writes them into a run directory where there is one.

    Each write is whole or not at all; one that fails raises an OutputError.

    Args:
        out: the run directory; None keeps them in memory alone.
        parts: rows of an epoch.

    Attributes:
        epochs: the finished epochs.
        decisions: the decisions, the first one made before the first epoch.
        summary: how the training ended; None while it has not.
    """

    def __init__(self, out: Path | None, parts: int = 1) -> None:
        self.out = out
        self._parts = parts
        self.epochs: list[EpochRow] = []
        self.decisions: list[DecisionRecord] = []
        self.summary: Summary | None = None

    def begin(self) -> None:
        """Write what was decided before the first epoch, in place of what a run that was cut there has left."""
        if self.out is not None:
            for name in (EPOCHS, MEASUREMENTS):
                (self.out / name).unlink(missing_ok=True)
            write_lines(self.out / DECISIONS, [one.to_dict() for one in self.decisions])

    def load(self) -> None:
        """Take over what the directory holds."""
        if self.out is not None:
            self.epochs, self.decisions = load_epochs(self.out), load_decisions(self.out)

    def cut(self, *, progress: float, examples: int, steps: int, last: DecisionRecord) -> None:
        """Drop what came after such a progress, examples and steps; ``last`` is in force where no decision is left."""
        self.epochs = [row for row in self.epochs if row.examples <= examples]
        self.decisions = [one for one in self.decisions if one.progress <= progress + _PASSED] or [last]
        if self.out is not None:
            samples = [sample for sample in load_measurements(self.out) if sample.step <= steps]
            for name, rows in ((EPOCHS, self.epochs), (DECISIONS, self.decisions), (MEASUREMENTS, samples)):
                write_lines(self.out / name, [row.to_dict() for row in rows])
            (self.out / SUMMARY).unlink(missing_ok=True)

    def decided(self, decision: DecisionRecord) -> None:
        """Take down a decision; one for the same place takes the place of the one before."""
        again = bool(self.decisions) and self.decisions[-1].example == decision.example
        if again:
            self.decisions.pop()
        self.decisions.append(decision)
        if again:
            self._write(lambda out: write_lines(out / DECISIONS, [one.to_dict() for one in self.decisions]))
        else:
            self._write(lambda out: append_lines(out / DECISIONS, [decision.to_dict()]))

    def measured(self, samples: Iterable[MeasuredStep]) -> None:
        """Take down the measured steps of a period."""
        rows = [sample.to_dict() for sample in samples]
        self._write(lambda out: append_lines(out / MEASUREMENTS, rows))

    def epoch(self, row: EpochRow) -> None:
        """Take down an epoch."""
        self.epochs.append(row)
        self._write(lambda out: append_lines(out / EPOCHS, [row.to_dict()]))

    def summed_up(self, config: Any, seconds: float, thrown: Sequence[Any] = (), **facts: Any) -> Summary:
        """Return a summary of what was taken down.

        Args:
            config: what the run was: task, policy, seed.
            seconds: its wall time.
            thrown: records of scouts and forks that lost, whose cost counts.
            facts: a summary's other fields.
        """
        return Summary(
            task=config.task.name,
            policy=config.policy.name,
            seed=config.seed,
            **summed(self.epochs[-1], seconds, thrown),
            batch_sizes=self._spent(),
            **facts,
        )

    def _spent(self) -> dict[int, Epochs]:
        """Return the epochs spent at each batch size."""
        spent: Counter[int] = Counter()
        spent.update(row.batch_size for row in self.epochs)
        return {size: epochs_of(number, self._parts) for size, number in sorted(spent.items())}

    def ended(self, summary: Summary) -> None:
        """Take down how the training ended."""
        self.summary = summary
        self._write(summary.save)

    def _write(self, write: Callable[[Path], Any]) -> None:
        if self.out is not None:
            write(self.out)
