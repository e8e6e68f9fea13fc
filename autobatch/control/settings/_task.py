"""What is known of a task before it is trained."""

import math
from dataclasses import dataclass

from autobatch._errors import ConfigError, near_names
from autobatch._ranges import check_number, names_arguments
from autobatch.beacons import CostTable
from autobatch.beacons._info import SCORES


@names_arguments
@dataclass(frozen=True)
class TaskFacts:
    """What is known of the task.

    Attributes:
        name: its name, for messages.
        dataset: name of its data set, for policies that know of others, such as ``"mnist"``.
        score: the figure that ranks runs, ``"validation_loss"`` or ``"validation_error"``; None for the library's, or
            the loss.
        costs: modelled seconds by batch size, for policies and for a measuring budget.
        guessing: training loss of one who guesses, log K for K classes; None where only scouts may know it.
        shares_loss: training loss of one who guesses by the classes' shares.

    Raises:
        ConfigError: a value cannot be used.
    """

    name: str = ""
    dataset: str = ""
    score: str | None = None
    costs: CostTable | None = None
    guessing: float | None = None
    shares_loss: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.score is not None and self.score not in SCORES:
            raise ConfigError(f"TaskFacts: score={self.score!r}: {near_names(str(self.score), SCORES)}")
        for name in ("guessing", "shares_loss"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= check_number(value, f"TaskFacts: {name}") < math.inf:
                raise ConfigError(f"TaskFacts: {name}: expected a finite loss of at least 0, got {value!r}")
