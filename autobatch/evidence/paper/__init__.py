"""The paper's claims, each set beside what is on disk here.

In come a library and the tables of a comparison; out go claims with the figures that speak for and against them. Open
``_claims.py`` first.
"""

from autobatch.evidence.paper._claim import Claim, claims_json, claims_markdown
from autobatch.evidence.paper._claims import paper_claims

__all__ = [
    "Claim",
    "claims_json",
    "claims_markdown",
    "paper_claims",
]
