"""How the learning rate is ruled: what a policy may choose, what the schedule and the batch size do to it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from autobatch._errors import ConfigError, near_names
from autobatch._ranges import check_number, check_several, names_arguments
from autobatch.control.rates import (
    STEERED,
    LearningRateRule,
    RuleName,
    Schedule,
    check_rate,
    constant_schedule,
    steered_schedule,
)
from autobatch.policies.steer import usual_rates

AROUND: Final = "around"
"""Short for base learning rates around the optimizer's own."""


@names_arguments
@dataclass(frozen=True)
class Rates:
    """How the learning rate is ruled.

    Attributes:
        learning_rates: base learning rates that the policy chooses from; None for those of ``scouts``, or the
            optimizer's own; ``"around"`` for 0.01, 0.03, 0.1 and so on to 100 times that.
        schedule: factor on the base learning rate by progress, evaluated at each decision; for loops without a
            scheduler of their own. ``"steered"`` is a constant rate that falls to 0 over the last 40 %, with
            ``steered=True``.
        steered: whether a policy may say another factor than the schedule's, such as when the rate falls; for loops
            without a scheduler of their own.
        milestones: progress values in (0, 1) at which the schedule decays, for policies that care.
        milestone_factor: what the schedule multiplies the rate by at each of them, in (0, 1], for policies that care.
        rule: what a batch size does to the rate where the policy leaves it open: the name of a rule or a
            ``LearningRateRule``.

    Raises:
        ConfigError: a value cannot be used.
    """

    learning_rates: Sequence[float] | Literal["around"] | None = None
    schedule: Schedule | Literal["steered"] = constant_schedule
    steered: bool = False
    milestones: Sequence[float] = ()
    milestone_factor: float | None = None
    rule: RuleName | LearningRateRule = "none"

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.around:
            self._check_rates()
        places = [check_number(place, "Rates: milestones") for place in self.milestones]
        if places != sorted(set(places)) or not all(0.0 < place < 1.0 for place in places):
            raise ConfigError(
                f"Rates: milestones: expected ascending shares of the training in (0, 1), got {list(self.milestones)}"
            )
        if isinstance(self.schedule, str) and self.schedule != STEERED:
            raise ConfigError(f"Rates: schedule={self.schedule!r}: expected a function of progress, or {STEERED!r}")
        if self.milestone_factor is not None and not 0.0 < self.milestone_factor <= 1.0:
            raise ConfigError(f"Rates: milestone_factor: expected a number in (0, 1], got {self.milestone_factor}")
        _ = self.learning_rate_rule

    def _check_rates(self) -> None:
        what = "Rates: learning_rates"
        if isinstance(self.learning_rates, str):
            raise ConfigError(f"{what}={self.learning_rates!r}: expected several rates, or {AROUND!r}")
        check_several(self.learning_rates, what)
        if self.learning_rates is None:
            return
        rates = tuple(check_number(rate, what) for rate in self.learning_rates)
        if not rates:
            raise ConfigError(f"{what}: expected at least one value; None is the optimizer's own")
        for rate in rates:
            check_rate(rate, what)
        object.__setattr__(self, "learning_rates", rates)

    @classmethod
    def of(cls, given: "Rates | str | None") -> "Rates":
        """Return what an argument stands for: the settings, or ``"steered"`` or a rule's name."""
        if given is None:
            return cls()
        if isinstance(given, Rates):
            return given
        names = (STEERED, *get_args(RuleName))
        if given not in names:
            raise ConfigError(f"rates={given!r}: {near_names(str(given), names)}")
        return cls(schedule=STEERED) if given == STEERED else cls(rule=given)  # type: ignore[arg-type]

    @property
    def around(self) -> bool:
        """Whether the base learning rates lie around the optimizer's own."""
        return isinstance(self.learning_rates, str) and self.learning_rates == AROUND

    def to_choose_from(self, own: float) -> tuple[float, ...]:
        """Return the base learning rates that there are to choose from.

        Args:
            own: the optimizer's own rate.

        Returns:
            The rates, ``own`` alone where none were told.
        """
        if self.around:
            return usual_rates(own)
        rates: Sequence[Any] = self.learning_rates or (own,)
        return tuple(rates)

    @property
    def learning_rate_rule(self) -> LearningRateRule:
        """What a batch size does to the rate."""
        return self.rule if isinstance(self.rule, LearningRateRule) else LearningRateRule(self.rule)

    @property
    def policy_says(self) -> bool:
        """Whether a policy may say the factor."""
        return self.steered or isinstance(self.schedule, str)

    def factor(self, progress: float) -> float:
        """Return the schedule's factor.

        Args:
            progress: examples seen / examples of the whole training, in [0, 1].

        Returns:
            The factor on the base learning rate.

        Raises:
            ConfigError: the schedule returns none.
        """
        if isinstance(self.schedule, str):
            return steered_schedule(progress)
        factor = check_number(self.schedule(progress), f"Rates: the schedule at progress {progress:g}")
        if not (math.isfinite(factor) and factor >= 0.0):
            raise ConfigError(
                f"Rates: the schedule at progress {progress:g}: expected a finite factor of at least 0, got {factor}"
            )
        return factor
