"""Optimizers that go by the same F that is measured: partially adaptive, mini-block, Kronecker-factored, natural.

In come parameters, their gradients and, from the measuring room's capture, layers' inputs and output gradients; out
goes the step. Open ``_optimizer.py`` first.
"""

from autobatch.optim._dynamics import isotropy
from autobatch.optim._kfac import KFAC
from autobatch.optim._mini_block import MiniBlockFisher
from autobatch.optim._natural import NaturalGradient
from autobatch.optim._optimizer import FisherOptimizer, observing
from autobatch.optim._padam import Padam

__all__ = ["KFAC", "FisherOptimizer", "MiniBlockFisher", "NaturalGradient", "Padam", "isotropy", "observing"]
