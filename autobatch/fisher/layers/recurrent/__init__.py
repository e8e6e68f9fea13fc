"""The per-sample gradients of recurrent layers and cells, from one pass back through time for all samples.

In come calls of ``gru``, ``lstm``, ``rnn_tanh``, ``rnn_relu`` and their cells; out go Jacobians of matrix products.
Open ``_rule.py`` first.
"""

from autobatch.fisher.layers.recurrent._rule import cells, layers

__all__ = ["cells", "layers"]
