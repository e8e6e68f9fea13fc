"""Trainings that fit their own examples alone: what ending them sooner gives, and how often it is done by mistake.

    python benchmarks/steering/overfit.py run
    python benchmarks/steering/overfit.py page
    python benchmarks/steering/overfit.py curves [--data-dir data]
    python benchmarks/steering/overfit.py alarms

``run`` trains `steer` on two tasks that overfit, made here: a table of 1,800 rows labelled by a random network with
noise, and the first 700 windows of the help on Python's language; once as it is and once with ``patience: 0``, which
never hastens the end; five seeds, one thread. It appends a line a run to ``benchmarks/results/steer_overfit.jsonl``;
what is there is not trained again. ``page`` prints the table of ``docs/steer.md``. ``alarms`` replays the rule on every
recorded beacon that ended within a quarter of the best of its library, and says how many would have been ended although
their validation loss fell by more than 3 % below the lowest until then. Their rate is constant for half the training,
where figures scatter most. The same for `steer` itself on the shipped tasks: ``curves`` trains it with ``patience: 0``
and keeps its validation figures in ``benchmarks/results/steer_curves.jsonl``; of these it says, too, how many would
have begun their last epoch with other weights.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from autobatch import BeaconLibrary, LibraryError
from autobatch.control.run._files import read_lines
from autobatch.policies import Observation, load_policy_spec
from autobatch.policies.steer._overfit import TELLING, TELLING_FALLING, TELLING_LAST, WINDOW, Validated
from autobatch.policies.steer._plan import Plan
from autobatch.policies.steer._policy import SteerParameters
from autobatch.training import RunConfig, TaskSpec, load_epochs, load_task, run
from benchmarks import pages
from benchmarks.pages import ENVS, changed
from benchmarks.steering.new_tasks import help_text
from benchmarks.steering.steer import BEST, NEW

RESULTS = pages.RESULTS / "steer_overfit.jsonl"
CURVES = pages.RESULTS / "steer_curves.jsonl"
CURVE_SEEDS = (800, 801, 500)
SEEDS = range(5)
NEAR = 1.25
LOST = 0.97
BEACONS_FALL = 0.5
"""Share of a beacon's training after which its rate is first reduced."""
FIGURES = {
    "epochs": (1, 1),
    "validation_loss": (1, 3),
    "test_loss": (1, 3),
    "test_error": (100, 1),
    "steps": (1, 0),
}
"""Figures of the page, what each is multiplied by, and its digits."""

COMMON = {
    "schedule": {"name": "cosine"},
    "batch_sizes": [8, 16, 32, 64, 128],
    "score": "validation_loss",
    "seeds": [0],
    "threads": 1,
}
TASKS = {
    "teacher-mlp": {
        "dataset": {"name": "csv:teacher.csv", "target": "label", "validation": 0.2, "test": 0.15, "split_seed": 0},
        "model": {"name": "mlp", "arguments": {"hidden": [128, 128]}},
        "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0001},
        "learning_rates": [0.003, 0.01, 0.03, 0.1, 0.3],
        "epochs": 30,
    },
    "little-text-gpt": {
        "dataset": {"name": "text:topics.txt", "context": 32, "subset": 700, "validation": 0.2, "test": 0.1},
        "model": {"name": "gpt", "depth": 2, "arguments": {"width": 64, "heads": 4}},
        "optimizer": {"name": "adamw", "momentum": 0.9},
        "learning_rates": [0.0003, 0.001, 0.003, 0.01, 0.03],
        "epochs": 24,
    },
}


def write_data(folder: Path) -> None:
    """Write the table and the text."""
    (folder / "topics.txt").write_bytes(help_text().encode())
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((1800, 24))
    scores = np.tanh(2 * inputs @ rng.standard_normal((24, 32)) / 24**0.5) @ rng.standard_normal((32, 5))
    labels = (scores + 0.4 * rng.gumbel(size=scores.shape)).argmax(axis=1)
    rows = [
        ",".join([*(f"{value:.5f}" for value in row), f"c{label}"]) for row, label in zip(inputs, labels, strict=True)
    ]
    (folder / "teacher.csv").write_text("\n".join([",".join([*(f"x{i}" for i in range(24)), "label"]), *rows]) + "\n")


def run_all() -> None:
    """Train what is missing."""
    found = pages.keyed(RESULTS, "task", "patience", "seed")
    spec = load_policy_spec("steer")
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        for seed in SEEDS:
            for name, keys in TASKS.items():
                task = TaskSpec(name=name, **COMMON, **keys)
                for patience in (0.0, SteerParameters().patience):
                    if (name, patience, seed) in found:
                        continue
                    own = changed(spec, patience=patience)
                    config = RunConfig(
                        task=task, policy=own, seed=seed, device="cpu", data_dir=Path(folder), measure=False
                    )
                    summary = run(config, Path(folder) / f"{name}-{patience}-{seed}")
                    row = {
                        "task": name, "patience": patience, "seed": seed, "epochs": summary.epochs,
                        "validation_loss": summary.validation_loss, "test_loss": summary.test_loss,
                        "test_error": summary.test_error, "steps": summary.optimizer_steps,
                    }  # fmt: skip
                    pages.keep(RESULTS, row)
                    print(row, flush=True)


