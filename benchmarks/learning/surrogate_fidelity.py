"""How far can the surrogate of a task be trusted? Real trainings that it was not fitted to, by their schedules alone.

    python benchmarks/learning/surrogate_fidelity.py [--json benchmarks/results/surrogate_fidelity.json]
    python benchmarks/learning/surrogate_fidelity.py --known

For each task: its random journeys, each predicted by dynamics that were fitted without it (four folds); the policies of
``benchmarks/results`` that keep to the task's ladders, to whose trainings nothing is fitted; and the same policies by
dynamics that know of the task no more than nine scouts (whole trainings at the ends and the middle of both ladders) and
nothing of its branch runs, but all of the other tasks. Beside them are the mean, the nearest beacon, and a ridge
regression on summaries of the schedule; what repeats say of each other is the most that can be known. Brackets are 95 %
bootstrap intervals over journeys or policies. The figures are deterministic. ``--known`` fits nothing: it says by the
repeats alone whether half of the mean's error and ranks of 0.8 could be reached at all, beside what the JSON file says
was, for ``docs/concepts/surrogate.md``.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
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
from benchmarks.pages import RESULTS, heading, parser_of

TASKS = ("digits-resnet8", "digits-mlp", "digits-densenet8", "mnist10k-resnet8", "mnist10k-mlp", "cifar5k-resnet8")
FOLDS, ROLLOUTS, DRAWS = 4, 200, 2000
LEAST = 20
"""Journeys of a task of which some can be held out."""

FIGURES = RESULTS / "surrogate_fidelity.json"
HALF, RANK = 0.5, 0.8
"""What is aimed at: the error, of the mean's, and the rank agreement."""


@dataclass(frozen=True)
class Course:
    """A real training: who led it, its sizes and rates by epoch, and its final log validation loss."""

    name: str
    sizes: np.ndarray
    rates: np.ndarray
    loss: float


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--envs", nargs="+", default=list(TASKS))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--known", action="store_true", help="print what can be known at all, and fit nothing")
    arguments = parser.parse_args()
    if arguments.known:
        print(*known(arguments.envs), sep="\n")
        return
    found: dict[str, dict[str, dict[str, object]]] = {}
    for env in arguments.envs:
        found[env] = dict(measure(env))
        print(f"\n{env}\n")
        titles = "final log validation loss of | n | surrogate | of the mean's | nearest | ridge | repeats | rank"
        print(heading(f"{titles} | repeats' rank | 90 % intervals hold"))
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
    whole = [own for own in branches.journeys if own.kind == "journey" and own.finished] if branches else []
    if len(whole) >= LEAST:
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
    known = [*beacons, *(course_of(str(own.seed), own, own.rows) for own in whole)]
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
    groups = repeats_of(courses)
    others, repeated = by_the_rest(real, groups)
    centre = np.array([[real[own].mean(), guess[own].mean()] for own in groups])

    def errors(rows: np.ndarray) -> tuple[float, float]:
        return rms(guess[rows] - real[rows]), rms(others[rows] - real[rows])

    every = np.arange(len(real))
    inside = (low <= real) & (real <= high)
    generator = np.random.default_rng(0)
    drawn = [generator.integers(len(groups), size=len(groups)) for _ in range(DRAWS)]
    rows = [np.concatenate([groups[index] for index in own]) for own in drawn]
    whole = errors(every)
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
        "repeats": scatter(repeated, groups) if repeated.size else None,
        "rank": rank(*centre.T),
        "rank_interval": interval([rank(*centre[own].T) for own in drawn]),
        "repeats_rank": repeats_rank(real, groups) if repeated.size else None,
        "coverage": float(inside.mean()),
        "coverage_interval": interval([float(inside[own].mean()) for own in rows]),
    }


def repeats_of(courses: list[Course]) -> list[np.ndarray]:
    """Return which of the courses repeat each other."""
    names = np.array([own.name for own in courses])
    return [np.flatnonzero(names == name) for name in sorted(set(names))]


