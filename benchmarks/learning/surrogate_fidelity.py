"""How far can the surrogate of a task be trusted? Real trainings that it was not fitted to, by their schedules alone.

    python benchmarks/learning/surrogate_fidelity.py

For each task: its random journeys, each predicted by dynamics that were fitted without it (four folds); the policies of
``benchmarks/results`` that keep to the task's ladders, to whose trainings nothing is fitted; and the same policies by
dynamics that know of the task no more than nine scouts (whole trainings at the ends and the middle of both ladders) and
nothing of its branch runs, but all of the other tasks. Beside them are the mean, the nearest beacon, and a ridge
regression on summaries of the schedule; what repeats say of each other is the most that can be known. Brackets are 95 %
bootstrap intervals over journeys or policies. The figures are deterministic.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import spearmanr

from autobatch import BeaconLibrary, Branches, load_task
from autobatch._artefacts import find_artefact
from autobatch.beacons import holds_branches
from autobatch.envs.surrogate import Dynamics, alike
from autobatch.training import task_info

RESULTS = Path(__file__).parents[1] / "results"
TASKS = ("digits-resnet8", "digits-mlp", "digits-densenet8", "mnist10k-resnet8", "mnist10k-mlp", "cifar5k-resnet8")
FOLDS, ROLLOUTS, DRAWS = 4, 200, 2000


@dataclass(frozen=True)
class Course:
    """A real training: who led it, its sizes and rates by epoch, and its final log validation loss."""

    name: str
    sizes: np.ndarray
    rates: np.ndarray
    loss: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=list(TASKS))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    found: dict[str, dict[str, dict[str, object]]] = {}
    for env in arguments.envs:
        found[env] = dict(measure(env))
        print(f"\n{env}\n")
        print(
            "| final log validation loss of | n | surrogate | of the mean's | nearest | ridge | repeats | rank "
            "| repeats' rank | 90 % intervals hold |"
        )
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
        for name, figures in found[env].items():
            print(row(name, figures), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def measure(env: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield what is judged and its figures, for one task."""
    folder = find_artefact("envs", env).parent
    library = BeaconLibrary.load(folder)
    task, others = task_info(load_task(folder), library), alike(library, folder)
    branches = Branches.load(folder) if holds_branches(folder) else None
    beacons = [course_of(f"s{own.batch_size}-lr{own.lr:g}", own, own.rows) for own in library.beacons if own.finished]
    if branches is not None:
        whole = [own for own in branches.journeys if own.kind == "journey" and own.finished]
        courses, guesses, simple = [], [], []
        for fold in range(FOLDS):
            held = [course_of(str(own.seed), own, own.rows) for own in whole[fold::FOLDS]]
            out = {id(own) for own in whole[fold::FOLDS]}
            rest = Branches(tuple(own for own in branches.journeys if id(own) not in out), branches.info)
            known = [course_of(str(own.seed), own, own.rows) for own in whole if id(own) not in out]
            dynamics = Dynamics.fit(library, rest, task, others=others)
            guesses += [played(dynamics, own) for own in held]
            simple += rules(held, beacons, [*beacons, *known])
            courses += held
        yield "journeys", judged(courses, guesses, simple)
    courses = list(led(env, library))
    journeys = [own for own in branches.journeys if own.kind == "journey" and own.finished] if branches else []
    known = [*beacons, *(course_of(str(own.seed), own, own.rows) for own in journeys)]
    simple = rules(courses, beacons, known)
    dynamics = Dynamics.fit(library, branches, task, others=others)
    yield "policies", judged(courses, [played(dynamics, own) for own in courses], simple)
    few = scouts(library)
    dynamics = Dynamics.fit(few, None, replace(task, costs=few.costs), others=others)
    tried = [course_of("", own, own.rows) for own in few.beacons if own.finished]
    yield (
        f"policies, {len(few.beacons)} scouts",
        judged(courses, [played(dynamics, own) for own in courses], rules(courses, tried, tried)),
    )


def course_of(name: str, training: object, rows: dict[str, np.ndarray]) -> Course:
    """Return a beacon or a journey as a course."""
    count = len(rows["epoch"])
    sizes = rows.get("batch_size", np.full(count, getattr(training, "batch_size", 0)))
    rates = rows.get("lr", np.full(count, getattr(training, "lr", 0.0)))
    return Course(name, np.asarray(sizes), np.asarray(rates), math.log(rows["validation_loss"][-1]))


