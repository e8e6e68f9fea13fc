"""What a task has to say of the paper's claims: its beacons, where they end, and the runs of a comparison."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from autobatch._arrays import Floats
from autobatch.beacons import BeaconLibrary
from autobatch.report.paper import Curves, Finals, finals, policy_curves

if TYPE_CHECKING:
    import pyarrow as pa


class Evidence:
    """The data of a task.

    Args:
        library: the task's beacons.
        runs: the table of runs of a comparison on that task; None where there is none.
        epochs: its table of epochs; None where there is none.

    Attributes:
        library: the beacons.
        compared: whether there is a comparison.
        curves: epochs of its runs that reached the end, by policy.
        test_error: final test errors of the finished runs, by policy.
        score: their final scores.
        clock: their seconds by the clock, measuring not counted.
        side_by_side: whether runs trained beside others, so that the clock says little.
        ended_early: in words, how many runs did not finish, which are in none of the others; empty for none.
    """

    def __init__(
        self, library: BeaconLibrary, runs: "pa.Table | None" = None, epochs: "pa.Table | None" = None
    ) -> None:
        every = runs.to_pylist() if runs is not None else []
        rows = [row for row in every if row["stopped_because"] == "finished"]

        def by_policy(column: str) -> Mapping[str, Floats]:
            names = dict.fromkeys(row["policy"] for row in rows)
            return {name: np.array([row[column] for row in rows if row["policy"] == name], float) for name in names}

        self.library = library
        self.compared = runs is not None or epochs is not None
        self.curves: Mapping[str, Curves] = policy_curves(epochs)
        self.test_error = {name: own for name, own in by_policy("test_error").items() if np.isfinite(own).all()}
        self.score = by_policy(library.score)
        measuring = by_policy("measuring_seconds")
        self.clock = {name: own - np.nan_to_num(measuring[name]) for name, own in by_policy("seconds").items()}
        self.side_by_side = any(row["side_by_side"] > 1 for row in rows)
        early = len(every) - len(rows)
        self.ended_early = f". Left out: {early} runs that ended early" if early else ""

    @cached_property
    def ends(self) -> Finals:
        """Where the beacons end."""
        return finals(self.library)

    @cached_property
    def scored(self) -> Finals:
        """Where they end, ranked by the task's score."""
        return finals(self.library, self.library.score)

    def training_seconds(self, name: str) -> tuple[float, bool]:
        """Return a policy's mean seconds of training, and whether they are modelled by the task's cost table."""
        curves, costs = self.curves.get(name), self.library.costs
        if curves is None or costs is None or not {*curves["batch_size"].flat} <= {*costs.step_seconds}:
            return float(self.clock[name].mean()), False
        steps = np.diff(curves["steps"], axis=1, prepend=0.0).round()
        totals = [
            sum(costs.training_seconds(int(size), int(count), epochs=1) for size, count in zip(*own, strict=True))
            for own in zip(curves["batch_size"], steps, strict=True)
        ]
        return float(np.mean(totals)), True
