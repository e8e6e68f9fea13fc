"""Measure: from a forward and backward pass to the Gram matrix, its spectrum and the running position (C̄, L)."""

from autobatch.fisher._position import SpectralPosition
from autobatch.fisher._probe import FisherProbe
from autobatch.fisher._spectrum import Spectrum, spectrum_of

__all__ = ["FisherProbe", "SpectralPosition", "Spectrum", "spectrum_of"]
