"""Random graphs: each measure is right, or refused. ``python -m tests.fisher.fuzz`` runs more of them."""

import collections
import logging

import pytest

from ._check import check

GRAPHS = 50  # of each of the seeds below, each measured in four steps


@pytest.mark.parametrize("seed", range(12))
def test_every_graph_is_right_or_refused(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "autobatch")
    outcomes = [check(1_000_000 * (seed + 1) + graph) for graph in range(GRAPHS)]
    assert [outcome.text for outcome in outcomes if outcome.kind == "wrong"] == []
    kinds = collections.Counter((outcome.kind, outcome.mixed) for outcome in outcomes)
    assert kinds["right", False] > 4 * kinds["refused", False]  # and what can be followed is
