"""Registration with Gymnasium, called when autobatch is imported; imports nothing heavy."""

from typing import Any

import gymnasium

TRAIN = "AutoBatch/Train-v0"
"""Each step is one epoch of real training."""

SURROGATE = "AutoBatch/Surrogate-v0"
"""Each step is one epoch on dynamics fitted to beacons and branch runs."""

_ONE_NUMBER = {
    TRAIN: "AutoBatch/TrainDiscrete-v0",
    SURROGATE: "AutoBatch/SurrogateDiscrete-v0",
}
"""The same with ``actions="discrete"``, for tools that take an id and no arguments."""


def register_environments() -> None:
    """Register the environments, unless that is done."""
    train: dict[str, Any] = {"entry_point": "autobatch.envs:TrainEnv"}
    surrogate: dict[str, Any] = {
        "entry_point": "autobatch.envs:SurrogateEnv",
        "vector_entry_point": "autobatch.envs:SurrogateVectorEnv",
    }
    for name, points in ((TRAIN, train), (SURROGATE, surrogate)):
        if name not in gymnasium.registry:
            gymnasium.register(name, **points)
        if _ONE_NUMBER[name] not in gymnasium.registry:
            gymnasium.register(_ONE_NUMBER[name], **points, kwargs={"actions": "discrete"})
