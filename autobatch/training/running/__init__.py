"""Runs: from a configuration to a run directory with a summary in it, scouts and forks included.

In comes a ``RunConfig``; out goes a directory that a report reads and ``--resume`` goes on from. Open ``_carry_out.py``
first. Names resolve on first use (PEP 562), so that reading a run imports no training.
"""

from typing import TYPE_CHECKING

from autobatch._lazy import on_first_use

if TYPE_CHECKING:
    from autobatch.training.running._branches import runs_with_branches
    from autobatch.training.running._carry_out import run
    from autobatch.training.running._forking import ForkRecord, load_forks
    from autobatch.training.running._rehearsal import rehearse, told_rehearsal
    from autobatch.training.running._scout_words import told_scout
    from autobatch.training.running._scouting import Scouting, ScoutRecord, load_scouting, scout_directory

__all__ = [
    "ForkRecord",
    "ScoutRecord",
    "Scouting",
    "load_forks",
    "load_scouting",
    "rehearse",
    "run",
    "runs_with_branches",
    "scout_directory",
    "told_rehearsal",
    "told_scout",
]

__getattr__, __dir__ = on_first_use(__name__)
