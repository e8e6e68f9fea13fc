"""Learning rates and the limits of what a policy may ask for.

In come a decision and the loop's own rates; out go a batch size that can be carried out and the rates that go with it.
Open ``_rates.py`` first.
"""

from autobatch.control.rates._rates import (
    STEERED,
    OptimizerRates,
    Schedule,
    are_scaled,
    check_groups,
    check_optimizer,
    check_rate,
    constant_schedule,
    is_adaptive,
    steered_schedule,
)
from autobatch.control.rates._rules import GradientNoise, LearningRateRule, RuleName

__all__ = [
    "STEERED",
    "GradientNoise",
    "LearningRateRule",
    "OptimizerRates",
    "RuleName",
    "Schedule",
    "are_scaled",
    "check_groups",
    "check_optimizer",
    "check_rate",
    "constant_schedule",
    "is_adaptive",
    "steered_schedule",
]
