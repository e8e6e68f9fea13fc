"""Apply: the controller that drives a training loop, with its batches, learning rates and measuring plan."""

from autobatch.control._batches import batch_bounds, full_steps_per_epoch, permutation, steps_per_epoch
from autobatch.control._controller import AutoBatchController, Measurement
from autobatch.control._decisions import DecisionRecord
from autobatch.control._measuring import MeasureAtInterval, MeasureWithinBudget, MeasuringPlan, NeverMeasure
from autobatch.control._seeds import derive_generator, derive_seed

__all__ = [
    "AutoBatchController",
    "DecisionRecord",
    "MeasureAtInterval",
    "MeasureWithinBudget",
    "Measurement",
    "MeasuringPlan",
    "NeverMeasure",
    "batch_bounds",
    "derive_generator",
    "derive_seed",
    "full_steps_per_epoch",
    "permutation",
    "steps_per_epoch",
]
