"""Apply: the controller that drives a training loop, with its batches, learning rates and measuring plan."""

from autobatch.control._batches import batch_bounds, full_steps_per_epoch, permutation, steps_per_epoch
from autobatch.control._budget import MeasureWithinBudget
from autobatch.control._controller import AutoBatchController
from autobatch.control._decisions import DecisionRecord
from autobatch.control._measuring import MeasureAtInterval, MeasuringPlan, NeverMeasure
from autobatch.control._plan import BatchPlan
from autobatch.control._rules import LearningRateRule
from autobatch.control._samples import Measurement
from autobatch.control._seeds import derive_generator, derive_seed
from autobatch.control._step import Step

__all__ = [
    "AutoBatchController",
    "BatchPlan",
    "DecisionRecord",
    "LearningRateRule",
    "MeasureAtInterval",
    "MeasureWithinBudget",
    "Measurement",
    "MeasuringPlan",
    "NeverMeasure",
    "Step",
    "batch_bounds",
    "derive_generator",
    "derive_seed",
    "full_steps_per_epoch",
    "permutation",
    "steps_per_epoch",
]