def page() -> None:
    """Print the table."""
    print(pages.heading("task | end | runs | epochs | validation loss | test loss | test error, % | steps"))
    for name in TASKS:
        for patience, told in ((0.0, "as planned"), (SteerParameters().patience, "hastened")):
            rows = [row for row in read_lines(RESULTS) if (row["task"], row["patience"]) == (name, patience)]
            cells = [
                pages.spread([row[key] for row in rows], digits, factor) for key, (factor, digits) in FIGURES.items()
            ]
            print(f"| {name} | {told} | {len(rows)} | {' | '.join(cells)} |")


def good_beacons() -> Iterator[tuple[BeaconLibrary, dict[str, np.ndarray]]]:
    """Yield the curves of all beacons that ended nearly as well as the best of their library."""
    for folder in sorted(ENVS.iterdir()):
        try:
            library = BeaconLibrary.load(folder)
        except LibraryError:
            continue
        sound = [result for result in library.results() if not result.diverged]
        best = min(result.mean[library.score] for result in sound)
        for result in sound:
            if result.mean[library.score] <= NEAR * best:
                for beacon in library.beacons_at(result.batch_size, result.lr):
                    yield library, beacon.rows


def ended_after(figures: Mapping[str, Sequence[float]], epochs: int, falls_from: float) -> int | None:
    """Return the epoch after which the rule hastens the end of a training; None where it never does."""
    validated, patience = Validated("validation_loss"), max(WINDOW, round(SteerParameters().patience * epochs))
    for epoch in range(1, len(figures["validation_loss"])):
        seen = {name: float(figures[name][epoch - 1]) for name in ("validation_loss", "validation_error")}
        validated.take(_observation(epoch, seen))
        if validated.worse_since(patience, TELLING_FALLING if epoch - WINDOW >= falls_from else TELLING) is not None:
            return epoch
    return None


def goes_back_at_last(figures: Mapping[str, Sequence[float]]) -> bool:
    """Return whether a training would begin its last epoch with other weights."""
    validated = Validated("validation_loss")
    for epoch in range(1, len(figures["validation_loss"])):
        seen = {name: float(figures[name][epoch - 1]) for name in ("validation_loss", "validation_error")}
        validated.take(_observation(epoch, seen))
    return validated.worse_since(0, TELLING_LAST) is not None


def plainly_ended_after(figures: Mapping[str, Sequence[float]], epochs: int, _: float) -> int | None:
    """Return the epoch after which plain early stopping ends a training: no lower loss for as long."""
    losses, patience = list(figures["validation_loss"]), max(WINDOW, round(SteerParameters().patience * epochs))
    for epoch in range(1, len(losses)):
        if epoch - int(np.argmin(losses[:epoch])) > patience:
            return epoch
    return None


def alarms() -> None:
    """Print how many good beacons the rule would have ended by mistake, and how many runs of `steer` at all."""
    beacons, runs, own = list(good_beacons()), read_lines(CURVES), SteerParameters()
    for name, rule in (("the rule", ended_after), ("plain early stopping", plainly_ended_after)):
        ends = [
            (rule(rows, library.epochs or 1, BEACONS_FALL * (library.epochs or 1)), rows["validation_loss"])
            for library, rows in beacons
        ]
        ended = [(after, losses) for after, losses in ends if after is not None]
        mistaken = sum(bool(losses[-1] < LOST * min(losses[:after])) for after, losses in ended)
        plans = [Plan.of(row["epochs"], len(row["validation_loss"]) / row["epochs"], own.decay) for row in runs]
        hastened = sum(
            rule(row, row["epochs"], plan.decay_from) is not None for row, plan in zip(runs, plans, strict=True)
        )
        print(f"{name}: of {len(beacons)} beacons {len(ended)} end sooner, {mistaken} of them by mistake")
        print(
            f"{name}: of {len(runs)} runs of steer on {len({row['task'] for row in runs})} tasks {hastened} end sooner"
        )
    print(f"the rule: {sum(map(goes_back_at_last, runs))} of these begin their last epoch with other weights")


def train_curves(data_dir: Path | None) -> None:
    """Train what is missing of `steer` on the shipped tasks, and keep its validation figures."""
    found = pages.keyed(CURVES, "task", "seed")
    spec = changed(load_policy_spec("steer"), patience=0.0)
    for seed in CURVE_SEEDS:
        for name in (*BEST, *NEW):
            if (name, seed) in found:
                continue
            task = load_task(ENVS / name).model_copy(update={"threads": 1})
            with tempfile.TemporaryDirectory() as folder:
                config = RunConfig(task=task, policy=spec, seed=seed, device="cpu", data_dir=data_dir, measure=False)
                run(config, Path(folder) / "run")
                rows = load_epochs(Path(folder) / "run")
            figures = {key: [getattr(row, key) for row in rows] for key in ("validation_loss", "validation_error")}
            pages.keep(CURVES, {"task": name, "seed": seed, "epochs": task.epochs, **figures})
            print(name, seed, flush=True)


def _observation(epoch: int, figures: dict[str, float]) -> Observation:
    nan = float("nan")
    return Observation(epoch, nan, 32, nan, nan, nan, 0, nan, **figures)


if __name__ == "__main__":
    parser = pages.parser_of(__doc__)
    parser.add_argument("command", choices=("run", "page", "curves", "alarms"))
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    if given.command == "curves":
        train_curves(given.data_dir)
    else:
        {"run": run_all, "page": page, "alarms": alarms}[given.command]()
