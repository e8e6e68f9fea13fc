"""The commands that train policies.

In come the options of a command; out go learned policies, and reports on surrogate dynamics. Open
``_train_policy.py`` first.
"""

from autobatch.cli.learn._surrogate import surrogate
from autobatch.cli.learn._train_policy import train_policy

__all__ = [
    "surrogate",
    "train_policy",
]
