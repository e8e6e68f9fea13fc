"""The data of a task.

In comes a task and where datasets lie; out go tensors, split and fingerprinted. Open ``_data.py`` first.
"""

from autobatch.training.data._augment import augment, shifted_views
from autobatch.training.data._data import Data, load_data, normalise

__all__ = [
    "Data",
    "augment",
    "load_data",
    "normalise",
    "shifted_views",
]
