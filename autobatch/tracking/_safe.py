"""A training does not die of its logger."""

import logging
from collections.abc import Callable, Mapping

from autobatch._errors import ConfigError
from autobatch.tracking._protocol import Logger, Scalar

_logger = logging.getLogger("autobatch")


class SafeLogger:
    """Passes records on to a logger and outlives whatever it raises.

    The first failure is a warning that names the logger, through ``logging``. Later records are still tried, so a
    logger may recover; what was lost by then is said on closing. KeyboardInterrupt and SystemExit pass through.

    A training that is restored from a checkpoint looks like a new one at first: its controller decides at step 0, and
    learns only then that it goes on elsewhere. A logger that took that record would replace all there was. So a record
    at step 0 is held back until ``begin``, the next record or ``close``, and dropped by ``resume`` at a
    later step.

    Args:
        logger: the logger.

    Attributes:
        name: the class of the logger, as messages name it.
        failures: calls that failed.

    Raises:
        ConfigError: this is no logger.
    """

    def __init__(self, logger: Logger) -> None:
        if isinstance(logger, type) or not all(callable(getattr(logger, name, None)) for name in ("log", "close")):
            given = f"the class {logger.__name__}" if isinstance(logger, type) else repr(logger)
            raise ConfigError(f"loggers: expected objects with log(record, step) and close(), got {given}")
        self.name = type(logger).__name__
        self.failures = 0
        self._inner = logger
        self._held: dict[str, Scalar] | None = None

    def log(self, record: Mapping[str, Scalar], step: int) -> None:
        """Pass a copy of a record on.

        Args:
            record: the figures by name.
            step: training examples seen.
        """
        if step == 0:
            self._held = dict(record)
        else:
            self.begin()
            self._try("log", lambda: self._inner.log(dict(record), step))

    def begin(self) -> None:
        """Say that the training really begins where it stands; after ``resume`` this need not be said."""
        held, self._held = self._held, None
        if held is not None:
            self._try("log", lambda: self._inner.log(held, 0))

    def resume(self, step: int) -> None:
        """Tell the logger, where it wants to know, that the training goes on from ``step``.

        Args:
            step: training examples seen; records after it are void.
        """
        if step > 0:
            self._held = None
        resume = getattr(self._inner, "resume", None)
        if callable(resume):
            self._try("resume", lambda: resume(step))

    def close(self) -> None:
        """Close the logger."""
        self.begin()
        self._try("close", self._inner.close)
        if self.failures > 1:
            _logger.warning("%s: %d calls failed in all; what it shows is not complete", self.name, self.failures)
        self.failures = 0

    def _try(self, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self.failures += 1
            if self.failures == 1:
                _logger.warning(
                    "%s: %s() failed, training goes on without it: %s: %s",
                    self.name,
                    what,
                    type(error).__name__,
                    error,
                )
