"""What a controller is told besides the loop itself, in groups of what belongs together.

In come an ``AutoBatchController``'s arguments; out goes one ``Settings``, checked. Open ``_settings.py`` first; how
batches are made is ``steps/_plan.py``.
"""

from autobatch.control.settings._declared import Declared
from autobatch.control.settings._length import with_length
from autobatch.control.settings._measuring import Measuring
from autobatch.control.settings._moved import MOVED, refuse_moved
from autobatch.control.settings._processes import Processes
from autobatch.control.settings._rates import AROUND, Rates
from autobatch.control.settings._settings import Settings, finds_sizes
from autobatch.control.settings._task import TaskFacts

__all__ = [
    "AROUND",
    "MOVED",
    "Declared",
    "Measuring",
    "Processes",
    "Rates",
    "Settings",
    "TaskFacts",
    "finds_sizes",
    "refuse_moved",
    "with_length",
]
