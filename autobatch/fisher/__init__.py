"""Measure: from a forward and backward pass to the Gram matrix, its spectrum and the running position (C̄, L)."""

from autobatch.fisher._autotune import Routes, routes
from autobatch.fisher._measurement import Measurement
from autobatch.fisher._modules import register_gram_rule
from autobatch.fisher._moments import GradientMoments, half_cosine, squared_rows
from autobatch.fisher._position import SpectralPosition
from autobatch.fisher._probe import FisherProbe
from autobatch.fisher._spectrum import Spectrum, spectrum_of

__all__ = [
    "FisherProbe",
    "GradientMoments",
    "Measurement",
    "Routes",
    "SpectralPosition",
    "Spectrum",
    "half_cosine",
    "register_gram_rule",
    "routes",
    "spectrum_of",
    "squared_rows",
]
