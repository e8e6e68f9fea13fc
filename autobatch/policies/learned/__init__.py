"""Policies that were learned.

In come a network's weights and a card that says where they are from; out goes a policy that decides by them. Open
``_policy.py`` first. ``_network.py`` imports torch, so it is not imported here but where a network is needed.
"""

from autobatch.policies.learned._files import (
    KINDS,
    STEERED_SCHEMA,
    PolicyCard,
    PolicyTraining,
    card_path,
    check_card_kind,
    check_ladders,
    check_same_weights,
    check_size,
    load_card,
    load_learned,
    save_card,
    save_learned,
    weights_beside,
)
from autobatch.policies.learned._policy import LearnedParameters, LearnedPolicy

__all__ = [
    "KINDS",
    "STEERED_SCHEMA",
    "LearnedParameters",
    "LearnedPolicy",
    "PolicyCard",
    "PolicyTraining",
    "card_path",
    "check_card_kind",
    "check_ladders",
    "check_same_weights",
    "check_size",
    "load_card",
    "load_learned",
    "save_card",
    "save_learned",
    "weights_beside",
]
