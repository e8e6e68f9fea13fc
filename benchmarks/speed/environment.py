"""Steps a second of the training environment, which are epochs, and what the environment itself takes of a step.

    python benchmarks/speed/environment.py
    python benchmarks/speed/environment.py --env digits-mlp --threads 1

Each batch size of the ladder is held for some steps. ``environment`` is what comes on top of the epoch in
``Trial.period``: moving, reward, observation and info. The surrogate has ``benchmarks/speed/surrogate.py``.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from autobatch.envs import TrainEnv, register_environments
from autobatch.training._trial import Trial
from benchmarks.pages import parser_of

STEPS = 5


def main() -> None:
    """Print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--env", default="digits-resnet8", help="task")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; the task's by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=STEPS, help="timed steps of each batch size")
    given = parser.parse_args()
    register_environments()
    start = time.perf_counter()
    env = gymnasium.make("AutoBatch/Train-v0", env=given.env, threads=given.threads, device=given.device).unwrapped
    assert isinstance(env, TrainEnv)
    made = time.perf_counter() - start
    resets = [timed(lambda: env.reset(seed=0)) for _ in range(3)]
    setting = env._rules.setting
    print(
        f"{given.env}; {setting.device}, threads {setting.task.threads}; make {made:.2f} s, reset {min(resets):.3f} s"
    )
    print("| batch size | steps/s | ms a step | of which environment |")
    print("| ---: | ---: | ---: | ---: |")
    for batch_size in setting.task.batch_sizes:
        whole, own = held(env, batch_size, given.steps)
        print(f"| {batch_size} | {1 / whole:.2f} | {1e3 * whole:.1f} | {1e3 * own:.2f} ms |")


def held(env: TrainEnv, batch_size: int, steps: int) -> tuple[float, float]:
    """Return the median seconds of a step at one batch size, and those of them that are the environment's own."""
    epochs: list[float] = []
    train = Trial.period

    def clocked(trial: Trial, *arguments: Any) -> Any:
        start = time.perf_counter()
        row = train(trial, *arguments)
        epochs.append(time.perf_counter() - start)
        return row

    Trial.period = clocked  # type: ignore[method-assign]
    try:
        reach(env, batch_size)
        epochs.clear()
        wholes = [timed(lambda: env.step(np.array([2, 1]))) for _ in range(steps)]
    finally:
        Trial.period = train  # type: ignore[method-assign]
    own = [whole - epoch for whole, epoch in zip(wholes, epochs, strict=True)]
    return statistics.median(wholes), statistics.median(own)


def reach(env: TrainEnv, batch_size: int) -> None:
    """Begin a training and go to a batch size; the step that arrives there warms it up."""
    ladder = env._rules.setting.task.batch_sizes
    _, info = env.reset(seed=0)
    arrived = False
    while not arrived:
        rungs = ladder.index(batch_size) - ladder.index(info["batch_size"])
        info = env.step(np.array([np.clip(rungs, -2, 2) + 2, 1]))[-1]
        arrived = info["batch_size"] == batch_size


def timed(action: Callable[[], Any]) -> float:
    """Return the seconds of an action."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
