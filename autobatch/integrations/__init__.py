"""Integrations: the controller in the loops of other libraries, each with a callback of that library's own kind.

In comes a training as another library runs it; out goes the same, with batches and rates of the controller. Open
``_accelerate.py`` first. Names resolve on first use (PEP 562), so that importing this package imports none of those
libraries.
"""

from typing import TYPE_CHECKING

from autobatch._lazy import on_first_use

if TYPE_CHECKING:
    from autobatch.integrations._accelerate import AcceleratedController
    from autobatch.integrations._schedules import ScheduleByExamples
    from autobatch.integrations.lightning import AutoBatchCallback, lightning_loop
    from autobatch.integrations.transformers import AutoBatchTrainerCallback, transformers_loop

__all__ = [
    "AcceleratedController",
    "AutoBatchCallback",
    "AutoBatchTrainerCallback",
    "ScheduleByExamples",
    "lightning_loop",
    "transformers_loop",
]

__getattr__, __dir__ = on_first_use(__name__)
