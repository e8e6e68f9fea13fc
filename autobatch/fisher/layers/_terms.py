"""A term of weights alone that is added to the samples' summed loss, such as a penalty: an equal part is each sample's.

A loss mean(l_i) + R is the mean of l_i + R, which is measured where it is written so.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from autobatch.fisher.following._layout import Layout, LostBatch
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.layers._calls import Call, Contribution, Weight, dense, precise
from autobatch.fisher.layers._generic import Replay


def adds_to_the_loss(call: Call, layouts: list[Layout]) -> bool:
    """Whether a call adds weights to one number that is a sum over samples.

    Args:
        call: the call.
        layouts: those of its arguments that descend from the batch.

    Returns:
        Whether it does.
    """
    if call.known.additive != "term" or call.outputs[0].numel() != 1:
        return False
    return all(isinstance(layout, LostBatch) and layout.additive for layout in layouts)


def in_equal_parts(call: Call) -> list[Contribution]:
    """Return what such a call owes to its weights: the whole gradient over B, for each sample.

    Args:
        call: the call.

    Returns:
        One contribution for each weight; the rows of its J are one row in memory.
    """
    replay = Replay(call, None)

    def of(index: int, weight: Weight) -> Callable[[Tensor], Jacobian]:
        def jacobian(gradient: Tensor) -> Jacobian:
            (output, *_), fresh = replay.run()
            part = gradient.to(output.dtype) / call.batch
            (row,) = torch.autograd.grad(output, fresh[index], part, retain_graph=True)
            (row,) = precise(row.mT if weight.transposed else row)
            return dense(row.expand(call.batch, *row.shape))

        return jacobian

    return [Contribution(weight, of(index, weight)) for index, weight in enumerate(replay.weights)]
