"""Decide: what a policy sees and says, the kinds of policy, and the YAML files that name them.

In come what is known of a task and, after every epoch, an observation; out goes a decision: batch size, learning rate
and why. Open ``_protocol.py`` first.
"""

from autobatch.policies import baselines, comparators, rivals
from autobatch.policies._moves import BATCH_MOVES, RATE_MOVES, Moves
from autobatch.policies._parameters import PolicyParameters
from autobatch.policies._protocol import Candidate, Decision, Observation, Policy, TaskInfo, planned_epochs
from autobatch.policies._quality import Quality
from autobatch.policies._registry import policy_kind, policy_kinds, register_policy
from autobatch.policies._spec import PolicySpec, load_policy_spec, make_policy, policy_names
from autobatch.policies.beacon_follow import BeaconFollowParameters, BeaconFollowPolicy
from autobatch.policies.general import GeneralParameters, GeneralPolicy
from autobatch.policies.learned import (
    LearnedParameters,
    LearnedPolicy,
    PolicyCard,
    PolicyTraining,
    load_card,
    load_learned,
    save_card,
    save_learned,
)
from autobatch.policies.steer import (
    Scout,
    ScoutChoice,
    ScoutingPolicy,
    ScoutPlan,
    ScoutReport,
    SteerParameters,
    SteerPolicy,
)
from autobatch.policies.view import ENTRIES, SCHEMA, ObservationBatch, ObservationView, Trail

__all__ = [
    "BATCH_MOVES",
    "ENTRIES",
    "RATE_MOVES",
    "SCHEMA",
    "BeaconFollowParameters",
    "BeaconFollowPolicy",
    "Candidate",
    "Decision",
    "GeneralParameters",
    "GeneralPolicy",
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
    "Scout",
    "ScoutChoice",
    "ScoutPlan",
    "ScoutReport",
    "ScoutingPolicy",
    "SteerParameters",
    "SteerPolicy",
    "TaskInfo",
    "Trail",
    "baselines",
    "comparators",
    "load_card",
    "load_learned",
    "load_policy_spec",
    "make_policy",
    "planned_epochs",
    "policy_kind",
    "policy_kinds",
    "policy_names",
    "register_policy",
    "rivals",
    "save_card",
    "save_learned",
]
