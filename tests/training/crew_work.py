"""Work for a crew; it lives apart so that a process that does it need not import torch."""

import os

from autobatch._errors import ConfigError
from autobatch.training._crew import Report


def work(job: str, report: Report) -> str:
    report(0.5)
    if job == "die":
        os._exit(3)
    if job == "raise":
        raise ValueError("an accident")
    if job == "refuse":
        raise ConfigError("key 'x' is wrong")
    report(1.0)
    return job.upper()
