"""The commands that train policies and put them to the test.

In come the options of a command; out go learned policies, reports on them and on surrogate dynamics. Open
``_train_policy.py`` first.
"""

from autobatch.cli.learn._eval_policy import eval_policy
from autobatch.cli.learn._surrogate import surrogate
from autobatch.cli.learn._train_policy import train_policy

__all__ = [
    "eval_policy",
    "surrogate",
    "train_policy",
]
