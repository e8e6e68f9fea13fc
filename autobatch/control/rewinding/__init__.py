"""Go back: the weights of an earlier epoch, kept in host memory until the policy says that they were the better ones.

In come model, optimizer and what the policy says after each period; out go copies of them, and a training that stands
where one of them was taken. ``_weights.py`` copies and puts back. Open ``_rewinding.py`` first.
"""

from autobatch.control.rewinding._rewinding import Rewinding
from autobatch.control.rewinding._weights import Stateful

__all__ = ["Rewinding", "Stateful"]
