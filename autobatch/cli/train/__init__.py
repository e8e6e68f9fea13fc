"""The commands that train and record.

In come the options of a command; out go run directories and libraries, with what a person sees meanwhile. Open
``_run.py`` first.
"""

from autobatch.cli.train._beacons import app as beacons
from autobatch.cli.train._run import run
from autobatch.cli.train._worker import cells, worker

__all__ = [
    "beacons",
    "cells",
    "run",
    "worker",
]
