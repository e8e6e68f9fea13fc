"""Measure: from a forward and backward pass to the Gram matrix, its spectrum and the running position (C̄, L)."""

from autobatch.fisher._autotune import Routes, routes
from autobatch.fisher._measurement import Measurement
from autobatch.fisher._modules import register_gram_rule
from autobatch.fisher._position import SpectralPosition
from autobatch.fisher._probe import FisherProbe
from autobatch.fisher._spectrum import Spectrum, spectrum_of

__all__ = [
    "FisherProbe",
    "Measurement",
    "Routes",
    "SpectralPosition",
    "Spectrum",
    "register_gram_rule",
    "routes",
    "spectrum_of",
]
