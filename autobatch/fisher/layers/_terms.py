"""A term of weights alone that is added to the samples' summed loss, such as a penalty: an equal part is each sample's.

A loss mean(l_i) + R is the mean of l_i + R, which is measured where it is written so.
"""

import torch
from torch import Tensor

from autobatch.fisher.following._layout import Layout, LostBatch
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.layers._calls import Call, Contribution, dense, precise, together
from autobatch.fisher.layers._generic import Replay


def adds_to_the_loss(call: Call, layouts: list[Layout]) -> bool:
    """Whether a call adds weights to one number that is a sum over samples, by the layouts of what has the batch."""
    if call.known.additive != "term" or call.outputs[0].numel() != 1:
        return False
    return all(isinstance(layout, LostBatch) and layout.additive for layout in layouts)


def in_equal_parts(call: Call) -> list[Contribution]:
    """Return what such a call owes to its weights: the whole gradient over B for each sample, one row in memory."""
    replay = Replay(call)
    batch = call.batch

    def made(gradient: Tensor) -> dict[int, Jacobian]:
        (output, *_), fresh = replay.run()
        found = torch.autograd.grad(output, fresh, gradient.to(output.dtype) / batch)
        pairs = zip(replay.weights, found, strict=True)
        rows = {id(weight): precise(row.mT if weight.transposed else row)[0] for weight, row in pairs}
        return {key: dense(row.expand(batch, *row.shape)) for key, row in rows.items()}

    return together({id(weight): weight for weight in replay.weights}, made)
