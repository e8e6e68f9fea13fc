"""What a learned policy gains by going on to learn on real trainings.

    python benchmarks/learning/real_trainings.py run FOLDER [TASK ...] [--data-dir data]
    python benchmarks/learning/real_trainings.py page

``run`` has ``autobatch train-policy --on train --begin POLICY`` learn into ``FOLDER/TASK``, going on where it was
stopped, then plays new episodes with what came of it and with the policy that it began with, the same seeds for both,
and appends one line an episode to ``benchmarks/results/real_trainings.jsonl``. One process, as many threads as the task
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
from autobatch.policies.learned import load_card
from benchmarks import pages

RESULTS = pages.RESULTS / "real_trainings.jsonl"
JUDGED = range(7_000_000, 7_000_012)
COST_WEIGHT = 0.1
"""As the shipped policies were learned with."""


class Learning(NamedTuple):
    """How a policy goes on to learn: what it begins with, steps in all, the length of trainings if not the task's."""

    begin: str
    steps: int
    epochs: int | None = None


LEARNINGS = {
    "digits-mlp": Learning("learned-digits-mlp", 8000),
    "mnist10k-mlp": Learning("learned-digits", 3200),
    "cifar5k-resnet8": Learning("learned-digits", 640, 4),
}


def learn(name: str, folder: Path, data_dir: Path | None) -> Path:
    """Learn, or go on with it, and return the policy."""
    own, out = LEARNINGS[name], folder / name
    policy = out / f"{name}.yaml"
    if not policy.exists():
        command = [
            *(sys.executable, "-m", "autobatch", "train-policy", "--env", name, "--on", "train", "--begin", own.begin),
            *("--steps", str(own.steps), "--cost-weight", str(COST_WEIGHT)),
            *(() if own.epochs is None else ("--epochs", str(own.epochs))),
            *("--out", str(out), *(["--resume"] if (out / "plan.json").exists() else [])),
            *(() if data_dir is None else ("--data-dir", str(data_dir))),
        ]
        subprocess.run(command, check=True)
    return policy


def played(env: TrainEnv, policy: str, seed: int) -> dict[str, Any]:
    """Play one episode, and return what it came to."""
    network = begun_with(policy)
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
        network = begun_with(str(policy))
        env = TrainEnv(
            name,
            actions=network.actions,
            cost="modelled",
            cost_weight=COST_WEIGHT,
            epochs=own.epochs,
            data_dir=data_dir,
        )
        for seed in JUDGED:
            for told, one in (("begun with", own.begin), ("learned", str(policy))):
                if (name, told, seed) not in there:
                    row = {"task": name, "policy": told, "seed": seed, "learning_seconds": seconds}
                    pages.keep(RESULTS, row | played(env, one, seed))
                    print(json.dumps(read_lines(RESULTS)[-1]), flush=True)
        env.close()


def page() -> None:
    """Write the table of ``docs/how-to/train-a-policy.md`` between its marks, and print it."""
    rows = read_lines(RESULTS)
    titles = "task | begins with | epochs | steps | learning | return before | after | difference (95 %)"
    lines = [pages.heading(titles)]
    for name, own in LEARNINGS.items():
        found = {(row["policy"], row["seed"]): row for row in rows if row["task"] == name}
        seeds = sorted({seed for policy, seed in found if (("learned", seed) in found) and policy == "begun with"})
        if len(seeds) < 3:
            continue
        before, after = (
            np.array([found[told, seed]["return"] for seed in seeds]) for told in ("begun with", "learned")
        )
        told = "none: it kept what it began with"
        if not np.array_equal(before, after):
            test = stats.ttest_1samp(after - before, 0.0)
            low, high = test.confidence_interval(0.95)
            told = f"{(after - before).mean():+.4f} ({low:+.4f} to {high:+.4f}), p = {test.pvalue:.2g}"
        minutes, length = found["learned", seeds[0]]["learning_seconds"] / 60, own.epochs or "all"
        lines.append(
            f"| {name} | `{own.begin}` | {length} | {own.steps:,} | {minutes:.0f} min | {before.mean():.4f} | "
            f"{after.mean():.4f} | {told} |"
        )
    page_of = pages.ROOT / "docs" / "how-to" / "train-a-policy.md"
    pages.put(page_of, "benchmarks/learning/real_trainings.py page", "\n".join(lines))


if __name__ == "__main__":
    running = {
        "folder": {"type": Path},
        "tasks": {"nargs": "*", "metavar": "TASK", "choices": [*LEARNINGS, []]},
        **pages.DATA_DIR,
    }
    pages.carry_out(__doc__, {"run": (run_all, running), "page": (page, {})})
