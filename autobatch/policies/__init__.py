"""Decide: what a policy sees and says, the kinds of policy, and the YAML files that name them."""

from autobatch.policies._bandit import RmgdParameters, RmgdPolicy
from autobatch.policies._beacon_follow import BeaconFollowParameters, BeaconFollowPolicy
from autobatch.policies._fixed import FixedParameters, FixedPolicy
from autobatch.policies._learned import LearnedParameters, LearnedPolicy
from autobatch.policies._learned_files import (
    PolicyCard,
    PolicyTraining,
    load_card,
    load_learned,
    save_card,
    save_learned,
)
from autobatch.policies._moves import BATCH_MOVES, RATE_MOVES, Moves
from autobatch.policies._parameters import PolicyParameters
from autobatch.policies._protocol import Candidate, Decision, Observation, Policy, TaskInfo
from autobatch.policies._quality import Quality
from autobatch.policies._random import RandomParameters, RandomPolicy
from autobatch.policies._registry import policy_kind, policy_kinds, register_policy
from autobatch.policies._shorthand import SHORTHANDS
from autobatch.policies._spec import PolicySpec, load_policy_spec, make_policy, policy_names
from autobatch.policies._stages import StagesParameters, StagesPolicy
from autobatch.policies._view import ENTRIES, SCHEMA, ObservationBatch, ObservationView, Trail

__all__ = [
    "BATCH_MOVES",
    "ENTRIES",
    "RATE_MOVES",
    "SCHEMA",
    "SHORTHANDS",
    "BeaconFollowParameters",
    "BeaconFollowPolicy",
    "Candidate",
    "Decision",
    "FixedParameters",
    "FixedPolicy",
    "LearnedParameters",
    "LearnedPolicy",
    "Moves",
    "Observation",
    "ObservationBatch",
    "ObservationView",
    "Policy",
    "PolicyCard",
    "PolicyParameters",
    "PolicySpec",
    "PolicyTraining",
    "Quality",
    "RandomParameters",
    "RandomPolicy",
    "RmgdParameters",
    "RmgdPolicy",
    "StagesParameters",
    "StagesPolicy",
    "TaskInfo",
    "Trail",
    "load_card",
    "load_learned",
    "load_policy_spec",
    "make_policy",
    "policy_kind",
    "policy_kinds",
    "policy_names",
    "register_policy",
    "save_card",
    "save_learned",
]
