"""What should the learning rate, and the momentum, do when the batch size changes?

    python benchmarks/evidence/lr_rules.py

One small task (the ResNet-8 on scikit-learn's digits), a reference rate tuned at the reference batch size of 16 for
each optimizer, a cosine schedule. Two ways to larger batches: 256 from the first example on, and the paper's dynamic
sampling from 16 to 256 in five stages. For each, every learning-rate rule, and for the linear rule a ramp of one epoch
and the two other treatments of the momentum. Held-out loss and error are means over seeds with 95 % intervals (t),
ratios to the reference (16 throughout) are paired by seed. A run whose line is in ``--out`` is not run again.
"""

import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import autobatch
from autobatch.control import LearningRateRule, MeasureAtInterval, NeverMeasure
from benchmarks.pages import half_width, heading, keyed, parser_of

TRAIN = 1300
REFERENCE = 16
LADDER = (16, 32, 64, 128, 256)
OPTIMIZERS: dict[str, tuple[float, Callable[..., torch.optim.Optimizer]]] = {
    "SGD": (0.05, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4)),
    "AdamW": (0.0125, lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=1e-2)),
}
RULES: dict[str, dict[str, Any]] = {
    "none": {"name": "none"},
    "sqrt": {"name": "sqrt"},
    "power 0.75": {"name": "power", "power": 0.75},
    "linear": {"name": "linear"},
    "adascale": {"name": "adascale"},
    "linear, ramp of an epoch": {"name": "linear", "ramp": TRAIN},
    "linear, momentum reset": {"name": "linear", "momentum": "reset"},
    "linear, momentum rescaled": {"name": "linear", "momentum": "rescale"},
    "none, momentum rescaled": {"name": "none", "momentum": "rescale"},
}
AT_A_CHANGE = {"linear, ramp of an epoch", "linear, momentum reset"}
KEYS = ("optimizer", "way", "rule", "seed", "epochs")
POLICIES = {"256 throughout": "s256", "16 to 256 in stages": "s16-to-256"}


def main() -> None:
    """Run what is missing and print the tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rates", type=float, nargs="*", help="only show 16 throughout at these rates, for tuning")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/lr_rules.jsonl"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.rates:
        for optimizer in OPTIMIZERS:
            for lr in arguments.rates:
                runs = [train(optimizer, "s16", {"name": "none"}, s, arguments.epochs, lr) for s in arguments.seeds]
                print(f"{optimizer:6s} {lr:g}: loss {np.mean([run['loss'] for run in runs]):.4f}", flush=True)
        return
    done = keyed(arguments.out, *KEYS)
    cells = [(o, "16 throughout", "s16", "none") for o in OPTIMIZERS]
    cells += [
        (optimizer, way, policy, rule)
        for optimizer in OPTIMIZERS
        for way, policy in POLICIES.items()
        for rule in RULES
        if way != "256 throughout" or rule not in AT_A_CHANGE
    ]
    for seed in arguments.seeds:
        for optimizer, way, policy, rule in cells:
            key = (optimizer, way, rule, seed, arguments.epochs)
            if key in done:
                continue
            done[key] = train(optimizer, policy, RULES[rule], seed, arguments.epochs, OPTIMIZERS[optimizer][0])
            line = {**dict(zip(KEYS, key, strict=True)), **done[key]}
            with arguments.out.open("a") as file:  # with NaN, which those that diverged have
                file.write(json.dumps(line) + "\n")
            print(*key[:4], f"loss {line['loss']:.4f}, error {100 * line['error']:.2f} %", flush=True)
    report({key: value for key, value in done.items() if key[3] in arguments.seeds and key[4] == arguments.epochs})


def train(
    optimizer_name: str, policy: str, rule: dict[str, Any], seed: int, epochs: int, lr: float
) -> dict[str, float]:
    """Train once; return held-out loss and error at the end, and the optimizer's steps."""
    torch.manual_seed(seed)
    x, y = load_digits(return_X_y=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 + seed))
    images, labels = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8)[order] / 16, torch.tensor(y)[order]
    model = autobatch.build_model("resnet", depth=8, in_channels=1, image_size=8)
    optimizer = OPTIMIZERS[optimizer_name][1](model.parameters(), lr)
    controller = autobatch.AutoBatchController(
        model,
        optimizer,
        policy=policy,
        batch_sizes=LADDER,
        dataset_size=TRAIN,
        epochs=epochs,
        rates=autobatch.Rates(
            schedule=lambda progress: (1 + math.cos(math.pi * progress)) / 2,
            rule=LearningRateRule(reference_batch_size=REFERENCE, **rule),
        ),
        measuring=MeasureAtInterval(50, floor=4) if rule["name"] == "adascale" else NeverMeasure(),
        seed=seed,
    )
    while not controller.finished:
        for indices in controller.batches():
            with controller.step() as step:
                step.backward(F.cross_entropy(model(images[indices]), labels[indices]))
            optimizer.step()
            optimizer.zero_grad()
        controller.end_epoch()
    model.eval()
    with torch.no_grad():
        outputs = model(images[TRAIN:])
    return {
        "loss": F.cross_entropy(outputs, labels[TRAIN:]).item(),
        "error": (outputs.argmax(1) != labels[TRAIN:]).double().mean().item(),
        "steps": controller.steps,
    }


def report(runs: dict[tuple[Any, ...], dict[str, float]]) -> None:
    """Print a table for each optimizer."""
    cells: dict[tuple[str, str, str], dict[int, dict[str, float]]] = defaultdict(dict)
    for (optimizer, way, rule, seed, _), figures in runs.items():
        cells[optimizer, way, rule][seed] = figures
    for optimizer, (lr, _) in OPTIMIZERS.items():
        reference = cells[optimizer, "16 throughout", "none"]
        print(f"\n{optimizer}, {lr:g} at batch size {REFERENCE}\n")
        print(heading("batch size | rule | steps | held-out loss | loss / reference | held-out error, %"))
        for (own, way, rule), seeds in cells.items():
            if own != optimizer:
                continue
            steps = next(iter(seeds.values()))["steps"]
            ratios = [math.log(figures["loss"] / reference[seed]["loss"]) for seed, figures in seeds.items()]
            middle, half = mean_and_half(ratios)
            ratio = f"{math.exp(middle):.2f} ({math.exp(middle - half):.2f}-{math.exp(middle + half):.2f})"
            loss, error = (mean_and_half([figures[key] for figures in seeds.values()]) for key in ("loss", "error"))
            print(
                f"| {way} | {rule} | {steps:,} | {loss[0]:.4f} ± {loss[1]:.4f} | {ratio if half else 1} "
                f"| {100 * error[0]:.2f} ± {100 * error[1]:.2f} |"
            )


def mean_and_half(values: list[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval."""
    return float(np.mean(values)), half_width(values)


if __name__ == "__main__":
    main()
