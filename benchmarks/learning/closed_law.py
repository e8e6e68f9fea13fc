"""The closed form of functional scaling laws as a surrogate: how far does it fit small tasks?

    python benchmarks/learning/closed_law.py

writes the table of ``docs/concepts/surrogate.md``.

Seven numbers a task, fitted to the logarithms of the validation losses of all epochs of its beacons and journeys, ends
counting as much as all epochs before (soft least squares, the best of several starts):

    loss = l0 + a (1 + T / t0)^-s + c sum_e (rate_e / size_e) ((1 + (T - T_e) / k)^-b - (1 + (T - T_(e-1)) / k)^-b)

with T the intrinsic time (rates summed over steps, https://arxiv.org/abs/2509.19189) and T_e that after epoch e; the
sum is the noise that each epoch put in and what a power kernel has left of it, through which decays act as well
(https://arxiv.org/abs/2503.12811). No loss is above that of guessing. Judged as ``surrogate_fidelity.py`` judges the
networks, whose figures of the same trainings stand beside it: journeys in four folds, policies that nothing was fitted
to. *Fit* is the error on the ends that it was fitted to.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from autobatch import BeaconLibrary, Branches, load_task
from autobatch._artefacts import find_artefact
from autobatch._steps import steps_per_epoch
from autobatch.beacons import holds_branches
from autobatch.envs.surrogate._epochs import guessing
from autobatch.training import task_info
from benchmarks import pages
from benchmarks.learning.surrogate_fidelity import (
    FIGURES,
    FOLDS,
    LEAST,
    TASKS,
    Course,
    by_the_rest,
    course_of,
    led,
    rank,
    repeats_of,
    rms,
)

Floats = NDArray[np.float64]
STARTS = 8


@dataclass(frozen=True)
class Trainings:
    """Whole trainings side by side, arrays of shape (n, epochs).

    Attributes:
        time: intrinsic time after each epoch.
        noise: effective rate over batch size of each epoch.
        loss: logarithms of the validation losses; zeros where they are not known.
    """

    time: Floats
    noise: Floats
    loss: Floats


def laid(courses: Sequence[Course], factors: Floats, train_size: int, losses: Sequence[Floats] | None) -> Trainings:
    """Return trainings of the task's length by their schedules."""
    sizes, rates = (np.array([getattr(own, name) for own in courses], dtype=float) for name in ("sizes", "rates"))
    steps = np.vectorize(lambda size: steps_per_epoch(train_size, int(size)))(sizes)
    effective = rates * factors
    loss = np.zeros(sizes.shape) if losses is None else np.array(losses)
    return Trainings(np.cumsum(effective * steps, axis=1), effective / sizes, loss)


def law(numbers: Floats, own: Trainings, chance: float) -> Floats:
    """Return log losses after each epoch, shape (n, epochs), by the seven numbers, each a logarithm."""
    least, height, begin, power, loud, memory, forget = np.exp(np.clip(numbers, -25.0, 25.0))
    began = np.concatenate([np.zeros((len(own.time), 1)), own.time[:, :-1]], axis=1)
    known = np.tril(np.ones((own.time.shape[1],) * 2))
    since, before = (np.maximum(own.time[:, :, None] - each[:, None, :], 0.0) for each in (own.time, began))
    left = ((1.0 + since / memory) ** -forget - (1.0 + before / memory) ** -forget) * known
    loss = least + height * (1.0 + own.time / begin) ** -power + loud * np.einsum("nke,ne->nk", left, own.noise)
    return np.log(np.minimum(loss, chance))


def fitted(own: Trainings, chance: float) -> Floats:
    """Return the seven numbers that fit trainings best."""
    typical = float(np.median(own.time[:, -1]))
    floor, noise = math.exp(float(own.loss.min())), float(np.median(own.noise))
    generator, found = np.random.default_rng(0), []
    weight = np.ones(own.loss.shape[1])
    weight[-1] = math.sqrt(len(weight))

    def missed(numbers: Floats) -> Floats:
        return ((law(numbers, own, chance) - own.loss) * weight).ravel()

    for _ in range(STARTS):
        middle = np.log([0.5 * floor, chance, 0.01 * typical, 1.0, 0.1 * floor / noise, 0.1 * typical, 1.0])
        start = middle + generator.normal(size=len(middle))
        found.append(least_squares(missed, start, loss="soft_l1", max_nfev=200))
    best: Floats = min(found, key=lambda one: one.cost).x
    return best


def measure(env: str) -> Iterator[str]:
    """Yield rows of the table for one task."""
    folder = find_artefact("envs", env).parent
    library = BeaconLibrary.load(folder)
    task = task_info(load_task(folder), library)
    branches = Branches.load(folder) if holds_branches(folder) else None
    whole = [own for own in branches.journeys if own.kind == "journey" and own.finished] if branches else []
    beacons = [own for own in library.beacons if own.finished]
    factors = beacons[0].rows["lr_effective"] / beacons[0].lr
    chance = math.exp(guessing(library)[0])

    def read(some: Sequence[object]) -> Trainings:
        courses = [course_of(str(getattr(one, "seed", "")), one, one.rows) for one in some]
        return laid(courses, factors, task.train_size, [np.log(one.rows["validation_loss"]) for one in some])

    networks = json.loads(FIGURES.read_text())[env]
    if len(whole) >= LEAST:
        courses: list[Course] = []
        guesses: list[float] = []
        for fold in range(FOLDS):
            held = whole[fold::FOLDS]
            numbers = fitted(read([*beacons, *(own for own in whole if own not in held)]), chance)
            guesses += law(numbers, read(held), chance)[:, -1].tolist()
            courses += [course_of(str(own.seed), own, own.rows) for own in held]
        yield row(f"{env}, journeys", courses, np.array(guesses), networks["journeys"], "-")
    known = read([*beacons, *whole])
    numbers = fitted(known, chance)
    fit = rms(law(numbers, known, chance)[:, -1] - known.loss[:, -1])
    courses = list(led(env, library))
    guesses = law(numbers, laid(courses, factors, task.train_size, None), chance)[:, -1]
    yield row(f"{env}, policies", courses, guesses, networks["policies"], f"{fit:.2f}")


def row(name: str, courses: list[Course], guesses: Floats, networks: dict[str, float], told: str) -> str:
    """Return a row of the table."""
    real, groups = np.array([own.loss for own in courses]), repeats_of(courses)
    others, _ = by_the_rest(real, groups)
    error, mean = rms(guesses - real), rms(others - real)
    ranked = rank(*np.array([[real[own].mean(), guesses[own].mean()] for own in groups]).T)
    return f"| {name} | {error / mean:.2f} | {networks['ratio']:.2f} | {ranked:.2f} | {networks['rank']:.2f} | {told} |"


def main() -> None:
    """Write the table, and print it."""
    pages.parser_of(__doc__).parse_args()
    lines = [pages.heading("final validation loss | of the mean's | networks' | rank | networks' | fit")]
    for env in TASKS:
        lines += measure(env)
    page = pages.ROOT / "docs" / "concepts" / "surrogate.md"
    pages.put(page, "benchmarks/learning/closed_law.py", "\n".join(lines))


if __name__ == "__main__":
    main()
