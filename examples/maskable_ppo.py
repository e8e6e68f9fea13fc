"""A policy for any task by MaskablePPO of sb3-contrib, which asks an environment which actions change something.

It learns on surrogates first, then on real trainings.

    python examples/maskable_ppo.py

The lines that are autobatch's are marked `# autobatch`.
"""

import gymnasium
from sb3_contrib import MaskablePPO

from autobatch.learn import network_of  # autobatch
from autobatch.policies import PolicyCard, PolicyTraining, save_learned  # autobatch

TASKS = ("digits-mlp", "mnist10k-mlp")
STEPS, REAL_STEPS, ROLLOUT = 20_000, 1_024, 512  # few: this only shows the way


def main() -> None:
    env = gymnasium.make("autobatch:AutoBatch/Surrogate-v1", env=TASKS, start="scouts", vary=True)
    agent = MaskablePPO("MlpPolicy", env, n_steps=ROLLOUT, batch_size=64, gamma=1.0, seed=0, device="cpu").learn(STEPS)
    agent.set_env(gymnasium.make("autobatch:AutoBatch/Train-v1", env=TASKS[0], start="scouts"))
    agent.learn(REAL_STEPS, reset_num_timesteps=False)
    network = network_of(agent)  # autobatch
    training = PolicyTraining(algorithm="maskable ppo", tasks=TASKS, steps=agent.num_timesteps, seeds=(0,), seconds=1.0)
    path = save_learned("runs/masked/masked.yaml", network, PolicyCard.of(network, training))  # autobatch
    print(f"autobatch run --env digits-vit --policy {path}")


if __name__ == "__main__":
    main()
