"""What a logger is: two methods."""

from collections.abc import Mapping
from typing import Protocol, TypeAlias

Scalar: TypeAlias = float | int | str | bool | None
"""A value of a record; None where it is not known."""


class Logger(Protocol):
    """Takes the records of a training.

    A logger may have a third method, ``resume(step: int) -> None``: the training goes on from ``step``, so whatever was
    logged after it is void.
    """

    def log(self, record: Mapping[str, Scalar], step: int) -> None:
        """Take a record.

        Args:
            record: the figures by name; later records may have other names.
            step: training examples seen. A record at a step that was logged already stands for a training that went
                back, and replaces the records at its step and after, as far as the logger can.
        """

    def close(self) -> None:
        """Finish; nothing is logged any more. Closing again does nothing."""
