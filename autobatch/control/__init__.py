"""Apply: the controller that drives a training loop, with its batches, learning rates and measuring plan.

In come a model, an optimizer, data and a policy; out go the batches of every step, the rates that hold during it, and
records of what was decided. Open ``_controller.py`` first, then ``_training.py`` for the parts behind it.
"""

from autobatch._steps import steps_per_epoch
from autobatch.control._controller import AutoBatchController
from autobatch.control._decision_record import DecisionRecord
from autobatch.control.batches import (
    batch_bounds,
    derive_generator,
    derive_seed,
    full_steps_per_epoch,
    permutation,
)
from autobatch.control.measuring import (
    MeasureAsked,
    MeasureAtInterval,
    MeasuredStep,
    MeasureWithinBudget,
    MeasuringPlan,
    NeverMeasure,
)
from autobatch.control.rates import LearningRateRule
from autobatch.control.settings import Measuring, Processes, Rates, TaskFacts
from autobatch.control.steps import BatchPlan, Step

__all__ = [
    "AutoBatchController",
    "BatchPlan",
    "DecisionRecord",
    "LearningRateRule",
    "MeasureAsked",
    "MeasureAtInterval",
    "MeasureWithinBudget",
    "MeasuredStep",
    "Measuring",
    "MeasuringPlan",
    "NeverMeasure",
    "Processes",
    "Rates",
    "Step",
    "TaskFacts",
    "batch_bounds",
    "derive_generator",
    "derive_seed",
    "full_steps_per_epoch",
    "permutation",
    "steps_per_epoch",
]