def by_the_rest(real: np.ndarray, groups: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of all other groups for each course, and what those that have repeats are missed by by them."""
    others, repeated = np.empty(len(real)), []
    for own in groups:
        others[own] = real[np.setdiff1d(np.arange(len(real)), own)].mean()
        repeated += [real[one] - real[own[own != one]].mean() for one in own if len(own) > 1]
    return others, np.array(repeated)


def scatter(repeated: np.ndarray, groups: list[np.ndarray]) -> float:
    """Return the scatter of a run about the mean of all its repeats; its others miss it by its own and theirs."""
    count = np.mean([len(own) for own in groups])
    return rms(repeated) / math.sqrt(1.0 + 1.0 / (count - 1.0))


def known(envs: Iterable[str]) -> Iterator[str]:
    """Yield the table of what can be known of each task's policies, whatever the surrogate, beside what is."""
    reached = json.loads(FIGURES.read_text())
    titles = ("half of the mean's", "repeats", "of the mean's", "surrogate's", "a true order ranks", "surrogate's")
    yield heading(" | ".join(("task", "policies", *titles)))
    for env in envs:
        courses = list(led(env, BeaconLibrary.load(find_artefact("envs", env).parent)))
        real, groups = np.array([own.loss for own in courses]), repeats_of(courses)
        others, repeated = by_the_rest(real, groups)
        mean, floor = rms(others - real), scatter(repeated, groups)
        generator, drawn = np.random.default_rng(0), []
        for _ in range(DRAWS):
            picked = [groups[index] for index in generator.integers(len(groups), size=len(groups))]
            rows = np.concatenate(picked)
            drawn.append(scatter(by_the_rest(real, picked)[1], picked) / rms((others - real)[rows]))
        low, high = interval(drawn)
        best, (worst, _) = true_rank(real, groups)
        own = reached[env]["policies"]
        half, ranks = (
            verdict(floor / mean <= HALF, low > HALF or high < HALF, own["ratio"] <= HALF),
            verdict(best >= RANK, worst >= RANK or best < RANK, own["rank"] >= RANK),
        )
        yield (
            f"| {env} | {len(groups)} | {HALF * mean:.3f} | {floor:.3f} | {floor / mean:.2f} [{low:.2f}, {high:.2f}]: "
            f"{half} | {own['ratio']:.2f} | {best:.2f} [{worst:.2f}]: {ranks} | {own['rank']:.2f} |"
        )


def verdict(can: bool, sure: bool, reached: bool) -> str:
    """Say whether a target can be reached, whether that is sure, and whether it was."""
    return ("can be" if can else "cannot be") + ("" if sure else ", not for sure") + ("; is" if reached else "; is not")


def true_rank(real: np.ndarray, groups: list[np.ndarray]) -> tuple[float, list[float]]:
    """Return how one who knew each policy's true mean would rank the policies as the means of their runs do.

    The true means are taken to be those of the runs, drawn together by as much as their scatter spreads them; a run is
    a true mean and a departure of that policy's.

    Args:
        real: final log losses.
        groups: those of each policy.

    Returns:
        Mean rank correlation over draws, and its middle 95 %.
    """
    means, sizes = np.array([[real[own].mean(), len(own)] for own in groups]).T
    missed = [(real[own] - real[own].mean()) * math.sqrt(len(own) / (len(own) - 1.0)) for own in groups]
    noise = np.mean([np.square(own).mean() / size for own, size in zip(missed, sizes, strict=True)])
    spread = means.var(ddof=1)
    true = means.mean() + (means - means.mean()) * math.sqrt(max(0.0, spread - noise) / spread)
    generator = np.random.default_rng(0)
    drawn = [rank(true, true + [generator.choice(own, len(own)).mean() for own in missed]) for _ in range(DRAWS // 4)]
    return float(np.mean(drawn)), interval(drawn)


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