def led(env: str, library: BeaconLibrary) -> Iterator[Course]:
    """Yield the finished trainings of policies that kept to the ranges of the task's ladders."""
    sizes, rates = (sorted({own[index] for own in library.configurations}) for index in (0, 1))
    for kind in ("compare", "journeys"):
        folder = RESULTS / kind / env
        if not folder.exists():
            continue
        runs = pq.read_table(folder / "runs.parquet").to_pylist()
        finished = {(own["policy"], own["seed"]) for own in runs if own["stopped_because"] == "finished"}
        epochs = pq.read_table(folder / "epochs.parquet").to_pylist()
        for policy, seed in sorted(finished):
            own = sorted((r for r in epochs if (r["policy"], r["seed"]) == (policy, seed)), key=lambda r: r["epoch"])
            size, rate = (np.array([r[name] for r in own], dtype=float) for name in ("batch_size", "lr"))
            kept = sizes[0] <= size.min() and size.max() <= sizes[-1]
            if kept and rates[0] <= 1.01 * rate.min() and rate.max() <= 1.01 * rates[-1]:
                yield Course(f"{kind}/{policy}", size, rate, math.log(own[-1]["validation_loss"]))


def scouts(library: BeaconLibrary) -> BeaconLibrary:
    """Return one training at the ends and the middle of both ladders."""
    ends = [
        [own[0], own[len(own) // 2], own[-1]]
        for own in map(sorted, map(set, zip(*library.configurations, strict=True)))
    ]
    first: dict[tuple[int, float], object] = {}
    for own in library.beacons:
        if own.batch_size in ends[0] and own.lr in ends[1]:
            first.setdefault((own.batch_size, own.lr), own)
    return BeaconLibrary(tuple(first.values()), library.info)


def played(dynamics: Dynamics, course: Course) -> np.ndarray:
    """Return the mean final log loss of rollouts of a schedule, and the ends of their 90 % interval."""
    sizes, rates = (np.log2(np.asarray(own)) for own in (dynamics.task.batch_sizes, dynamics.task.learning_rates))
    batch = np.abs(np.log2(course.sizes)[:, None] - sizes).argmin(axis=1)
    rate = np.abs(np.log2(course.rates)[:, None] - rates).argmin(axis=1)
    generator = np.random.default_rng(0)
    state, member = dynamics.begin(ROLLOUTS), np.arange(ROLLOUTS) % dynamics.members
    for epoch in range(len(batch)):
        noise = generator.standard_normal((ROLLOUTS, dynamics.noise_size))
        noise[:, -1] = 0.0  # it is known to have finished
        rungs = np.full(ROLLOUTS, batch[epoch]), np.full(ROLLOUTS, rate[epoch])
        state, _ = dynamics.step(state, *rungs, member, noise)
    loss = state.seen[:, 0]
    return np.array([loss.mean(), *np.quantile(loss, [0.05, 0.95])])


def rules(courses: list[Course], beacons: list[Course], known: list[Course]) -> list[tuple[float, float]]:
    """Return what the nearest beacon and a ridge regression on summaries make of some courses."""
    places = np.array([summary(own)[:2] for own in beacons])
    finals = np.array([own.loss for own in beacons])
    inputs, targets = np.array([summary(own) for own in known]), np.array([own.loss for own in known])
    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6

    def features(values: np.ndarray) -> np.ndarray:
        scaled = (values - mean) / deviation
        pairs = [scaled[:, i] * scaled[:, j] for i in range(scaled.shape[1]) for j in range(i + 1)]
        return np.column_stack([np.ones(len(scaled)), scaled, *pairs])

    table = features(inputs)
    fitted = np.linalg.solve(table.T @ table + np.eye(table.shape[1]), table.T @ targets)
    found = []
    for own in courses:
        away = np.square(places - summary(own)[:2]).sum(axis=1)
        found.append((float(finals[away <= away.min() + 1e-9].mean()), float(features(summary(own)[None])[0] @ fitted)))
    return found


def summary(course: Course) -> np.ndarray:
    """Return mean log size and rate, over all epochs and over the parts of them."""
    size, rate = np.log2(course.sizes), np.log2(course.rates)
    parts = [part.mean() for own in (size, rate) for part in np.array_split(own, 3)]
    return np.array([size.mean(), rate.mean(), *parts])


def judged(courses: list[Course], guesses: list[np.ndarray], simple: list[tuple[float, float]]) -> dict[str, object]:
    """Return the figures: errors of all, rank agreement and coverage, with intervals, and what repeats allow."""
    real, (guess, low, high) = np.array([own.loss for own in courses]), np.array(guesses).T
    nearest, ridge = np.array(simple).T
    names = np.array([own.name for own in courses])
    groups = [np.flatnonzero(names == name) for name in sorted(set(names))]
    others = np.empty(len(real))
    repeated = []
    for own in groups:  # the mean of all but the policy, and of the policy's other runs
        rest = np.setdiff1d(np.arange(len(real)), own)
        others[own] = real[rest].mean()
        repeated += [real[one] - real[own[own != one]].mean() for one in own if len(own) > 1]
    centre = np.array([[real[own].mean(), guess[own].mean()] for own in groups])

    def errors(rows: np.ndarray) -> tuple[float, float]:
        return rms(guess[rows] - real[rows]), rms(others[rows] - real[rows])

    every = np.arange(len(real))
    inside = (low <= real) & (real <= high)
    generator = np.random.default_rng(0)
    drawn = [generator.integers(len(groups), size=len(groups)) for _ in range(DRAWS)]
    rows = [np.concatenate([groups[index] for index in own]) for own in drawn]
    whole = errors(every)
    # A run's other repeats miss it by its own scatter and theirs.
    count = np.mean([len(own) for own in groups])
    floor = rms(np.array(repeated)) / math.sqrt(1.0 + 1.0 / (count - 1.0)) if repeated else None
    return {
        "courses": len(groups),
        "runs": len(real),
        "error": whole[0],
        "error_interval": interval([errors(own)[0] for own in rows]),
        "bias": float((guess - real).mean()),
        "mean": whole[1],
        "ratio": whole[0] / whole[1],
        "ratio_interval": interval([np.divide(*errors(own)) for own in rows]),
        "nearest": rms(nearest - real),
        "ridge": rms(ridge - real),
        "repeats": floor,
        "rank": rank(*centre.T),
        "rank_interval": interval([rank(*centre[own].T) for own in drawn]),
        "repeats_rank": repeats_rank(real, groups) if repeated else None,
        "coverage": float(inside.mean()),
        "coverage_interval": interval([float(inside[own].mean()) for own in rows]),
    }


def repeats_rank(real: np.ndarray, groups: list[np.ndarray]) -> float:
    """Return how the means of two repeats of each policy rank the policies as the means of their others do."""
    generator, found = np.random.default_rng(0), []
    several = [own for own in groups if len(own) > 3]
    for _ in range(200):
        parts = [generator.permutation(own) for own in several]
        found.append(rank(*np.array([[real[own[:2]].mean(), real[own[2:]].mean()] for own in parts]).T))
    return float(np.mean(found))


def rms(values: np.ndarray) -> float:
    """Return the root mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def rank(real: np.ndarray, guess: np.ndarray) -> float:
    """Return Spearman's correlation."""
    return float(spearmanr(real, guess).statistic)


def interval(values: list[float]) -> list[float]:
    """Return the middle 95 %."""
    return [float(end) for end in np.nanquantile(values, [0.025, 0.975])]


def row(name: str, figures: dict[str, object]) -> str:
    """Return a row of the table."""

    def between(key: str, form: Callable[[float], str] = "{:.2f}".format) -> str:
        low, high = figures[f"{key}_interval"]
        return f"{form(figures[key])} [{form(low)}, {form(high)}]"

    cells = [
        name,
        f"{figures['courses']}",
        f"{figures['error']:.3f}",
        between("ratio"),
        *(f"{figures[key]:.3f}" if figures[key] is not None else "-" for key in ("nearest", "ridge", "repeats")),
        between("rank"),
        f"{figures['repeats_rank']:.2f}" if figures["repeats_rank"] is not None else "-",
        between("coverage", "{:.0%}".format),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
