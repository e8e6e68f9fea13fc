"""Recording beacons of a loop of the user's own.

In comes a function that trains with a controller; out goes a library like those of the tasks. Open ``_beacons.py``
first.
"""

from autobatch.training.own._beacons import record_beacons

__all__ = [
    "record_beacons",
]
