"""The controller in the Trainer of Transformers.

In comes a Trainer; out goes the same one, steered by the controller. Open ``_callback.py`` first.
"""

from autobatch.integrations.transformers._callback import AutoBatchTrainerCallback
from autobatch.integrations.transformers._scouted import transformers_loop

__all__ = [
    "AutoBatchTrainerCallback",
    "transformers_loop",
]
