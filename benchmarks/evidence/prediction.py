"""How well do the first epochs predict the end? Recorded runs held out, and fresh runs that no beacon knows.

    python benchmarks/evidence/prediction.py --fresh-seeds 200

Without ``--fresh-seeds`` only the shipped libraries are read, which takes a minute. With it, one run of every
configuration of the digits tasks is trained for each seed, and the policies that change the batch size with them; a run
that is finished in ``--out`` is not run again.

Held out: the final score of each recorded run is predicted from beacons of other configurations alone, or of other
seeds alone. Rank correlation and regret are those of one run of every configuration, averaged over the seeds; errors
are root mean squares of the logarithm of the loss. Within the first epoch nothing is recorded, and what stands there is
its end.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from autobatch import BeaconLibrary, RunConfig, load_policy_spec, load_summary, load_task, run
from autobatch._artefacts import find_library
from autobatch.beacons import Landscape, forecast, predict_final, prediction_quality, read_places
from autobatch.beacons._journey import standing
from autobatch.beacons.landscape import landscape_points, modelled
from autobatch.beacons.landscape._leave_one_out import _rank_correlation
from autobatch.beacons.predict._forecast import ORIGIN
from autobatch.beacons.predict._held_out import first_progress, held_out_runs
from autobatch.beacons.predict._points import figure_points
from autobatch.beacons.predict._quality import QUALITY_AT, coverage, ranked, width
from autobatch.beacons.predict._rule import gather
from benchmarks.pages import heading, parser_of

ENVS = (
    "digits-resnet8",
    "digits-mlp",
    "mnist10k-resnet8",
    "mnist10k-mlp",
    "mnist10k-densenet8",
    "cifar5k-resnet8",
    "digits-densenet8",
)
LEVEL = 0.9
Z = 1.6449
SWITCHING = ("beacon-follow", "s32-to-128", "s16-to-64-ms", "s512-to-32")
SWITCHING_SEEDS = 3


def main() -> None:
    """Print the tables and write the figures."""
    parser = parser_of(__doc__)
    parser.add_argument("--envs", nargs="+", default=list(ENVS))
    parser.add_argument("--fresh-seeds", type=int, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("runs/prediction"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/prediction.json"))
    arguments = parser.parse_args()
    figures = {"level": LEVEL, "fresh_seeds": arguments.fresh_seeds, "envs": {}}
    for env in arguments.envs:
        library = BeaconLibrary.load(find_library(env))
        print(f"\n## {env}\n")
        own = {
            "first_row_at": first_progress(library),
            "new_configuration": [new_configuration(library, progress) for progress in QUALITY_AT],
            "known_configuration": [row for at in QUALITY_AT if (row := known_configuration(library, at)) is not None],
            "intervals": [intervals(library, progress) for progress in QUALITY_AT],
            "test_error": [error_of_test_error(library, progress) for progress in QUALITY_AT],
        }
        tell(own)
        if arguments.fresh_seeds and env.startswith("digits"):
            own["fresh"] = fresh(env, library, arguments.fresh_seeds, arguments.out / env)
            tell_fresh(own["fresh"])
        figures["envs"][env] = own
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(_plain(figures), indent=1) + "\n", encoding="utf-8")


def sound_of(library: BeaconLibrary) -> list[tuple[int, float]]:
    """Return the configurations all of whose beacons finished."""
    return [own for own, beacons in library.by_configuration.items() if all(beacon.finished for beacon in beacons)]


def without(library: BeaconLibrary, own: tuple[int, float]) -> BeaconLibrary:
    """Return a library without the beacons of a configuration."""
    return replace(library, beacons=tuple(one for one in library.beacons if (one.batch_size, one.lr) != own))


def new_configuration(library: BeaconLibrary, progress: float) -> dict:
    """Return every way to predict a configuration that no beacon has."""
    at = max(progress, first_progress(library))
    runs = held_out_runs(library, at, "configuration")
    paper = held_out_runs(library, at, "configuration", "nearest")
    predicted, _ = runs.evidence.weighed(runs.noise)
    found = {
        "chosen": judged(predicted, runs),
        "position now, gaussian-process": judged(runs.evidence.here, runs),
        "forecast end, gaussian-process": judged(runs.evidence.ahead, runs),
        "position now, nearest (the paper)": judged(paper.evidence.here, runs),
        "forecast end, nearest": judged(paper.evidence.ahead, runs),
        "configuration alone, nothing measured": judged(configuration_alone(library, runs), runs),
        f"the {library.score.replace('_', ' ')} then": judged(modelled(runs.early, True), runs, error=False),
    }
    return {"progress": progress, "configurations": runs.configurations, "runs": len(runs.own), "methods": found}


def known_configuration(library: BeaconLibrary, progress: float) -> dict | None:
    """Return every way to predict a run whose configuration is recorded under other seeds."""
    at = max(progress, first_progress(library))
    runs = held_out_runs(library, at, "seed")
    if runs is None:
        return None
    predicted, spread = runs.evidence.weighed(runs.noise)
    looked_up = np.empty(len(predicted))
    for group in np.unique(runs.group):
        own = np.flatnonzero(runs.group == group)
        for index in own:
            looked_up[index] = np.log(np.exp(runs.own[own[own != index]]).mean())
    both = (runs.evidence.here + runs.evidence.ahead) / 2
    found = {
        "chosen: forecast end and configuration": judged(predicted, runs),
        "forecast end, gaussian-process": judged(place_alone(library, at, runs), runs),
        "position now, gaussian-process": judged(runs.evidence.here, runs),
        "mean of both": judged(both, runs),
        "mean of the configuration's other seeds": judged(looked_up, runs),
    }
    covered = coverage(predicted, spread, runs, LEVEL)
    return {"progress": progress, "configurations": runs.configurations, "coverage": covered, "methods": found}


def place_alone(library: BeaconLibrary, progress: float, runs) -> np.ndarray:
    """Return predictions for held-out seeds from the forecast end, whatever configuration leads there."""
    sound = sound_of(library)
    found = np.empty(len(runs.own))
    for seed in np.unique(runs.seed):
        others = replace(library, beacons=tuple(beacon for beacon in library.beacons if beacon.seed != seed))
        landscape = Landscape.fit(others)
        for index in np.flatnonzero(runs.seed == seed):
            own = sound[runs.group[index]]
            beacon = next(one for one in library.beacons_at(*own) if one.seed == seed)
            end = forecast(others, standing(beacon, progress), *own)
            found[index] = modelled(landscape.predict(end.c_bar, end.l_cum).score, True)
    return found


def intervals(library: BeaconLibrary, progress: float) -> dict:
    """Return how often intervals hold, as they are made and as the standard errors alone would have them."""
    runs = held_out_runs(library, max(progress, first_progress(library)), "configuration")
    predicted, spread = runs.evidence.weighed(runs.noise)
    quality = prediction_quality(library, progress, level=LEVEL)
    error = np.abs(predicted - runs.own)
    end = np.sqrt(runs.evidence.ahead_error**2 + runs.noise)
    return {
        "progress": progress,
        "coverage": quality.coverage,
        "factor": math.exp(float(np.median(spread)) * width(error / spread, runs.group, LEVEL)),
        "coverage_by_standard_errors": float(np.mean(np.abs(runs.evidence.ahead - runs.own) <= Z * end)),
    }


def error_of_test_error(library: BeaconLibrary, progress: float) -> dict:
    """Return how far the predicted test error of a configuration that no beacon has is off."""
    at = max(progress, first_progress(library))
    here, ahead = (figure_points(library, each, "test_error") for each in (at, 1.0))
    off = []
    for index in np.flatnonzero(here.finished):
        own = here.configurations[index]
        others = without(library, own)
        surfaces = [
            Landscape(points.without(int(index)), each, "gaussian-process")
            for points, each in ((here, at), (ahead, 1.0))
        ]
        predicted, _ = gather(others, *surfaces, [(library.at(*own, at), *own)]).weighed(0.0)
        off.append(abs(float(predicted[0]) - here.score[index]))
    return {
        "progress": progress,
        "median": float(np.median(off)),
        "root_mean_square": float(np.sqrt(np.mean(np.square(off)))),
    }


def configuration_alone(library: BeaconLibrary, runs) -> np.ndarray:
    """Return predictions for held-out configurations from their batch sizes and rates alone."""
    points = landscape_points(library, 1.0)
    sound = sound_of(library)
    found = np.empty(len(runs.own))
    for group in np.unique(runs.group):
        own = sound[group]
        end = forecast(without(library, own), ORIGIN, *own)
        landscape = Landscape(points.without(points.configurations.index(own)), 1.0, "gaussian-process")
        found[runs.group == group] = modelled(landscape.predict(end.c_bar, end.l_cum).score, True)
    return found


def judged(predicted: np.ndarray, runs, error: bool = True) -> dict:
    """Return rank correlation, regret and error of some predictions of held-out runs."""
    rank, regret = ranked(predicted, runs)
    off = float(np.sqrt(np.mean((predicted - runs.own) ** 2))) if error else math.nan
    return {"rank_correlation": rank, "regret": regret, "error": off}


def fresh(env: str, library: BeaconLibrary, seeds: list[int], out: Path) -> dict:
    """Train what is missing and return how well the fresh runs were predicted after 2.5, 5 and 10 %."""
    sound = sound_of(library)
    ends = {(own, seed): trained(env, f"s{own[0]}-lr{own[1]:g}", seed, out) for own in sound for seed in seeds}
    rows = []
    for epoch in (1, 2, 4):
        again, new = [], []
        for (own, _), path in ends.items():
            place, actual = read_places(path)[epoch - 1], final(path, library.score)
            prediction = predict_final(library, place, *own, level=LEVEL)
            inside = prediction.interval[0] <= actual <= prediction.interval[1]
            first, last = prediction.rank_interval
            again.append((prediction.score, actual, inside, (last - first + 1) / prediction.configurations))
            new.append((*as_new(library, sound, own, place, actual), actual))
        rows.append({
            "epoch": epoch,
            "progress": place.progress,
            "runs": len(ends),
            "recorded": summary([one[0] for one in again], [one[1] for one in again], [one[2] for one in again]),
            "ranks_inside": float(np.median([one[3] for one in again])),
            "as_new": summary([one[0] for one in new], [one[2] for one in new], [one[1] for one in new]),
        })
    switching = []
    for epoch in (4, 20, 32):
        found = []
        for policy in SWITCHING:
            for seed in range(seeds[0], seeds[0] + SWITCHING_SEEDS):
                path = trained(env, policy, seed, out)
                places = read_places(path)
                following = places[epoch]  # what the epoch after this one used
                actual = final(path, library.score)
                prediction = predict_final(library, places[epoch - 1], following.batch_size, following.lr, level=LEVEL)
                inside = prediction.interval[0] <= actual <= prediction.interval[1]
                found.append((prediction.score, actual, inside))
        columns = [list(column) for column in zip(*found, strict=True)]
        switching.append({
            "epoch": epoch,
            "progress": places[epoch - 1].progress,
            "runs": len(found),
            **summary(*columns),
        })
    return {"fixed": rows, "switching": switching}


def as_new(library: BeaconLibrary, sound: list, own: tuple[int, float], place, actual: float) -> tuple[float, bool]:
    """Return what is predicted for a run if its configuration is left out of everything, and whether it holds."""
    others = without(library, own)
    points = [landscape_points(library, each) for each in (place.progress, 1.0)]
    surfaces = [
        Landscape(each.without(each.configurations.index(own)), at, "gaussian-process")
        for each, at in zip(points, (place.progress, 1.0), strict=True)
    ]
    runs = held_out_runs(library, place.progress, "configuration")
    predicted, spread = gather(others, *surfaces, [(place, *own)]).weighed(runs.noise)
    recorded, own_spread = runs.evidence.weighed(runs.noise)
    kept = runs.group != sound.index(own)
    reach = width((np.abs(recorded - runs.own) / own_spread)[kept], runs.group[kept], LEVEL)
    return math.exp(predicted[0]), abs(predicted[0] - math.log(actual)) <= reach * spread[0]


def summary(predicted: list, actual: list, inside: list) -> dict:
    """Return rank correlation, error and coverage of predictions of fresh runs."""
    pair = np.array(predicted, dtype=float), np.array(actual, dtype=float)
    return {
        "rank_correlation": _rank_correlation(pair[1], pair[0]),
        "error": float(np.sqrt(np.mean(np.log(pair[0] / pair[1]) ** 2))),
        "coverage": float(np.mean(inside)),
    }


def trained(env: str, policy: str, seed: int, out: Path) -> Path:
    """Return the directory of a finished run, after training it where it is missing."""
    path = out / f"{policy}-s{seed}"
    if not (path / "summary.json").exists():
        config = RunConfig(
            task=load_task(env), task_path=find_library(env), policy=load_policy_spec(policy), seed=seed, device="cpu"
        )
        run(config, path, resume=(path / "config.yaml").exists())
    return path


def final(path: Path, score: str) -> float:
    """Return the final score of a run; infinite where it diverged."""
    value = getattr(load_summary(path), score)
    return math.inf if value is None else value


def tell(own: dict) -> None:
    """Print the tables of held-out runs."""
    rows = own["new_configuration"]
    first = own["first_row_at"]
    print(f"{rows[0]['configurations']} configurations that finished, {rows[0]['runs']} runs; first row at {first:.1%}")
    shares = [f"{row['progress']:.0%}" + ("*" if row["progress"] < first else "") for row in rows]
    begin(f"New configuration: rank correlation, regret, error (* the figures of {first:.1%})", shares)
    for name in rows[0]["methods"]:
        line(name, [cell(row["methods"][name]) for row in rows])
    begin(f"Intervals for {LEVEL:.0%}", shares)
    for label, key, form in (
        ("share inside", "coverage", "{:.0%}"),
        ("typical width, times and over", "factor", "{:.2f}"),
        ("share inside, forecast end ± its standard errors", "coverage_by_standard_errors", "{:.0%}"),
    ):
        line(label, [form.format(row[key]) for row in own["intervals"]])
    line("test error off by, median", [f"{100 * row['median']:.2f} %" for row in own["test_error"]])
    if own["known_configuration"]:
        begin("Recorded configuration, new seed: rank correlation, regret, error", shares)
        for name in own["known_configuration"][0]["methods"]:
            line(name, [cell(row["methods"][name]) for row in own["known_configuration"]])
        line("share inside its interval", [f"{row['coverage']:.0%}" for row in own["known_configuration"]])


def begin(title: str, columns: list[str]) -> None:
    """Print what a table begins with."""
    print(f"\n{title}\n\n" + heading(" | ".join(["", *columns])))


def line(label: str, cells: list[str]) -> None:
    """Print a row of a table."""
    print(f"| {label} | " + " | ".join(cells) + " |")


def tell_fresh(own: dict) -> None:
    """Print the tables of fresh runs."""
    print("\nFresh runs: rank correlation, error, share inside\n")
    titles = "after | runs | configuration recorded | as if it were not | share of the ranks in the interval (median)"
    print(heading(titles))
    for row in own["fixed"]:
        cells = " | ".join(fresh_cell(row[key]) for key in ("recorded", "as_new"))
        print(f"| {row['progress']:.1%} | {row['runs']} | {cells} | {row['ranks_inside']:.0%} |")
    print("\nRuns that change their batch size, predicted as if they did not from then on\n")
    print(heading("after | runs | rank correlation, error, share inside"))
    for row in own["switching"]:
        print(f"| {row['progress']:.1%} | {row['runs']} | {fresh_cell(row)} |")


def cell(row: dict) -> str:
    """Return a method's figures as a table has them."""
    error = f", {row['error']:.2f}" if math.isfinite(row["error"]) else ""
    return f"{row['rank_correlation']:.2f}, {row['regret']:.4f}{error}"


def fresh_cell(row: dict) -> str:
    """Return the figures of fresh runs as a table has them."""
    return f"{row['rank_correlation']:.2f}, {row['error']:.2f}, {row['coverage']:.0%}"


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 6) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


if __name__ == "__main__":
    main()
