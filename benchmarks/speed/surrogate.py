"""Steps a second of the surrogate environments, observations and rewards included.

    python benchmarks/speed/surrogate.py
    python benchmarks/speed/surrogate.py --env digits-resnet8 digits-mlp --actions discrete
    python benchmarks/speed/surrogate.py --id AutoBatch/Surrogate-v1 [--whole] [--forks] [--scouts]

On one thread, with random actions and episodes that begin anew. Those of v1 last two epochs or so, as one action in
two stops; with ``--whole`` none stops or lets the rate fall, with ``--forks`` every second one is tried, with
``--scouts`` scouts are played before. The numbers of sub-environments take turns within each round, so that whatever
else the machine does falls on all of them; medians over the rounds, with the lowest and the highest. The last column
repeats the median in processor time, which other programs hardly change.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import gymnasium
import numpy as np
from threadpoolctl import threadpool_limits

import autobatch  # noqa: F401  (registers the environments)
from autobatch.envs.steered._actions import MOVES

IDS = ("AutoBatch/Surrogate-v0", "AutoBatch/Surrogate-v1")
COUNTS = (1, 16, 256, 1024)
ROUNDS, SECONDS = 9, 0.4


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=["digits-resnet8"], help="tasks")
    parser.add_argument("--actions", default="multidiscrete", choices=["multidiscrete", "discrete"])
    parser.add_argument("--id", default=IDS[0], choices=IDS)
    parser.add_argument("--whole", action="store_true", help="no training stops, no rate falls")
    parser.add_argument("--forks", action="store_true", help="actions may be tried")
    parser.add_argument("--scouts", action="store_true", help="trainings begin with scouts")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    arguments = {"env": given.env if len(given.env) > 1 else given.env[0], "actions": given.actions}
    if given.forks:
        arguments["forks"] = True
    if given.scouts:
        arguments["start"] = "scouts"
    threadpool_limits(1)
    alone = gymnasium.make(given.id, **arguments)
    steppers = {"1, gymnasium.make": single(alone, drawn(alone.action_space, given))}
    for mode in ("SameStep", "NextStep"):
        for count in COUNTS:
            own = arguments | {"autoreset_mode": mode}
            envs = gymnasium.make_vec(given.id, num_envs=count, vectorization_mode="vector_entry_point", **own)
            steppers[f"{count}, {mode}"] = vector(envs, drawn(envs.action_space, given))
    wall: dict[str, list[float]] = {name: [] for name in steppers}
    processor: dict[str, list[float]] = {name: [] for name in steppers}
    for step in steppers.values():
        rate(step, SECONDS / 4)
    for _ in range(given.rounds):
        for name, step in steppers.items():
            by_wall, by_processor = rate(step, SECONDS)
            wall[name].append(by_wall)
            processor[name].append(by_processor)
    print(f"{given.id}; {', '.join(given.env)}; {given.actions}; {given.rounds} rounds of {SECONDS:g} s; one thread")
    print("| sub-environments | steps/s | lowest | highest | steps/s of processor time |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, rates in wall.items():
        figures = statistics.median(rates), min(rates), max(rates), statistics.median(processor[name])
        print(f"| {name} | " + " | ".join(f"{figure:,.0f}" for figure in figures) + " |")


def drawn(space: gymnasium.Space, given: argparse.Namespace) -> list[np.ndarray]:
    """Return random actions; of whole trainings such as move on the ladders alone."""
    space.seed(0)
    actions = [np.asarray(space.sample()) for _ in range(64)]
    if given.whole and given.actions == "discrete":
        return [np.where(own < MOVES + 2, own % MOVES, own) for own in actions]
    if given.whole:
        for own in actions:
            own[..., 2:4] = 0
    return actions


def vector(envs: gymnasium.vector.VectorEnv, actions: list[np.ndarray]) -> Callable[[], int]:
    """Return a function that steps a vector environment once and says how many steps that were."""
    envs.reset(seed=0)
    taken = 0

    def step() -> int:
        nonlocal taken
        taken += 1
        envs.step(actions[taken % len(actions)])
        return envs.num_envs

    return step


def single(env: gymnasium.Env, actions: list[np.ndarray]) -> Callable[[], int]:
    """Return a function that steps one environment and begins the next episode where one ends."""
    env.reset(seed=0)
    taken = 0

    def step() -> int:
        nonlocal taken
        taken += 1
        if env.step(actions[taken % len(actions)])[2]:
            env.reset()
        return 1

    return step


def rate(step: Callable[[], int], seconds: float) -> tuple[float, float]:
    """Return steps a second by the wall clock and by processor time."""
    start, processor = time.perf_counter(), time.process_time()
    taken = 0
    while time.perf_counter() - start < seconds:
        taken += step()
    return taken / (time.perf_counter() - start), taken / (time.process_time() - processor)


if __name__ == "__main__":
    main()
