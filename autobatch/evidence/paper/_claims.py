"""The paper's claims on one task, each with what our data say of it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from autobatch.beacons import BeaconLibrary
from autobatch.evidence.paper._claim import Claim
from autobatch.evidence.paper._grid import grid_claims
from autobatch.evidence.paper._sampling import sampling_claims
from autobatch.report.paper import finals, is_perceptron

if TYPE_CHECKING:
    import pyarrow as pa

_SHARED = (
    "unique signatures",
    "C̄ and the batch size",
    "L and the batch size",
    "C̄ and the rate",
    "L and the rate",
    "stable positions",
)


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
    claims = [*grid_claims(library, finals(library)), *sampling_claims(library, runs, epochs)]
    return [*claims, perceptron(library, claims)]


def perceptron(library: BeaconLibrary, claims: Sequence[Claim]) -> Claim:
    """Judge whether a perceptron shows the same relations as the deep networks.

    Args:
        library: the task's beacons.
        claims: the other claims on it.

    Returns:
        The claim.
    """
    claim = Claim(
        name="a perceptron shows the same",
        section="4.4",
        statement="the relations of 4.1 hold for a perceptron of two hidden layers as well",
        paper="by eye, Fig. 7",
        verdict="not tested",
        sentence="the network of this task is no perceptron",
    )
    if not is_perceptron(library):
        return claim
    shared = {own.name: own.verdict for own in claims if own.name in _SHARED}
    tested = {verdict for verdict in shared.values() if verdict != "not tested"}
    if not tested:
        return replace(claim, sentence="none of the relations could be tested here")
    return replace(
        claim,
        verdict=tested.pop() if len(tested) == 1 else "partly",
        sentence=", ".join(f"{name}: {verdict}" for name, verdict in shared.items()),
    )
