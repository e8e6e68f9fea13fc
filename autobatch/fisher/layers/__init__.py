"""The per-sample gradients of every kind of layer and function.

In come the calls that a model makes of torch functions, with the gradients of their outputs; out go Jacobians whose
Gram matrices add up to that of the model. Open ``_rules.py`` first.
"""

from autobatch.fisher.layers._autotune import Routes, routes

__all__ = ["Routes", "routes"]
