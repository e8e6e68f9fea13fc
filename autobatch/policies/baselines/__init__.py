"""Policies that need no figures of the training.

In come a batch size, a ladder or a plan of stages; out go decisions that nothing which happens can change. Open
``_fixed.py`` first.
"""

from autobatch.policies.baselines._fixed import FixedParameters, FixedPolicy
from autobatch.policies.baselines._notation import notation
from autobatch.policies.baselines._random import RandomParameters, RandomPolicy
from autobatch.policies.baselines._shorthand import SHORTHANDS, expand_shorthand
from autobatch.policies.baselines._stages import StagesParameters, StagesPolicy

__all__ = [
    "SHORTHANDS",
    "FixedParameters",
    "FixedPolicy",
    "RandomParameters",
    "RandomPolicy",
    "StagesParameters",
    "StagesPolicy",
    "expand_shorthand",
    "notation",
]
