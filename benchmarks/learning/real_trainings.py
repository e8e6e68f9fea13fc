"""What a learned policy gains by going on to learn on real trainings.

    python benchmarks/learning/real_trainings.py run FOLDER [TASK ...] [--data-dir data]
    python benchmarks/learning/real_trainings.py page

``run`` has ``autobatch train-policy --on train`` learn into ``FOLDER/LEARNING``, going on where it was stopped, then
plays new episodes with what came of it, with what it began with, and with a policy that holds the middle of both
ladders, the same seeds for all, and appends one line an episode to ``benchmarks/results/real_trainings.jsonl``. A
learning begins with a shipped policy (``--begin POLICY``) or with nothing: then its first policy is a network of zeros,
whose choice is the first of each list, two sizes and a rate lower every epoch. One process, as many threads as the task
says. ``page`` writes the table of ``docs/how-to/train-a-policy.md``. A return is the quality of the end less what the
training cost, as the reward has it.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from autobatch.control.run._files import read_lines
from autobatch.envs.train import TrainEnv
from autobatch.learn import begun_with
from autobatch.policies._moves import BATCH_MOVES, RATE_MOVES
from autobatch.policies.learned import load_card
from autobatch.policies.learned._network import HEADS, Network
from benchmarks import pages

RESULTS = pages.RESULTS / "real_trainings.jsonl"
JUDGED = range(7_000_000, 7_000_012)
COST_WEIGHT = 0.1
"""As the shipped policies were learned with."""


class Learning(NamedTuple):
    """How a policy learns: what it begins with if anything, steps in all, the length of trainings if not the task's."""

    begin: str | None
    steps: int
    epochs: int | None = None


LEARNINGS = {
    "digits-mlp": Learning("learned-digits-mlp", 8000),
    "mnist10k-mlp": Learning("learned-digits", 3200),
    "cifar5k-resnet8": Learning(None, 64, 2),
}


def always(seen: int, size: int, rate: int) -> Network:
    """Return a network that moves alike whatever it sees, by two places in the lists of moves."""
    bias = np.zeros(sum(HEADS["multidiscrete"]))
    bias[[size, len(BATCH_MOVES) + rate]] = 1.0
    layers = [(np.zeros((len(bias), seen)), bias)]
    return Network.of(layers, activation="tanh", actions="multidiscrete")


def learn(name: str, folder: Path, data_dir: Path | None) -> Path:
    """Learn, or go on with it, and return the policy."""
    own, out = LEARNINGS[name], folder / name
    policy = out / f"{name}.yaml"
    if not policy.exists():
        command = [
            *(sys.executable, "-m", "autobatch", "train-policy", "--env", name, "--on", "train"),
            *("--steps", str(own.steps), "--cost-weight", str(COST_WEIGHT)),
            *(() if own.begin is None else ("--begin", own.begin)),
            *(() if own.epochs is None else ("--epochs", str(own.epochs))),
            *("--out", str(out), *(["--resume"] if (out / "plan.json").exists() else [])),
            *(() if data_dir is None else ("--data-dir", str(data_dir))),
        ]
        subprocess.run(command, check=True)
    return policy


def played(env: TrainEnv, network: Network, seed: int) -> dict[str, Any]:
    """Play one episode, and return what it came to."""
    started = time.perf_counter()
    observation, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, info = env.step(network.act(observation))
        total, over = total + float(reward), terminated or truncated
    return {"return": total, "score": info["score"], "seconds": time.perf_counter() - started}


def run_all(folder: Path, tasks: list[str], data_dir: Path | None) -> None:
    """Learn and judge what is missing."""
    for name in tasks or LEARNINGS:
        own, policy = LEARNINGS[name], learn(name, folder, data_dir)
        seconds = load_card(policy.with_suffix(".json")).training.seconds
        there = pages.keyed(RESULTS, "task", "policy", "seed")
        learned = begun_with(str(policy))
        env = TrainEnv(
            name,
            actions=learned.actions,
            cost="modelled",
            cost_weight=COST_WEIGHT,
            epochs=own.epochs,
            data_dir=data_dir,
        )
        (seen,) = env.observation_space.shape
        judged = {
            "begun with": always(seen, 0, 0) if own.begin is None else begun_with(own.begin),
            "learned": learned,
            "held": always(seen, BATCH_MOVES.index(0), RATE_MOVES.index(0)),
        }
        for seed in JUDGED:
            for told, one in judged.items():
                if (name, told, seed) not in there:
                    row = {"task": name, "policy": told, "seed": seed, "learning_seconds": seconds}
                    pages.keep(RESULTS, row | played(env, one, seed))
                    print(json.dumps(read_lines(RESULTS)[-1]), flush=True)
        env.close()


def difference(paired: np.ndarray) -> str:
    """Return a mean difference with its 95 % interval."""
    if not paired.any():
        return "none"
    test = stats.ttest_1samp(paired, 0.0)
    low, high = test.confidence_interval(0.95)
    return f"{paired.mean():+.4f} ({low:+.4f} to {high:+.4f})"


def page() -> None:
    """Write the table of ``docs/how-to/train-a-policy.md`` between its marks, and print it."""
    rows = read_lines(RESULTS)
    titles = (
        "task | begins with | epochs | steps | learning | seeds | before | after | after less before | less holding"
    )
    lines = [pages.heading(titles)]
    for name, own in LEARNINGS.items():
        found = {(row["policy"], row["seed"]): row for row in rows if row["task"] == name}
        seeds = sorted({seed for policy, seed in found if {("learned", seed), ("begun with", seed)} <= found.keys()})
        if len(seeds) < 3:
            continue
        before, after = (
            np.array([found[told, seed]["return"] for seed in seeds]) for told in ("begun with", "learned")
        )
        held = np.array([
            found["learned", seed]["return"] - found["held", seed]["return"]
            for seed in seeds
            if ("held", seed) in found
        ])
        cells = [
            name,
            f"`{own.begin}`" if own.begin else "nothing",
            str(own.epochs or "all"),
            f"{own.steps:,}",
            f"{found['learned', seeds[0]]['learning_seconds'] / 60:.0f} min",
            str(len(seeds)),
            *(f"{mean.mean():.4f}" for mean in (before, after)),
            difference(after - before),
            f"{difference(held)}, {len(held)} seeds" if len(held) else "-",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    page_of = pages.ROOT / "docs" / "how-to" / "train-a-policy.md"
    pages.put(page_of, "benchmarks/learning/real_trainings.py page", "\n".join(lines))


if __name__ == "__main__":
    running = {
        "folder": {"type": Path},
        "tasks": {"nargs": "*", "metavar": "TASK", "choices": [*LEARNINGS, []]},
        **pages.DATA_DIR,
    }
    pages.carry_out(__doc__, {"run": (run_all, running), "page": (page, {})})
