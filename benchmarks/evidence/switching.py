"""Do runs that switch end as well as the beacons say of the place in the plane where they end?

    python benchmarks/evidence/switching.py --env digits-resnet8

The landscape is fitted to beacons, which never switch. The table has the journeys of ``branches.parquet`` (whole
trainings that changed batch size and rate at random epochs, or followed a policy) by how often they changed the batch
size: the median of actual over predicted final loss at their own final C̄ and L, with a 95 % bootstrap interval, and the
share that ended worse than predicted. The first row is the control: beacons, each predicted from the other
configurations. The line below is a least-squares fit of the excess (in percent of the loss, standard errors behind ±)
to the rungs that the batch size went up and down before and after the schedule's first decay.
"""

import numpy as np

from autobatch import BeaconLibrary, load_task
from autobatch._artefacts import find_artefact
from autobatch.beacons import Branches, Landscape, leave_one_out
from benchmarks.pages import heading, parser_of

GROUPS = ((0, 1), (2, 3), (4, 6), (7, 99))
RESAMPLES = 4000


def main() -> None:
    """Print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--env", default="digits-resnet8")
    print(switching_table(parser.parse_args().env))


def switching_table(env: str) -> str:
    """Return the table of a task, in Markdown."""
    folder = find_artefact("envs", env).parent
    library, branches = BeaconLibrary.load(folder), Branches.load(folder)
    landscape, control = Landscape.fit(library), leave_one_out(library)
    found: dict[tuple[int, int], list[float]] = {group: [] for group in GROUPS}
    decay = load_task(env).schedule.milestones[0]
    moves, excesses = [], []
    for journey in branches.journeys:
        if journey.kind != "journey" or journey.stopped_because != "finished":
            continue
        rows = journey.rows
        predicted = landscape.predict([rows["c_bar"][-1]], [rows["l_cum"][-1]])
        changes = int(np.count_nonzero(np.diff(rows["batch_size"])))
        group = next(one for one in GROUPS if one[0] <= changes <= one[1])
        if predicted.known[0]:
            found[group].append(float(np.log(rows[library.score][-1] / predicted.score[0])))
            rungs, early = np.diff(np.log2(rows["batch_size"])), rows["progress"][1:] <= decay
            up, down = np.clip(rungs, 0, None), np.clip(-rungs, 0, None)
            moves.append([1.0, up[early].sum(), down[early].sum(), up[~early].sum(), down[~early].sum()])
            excesses.append(found[group][-1])
    titles = f"{env}: changes of the batch size | trainings | actual / predicted (95 % interval) | worse than predicted"
    lines = [
        heading(titles),
        row("none: beacons, left out", np.log(control.actual / control.predicted)),
    ]
    for (low, high), excess in found.items():
        if excess:
            lines.append(row(f"{low} or more" if high > 50 else f"{low} to {high}", np.array(excess)))
    names = ("a rung up before the first decay", "down before", "up after", "down after")
    fitted = zip(names, *(values[1:] for values in fit(np.array(moves), np.array(excesses))), strict=True)
    effects = ", ".join(f"{name} {100 * value:+.1f} ± {100 * error:.1f} %" for name, value, error in fitted)
    return "\n".join(lines) + f"\n\nBy how much more: {effects}."


def fit(moves: np.ndarray, excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return least-squares coefficients and their standard errors."""
    coefficients, *_ = np.linalg.lstsq(moves, excess, rcond=None)
    variance = np.sum((excess - moves @ coefficients) ** 2) / (len(excess) - moves.shape[1])
    return coefficients, np.sqrt(np.diag(np.linalg.inv(moves.T @ moves)) * variance)


def row(name: str, excess: np.ndarray) -> str:
    """Return one line of the table."""
    generator = np.random.default_rng(0)
    drawn = np.median(excess[generator.integers(len(excess), size=(RESAMPLES, len(excess)))], axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    middle, low, high = np.exp([np.median(excess), low, high])
    return f"| {name} | {len(excess)} | {middle:.2f} ({low:.2f} to {high:.2f}) | {np.mean(excess > 0):.0%} |"


if __name__ == "__main__":
    main()
