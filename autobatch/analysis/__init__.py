"""Analyse: what the Fisher matrix of a trained network says of its layers, without the matrix.

In come a model and data; out goes a table of layers, for choosing what to freeze or to prune. Open ``_measure.py``
first.
"""

from autobatch.analysis._information import FisherInformation, LayerInformation
from autobatch.analysis._measure import fisher_information

__all__ = ["FisherInformation", "LayerInformation", "fisher_information"]
