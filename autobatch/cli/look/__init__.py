"""The commands that look at what is on disk.

In come run directories, libraries and names; out go words, tables, pictures and pages. Open ``_explain.py`` first.
"""

from autobatch.cli.look._envs import envs
from autobatch.cli.look._explain import explain
from autobatch.cli.look._plot import plot
from autobatch.cli.look._policies import policies
from autobatch.cli.look._predict import predict
from autobatch.cli.look._report import report
from autobatch.cli.look._runs import runs
from autobatch.cli.look._schema import schema
from autobatch.cli.look._watch import watch

__all__ = [
    "envs",
    "explain",
    "plot",
    "policies",
    "predict",
    "report",
    "runs",
    "schema",
    "watch",
]
