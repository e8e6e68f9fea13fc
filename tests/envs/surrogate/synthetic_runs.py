"""Trainings made from dynamics that are known, with a memory: what a surrogate must find out.

The loss is what scaling laws say: a power of intrinsic time (rates summed over steps), and noise of the size of rate
over batch size that is forgotten as that time goes on; so what an epoch brings depends on what came before.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from autobatch.beacons import Beacon, BeaconLibrary, Branches, Journey
from autobatch.policies import TaskInfo
from tests.beacons.synthetic import make_costs, make_info

SIZES, RATES, EPOCHS, TRAIN_SIZE = (8, 32, 128), (0.05, 0.1, 0.2), 12, 512
MILESTONES = (0.5,)
FACTOR = 0.1
COSTS = make_costs(SIZES)
CLASSES = 10


def loss_of(time: float, noise: float) -> float:
    """The loss after some intrinsic time, with some noise left; never quite that of guessing. Best at 32 and 0.1."""
    share = ((1.0 + time) ** -0.8 + 300.0 * noise) / np.log(CLASSES)
    return float(np.log(CLASSES) * share / (1.0 + share))


def records(course: Sequence[tuple[int, float]], seed: int, noise: float = 0.02) -> list[dict[str, Any]]:
    """The epochs of a training whose epoch e uses course[e]."""
    generator = np.random.default_rng([seed, len(course)])
    departure, time, left = 0.0, 0.0, 0.0
    steps, c_sum, l_cum, found = 0, 0.0, 0.0, []
    for epoch, (size, lr) in enumerate(course):
        progress = epoch / EPOCHS
        rate = lr * (FACTOR if progress >= MILESTONES[0] else 1.0)
        own = -(-TRAIN_SIZE // size)
        kept = float(np.exp(-own * rate / 0.15))
        time, left = time + own * rate, kept * left + (1.0 - kept) * rate / size
        departure = departure / 1.5 + noise * generator.standard_normal()
        steps += own
        c_sum += own * 5.0 * size**0.7 * (1.0 + progress)
        l_cum += own * rate * 0.1
        loss = loss_of(time, left) * float(np.exp(departure))
        found.append({
            "epoch": epoch + 1,
            "progress": (epoch + 1) / EPOCHS,
            "batch_size": size,
            "lr": lr,
            "lr_effective": rate,
            "c_bar": c_sum / steps,
            "l_cum": l_cum,
            "steps": steps,
            "samples": 2 * (epoch + 1),
            "examples": TRAIN_SIZE * (epoch + 1),
            "train_loss": 0.7 * loss,
            "validation_loss": loss,
            "validation_error": min(0.9, 0.3 * loss),
            "seconds": 0.01 * steps,
            "measuring_seconds": 0.0,
        })
    return found


def course_of(seed: int) -> list[tuple[int, float]]:
    """A course that changes now and then."""
    generator = np.random.default_rng([seed, 7])
    course: list[tuple[int, float]] = []
    while len(course) < EPOCHS:
        now = SIZES[generator.integers(3)], RATES[generator.integers(3)]
        course += [now] * int(generator.integers(1, 5))
    return course[:EPOCHS]


def make_library(seeds: Sequence[int] = (0, 1), task: dict[str, Any] | None = None, **info: Any) -> BeaconLibrary:
    """A beacon for every configuration and seed."""
    facts = make_info(costs=COSTS, **({"task": task} if task else {}), **info)
    beacons = []
    for size in SIZES:
        for lr in RATES:
            for seed in seeds:
                rows = records([(size, lr)] * EPOCHS, seed)
                beacons.append(Beacon.from_records(size, lr, seed, rows, test_error=0.1, test_loss=0.1))
    return BeaconLibrary(tuple(beacons), facts)


def make_journeys(count: int, first: int = 100) -> tuple[Journey, ...]:
    """Whole trainings that change now and then."""
    return tuple(
        Journey.from_records("journey", seed, records(course_of(seed), seed)) for seed in range(first, first + count)
    )


def make_branches(library: BeaconLibrary, journeys: int = 24) -> Branches:
    """Journeys, and for each configuration a branch that leaves it for another."""
    found = list(make_journeys(journeys))
    for index, (size, lr) in enumerate(library.configurations):
        start = 2 + index % 6
        course = [(size, lr)] * start + [(32, 0.1)] * (EPOCHS - start)
        found.append(Journey.from_records("branch", 50 + index, records(course, 50 + index)[start - 1 : start + 2]))
    return Branches(tuple(found), library.info)


def make_task(**changes: Any) -> TaskInfo:
    """The task of these trainings."""
    facts: dict[str, Any] = {
        "name": "synthetic",
        "batch_sizes": SIZES,
        "learning_rates": RATES,
        "epochs": EPOCHS,
        "train_size": TRAIN_SIZE,
        "score": "validation_loss",
        "milestones": MILESTONES,
        "seed": 0,
        "costs": COSTS,
        "measuring_budget": 0.1,
    }
    return TaskInfo(**facts | changes)


def make_folder(folder: Path, *, branches: bool = True) -> Path:
    """An env folder with such a library; its env.yaml trains digits, which no surrogate does."""
    folder.mkdir(parents=True)
    task = {
        "name": folder.name,
        "dataset": {"name": "digits"},
        "model": {"name": "mlp", "arguments": {"hidden": [8]}},
        "schedule": {"name": "multistep", "milestones": list(MILESTONES)},
        "batch_sizes": list(SIZES),
        "learning_rates": list(RATES),
        "epochs": EPOCHS,
    }
    (folder / "env.yaml").write_text(yaml.safe_dump(task))
    library = make_library()
    library.save(folder)
    if branches:
        make_branches(library).save(folder)
    return folder
