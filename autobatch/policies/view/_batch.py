"""Many observations side by side."""

from dataclasses import dataclass

from autobatch._arrays import Floats


@dataclass
class ObservationBatch:
    """Many observations side by side, each array of shape (n,); NaN marks what is not known.

    The fields are those of ``Observation``; besides, C̄, L and score of an epoch ago, and ``spent`` of a ``Trail``.
    """

    epoch: Floats
    progress: Floats
    batch_size: Floats
    lr: Floats
    c_bar: Floats
    l_cum: Floats
    train_loss: Floats
    validation_loss: Floats
    validation_error: Floats
    c_before: Floats
    l_before: Floats
    score_before: Floats
    spent: Floats
