"""Learn a policy for any task with some data left out, and set it beside ``steer`` in real training on those.

    python benchmarks/learning/general_policy.py learn --without digits --out runs/learned-general
    python benchmarks/learning/general_policy.py tables [--policy learned-general]
    python benchmarks/learning/general_policy.py run digits-mlp digits-vit [--policy learned-general] [--seeds 500-504]
    python benchmarks/learning/general_policy.py page

``learn`` searches, on surrogates of all other tasks, for departures from the rule: no surrogate that it sees was fitted
to the tasks left out, nor to the same data with another network. ``tables`` plays what was learned beside the rule on
the same surrogates, varied as in learning, as recorded, and with cost tables at and beyond the ends of those that
learning draws: a step takes as long whatever its size, as on a large GPU, or every example as long. ``run`` trains the
policy on seeds that the runs of ``steer`` in ``benchmarks/results/steer`` or ``learned_growth`` have, the tasks taking
turns, and appends to ``benchmarks/results/learned_general/TASK.jsonl``; what is there is not trained again. ``page``
sets each beside the rule, paired by seed, and notes the figures on the shipped card; ``run TASK --policy steer`` trains
the rule on seeds that it has not had there. There, ``general-without-mnist`` is of ``learn --without mnist``, as are
the others, and ``steer-whole`` is ``steer`` with ``length: 1``. The last rows are over the
tasks on which it ran with their data left out, with the p-values of Student's and Wilcoxon's paired tests.
"""

import json
import math
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from autobatch import CostTable, load_task
from autobatch.control.run._files import read_lines
from autobatch.envs.surrogate import SteeredSettings
from autobatch.learn import GeneralResult, learn_general, save_general
from autobatch.learn._general import SteeredArena
from autobatch.learn._rollouts import JUDGING_SEED, Population
from autobatch.policies import load_learned, load_policy_spec
from autobatch.policies.learned import load_card, save_card
from benchmarks import pages
from benchmarks.learning.learned_growth import told_test
from benchmarks.steering import steer

RESULTS = pages.RESULTS / "learned_general"
SHIPPED = "learned-general"
DATA = {
    "digits": ("digits-resnet8", "digits-mlp", "digits-densenet8", "digits-vit"),
    "mnist": ("mnist10k-mlp", "mnist10k-resnet8", "mnist10k-densenet8", "mnist5k-convnet"),
    "cifar": ("cifar5k-resnet8", "cifar5k-convnet"),
    "diamonds": ("diamonds-mlp",),
    "topics": ("topics-gpt",),
}
"""Tasks by the data that they train on; what is left out is left out with all networks."""

RULE = (("steer", "steer"), ("learned_growth", "threshold"), ("learned_general", "steer"))
"""Where runs of ``steer`` are, and by which name: in the second place it was tried before it became ``steer``, and in
the third it ran beside the policy. Of a seed the last counts."""

FIGURES = ("validation_loss", "test_loss", "modelled_seconds")

VARIED = "varied, as in learning"
HELD_BACK = {VARIED: None, "as recorded": None, "as long for any size": 2.0**14, "as long for any example": 0.0}
"""Examples that take as long as what a step takes whatever its size; None for the recorded tables."""

WHY = (
    "Losses that end lower are those of a longer training, which the rule gives for less time with length 1; the "
    "surrogates that it was learned on know few trainings that ended early, and promised more than training gave."
)


def learn(without: str, out: Path, steps: int, seed: int) -> None:
    """Learn a policy, and say how it does on the surrogates that it was learned on."""
    left_out = DATA.get(without, ())
    envs = tuple(name for data, names in DATA.items() if data != without for name in names)
    settings = SteeredSettings(envs, start="scouts", vary=True, without=left_out)
    begun = time.perf_counter()
    result = learn_general(settings, steps=steps, seed=seed, observe=lambda *told: print(*told, flush=True))
    command = f"python benchmarks/learning/general_policy.py learn --without {without} --seed {seed} --steps {steps}"
    path = save_general(
        out / f"{out.absolute().name}.yaml",
        result,
        settings,
        seed=seed,
        seconds=time.perf_counter() - begun,
        command=command,
    )
    print(path)
    print(json.dumps(on_surrogates(result), indent=1))


def on_surrogates(result: GeneralResult) -> dict[str, list[float]]:
    """Return mean gain over the rule and its standard error, by task and over all."""
    gains = {"all": result.gain}
    for name in dict.fromkeys(result.task):
        gains[name] = result.gain[[own == name for own in result.task]]
    return {name: [float(own.mean()), float(own.std() / math.sqrt(len(own)))] for name, own in gains.items()}


