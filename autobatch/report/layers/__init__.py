"""An analysis of a network's layers as a picture.

In comes what ``autobatch.fisher_information`` came to; out goes a figure. Open ``_figure.py`` first.
"""

from autobatch.report.layers._figure import layers_figure

__all__ = ["layers_figure"]
