"""Is a task's landscape real, and how early and how well does the plane predict the final score?

    python benchmarks/evidence/landscape.py --env digits-resnet8
    python benchmarks/evidence/landscape.py --seeds

First table: how the scored figure and the alternative to it tell configurations apart. F is the one-way analysis of
variance over configurations (between over within, by seed); "reliability" is the rank correlation of their
means over one half of the seeds with those over the other, averaged over all splits; the last columns say how the
ranking by validation carries over to the test set. Configurations with a diverged seed are left out.

Second table: leaving one configuration out, its final score is predicted from the others' positions at a progress; the
early validation figure itself is the rival predictor.

With ``--seeds``: how far a seed's training loss lies from that of the other seeds of its configuration, over any three
epochs, in every library: what a run has to exceed before its beacons count as those of another training.
"""

from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import stats

from autobatch import BeaconLibrary, LibraryError
from autobatch._artefacts import find_artefact
from autobatch.beacons import leave_one_out
from benchmarks.pages import ENVS, heading, parser_of

PROGRESS = (0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    """Print both tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--env", default="digits-resnet8")
    parser.add_argument("--seeds", action="store_true", help="how far a seed lies from its sisters, in every library")
    arguments = parser.parse_args()
    if arguments.seeds:
        return _print_seeds()
    folder = Path(find_artefact("envs", arguments.env))
    library = BeaconLibrary.load(folder if folder.is_dir() else folder.parent)
    sound = {
        configuration: library.beacons_at(*configuration)
        for configuration in library.configurations
        if all(beacon.finished for beacon in library.beacons_at(*configuration))
    }
    seeds = min(len(beacons) for beacons in sound.values())
    total = len(library.configurations)
    print(f"{library.task_name}: {total} configurations, {len(sound)} of them sound, {seeds} seeds\n")
    print(heading("figure | F | p | reliability of half the seeds | rank correlation with test loss | with test error"))
    final = {
        name: _final(sound, name, seeds) for name in ("validation_loss", "validation_error", "test_loss", "test_error")
    }
    for name in ("validation_loss", "validation_error"):
        figures = np.log(final[name]) if name.endswith("loss") else final[name]
        variance = stats.f_oneway(*figures)
        carried = [_rank(final[name].mean(axis=1), final[other].mean(axis=1)) for other in ("test_loss", "test_error")]
        print(
            f"| {name} | {variance.statistic:.1f} | {variance.pvalue:.1g} | {_reliability(figures):.2f} "
            f"| {carried[0]:.2f} | {carried[1]:.2f} |"
        )
    print(
        f"\nPredicting the final {library.score} of a configuration that was left out: rank correlation, RMSE (of the "
        "logarithm where it is a loss), regret\n"
    )
    print(heading("progress | gaussian-process | nearest | early validation figure"))
    for progress in PROGRESS:
        cells = []
        for rule in ("gaussian-process", "nearest"):
            judged = leave_one_out(library, progress, rule)
            cells.append(f"{judged.rank_correlation:.2f}, {judged.rmse:.2f}, {judged.regret:.4f}")
        early = [np.mean([_at(beacon, library.score, progress) for beacon in beacons]) for beacons in sound.values()]
        cells.append(f"{_rank(np.array(early), final[library.score].mean(axis=1)):.2f}")
        print(f"| {progress:.1%} | " + " | ".join(cells) + " |")


def _final(sound: dict, name: str, seeds: int) -> np.ndarray:
    return np.array([[beacon.final(name) for beacon in beacons[:seeds]] for beacons in sound.values()])


def _print_seeds() -> None:
    """Print for each library the factor between a seed's training loss and its sisters', over three epochs."""
    print(heading("task | trainings | median factor | largest"))
    for folder in sorted(ENVS.iterdir()):
        try:
            library = BeaconLibrary.load(folder)
        except LibraryError:
            continue
        apart = []
        for configuration in library.configurations:
            beacons = library.beacons_at(*configuration)
            if len(beacons) < 2 or not all(beacon.finished for beacon in beacons):
                continue
            logs = np.log([beacon.rows["train_loss"] for beacon in beacons])
            sisters = (logs.sum(axis=0) - logs) / (len(beacons) - 1)
            each = np.abs(np.apply_along_axis(np.convolve, 1, logs - sisters, np.full(3, 1 / 3), mode="valid"))
            apart += each.max(axis=1).tolist()
        print(f"| {library.task_name} | {len(apart)} | {np.exp(np.median(apart)):.2f} | {np.exp(np.max(apart)):.2f} |")


def _at(beacon, name: str, progress: float) -> float:
    epoch = max(1, round(progress * len(beacon.rows["epoch"])))
    return float(beacon.rows[name][epoch - 1])


def _rank(one: np.ndarray, other: np.ndarray) -> float:
    return float(stats.spearmanr(one, other).statistic)


def _reliability(figures: np.ndarray) -> float:
    seeds = figures.shape[1]
    halves = [list(half) for half in combinations(range(seeds), seeds // 2)]
    return float(
        np.mean([
            _rank(figures[:, half].mean(axis=1), np.delete(figures, half, axis=1).mean(axis=1)) for half in halves
        ])
    )


if __name__ == "__main__":
    main()
