"""Registration with Gymnasium, called when autobatch is imported; imports nothing heavy."""

from typing import Any

import gymnasium

TRAIN = "AutoBatch/Train-v0"
"""Each step is one epoch of real training."""

SURROGATE = "AutoBatch/Surrogate-v0"
"""Each step is one epoch on dynamics fitted to beacons and branch runs."""

STEERED_TRAIN = "AutoBatch/Train-v1"
"""Each step is one epoch of real training whose schedule and end are the agent's."""

STEERED_SURROGATE = "AutoBatch/Surrogate-v1"
"""Each step is one epoch on fitted dynamics; schedule and end are the agent's."""

_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    TRAIN: ("AutoBatch/TrainDiscrete-v0", {"entry_point": "autobatch.envs:TrainEnv"}),
    SURROGATE: (
        "AutoBatch/SurrogateDiscrete-v0",
        {"entry_point": "autobatch.envs:SurrogateEnv", "vector_entry_point": "autobatch.envs:SurrogateVectorEnv"},
    ),
    STEERED_TRAIN: ("AutoBatch/TrainDiscrete-v1", {"entry_point": "autobatch.envs:SteeredTrainEnv"}),
    STEERED_SURROGATE: (
        "AutoBatch/SurrogateDiscrete-v1",
        {
            "entry_point": "autobatch.envs:SteeredSurrogateEnv",
            "vector_entry_point": "autobatch.envs:SteeredSurrogateVectorEnv",
        },
    ),
}
"""By id the one with ``actions="discrete"``, for tools that take an id and no arguments, and where the classes are."""


def register_environments() -> None:
    """Register the environments, unless that is done."""
    for name, (one_number, points) in _KINDS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, **points)
        if one_number not in gymnasium.registry:
            gymnasium.register(one_number, **points, kwargs={"actions": "discrete"})
