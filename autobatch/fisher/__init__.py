"""Measure: from a forward and backward pass to the Gram matrix, its spectrum and the running position (C̄, L).

In come a model, its loss and a backward pass; out go a measurement of the gradients of single examples, and the
position that measurements add up to. Open ``_probe.py`` first.
"""

from autobatch.fisher._measurement import Measurement
from autobatch.fisher._moments import GradientMoments, half_cosine, squared_rows
from autobatch.fisher._position import SpectralPosition
from autobatch.fisher._probe import FisherProbe
from autobatch.fisher._registry import register_gram_rule, register_keeping
from autobatch.fisher._spectrum import Spectrum, spectrum_of
from autobatch.fisher._taking import TakenGradients, factors_of, is_turned
from autobatch.fisher.gram import Jacobian
from autobatch.fisher.layers import Routes, routes

__all__ = [
    "FisherProbe",
    "GradientMoments",
    "Jacobian",
    "Measurement",
    "Routes",
    "SpectralPosition",
    "Spectrum",
    "TakenGradients",
    "factors_of",
    "half_cosine",
    "is_turned",
    "register_gram_rule",
    "register_keeping",
    "routes",
    "spectrum_of",
    "squared_rows",
]
