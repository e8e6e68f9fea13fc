"""Where the samples lie in every tensor of a forward pass.

In come the model's inputs and the calls that it makes of torch functions; out go, for each tensor, the dimension that
carries the batch, or that its samples are lost. Open ``_layout.py`` first.
"""

from autobatch.fisher.following._grouping import Grouping
from autobatch.fisher.following._keeping import HANDING_ON, KEEPING, register_keeping
from autobatch.fisher.following._layout import (
    IN_FRONT,
    STAYING,
    BatchLayout,
    Claim,
    Layout,
    Layouts,
    LostBatch,
    layer_keeps,
    overwritten_in,
    propagate,
    settle_claims,
    written_into,
)
from autobatch.fisher.following._places import einsum_terms
from autobatch.fisher.following._samples import Samples

__all__ = [
    "HANDING_ON",
    "IN_FRONT",
    "KEEPING",
    "STAYING",
    "BatchLayout",
    "Claim",
    "Grouping",
    "Layout",
    "Layouts",
    "LostBatch",
    "Samples",
    "einsum_terms",
    "layer_keeps",
    "overwritten_in",
    "propagate",
    "register_keeping",
    "settle_claims",
    "written_into",
]
