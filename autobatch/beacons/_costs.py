"""Seconds by batch size: the only clock that a decision may depend on."""

from dataclasses import dataclass
from typing import Any

from autobatch._errors import ConfigError
from autobatch._steps import steps_per_epoch


@dataclass(frozen=True)
class CostTable:
    """What a step and a measurement cost, by batch size, on one kind of device.

    Attributes:
        device: kind of device, such as ``"cpu x86_64, 1 thread"``.
        step_seconds: seconds of one unmeasured optimizer step, by batch size.
        measuring_seconds: extra seconds of one measured step (capture, Gram matrix, spectrum), by batch size.
        epoch_seconds: seconds an epoch takes beyond its steps (validation, augmentation, records).
    """

    device: str
    step_seconds: dict[int, float]
    measuring_seconds: dict[int, float]
    epoch_seconds: float

    def training_seconds(self, batch_size: int, steps: float, epochs: float = 0.0) -> float:
        """Return the modelled seconds of unmeasured training.

        Args:
            batch_size: global batch size, one that the table holds.
            steps: optimizer steps.
            epochs: epochs whose fixed share is added.

        Returns:
            Seconds.

        Raises:
            ConfigError: the table does not hold the batch size.
        """
        return self._of(self.step_seconds, batch_size) * steps + self.epoch_seconds * epochs

    def whole_epochs(self, batch_size: int, train_size: int, epochs: int = 1) -> float:
        """Return the modelled seconds of unmeasured epochs at one batch size.

        Args:
            batch_size: global batch size.
            train_size: examples in an epoch.
            epochs: how many.

        Returns:
            Seconds.

        Raises:
            ConfigError: the table has no entry for ``batch_size``.
        """
        return self.training_seconds(batch_size, epochs * steps_per_epoch(train_size, batch_size), epochs)

    def measuring(self, batch_size: int) -> float:
        """Return the extra seconds of one measured step.

        Args:
            batch_size: global batch size, one that the table holds.

        Returns:
            Seconds.

        Raises:
            ConfigError: the table does not hold the batch size.
        """
        return self._of(self.measuring_seconds, batch_size)

    def _of(self, table: dict[int, float], batch_size: int) -> float:
        try:
            return table[batch_size]
        except KeyError:
            known = ", ".join(str(size) for size in sorted(table))
            raise ConfigError(
                f"the cost table for '{self.device}' has no batch size {batch_size} (it has {known}); "
                "run with --calibrate to time this ladder"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able form; ``from_dict`` reads it back."""
        return {
            "device": self.device,
            "step_seconds": {str(size): value for size, value in sorted(self.step_seconds.items())},
            "measuring_seconds": {str(size): value for size, value in sorted(self.measuring_seconds.items())},
            "epoch_seconds": self.epoch_seconds,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "CostTable":
        """Read back what ``to_dict`` wrote; a ConfigError where a key is missing or a value is no positive number."""
        try:
            table = cls(
                device=str(state["device"]),
                step_seconds={int(size): float(value) for size, value in state["step_seconds"].items()},
                measuring_seconds={int(size): float(value) for size, value in state["measuring_seconds"].items()},
                epoch_seconds=float(state["epoch_seconds"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"a cost table is damaged: {error!r}") from None
        values = [*table.step_seconds.values(), *table.measuring_seconds.values()]
        if not all(0.0 < value < float("inf") for value in values) or not 0.0 <= table.epoch_seconds < float("inf"):
            raise ConfigError("a cost table is damaged: seconds must be positive and finite")
        return table
