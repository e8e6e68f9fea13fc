"""A controller's own log: what it did epoch by epoch, in memory, and on disk as a run directory."""

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from autobatch._errors import OutputError
from autobatch._files import alone_in, naming_output
from autobatch.beacons import BeaconLibrary
from autobatch.control.run._best import best_beacon
from autobatch.control.run._loop import LoopConfig, is_loop, load_loop_config
from autobatch.control.run._records import (
    CONFIG,
    Summary,
    refuse_occupied,
)
from autobatch.control.run._writing import RunFiles

_LOG = logging.getLogger("autobatch")


class RunLog(RunFiles):
    """What a controller keeps; training goes on where a write fails.

    A controller does not know at first whether it begins anew or goes on from a state that is loaded later. So nothing
    is written before ``begin`` or ``resume``.

    Args:
        config: what the run is.
        out: the run directory; None keeps it in memory alone.
        library: beacons to be compared with.
        first_does: has the first of several ranks do something, and all of them fail where it fails.

    Attributes:
        library: the beacons.
    """

    def __init__(
        self,
        config: LoopConfig,
        out: Path | None,
        library: BeaconLibrary | None,
        first_does: Callable[[Callable[[], None]], object] = lambda do: do(),
    ) -> None:
        super().__init__(out)
        self.config = config
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
        refuse_occupied(self.out, _INSTEAD)
        self._enter()
        try:
            # Another run may have come and gone before the directory was this one's.
            refuse_occupied(self.out, _INSTEAD)
        except OutputError:
            self.close()
            raise
        self.config.save(self.out)
        super().begin()

    def resume(self, **where: Any) -> None:
        """Go on from a state: what was written after it is void.

        Args:
            where: where the training goes on, as ``cut`` takes it.

        Raises:
            OutputError: the directory cannot be written, or holds another run.
            CheckpointError: a file in it is damaged.
        """
        self.summary, self._begun = None, True
        known = self.out is not None and (self.out / CONFIG).exists()
        if known:
            self._check_same()
            self.load()
        if self.out is not None:
            self._enter()
            if not known:
                self.config.save(self.out)
        self.cut(**where)

    def end(self, stopped: str | None, facts: dict[str, Any]) -> None:
        """Take down that the training is over; ``facts`` are what a summary holds besides what the epochs tell."""
        if self.epochs and self.summary is None:
            self.ended(self._summary(stopped, facts))

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

    def _write(self, write: Callable[[Path], Any]) -> None:
        if not self._open:
            return
        try:
            super()._write(write)
        except (OutputError, OSError) as error:
            if not self._failed:
                self._failed = True
                _LOG.warning("out: training goes on, and its run directory is not complete: %s", error)

    def _summary(self, stopped: str | None, facts: dict[str, Any]) -> Summary:
        row = self.epochs[-1]
        lost = next((name for name in _FIGURES if math.isinf(getattr(row, name))), None)
        how = "finished" if lost is None else f"diverged: the {lost.replace('_', ' ')} is not finite"
        if stopped is not None and stopped.startswith("diverged: "):
            how, stopped = stopped, None
        best, missing = (None, "the controller was given none") if self.library is None else best_beacon(self.library)
        return self.summed_up(
            self.config,
            row.seconds,
            device=self.config.device,
            stopped_because=how,
            test_error=None,
            test_loss=None,
            ended_early=stopped,
            best_beacon=best,
            best_beacon_missing=missing,
            **facts,
        )


_FIGURES = ("train_loss", "validation_loss", "validation_error")
_WRITING: WeakValueDictionary[Path, RunLog] = WeakValueDictionary()
"""The logs of this program that write, by directory."""

_INSTEAD = "go on with it by load_state_dict() before the first batch"
