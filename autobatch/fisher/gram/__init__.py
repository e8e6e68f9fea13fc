"""The Gram matrix of per-sample gradients, kept in pieces and on disk or shared between ranks where it must be.

In come Jacobians of layers; out goes the Gram matrix, block by block. Open ``_gram.py`` first.
"""

from autobatch.fisher.gram._exchange import ExchangedGram
from autobatch.fisher.gram._gram import MAX_MEMORY, Jacobian, Taker
from autobatch.fisher.gram._sink import GramSink, Sink, StreamingGram
from autobatch.fisher.gram._sketch import LEAST_ROWS_PER_SAMPLE, SketchedGram
from autobatch.fisher.gram._spill import SpilledGram

__all__ = [
    "LEAST_ROWS_PER_SAMPLE",
    "MAX_MEMORY",
    "ExchangedGram",
    "GramSink",
    "Jacobian",
    "Sink",
    "SketchedGram",
    "SpilledGram",
    "StreamingGram",
    "Taker",
]
