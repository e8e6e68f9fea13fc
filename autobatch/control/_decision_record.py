"""What was decided, what was applied, and why: one record a decision."""

from dataclasses import dataclass

from autobatch._plain import Epochs, Plain
from autobatch.policies._protocol import Candidate


@dataclass(frozen=True)
class DecisionRecord(Plain):
    """One decision of a policy, as asked and as applied.

    Attributes:
        epoch: finished epochs when the decision was made, a part of one among them where that was within an epoch.
        progress: examples seen / examples of the whole training, in [0, 1].
        requested_batch_size: global batch size that the policy asked for.
        requested_lr: base learning rate that the policy asked for; None where it left it to the learning-rate rule.
        batch_size: global batch size in use.
        lr: base learning rate in use.
        lr_effective: ``lr`` times the schedule's factor, as the optimizer's first parameter group has it.
        changed: whether batch size or base learning rate differ from the epoch before (True for the first).
        reason: why, in the policy's words.
        limit: why what is applied differs from what was asked, None where it does not.
        c_bar: C̄_K when the decision was made; NaN before the first measurement.
        l_cum: L_K when the decision was made.
        validation_loss: mean validation loss after epoch ``epoch``; NaN before the first.
        validation_error: share of validation examples classified wrongly after epoch ``epoch``; NaN before the first.
        target: the (C̄, L) position that the policy steers to, where it has one.
        alternatives: the candidates that the policy weighed.
        example: the first example, counted since the start of the training, that the decision holds for.
        micro_batch: examples of the largest forward pass; None where the plan does not split batches.
        accumulation: forward passes of a rank for one step of the optimizer.
        ranks: processes that share a batch.
        stop: whether the training ends with this decision.
        falls: whether the policy says how far the rate has fallen, or what larger batches make of that.
        fall_begins: whether that begins here, or anew, from weights of before.
        planned: decision periods after which the policy plans to end the training; None where it plans no end.
        end_moved: whether that is another end than the decision before had.
        back_to: finished epochs to whose weights the training has gone back with this decision; None where it has not.
    """

    epoch: Epochs
    progress: float
    requested_batch_size: int
    requested_lr: float | None
    batch_size: int
    lr: float
    lr_effective: float
    changed: bool
    reason: str
    limit: str | None
    c_bar: float
    l_cum: float
    validation_loss: float
    validation_error: float
    target: tuple[float, float] | None
    alternatives: tuple[Candidate, ...]
    example: int = 0
    micro_batch: int | None = None
    accumulation: int = 1
    ranks: int = 1
    stop: bool = False
    falls: bool = False
    fall_begins: bool = False
    planned: int | None = None
    end_moved: bool = False
    back_to: Epochs | None = None

    @property
    def turn(self) -> bool:
        """Whether something begins here that a person should be told of."""
        return self.changed or self.fall_begins or self.end_moved
