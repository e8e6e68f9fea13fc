"""A controller's own log: what it did epoch by epoch, in memory, and on disk as a run directory."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from autobatch._errors import OutputError
from autobatch._files import alone_in, naming_output, write_whole
from autobatch._plain import to_json
from autobatch.beacons import BeaconLibrary
from autobatch.control._decisions import DecisionRecord
from autobatch.control.measuring import Measurement
from autobatch.control.run._best import best_beacon
from autobatch.control.run._files import append_lines, read_lines
from autobatch.control.run._loop import LoopConfig, is_loop, load_loop_config
from autobatch.control.run._records import (
    CONFIG,
    DECISIONS,
    EPOCHS,
    MEASUREMENTS,
    RUN_FILES,
    SUMMARY,
    EpochRow,
    Summary,
    load_decisions,
    load_epochs,
    summed,
)

_LOG = logging.getLogger("autobatch")
_PASSED = 1e-9


class RunLog:
    """Keeps the epochs and decisions of a training, and writes them into a run directory where there is one.

    A controller does not know at first whether it begins anew or goes on from a state that is loaded later. So nothing
    is written before ``begin`` or ``resume``.

    Args:
        config: what the run is; None leaves it in memory alone.
        out: the run directory; None keeps it in memory alone.
        library: beacons to be compared with.
        first_does: has the first of several ranks do something, and all of them fail where it fails.

    Attributes:
        epochs: the finished epochs.
        decisions: the decisions, the first one made before the first epoch.
        summary: how the training ended; None while it has not.
        library: the beacons.
    """

    def __init__(
        self,
        config: LoopConfig,
        out: Path | None,
        library: BeaconLibrary | None,
        first_does: Callable[[Callable[[], None]], object] = lambda do: do(),
    ) -> None:
        self.config = config
        self.out = out
        self.epochs: list[EpochRow] = []
        self.decisions: list[DecisionRecord] = []
        self.summary: Summary | None = None
        self.library = library
        self._first_does = first_does
        self._begun = False
        self._lock = ExitStack()
        self._open = False
        self._failed = False

    def begin(self) -> None:
        """Begin to write, as the first batches are handed out; refused in a directory that holds a run already."""
        if not self._begun:
            self._first_does(self._begin)
            self._begun = True

    def _begin(self) -> None:
        if self.out is None:
            return
        _refuse_occupied(self.out)
        self._enter()
        try:
            _refuse_occupied(self.out)  # another run may have come and gone before the directory was this one's
        except OutputError:
            self.close()
            raise
        self.config.save(self.out)
        self._write(DECISIONS, [one.to_dict() for one in self.decisions])

    def resume(self, *, progress: float, examples: int, steps: int, last: DecisionRecord) -> None:
        """Go on from a state: what was written after it is void.

        Args:
            progress: progress of the training that goes on.
            examples: training examples seen.
            steps: optimizer steps taken.
            last: the decision in force.

        Raises:
            OutputError: the directory cannot be written, or holds another run.
            CheckpointError: a file in it is damaged.
        """
        self.summary, self._begun = None, True
        if self.out is None:
            self._cut(progress, examples, last)
            return
        known = (self.out / CONFIG).exists()
        if known:
            self._check_same()
            self.epochs, self.decisions = load_epochs(self.out), load_decisions(self.out)
        self._enter()
        self._cut(progress, examples, last)
        if not known:
            self.config.save(self.out)
        kept = [row for row in read_lines(self.out / MEASUREMENTS) if int(row["step"]) <= steps]
        for name, rows in (
            (EPOCHS, [row.to_dict() for row in self.epochs]),
            (DECISIONS, [one.to_dict() for one in self.decisions]),
            (MEASUREMENTS, kept),
        ):
            self._write(name, rows)
        (self.out / SUMMARY).unlink(missing_ok=True)

    def decided(self, decision: DecisionRecord) -> None:
        """Take down a decision; one for the same place takes the place of the one before."""
        again = bool(self.decisions) and self.decisions[-1].example == decision.example
        if again:
            self.decisions.pop()
        self.decisions.append(decision)
        if again:
            self._try(lambda out: self._write(DECISIONS, [one.to_dict() for one in self.decisions]))
        else:
            self._try(lambda out: append_lines(out / DECISIONS, [decision.to_dict()]))

    def measured(self, samples: Iterable[Measurement]) -> None:
        """Take down the measured steps of a period."""
        rows = [sample.to_dict() for sample in samples]
        if rows:
            self._try(lambda out: append_lines(out / MEASUREMENTS, rows))

    def epoch(self, row: EpochRow) -> None:
        """Take down an epoch."""
        self.epochs.append(row)
        self._try(lambda out: append_lines(out / EPOCHS, [row.to_dict()]))

    def end(self, stopped: str | None, facts: dict[str, Any]) -> None:
        """Take down that the training is over; ``facts`` are what a summary holds besides what the epochs tell."""
        if not self.epochs or self.summary is not None:
            return
        self.summary = self._summary(stopped, facts)
        content = (self.summary.model_dump_json(indent=2) + "\n").encode()
        self._try(lambda out: write_whole(out / SUMMARY, content))

    def close(self) -> None:
        """Let go of the directory."""
        self._open = False
        self._lock.close()

    def _enter(self) -> None:
        assert self.out is not None
        with naming_output(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        place = self.out.resolve()
        before = _WRITING.get(place)
        if before is not None and before is not self:  # an earlier controller of this program, such as of a notebook
            before.close()
        if not self._open:
            self._lock.enter_context(alone_in(self.out, busy="another process trains this run; choose another 'out'"))
        self._open = True
        _WRITING[place] = self

    def _check_same(self) -> None:
        assert self.out is not None
        other = None if is_loop(self.out) else "of 'autobatch run'"
        if other is None:
            mine, theirs = (one.model_dump(mode="json") for one in (self.config, load_loop_config(self.out)))
            differing = [key for key in ("task", "policy", "seed") if mine[key] != theirs[key]]
            other = f"with another {' and '.join(differing)}" if differing else None
        if other is not None:
            raise OutputError(f"out={str(self.out)!r}: holds a run {other}; choose another directory")

    def _cut(self, progress: float, examples: int, last: DecisionRecord) -> None:
        self.epochs = [row for row in self.epochs if row.examples <= examples]
        self.decisions = [one for one in self.decisions if one.progress <= progress + _PASSED] or [last]

    def _write(self, name: str, rows: Iterable[Any]) -> None:
        assert self.out is not None
        write_whole(self.out / name, "".join(to_json(row) + "\n" for row in rows).encode())

    def _try(self, write: Any) -> None:
        """Write where the directory is open; training goes on where that fails."""
        if not self._open or self.out is None:
            return
        try:
            write(self.out)
        except (OutputError, OSError) as error:
            if not self._failed:
                self._failed = True
                _LOG.warning("out: training goes on, and its run directory is not complete: %s", error)

    def _summary(self, stopped: str | None, facts: dict[str, Any]) -> Summary:
        row = self.epochs[-1]
        best, missing = (None, "the controller was given none") if self.library is None else best_beacon(self.library)
        lost = next((name for name in _FIGURES if math.isinf(getattr(row, name))), None)
        how = "finished" if lost is None else f"diverged: the {lost.replace('_', ' ')} is not finite"
        if stopped is not None and stopped.startswith("diverged: "):
            how, stopped = stopped, None
        return Summary(
            task=self.config.task.name,
            policy=self.config.policy.name,
            seed=self.config.seed,
            device=self.config.device,
            stopped_because=how,
            test_error=None,
            test_loss=None,
            **summed(row, row.seconds),
            batch_sizes=dict(sorted(Counter(one.batch_size for one in self.epochs).items())),
            ended_early=stopped,
            best_beacon=best,
            best_beacon_missing=missing,
            **facts,
        )


_FIGURES = ("train_loss", "validation_loss", "validation_error")
_WRITING: WeakValueDictionary[Path, RunLog] = WeakValueDictionary()
"""The logs of this program that write, by directory."""


def _refuse_occupied(out: Path) -> None:
    found = next((name for name in RUN_FILES if (out / name).exists()), None)
    if found is not None:
        raise OutputError(
            f"out={str(out)!r}: holds a run already ({found}); go on with it by load_state_dict() before the first "
            "batch, or choose another directory"
        )
