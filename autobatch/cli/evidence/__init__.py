"""The commands that compare policies and reproduce the paper.

In come the options of a command; out go the files of ``autobatch.evidence`` and ``autobatch.report``. Open
``_compare.py`` first.
"""

from autobatch.cli.evidence._compare import compare
from autobatch.cli.evidence._figures import app as figures
from autobatch.cli.evidence._reproduce import reproduce

__all__ = [
    "compare",
    "figures",
    "reproduce",
]
