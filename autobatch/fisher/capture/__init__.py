"""One forward and backward pass of a model, captured.

In come a model that somebody trains and a sink; out go the per-sample gradients of every use of every trainable
parameter, and notes of what the step was. Open ``_capture.py`` first.
"""

from autobatch.fisher.capture._capture import Capture
from autobatch.fisher.capture._exact import ExactCapture

__all__ = ["Capture", "ExactCapture"]
