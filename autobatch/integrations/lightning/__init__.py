"""The controller in Lightning.

In comes a Trainer's training; out goes the same with batches and rates of the controller. Open ``_callback.py`` first.
"""

from autobatch.integrations.lightning._callback import AutoBatchCallback
from autobatch.integrations.lightning._scouted import lightning_loop

__all__ = [
    "AutoBatchCallback",
    "lightning_loop",
]
