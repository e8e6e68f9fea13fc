"""Decide: what a policy sees and says, the kinds of policy, and the YAML files that name them."""

from autobatch.policies._adabatch import AdaBatchParameters, AdaBatchPolicy
from autobatch.policies._adascale import AdaScaleParameters, AdaScalePolicy
from autobatch.policies._bandit import RmgdParameters, RmgdPolicy
from autobatch.policies._beacon_follow import BeaconFollowParameters, BeaconFollowPolicy
from autobatch.policies._cabs import CabsParameters, CabsPolicy
from autobatch.policies._fixed import FixedParameters, FixedPolicy
from autobatch.policies._increase_batch import IncreaseBatchParameters, IncreaseBatchPolicy
from autobatch.policies._inner_product_test import InnerProductTestParameters, InnerProductTestPolicy
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
from autobatch.policies._noise_average import NoiseAverage
from autobatch.policies._noise_scale import NoiseScaleParameters, NoiseScalePolicy
from autobatch.policies._norm_test import NormTestParameters, NormTestPolicy
from autobatch.policies._parameters import PolicyParameters
from autobatch.policies._plateau import PlateauParameters, PlateauPolicy
from autobatch.policies._protocol import Candidate, Decision, Observation, Policy, TaskInfo
from autobatch.policies._quality import Quality
from autobatch.policies._random import RandomParameters, RandomPolicy
from autobatch.policies._registry import policy_kind, policy_kinds, register_policy
from autobatch.policies._shorthand import SHORTHANDS
from autobatch.policies._simigrad import SimiGradParameters, SimiGradPolicy
from autobatch.policies._spec import PolicySpec, load_policy_spec, make_policy, policy_names
from autobatch.policies._sqrt_warmup import SqrtWarmupParameters, SqrtWarmupPolicy
from autobatch.policies._stages import StagesParameters, StagesPolicy
from autobatch.policies._view import ENTRIES, SCHEMA, ObservationBatch, ObservationView, Trail

__all__ = [
    "BATCH_MOVES",
    "ENTRIES",
    "RATE_MOVES",
    "SCHEMA",
    "SHORTHANDS",
    "AdaBatchParameters",
    "AdaBatchPolicy",
    "AdaScaleParameters",
    "AdaScalePolicy",
    "BeaconFollowParameters",
    "BeaconFollowPolicy",
    "CabsParameters",
    "CabsPolicy",
    "Candidate",
    "Decision",
    "FixedParameters",
    "FixedPolicy",
    "IncreaseBatchParameters",
    "IncreaseBatchPolicy",
    "InnerProductTestParameters",
    "InnerProductTestPolicy",
    "LearnedParameters",
    "LearnedPolicy",
    "Moves",
    "NoiseAverage",
    "NoiseScaleParameters",
    "NoiseScalePolicy",
    "NormTestParameters",
    "NormTestPolicy",
    "Observation",
    "ObservationBatch",
    "ObservationView",
    "PlateauParameters",
    "PlateauPolicy",
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
    "SimiGradParameters",
    "SimiGradPolicy",
    "SqrtWarmupParameters",
    "SqrtWarmupPolicy",
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
