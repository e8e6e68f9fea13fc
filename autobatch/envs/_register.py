"""Registration with Gymnasium, called when autobatch is imported; imports nothing heavy."""

import gymnasium

TRAIN = "AutoBatch/Train-v0"
"""Each step is one epoch of real training."""

SURROGATE = "AutoBatch/Surrogate-v0"
"""Each step is one epoch on dynamics fitted to beacons and branch runs."""


def register_environments() -> None:
    """Register the environments, unless that is done."""
    if TRAIN not in gymnasium.registry:
        gymnasium.register(TRAIN, entry_point="autobatch.envs:TrainEnv")
    if SURROGATE not in gymnasium.registry:
        gymnasium.register(
            SURROGATE,
            entry_point="autobatch.envs:SurrogateEnv",
            vector_entry_point="autobatch.envs:SurrogateVectorEnv",
        )
