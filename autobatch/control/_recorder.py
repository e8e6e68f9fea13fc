"""One record a decision, for whoever tracks the training."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autobatch._plain import plain
from autobatch.beacons import BeaconLibrary, Landscape
from autobatch.control._decision_record import DecisionRecord
from autobatch.policies._wording import brief
from autobatch.tracking import SafeLogger, make_logger

if TYPE_CHECKING:
    from autobatch.tracking import Logger

_LOG = logging.getLogger("autobatch")


class Recorder:
    """Tells loggers of decisions.

    Args:
        loggers: what gets the records, or names such as ``"csv:run.csv"``.
        library: beacons, for the position against the optimum region.
    """

    def __init__(self, loggers: Sequence["Logger | str"], library: BeaconLibrary | None) -> None:
        self._loggers = tuple(
            SafeLogger(make_logger(logger) if isinstance(logger, str) else logger) for logger in loggers
        )
        self._library = library
        self._last = (0, 0.0)
        self._advised: tuple[int, float | None, bool, bool] | None = None

    def record(self, decision: DecisionRecord, figures: Mapping[str, float], **state: Any) -> None:
        """Give the loggers the record of a decision, or of the end of the training."""
        if not self._loggers:
            return
        examples, seconds = int(state["examples"]), float(state["seconds"])
        before, then = self._last
        self._last = (examples, seconds)
        region = self._region(state["progress"], state["c_bar"], state["l_cum"])
        record = {
            **state,
            "region_c": region[0],
            "region_l": region[1],
            "requested_batch_size": decision.requested_batch_size,
            "batch_size": decision.batch_size,
            "micro_batch": decision.micro_batch,
            "accumulation": decision.accumulation,
            "ranks": decision.ranks,
            "lr": decision.lr,
            "changed": decision.changed,
            "reason": decision.reason,
            "limit": decision.limit,
            "examples_per_second": (examples - before) / max(seconds - then, 1e-9) if examples > before else None,
            "measuring_share": state["measuring_seconds"] / seconds if examples else None,
            **figures,
        }
        known = {key: plain(value) for key, value in record.items()}
        for logger in self._loggers:
            logger.log(known, examples)

    def resume(self, examples: int, seconds: float) -> None:
        """Tell the loggers that the training goes on from a checkpoint, after ``seconds`` of wall time."""
        self._last = (examples, seconds)
        for logger in self._loggers:
            logger.resume(examples)

    def tell(self, decision: DecisionRecord, *, advice: bool = False) -> None:
        """Log a decision that something begins with, or that could not be applied as it was asked for.

        Args:
            decision: the decision.
            advice: whether decisions are only advice; it is told again where it has changed, the rate's fall once.
        """
        said = decision.limit or ""
        asked = (decision.requested_batch_size, decision.requested_lr, "advice: stop" in said, " of " in said)
        news = asked != self._advised if advice else decision.turn or bool(decision.limit)
        if news:
            self._advised = asked
            _LOG.log(
                told_at(advice=advice),
                "epoch %d (%.0f %%): batch size %d, base rate %.4g%s: %s%s",
                math.floor(decision.epoch) + 1,
                100 * decision.progress,
                decision.batch_size,
                decision.lr,
                " in use" if advice else "",
                brief(decision.reason),
                f" ({decision.limit})" if decision.limit else "",
            )

    def begin(self) -> None:
        """Tell the loggers that the first batches are handed out."""
        for logger in self._loggers:
            logger.begin()

    def close(self) -> None:
        """Close the loggers."""
        for logger in self._loggers:
            logger.close()

    def _region(self, progress: float, c_bar: float, l_cum: float) -> tuple[float | None, float | None]:
        if self._library is None or not progress or not math.isfinite(c_bar):
            return None, None
        delta = Landscape.fit(self._library, progress).displacement(c_bar, l_cum)
        return float(delta[0]), float(delta[1])


def told_at(*, advice: bool) -> int:
    """Return the level that a decision is logged at; advice would be seen by nobody where logging was not set up."""
    return logging.WARNING if advice and not _LOG.hasHandlers() else logging.INFO
