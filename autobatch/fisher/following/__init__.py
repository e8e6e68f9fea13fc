"""Where the samples lie in every tensor of a forward pass.

In come the model's inputs and the calls that it makes of torch functions; out go, for each tensor, the dimension that
carries the batch, or that its samples are lost. Open ``_layout.py`` first, then ``_through.py``.
"""

from autobatch.fisher.following._samples import Samples

__all__ = ["Samples"]
