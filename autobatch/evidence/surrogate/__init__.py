"""Policies on surrogate dynamics, and how far those can be trusted.

In come a task's dynamics and real runs; out go many played trainings, and how well they agree with the real ones. Open
``_fidelity.py`` first.
"""

from autobatch.evidence.surrogate._fidelity import Fidelity, PolicyAgreement, measure_fidelity, policy_agreement
from autobatch.evidence.surrogate._on_surrogate import SurrogateRuns, play_policy

__all__ = [
    "Fidelity",
    "PolicyAgreement",
    "SurrogateRuns",
    "measure_fidelity",
    "play_policy",
    "policy_agreement",
]
