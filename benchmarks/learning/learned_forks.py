"""What forks as an action add to a learned policy, at equal steps of learning: on surrogates, task by task.

    python benchmarks/learning/learned_forks.py learn
    python benchmarks/learning/learned_forks.py page

``learn`` searches on each task's surrogate alone, and on all of them together, for departures from the rule with forks
and without, each with as many steps and the same learning seeds, and plays what was found on the same new episodes: ten
evaluation seeds of 100 episodes each. It appends to ``benchmarks/results/learned_forks.jsonl``; what is there is not
learned again. ``page`` writes the table of ``docs/how-to/train-a-policy.md``. All is on surrogates.
"""

import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from autobatch.control.run._files import read_lines
from autobatch.envs.surrogate import SteeredSettings
from autobatch.learn import learn_general
from autobatch.learn._general import SteeredArena, kind_of
from autobatch.learn._rollouts import JUDGING_SEED, Population
from autobatch.policies.learned._network import Network
from benchmarks import pages
from benchmarks.learning.general_policy import DATA

RESULTS = pages.RESULTS / "learned_forks.jsonl"
TASKS = ("digits-resnet8", "digits-mlp", "mnist10k-mlp", "cifar5k-convnet", "diamonds-mlp", "topics-gpt")
ALL = "all"
STEPS = {ALL: 4_000_000}
"""Steps of learning; a million where nothing is said."""

EVALUATIONS, EPISODES = 10, 100


def learn(tasks: Iterable[str], seeds: Iterable[int]) -> None:
    """Learn what is missing, with forks and without."""
    for task in tasks:
        for seed in seeds:
            for forks in (False, True):
                if (task, seed, forks) not in pages.keyed(RESULTS, "task", "seed", "forks"):
                    row = figures(task, seed, forks)
                    pages.keep(RESULTS, row)
                    print({name: value for name, value in row.items() if name != "gains"}, flush=True)


def figures(task: str, seed: int, forks: bool) -> dict[str, Any]:
    """Learn once, and return what came of it: returns above the rule's by evaluation seed, and the forks made."""
    envs = tuple(name for names in DATA.values() for name in names) if task == ALL else (task,)
    settings = SteeredSettings(envs, start="scouts", vary=True, forks=forks)
    steps, begun = STEPS.get(task, 1_000_000), time.perf_counter()
    result = learn_general(settings, steps=steps, seed=seed, judged=EVALUATIONS * EPISODES)
    seconds = time.perf_counter() - begun
    made, taken = forks_made(settings, result.network)
    return {
        "task": task,
        "seed": seed,
        "forks": forks,
        "steps": result.steps,
        "seconds": round(seconds, 1),
        "gains": [round(float(own.mean()), 5) for own in result.gain.reshape(EVALUATIONS, EPISODES)],
        "forks_an_episode": round(made, 3),
        "taken": round(taken, 3),
    }


def forks_made(settings: SteeredSettings, network: Network) -> tuple[float, float]:
    """Return how many forks an episode has, and the share that is taken."""
    if not settings.forks:
        return 0.0, 0.0
    arena, counts = SteeredArena(settings), np.zeros(2)
    advance = arena.runs.advance

    def counted(actions: np.ndarray, rows: np.ndarray) -> Any:
        step = advance(actions, rows)
        counts[:] += [step.info[name][rows].sum() for name in ("forked", "fork_taken")]
        return step

    arena.runs.advance = counted  # type: ignore[method-assign]
    policy = Population(network.flat()[None], network.sizes, kind_of(settings))
    arena.play(policy, range(JUDGING_SEED, JUDGING_SEED + EVALUATIONS * EPISODES))
    return float(counts[0]) / (EVALUATIONS * EPISODES), float(counts[1] / max(counts[0], 1.0))


def page() -> None:
    """Write the table, and print it."""
    rows = read_lines(RESULTS)
    title = (
        "learned on | learnings | return above the rule, without forks | with forks | more with forks | forks, taken"
    )
    lines = [pages.heading(title)]
    for task in dict.fromkeys(row["task"] for row in rows):
        kinds = [
            {row["seed"]: row for row in rows if row["task"] == task and row["forks"] is forks}
            for forks in (False, True)
        ]
        seeds = sorted(kinds[0].keys() & kinds[1].keys())
        plain, forked = (np.array([kind[seed]["gains"] for seed in seeds]) for kind in kinds)
        more = (forked - plain).mean(axis=0)
        made, taken = (
            np.mean([kinds[1][seed][name] for seed in seeds], axis=0) for name in ("forks_an_episode", "taken")
        )
        cells = (
            ", ".join(f"{value:+.3f}" for value in plain.mean(axis=1)),
            ", ".join(f"{value:+.3f}" for value in forked.mean(axis=1)),
            f"{more.mean():+.3f} ± {pages.half_width(more):.3f}",
            f"{made:.2f}, {100 * taken:.0f} %",
        )
        lines.append(f"| {'all twelve' if task == ALL else task} | {len(seeds)} | {' | '.join(cells)} |")
    where = pages.ROOT / "docs" / "how-to" / "train-a-policy.md"
    pages.put(where, "benchmarks/learning/learned_forks.py page", "\n".join(lines))


if __name__ == "__main__":
    learning = {
        "--tasks": {"nargs": "+", "default": [*TASKS, ALL], "choices": [*TASKS, ALL]},
        **pages.seeds("0-2"),
    }
    pages.carry_out(__doc__, {"learn": (learn, learning), "page": (page, {})})
