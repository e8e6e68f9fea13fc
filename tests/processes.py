"""Processes for tests, forked from one that has imported what they need: an interpreter of their own takes seconds.

That one has only imported: no thread that computes, no draw of a random number and no device is handed down.
"""

import gc
import multiprocessing
import os
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any


class _Process(ForkServerProcess):
    """Runs in the environment of the test that makes it, and starts others as a program does that nobody forked."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._environment = dict(os.environ)

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        multiprocessing.set_start_method(None, force=True)
        gc.freeze()  # what is imported is no garbage, and looking at it takes long
        super().run()


class _Context(ForkServerContext):
    Process = _Process  # type: ignore[assignment]


FORKED = _Context()
FORKED.set_forkserver_preload([
    "pytest",
    "sklearn.datasets",  # by which the digits come; two seconds with the next, which any optimizer loads
    "torch._dynamo",
    "torch._dynamo.repro.after_dynamo",  # what the first compiling imports
    "torch.distributed.fsdp",
    "autobatch.control",
    "autobatch.training.running._carry_out",
    "autobatch.training.recording._branches",
    "autobatch.training.own._beacons",
])
