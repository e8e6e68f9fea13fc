"""Steps a second of the surrogate environment, observations and rewards included.

    python benchmarks/speed/surrogate.py
    python benchmarks/speed/surrogate.py --env digits-resnet8 digits-mlp --actions discrete

On one thread, with random actions and episodes that begin anew. The numbers of sub-environments take turns within each
round, so that whatever else the machine does falls on all of them; medians over the rounds, with the lowest and the
highest. The last column repeats the median in processor time, which other programs hardly change.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import gymnasium
import numpy as np
from threadpoolctl import threadpool_limits

import autobatch  # noqa: F401  (registers the environments)

ID = "AutoBatch/Surrogate-v0"
COUNTS = (1, 16, 256, 1024)
ROUNDS, SECONDS = 9, 0.4


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=["digits-resnet8"], help="tasks")
    parser.add_argument("--actions", default="multidiscrete", choices=["multidiscrete", "discrete"])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    arguments = {"env": given.env if len(given.env) > 1 else given.env[0], "actions": given.actions}
    threadpool_limits(1)
    steppers = {"1, gymnasium.make": single(arguments)}
    for mode in ("SameStep", "NextStep"):
        steppers |= {f"{count}, {mode}": vector(count, arguments | {"autoreset_mode": mode}) for count in COUNTS}
    wall: dict[str, list[float]] = {name: [] for name in steppers}
    processor: dict[str, list[float]] = {name: [] for name in steppers}
    for step in steppers.values():
        rate(step, SECONDS / 4)
    for _ in range(given.rounds):
        for name, step in steppers.items():
            by_wall, by_processor = rate(step, SECONDS)
            wall[name].append(by_wall)
            processor[name].append(by_processor)
    print(f"{', '.join(given.env)}; {given.actions}; {given.rounds} rounds of {SECONDS:g} s each; one thread")
    print("| sub-environments | steps/s | lowest | highest | steps/s of processor time |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, rates in wall.items():
        figures = statistics.median(rates), min(rates), max(rates), statistics.median(processor[name])
        print(f"| {name} | " + " | ".join(f"{figure:,.0f}" for figure in figures) + " |")


def vector(count: int, arguments: dict[str, object]) -> Callable[[], int]:
    """Return a function that steps a vector environment once and says how many steps that were."""
    envs = gymnasium.make_vec(ID, num_envs=count, vectorization_mode="vector_entry_point", **arguments)
    envs.reset(seed=0)
    envs.action_space.seed(0)
    actions = [envs.action_space.sample() for _ in range(64)]
    taken = 0

    def step() -> int:
        nonlocal taken
        taken += 1
        envs.step(actions[taken % len(actions)])
        return count

    return step


def single(arguments: dict[str, object]) -> Callable[[], int]:
    """Return a function that steps one environment and begins the next episode where one ends."""
    env = gymnasium.make(ID, **arguments)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [np.asarray(env.action_space.sample()) for _ in range(64)]
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
