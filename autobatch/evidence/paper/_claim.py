"""What a claim of the paper came to: figures, a word of judgement and a sentence."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple

from autobatch.evidence._statistics import rounded

Seen = Literal["seen", "partly", "not seen", "not tested"]
"""The judgement of a claim on some data."""


class Found(NamedTuple):
    """What some data say of a claim: the judgement, a sentence with sizes, and what both rest on, by name."""

    verdict: Seen
    sentence: str
    figures: dict[str, float]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and what our data say of it.

    Attributes:
        name: a short name, the same on every task.
        section: where the paper makes it.
        statement: the claim, in our words.
        paper: the paper's own figures, where it has any.
        verdict: whether it was seen.
        sentence: what was seen, in words, with sizes; for ``"not tested"`` the reason.
        figures: what the judgement rests on, by name.
    """

    name: str
    section: str
    statement: str
    paper: str
    verdict: Seen
    sentence: str
    figures: Mapping[str, float] = field(default_factory=dict)


def graded(seen: object, partly: object) -> Seen:
    """Return the judgement of what is seen, or else seen in part."""
    return "seen" if seen else "partly" if partly else "not seen"


def claims_markdown(claims: Sequence[Claim]) -> str:
    """Return claims as a Markdown table.

    Args:
        claims: the claims.

    Returns:
        The table, with a newline at its end.
    """
    lines = ["| claim | paper | seen here | verdict |", "| --- | --- | --- | --- |"]
    for claim in claims:
        paper = f"{claim.section}; {claim.paper}" if claim.paper else claim.section
        cells = (f"**{claim.name}**: {claim.statement}", paper, claim.sentence, claim.verdict)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def claims_json(claims: Sequence[Claim]) -> str:
    """Return claims as JSON; a figure that is not finite is null.

    Args:
        claims: the claims.

    Returns:
        A list of objects, with a newline at its end.
    """
    rows = [
        asdict(claim) | {"figures": {name: rounded(value, 6) for name, value in claim.figures.items()}}
        for claim in claims
    ]
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