def tables(policy: str) -> None:
    """Print the return above the rule by cost table, with its standard error."""
    network, card = load_learned(policy)
    left_out = tuple((card.evaluation or {})["learning"]["without"])
    recorded = {name: load_task(pages.ENVS / name) for name in card.training.tasks}
    both = np.stack([np.zeros(network.flat().size), network.flat().astype(np.float64)])
    policies, seeds = Population(both, network.sizes, "steered"), range(JUDGING_SEED, JUDGING_SEED + 1024)
    print(pages.heading("cost table | episodes | return above the rule"))
    for told_as, overhead in HELD_BACK.items():
        with tempfile.TemporaryDirectory() as folder:
            for name, task in recorded.items():
                seconds = {size: 1e-6 * (size + (overhead or 0.0)) for size in task.batch_sizes}
                table = CostTable("made up", seconds, seconds, 0.0)
                (Path(folder) / f"{name}.json").write_text(json.dumps(table.to_dict()))
            own = None if overhead is None else folder
            told = {"vary": told_as == VARIED, "cost_tables": own, "without": left_out}
            settings = SteeredSettings(tuple(recorded), start="scouts", **told)
            returns, _ = SteeredArena(settings).play(policies, seeds)
        gain = returns[1] - returns[0]
        print(f"| {told_as} | {gain.size} | {gain.mean():+.3f} ± {gain.std(ddof=1) / math.sqrt(gain.size):.3f} |")


def run(tasks: Iterable[str], policy: str, seeds: Iterable[int], data_dir: Path | None) -> None:
    """Train what is missing, the tasks taking turns; runs go by the policy's name."""
    label = load_policy_spec(policy).name
    for seed in seeds:
        for name in tasks:
            path = RESULTS / f"{name}.jsonl"
            if (label, seed) not in pages.keyed(path, "policy", "seed"):
                row = steer.train(name, policy, seed, data_dir) | {"policy": label}
                pages.keep(path, row)
                print(f"{name} {seed}: {row['validation_loss']:.4f} {row['test_loss']:.4f}", flush=True)


def page() -> None:
    """Write the table of ``docs/how-to/train-a-policy.md``, print it, and note it on the card."""
    lines = [pages.heading("task | policy | seeds | validation loss, relative | test loss, relative | time, relative")]
    noted: dict[str, Any] = {}
    left_out: dict[str, np.ndarray] = {}
    for path in sorted(RESULTS.glob("*.jsonl")):
        rule = [
            row
            for where, policy in RULE
            for row in read_lines(pages.RESULTS / where / path.name)
            if row["policy"] == policy
        ]
        rows = read_lines(path)
        for policy in dict.fromkeys(row["policy"] for row in rows if row["policy"] != "steer"):
            pairs = pages.paired([row for row in rows if row["policy"] == policy], rule, FIGURES)
            cells, figures = [], {"split": "unseen", "against": "steer", "seeds": list(pairs)}
            apart = np.array(list(pairs.values()))
            if policy == with_data_left_out(path.stem):
                left_out[path.stem] = apart
            for figure, logs in zip(FIGURES, apart.T, strict=True):
                cells.append(told(logs))
                figures[figure] = [round(math.expm1(value), 4) for value in interval(logs) if math.isfinite(value)]
            noted.setdefault(path.stem, {})[policy] = figures
            lines.append(f"| {path.stem} | `{policy}` | {len(pairs)} | {' | '.join(cells)} |")
    pairs = np.concatenate(list(left_out.values()))
    lines.append(over_all("all pairs", pairs))
    lines.append(over_all("the tasks' means", np.array([logs.mean(axis=0) for logs in left_out.values()])))
    page_of = pages.ROOT / "docs" / "how-to" / "train-a-policy.md"
    pages.put(page_of, "benchmarks/learning/general_policy.py page", "\n".join(lines))
    figures = ", ".join(
        f"{name.replace('_', ' ')} {told(column)}" for name, column in zip(FIGURES, pairs.T, strict=True)
    )
    verdict = f"No gain over steer at its cost. On {len(left_out)} tasks left out, {len(pairs)} pairs: {figures}. {WHY}"
    card = pages.ROOT / "policies" / f"{SHIPPED}.json"
    own = load_card(card)
    evaluation = {**(own.evaluation or {}), "real_training": noted, "verdict": verdict}
    save_card(card, own.model_copy(update={"evaluation": evaluation}))


def with_data_left_out(task: str) -> str:
    """Return the name of the policy that was learned without a task's data."""
    without = next(data for data, names in DATA.items() if task in names)
    return SHIPPED if without == "digits" else f"general-without-{without}"


def over_all(title: str, logs: np.ndarray) -> str:
    """Return a row of what differences over several tasks come to."""
    return f"| {title} | with their data left out | {len(logs)} | {' | '.join(told_test(own) for own in logs.T)} |"


def interval(logs: np.ndarray) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval (Student)."""
    centre, half = float(logs.mean()), pages.half_width(logs) if len(logs) > 1 else math.inf
    return centre, centre - half, centre + half


def told(logs: np.ndarray) -> str:
    """Return a relative difference, with its interval where there are several."""
    return pages.relative_interval(*interval(logs)) if len(logs) > 1 else f"{100 * math.expm1(logs[0]):+.1f} %"


if __name__ == "__main__":
    learning = {
        "--without": {"choices": [*DATA, "nothing"], "default": "digits"},
        "--out": {"type": Path, "required": True},
        "--steps": {"type": int, "default": 4_000_000},
        "--seed": {"type": int, "default": 0},
    }
    running = {
        "tasks": {"nargs": "+"},
        "--policy": {"default": SHIPPED},
        **pages.seeds("500-504"),
        **pages.DATA_DIR,
    }
    judging = {"--policy": {"default": SHIPPED}}
    commands = {"learn": (learn, learning), "tables": (tables, judging), "run": (run, running), "page": (page, {})}
    pages.carry_out(__doc__, commands)
