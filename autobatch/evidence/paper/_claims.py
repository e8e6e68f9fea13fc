"""The table of the paper's claims, and what the data of one task say of each."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from autobatch.beacons import BeaconLibrary
from autobatch.evidence.paper import _grid as grid
from autobatch.evidence.paper import _sampling as sampling
from autobatch.evidence.paper._claim import Claim, Found
from autobatch.evidence.paper._evidence import Evidence
from autobatch.report.paper import is_perceptron

if TYPE_CHECKING:
    import pyarrow as pa


class Stated(NamedTuple):
    """A claim as the paper states it, and its test.

    Attributes:
        name: a short name.
        section: where the paper makes it.
        statement: the claim, in our words.
        paper: the paper's own figures, where it has any.
        needs: what it takes to test it.
        test: what the data of a task say; None where they do not allow it.
    """

    name: str
    section: str
    statement: str
    paper: str
    needs: str
    test: Callable[[Evidence], Found | None]


def _trend(section: str, figure: str, verb: str, side: str, fixed: str) -> Stated:
    return Stated(
        f"{figure} and the {side}",
        section,
        f"at a fixed {fixed} {figure} {verb} with the {side}",
        "by eye, Fig. 3",
        f"needs two lines of three points each, along the {side}",
        partial(grid.trend, side=side, figure=figure, sign=1 if verb == "grows" else -1),
    )


_SIX, _TWELVE = f"needs {grid.LEAST} configurations", f"needs {2 * grid.LEAST} configurations"

ON_BEACONS = (
    Stated(
        "unique signatures",
        "4.1, observation 1",
        "every configuration ends at a place of its own in the plane",
        "no two overlap (by eye, Fig. 3)",
        f"{_SIX} with two seeds",
        grid.signatures,
    ),
    _trend("4.1, observation 2", "C̄", "grows", "batch size", "rate"),
    _trend("4.1, observation 2", "L", "falls", "batch size", "rate"),
    _trend("4.1, observation 3", "C̄", "grows", "rate", "batch size"),
    _trend("4.1, observation 3", "L", "grows", "rate", "batch size"),
    Stated(
        "functional relations",
        "4.2",
        "at equal iterations C̄ clusters by batch size and L by rate",
        "by eye, Fig. 4",
        "needs three batch sizes and two rates whose iterations overlap",
        grid.functional_relations,
    ),
    Stated(
        "stable positions",
        "1, 3.1",
        "relative positions are stable from the first epochs on",
        "by eye, Fig. 1c, 2",
        _SIX,
        grid.stable_positions,
    ),
    Stated(
        "early prediction",
        "1, 3.1",
        "early positions tell how well a new configuration will end",
        "stated, no figure",
        _TWELVE,
        grid.early_prediction,
    ),
    Stated(
        "the good lie together",
        "1, Fig. 1b",
        "the five configurations with the lowest error lie together in one optimum region of the plane",
        "by eye, Fig. 1b, 3",
        f"{_TWELVE} that learnt",
        grid.good_together,
    ),
    Stated(
        "similar rate over batch size",
        "4.1",
        "the five with the lowest error have similar ratios of rate to batch size",
        "in its supplement",
        f"{_TWELVE} that learnt",
        grid.similar_ratio,
    ),
    Stated(
        "two bad ends",
        "4.1, observation 4",
        "toward small C̄ and large L the training converges poorly, toward large C̄ and small L it generalizes poorly",
        "by eye, Fig. 3",
        f"needs training and validation losses of {grid.LEAST} configurations on either side of the best five",
        grid.both_ends,
    ),
)
"""The claims that beacons alone can be asked about, in the order of the paper."""

ON_RUNS = (
    Stated(
        "dynamic sampling travels",
        "3.2, 4.3",
        "it moves C̄ and L from the beacons of its first batch size toward those of its last",
        "by eye, Fig. 1d, 5",
        "needs two runs of dynamic sampling, measured, whose first and last batch size have beacons",
        sampling.travels,
    ),
    Stated(
        "small to large",
        "4.3",
        "growing the batch ends at a lower test error than shrinking it over the same sizes",
        "s32-to-512 5.07 ± 0.21 %, s512-to-32 5.56 ± 0.09 %, p = 0.0037 (ResNet, CIFAR-10)",
        "needs sA-to-B and sB-to-A",
        sampling.small_to_large,
    ),
    Stated(
        "-MS limits L",
        "4.3",
        "running the sizes anew within each rate keeps L lower than running them once, at a similar C̄",
        "by eye, Fig. 5",
        "needs sA-to-B and sA-to-B-ms with measured positions",
        sampling.ms_limits,
    ),
    Stated(
        "time and accuracy",
        "4.3, Table 1",
        "dynamic sampling trains faster than the best beacon, to a similar or lower test error",
        "0.88 to 0.99 times the time on CIFAR and SVHN, 0.23 to 0.79 on MNIST; p of the errors 0.002 to 0.78",
        "needs fixed runs and runs of dynamic sampling, two seeds of each",
        sampling.table_1,
    ),
)
"""The claims that need the runs of a comparison."""


_SHARED = {*(stated.name for stated in ON_BEACONS[:5]), "stable positions"}
"""The claims that the paper makes of perceptrons as well."""


def judged(stated: Stated, evidence: Evidence) -> Claim:
    """Judge a claim by what a task has to say of it."""
    found = stated.test(evidence) or Found("not tested", stated.needs, {})
    return Claim(*stated[:4], *found)


def paper_claims(library: BeaconLibrary, runs: "pa.Table | None", epochs: "pa.Table | None") -> list[Claim]:
    """Judge the paper's claims on a task.

    Diverged configurations have no final position and are left out of everything but the landscape, where they stand at
    chance level; runs that ended near guessing are told apart where they matter.

    Args:
        library: the task's beacons.
        runs: the table of runs of a comparison on that task; None where there is none.
        epochs: its table of epochs; None where there is none.

    Returns:
        Every claim, in the order of the paper; those that the data do not allow are ``"not tested"`` with the reason.
    """
    evidence = Evidence(library, runs, epochs)
    claims = [*(judged(stated, evidence) for stated in ON_BEACONS), *sampling_claims(evidence)]
    return [*claims, perceptron(library, claims)]


def sampling_claims(evidence: Evidence) -> list[Claim]:
    """Judge the claims that need the runs of a comparison; say of each how many of these ended early."""
    claims = [judged(stated, evidence) for stated in ON_RUNS]
    if not evidence.compared:
        return [replace(claim, sentence="no comparison of policies on this task") for claim in claims]
    return [replace(claim, sentence=claim.sentence + evidence.ended_early) for claim in claims]


def perceptron(library: BeaconLibrary, claims: Sequence[Claim]) -> Claim:
    """Judge by the other claims on a library whether a perceptron shows the same relations as the deep networks."""
    shared = {own.name: own.verdict for own in claims if own.name in _SHARED}
    tested = {verdict for verdict in shared.values() if verdict != "not tested"}
    found = Found("not tested", "the network of this task is no perceptron", {})
    if is_perceptron(library):
        found = Found("not tested", "none of the relations could be tested here", {})
        if tested:
            told = ", ".join(f"{name}: {verdict}" for name, verdict in shared.items())
            found = Found(tested.pop() if len(tested) == 1 else "partly", told, {})
    return Claim(
        "a perceptron shows the same",
        "4.4",
        "the relations of 4.1 hold for a perceptron of two hidden layers as well",
        "by eye, Fig. 7",
        *found,
    )
