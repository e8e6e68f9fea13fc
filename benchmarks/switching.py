"""Do runs that switch end as well as the beacons say of the place in the plane where they end?

    python benchmarks/switching.py --env digits-resnet8

The landscape is fitted to beacons, which never switch. The table has the journeys of ``branches.parquet`` (whole
trainings that changed batch size and rate at random epochs, or followed a policy) by how often they changed the batch
size: the median of actual over predicted final loss at their own final C̄ and L, with a 95 % bootstrap interval, and the
share that ended worse than predicted. The first row is the control: beacons, each predicted from the other
configurations.
"""

import argparse

import numpy as np

from autobatch import BeaconLibrary
from autobatch._artefacts import find_artefact
from autobatch.beacons import Branches, Landscape, leave_one_out

GROUPS = ((0, 1), (2, 3), (4, 6), (7, 99))
RESAMPLES = 4000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="digits-resnet8")
    print(switching_table(parser.parse_args().env))


def switching_table(env: str) -> str:
    """Return the table of a task, in Markdown."""
    folder = find_artefact("envs", env).parent
    library, branches = BeaconLibrary.load(folder), Branches.load(folder)
    landscape, control = Landscape.fit(library), leave_one_out(library)
    found: dict[tuple[int, int], list[float]] = {group: [] for group in GROUPS}
    for journey in branches.journeys:
        if journey.kind != "journey" or journey.stopped_because != "finished":
            continue
        rows = journey.rows
        predicted = landscape.predict([rows["c_bar"][-1]], [rows["l_cum"][-1]])
        changes = int(np.count_nonzero(np.diff(rows["batch_size"])))
        group = next(one for one in GROUPS if one[0] <= changes <= one[1])
        if predicted.known[0]:
            found[group].append(float(np.log(rows[library.score][-1] / predicted.score[0])))
    lines = [
        f"| {env}: changes of the batch size | trainings | actual / predicted (95 % interval) | worse than predicted |",
        "| --- | --- | --- | --- |",
        row("none: beacons, left out", np.log(control.actual / control.predicted)),
    ]
    for (low, high), excess in found.items():
        if excess:
            lines.append(row(f"{low} or more" if high > 50 else f"{low} to {high}", np.array(excess)))
    return "\n".join(lines)


def row(name: str, excess: np.ndarray) -> str:
    """Return one line of the table."""
    generator = np.random.default_rng(0)
    drawn = np.median(excess[generator.integers(len(excess), size=(RESAMPLES, len(excess)))], axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    middle, low, high = np.exp([np.median(excess), low, high])
    return f"| {name} | {len(excess)} | {middle:.2f} ({low:.2f} to {high:.2f}) | {np.mean(excess > 0):.0%} |"


if __name__ == "__main__":
    main()
