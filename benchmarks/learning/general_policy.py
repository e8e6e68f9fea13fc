"""Learn a policy for any task with some data left out, and set it beside ``steer`` in real training on those.

    python benchmarks/learning/general_policy.py learn --without digits --out runs/learned-general
    python benchmarks/learning/general_policy.py run digits-mlp digits-vit [--policy learned-general] [--seeds 500-504]
    python benchmarks/learning/general_policy.py page

``learn`` searches, on surrogates of all other tasks, for departures from the rule: no surrogate that it sees was fitted
to the tasks left out, nor to the same data with another network. ``run`` trains the policy on seeds that the runs of
``steer`` in ``benchmarks/results/steer`` or ``learned_growth`` have, the tasks taking turns, and appends to
``benchmarks/results/learned_general/TASK.jsonl``; what is there is not trained again. ``page`` prints each beside the
rule, paired by seed, and notes the figures on the shipped card; ``run TASK --policy steer`` trains the rule on seeds
that it has not had there. There, ``learned-general-unbounded`` is the same network with ``seen`` left out of its card,
so that nothing is too far from what it was trained on, ``general-without-mnist`` is of ``learn --without mnist``, as
are the others, and ``steer-whole`` is ``steer`` with ``length: 1``.
"""

import json
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from autobatch.control.run._files import read_lines
from autobatch.envs.surrogate import SteeredSettings
from autobatch.learn import GeneralResult, learn_general, save_general
from autobatch.policies import load_policy_spec
from autobatch.policies.learned import load_card, save_card
from benchmarks import pages
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
    """Print the table, and note it on the card."""
    print(pages.heading("task | policy | seeds | validation loss, relative | test loss, relative | time, relative"))
    noted: dict[str, Any] = {}
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
            for figure, logs in zip(FIGURES, np.array(list(pairs.values())).T, strict=True):
                cells.append(told(logs))
                figures[figure] = [round(math.expm1(value), 4) for value in interval(logs) if math.isfinite(value)]
            noted.setdefault(path.stem, {})[policy] = figures
            print(f"| {path.stem} | `{policy}` | {len(pairs)} | {' | '.join(cells)} |")
    card = pages.ROOT / "policies" / f"{SHIPPED}.json"
    own = load_card(card)
    save_card(card, own.model_copy(update={"evaluation": {**(own.evaluation or {}), "real_training": noted}}))


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
    pages.carry_out(__doc__, {"learn": (learn, learning), "run": (run, running), "page": (page, {})})
