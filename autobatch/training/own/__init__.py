"""Scouts and beacons of a loop of the user's own.

In comes a function that trains with a controller; out go a report of which configuration to start with, or a library
like those of the tasks. Open ``_cell.py`` first.
"""

from autobatch.training.own._beacons import record_beacons
from autobatch.training.own._scouts import scout

__all__ = [
    "record_beacons",
    "scout",
]
