"""The paper's networks and a few others, by name, and networks of the user's own.

In come the name of a model and the shape of its inputs; out goes a network, drawn from a seed. Open ``_registry.py``
first.
"""

from autobatch.training.models._registry import build_model, build_task_model

__all__ = [
    "build_model",
    "build_task_model",
]
