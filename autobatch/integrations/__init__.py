"""Integrations: the controller in the loops of other libraries, each with a callback of that library's own kind.

In comes a training as another library runs it; out goes the same, with batches and rates of the controller. Open
``_accelerate.py`` first. Names resolve on first use (PEP 562), so that importing this package imports none of those
libraries.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autobatch.integrations._accelerate import AcceleratedController
    from autobatch.integrations._schedules import ScheduleByExamples
    from autobatch.integrations.lightning import AutoBatchCallback, lightning_loop
    from autobatch.integrations.transformers import AutoBatchTrainerCallback, transformers_loop

_HOMES = {
    # Lightning
    "AutoBatchCallback": "lightning",
    "lightning_loop": "lightning",
    # Transformers
    "AutoBatchTrainerCallback": "transformers",
    "transformers_loop": "transformers",
    # Accelerate
    "AcceleratedController": "_accelerate",
    "ScheduleByExamples": "_schedules",
}

__all__ = [
    "AcceleratedController",
    "AutoBatchCallback",
    "AutoBatchTrainerCallback",
    "ScheduleByExamples",
    "lightning_loop",
    "transformers_loop",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
