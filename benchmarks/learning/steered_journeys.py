"""Record whole trainings whose rate falls along a line and that end early: what beacons say nothing of.

    python benchmarks/learning/steered_journeys.py digits-mlp diamonds-mlp [--runs 10] [--data-dir data]

Beacons keep their schedule, so a surrogate that was fitted to them alone guesses at what ``AutoBatch/Surrogate-v1``
lets an agent do. Each run here draws where it starts (batch size 16 to 64, a rate about the best beacon's for it), how
long it trains (0.4 to 1 of the task's length), over how much of that the rate falls (0.25 to 1), whether batches grow
meanwhile, and, one time in three, a move to another size before. The tasks take turns; what is in
``envs/TASK/steered.parquet`` is not trained again.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from autobatch.beacons import BeaconLibrary, Branches
from autobatch.beacons._columns import FINISHED
from autobatch.beacons.storage import Journey
from autobatch.policies import PolicySpec
from autobatch.policies.steer._plan import Plan, grown
from autobatch.training import RunConfig, TaskSpec, load_data, load_task
from autobatch.training._engine import reproducible, resolve_device
from autobatch.training._recorded import recording_info
from autobatch.training._trial import Trial
from benchmarks.pages import ENVS, parser_of

FIRST_SEED = 7000
Epoch = tuple[int, float, float]


def course(task: TaskSpec, library: BeaconLibrary, seed: int) -> Iterator[Epoch]:
    """Draw a training: batch size, base rate and factor of each epoch."""
    generator = np.random.default_rng(seed)
    sizes = [size for size in task.batch_sizes if 16 <= size <= 64]
    size = int(generator.choice(sizes, p=[0.6 if one == 32 else 0.4 / (len(sizes) - 1) for one in sizes]))
    sound = [one for one in library.results() if one.batch_size == size and not one.diverged]
    best = min(sound, key=lambda one: one.mean[library.score]).lr
    rates = task.learning_rates
    at = rates.index(best) + int(generator.choice([-1, 0, 0, 1]))
    lr = rates[min(max(at, 0), len(rates) - 1)]
    plan = Plan.of(task.epochs, float(generator.uniform(0.4, 1.0)), float(generator.uniform(0.25, 1.0)))
    grows = generator.random() < 0.5
    moves_at = int(generator.integers(1, max(2, math.ceil(plan.decay_from)))) if generator.random() < 1 / 3 else None
    wider = generator.random() < 0.5
    for epoch in range(plan.end):
        if epoch == moves_at:
            place = task.batch_sizes.index(size) + (1 if wider else -1)
            moved = task.batch_sizes[min(max(place, 0), len(task.batch_sizes) - 1)]
            size, lr = moved, lr * (moved / size) ** (1.0 if task.optimizer.name == "sgd" else 0.5)
        factor = plan.factor(epoch)
        now, there = grown(size, factor, task.batch_sizes, None) if grows else (size, factor)
        yield now, lr, there


def record(name: str, seed: int, data_dir: Path | None) -> None:
    """Train one journey and put it with the others."""
    folder = ENVS / name
    file = folder / "steered.parquet"
    task = load_task(folder).model_copy(update={"threads": 1})
    task = task.model_copy(update={"measuring": task.measuring.model_copy(update={"interval": 1000, "floor": 1})})
    library = BeaconLibrary.load(folder)
    device = resolve_device("cpu")
    with reproducible(device, 1):
        data = load_data(task, data_dir, device)
        config = RunConfig(
            task=task, policy=PolicySpec(name="course", kind="fixed"), seed=seed, device="cpu", recording=True
        )
        trial = Trial(config, data=data, device=device, costs=library.costs)
        rows = []
        for size, lr, factor in course(task, library, seed):
            trial.decide(size, lr, factor=factor)
            rows.append(vars(trial.period()))
            if trial.stopped_because != FINISHED:
                break
        trial.controller.close()
    journey = Journey.from_records("journey", seed, rows, trial.stopped_because)
    info = recording_info(task, data, None, f"python benchmarks/learning/steered_journeys.py {name}")
    known = Branches.load(file).journeys if file.exists() else ()
    Branches((*known, journey), info).save(file)
    print(f"{name} {seed}: {len(rows)} epochs, validation loss {rows[-1]['validation_loss']:.4f}", flush=True)


def main() -> None:
    """Record what is missing."""
    parser = parser_of(__doc__)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    for seed in range(FIRST_SEED, FIRST_SEED + arguments.runs):
        for name in arguments.tasks:
            file = ENVS / name / "steered.parquet"
            if not file.exists() or seed not in {own.seed for own in Branches.load(file).journeys}:
                record(name, seed, arguments.data_dir)


if __name__ == "__main__":
    main()
