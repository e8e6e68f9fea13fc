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

_ONE_NUMBER = {
    TRAIN: "AutoBatch/TrainDiscrete-v0",
    SURROGATE: "AutoBatch/SurrogateDiscrete-v0",
    STEERED_TRAIN: "AutoBatch/TrainDiscrete-v1",
    STEERED_SURROGATE: "AutoBatch/SurrogateDiscrete-v1",
}
"""The same with ``actions="discrete"``, for tools that take an id and no arguments."""


def register_environments() -> None:
    """Register the environments, unless that is done."""
    train: dict[str, Any] = {"entry_point": "autobatch.envs:TrainEnv"}
    surrogate: dict[str, Any] = {
        "entry_point": "autobatch.envs:SurrogateEnv",
        "vector_entry_point": "autobatch.envs:SurrogateVectorEnv",
    }
    steered_train: dict[str, Any] = {"entry_point": "autobatch.envs:SteeredTrainEnv"}
    steered_surrogate: dict[str, Any] = {
        "entry_point": "autobatch.envs:SteeredSurrogateEnv",
        "vector_entry_point": "autobatch.envs:SteeredSurrogateVectorEnv",
    }
    for name, points in (
        (TRAIN, train),
        (SURROGATE, surrogate),
        (STEERED_TRAIN, steered_train),
        (STEERED_SURROGATE, steered_surrogate),
    ):
        if name not in gymnasium.registry:
            gymnasium.register(name, **points)
        if _ONE_NUMBER[name] not in gymnasium.registry:
            gymnasium.register(_ONE_NUMBER[name], **points, kwargs={"actions": "discrete"})
