"""Do the scouts and forks of runs help a task's surrogate? By those of runs that it was not fitted to.

    python benchmarks/learning/forks_fed.py run [--seeds 900-909] [--data-dir data]
    python benchmarks/learning/forks_fed.py page

``run`` trains diamonds-mlp under `steer` with scouts at 32 and without further growth, which forks there, to the end of
its first fork, and keeps what each run has in its ``branches.parquet`` in
``benchmarks/results/forks/diamonds-mlp.parquet``; seeds that are there are not trained again. ``page`` fits surrogates
to the task's beacons and all other tasks, to these and the scouts of four fifths of the runs, and to these and their
forks, and writes by how much each misses the others' epochs into ``docs/concepts/surrogate.md``; brackets are 95 %
bootstrap intervals over runs.
"""

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from unittest.mock import patch

import numpy as np

from autobatch import BeaconLibrary, Branches, load_task
from autobatch.beacons import Journey
from autobatch.beacons.storage import BRANCHES
from autobatch.control.run import BRANCH_RUNS
from autobatch.envs.surrogate import Dynamics, alike, tabulate
from autobatch.policies import load_policy_spec
from autobatch.policies.steer import _search
from autobatch.training import EpochRow, RunConfig, RunObserver, run, task_info
from benchmarks import pages

TASK = pages.ENVS / "diamonds-mlp"
FILE = pages.RESULTS / "forks" / "diamonds-mlp.parquet"
PAGE = pages.ROOT / "docs" / "concepts" / "surrogate.md"
FOLDS, DRAWS = 5, 2000
FITTED = {"beacons": (), "beacons and scouts": ("journey",), "beacons, scouts and forks": ("journey", "branch")}


class UntilAFork(RunObserver):
    """Ends a run with the epoch that forked, the third."""

    def epoch_finished(self, row: EpochRow) -> None:
        """Raise after it."""
        if row.epoch == 3:
            raise KeyboardInterrupt


def train(seeds: Iterable[int], data_dir: Path | None) -> None:
    """Train what is missing."""
    known = {own.seed for own in Branches.load(FILE).journeys} if FILE.exists() else set()
    policy = pages.changed(load_policy_spec("steer"), growth=1.0)
    costs = BeaconLibrary.load(TASK).costs
    for seed in sorted(set(seeds) - known):
        config = RunConfig(task=load_task(TASK), policy=policy, seed=seed, device="cpu", data_dir=data_dir, costs=costs)
        with tempfile.TemporaryDirectory() as folder:
            try:
                with patch.object(_search, "EXAMPLES", math.inf):
                    run(config, Path(folder) / "run", UntilAFork())
            except KeyboardInterrupt:
                found = Branches.load(Path(folder) / "run" / BRANCH_RUNS)
                BRANCHES.add(FILE, found.journeys, found.info)
                print(f"{seed}: {len(found.journeys)} branches and journeys", flush=True)


def misses(dynamics: Dynamics, own: list[Journey]) -> np.ndarray:
    """Return by how much the log validation loss of each epoch is missed."""
    table = tabulate([(one.rows, True) for one in own], dynamics.guessing, dynamics.scale)
    return np.asarray((dynamics.predict(table) - table.outcome)[:, 0])


def page() -> None:
    """Fit, and write the table."""
    library, branches = BeaconLibrary.load(TASK), Branches.load(FILE)
    task, others = task_info(load_task(TASK), library), alike(library, TASK)
    seeds = sorted({own.seed for own in branches.journeys})
    rows = []
    for name, kinds in FITTED.items():
        by_run: dict[int, tuple[np.ndarray, ...]] = {}
        for fold in range(FOLDS):
            held = seeds[fold::FOLDS]
            fed = tuple(own for own in branches.journeys if own.seed not in held and own.kind in kinds)
            dynamics = Dynamics.fit(library, Branches(fed, branches.info) if fed else None, task, others=others)
            for seed in held:
                scouts, forks = (
                    misses(dynamics, [own for own in branches.journeys if (own.seed, own.kind) == (seed, kind)])
                    for kind in ("journey", "branch")
                )
                by_run[seed] = scouts, forks, np.diff(forks)
        rows.append([name, *(_told([by_run[seed][figure] for seed in seeds]) for figure in range(3))])
    titles = f"fitted to, {len(seeds)} runs | scouts' epochs | epochs of forks | larger against as decided"
    pages.put(PAGE, "benchmarks/learning/forks_fed.py page", "\n".join([pages.heading(titles), *map(_row, rows)]))


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _told(by_run: list[np.ndarray]) -> str:
    squares = np.array([np.mean(own**2) for own in by_run])
    drawn = np.random.default_rng(0).integers(len(squares), size=(DRAWS, len(squares)))
    low, high = np.quantile(np.sqrt(squares[drawn].mean(axis=1)), [0.025, 0.975])
    return f"{np.sqrt(squares.mean()):.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    options = {**pages.seeds("900-909"), **pages.DATA_DIR}
    pages.carry_out(__doc__, {"run": (train, options), "page": (page, {})})
