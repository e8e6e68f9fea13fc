"""The decisions of a training: asking the policy, keeping what batches in flight follow, applying the rates."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from autobatch._errors import CheckpointError, ConfigError
from autobatch._plain import Epochs
from autobatch.control._decision_record import DecisionRecord
from autobatch.control._ranks import Ranks
from autobatch.control.measuring import MeasuredStep
from autobatch.control.rates import GradientNoise, OptimizerRates, check_rate
from autobatch.control.settings import Settings
from autobatch.control.steps import Cut, Passage
from autobatch.policies import Decision, Observation
from autobatch.policies._rungs import nearest_rung
from autobatch.policies.steer import MeasuringPolicy, RewindingPolicy

_LOG = logging.getLogger("autobatch")


class Decisions:
    """Asks the policy on the first rank, and brings the optimizer to where the decision of each batch has it.

    Batches that a loader has fetched ahead follow the decision that they were cut with, so several may be in force.

    Args:
        settings: the policy, reset for this training, its ladder, and what rules the rate.
        rates: the optimizer's rates.
        ranks: the processes.
        passage: says how a batch would be split.

    Attributes:
        best_period: finished periods after which weights are worth keeping, as the policy says; None for never.
        back_to: finished periods to whose weights the training should go back now, as it says; None where it should
            not.
        samples_wanted: steps of the coming period that the policy asks to have measured; 0 where it does not ask.
    """

    def __init__(self, settings: Settings, *, rates: OptimizerRates, ranks: Ranks, passage: Passage) -> None:
        self._policy = settings.policy
        self._batch_sizes = settings.batch_sizes
        self._ruled = settings.rates
        self._rule = settings.rates.learning_rate_rule
        self._plan = settings.plan
        self._own_batch_size = settings.advise
        self._rates = rates
        self._ranks = ranks
        self._passage = passage
        self._noise = GradientNoise()
        self._reference_batch_size = self._rule.reference_batch_size or 0
        self._records: dict[int, DecisionRecord] = {}
        self._last = -1
        self._applied = -1
        self._ramp: tuple[float, int] | None = None
        self._told_weight_decay = False
        self.best_period: int | None = None
        self.back_to: int | None = None
        self.samples_wanted = 0

    @property
    def last(self) -> DecisionRecord:
        """The last decision."""
        return self._records[self._last]

    def number_for(self, example: int) -> int:
        """Return the number of the decision that ``example``, which is not handed out yet, follows."""
        return max((number for number, own in self._records.items() if own.example <= example), default=self._last)

    def batch_size(self, number: int) -> int:
        """Return the global batch size that batches are cut with; the loop's own where it is only advised."""
        return self._own_batch_size or self._records[number].batch_size

    def decide(self, observation: Observation, *, epoch: Epochs, example: int, back_to: Epochs | None = None) -> None:
        """Have the first rank's policy asked, and tell all ranks what holds from ``example`` on.

        Args:
            observation: where the training stands.
            epoch: finished epochs.
            example: the first example that the decision holds for.
            back_to: finished epochs to whose weights the training has just gone back; None where it has not.
        """
        told = self._ranks.first_makes(partial(self._asked, observation, epoch, example, back_to))
        self._reference_batch_size = told["reference"]
        self.best_period, self.back_to = told["weights"]
        self.samples_wanted = told["samples"]
        self._last += 1
        self._records[self._last] = DecisionRecord.from_dict(told["record"])

    def gone_back(self) -> None:
        """Tell the policy that the training has gone back to the weights that it asked for."""
        if self._ranks.leads and isinstance(self._policy, RewindingPolicy):
            self._policy.gone_back()

    def _weights_wanted(self) -> tuple[int | None, int | None]:
        """Return which weights the policy wants kept, and gone back to; none where the loop is only advised."""
        if self._own_batch_size or not isinstance(self._policy, RewindingPolicy):
            return None, None
        return self._policy.best_period, self._policy.back_to

    def _samples_wanted(self) -> int:
        """Return how many steps the policy wants measured; 0 where the loop is only advised, and under BatchNorm."""
        if self._own_batch_size or not isinstance(self._policy, MeasuringPolicy) or self._passage.mixes_rows:
            return 0
        return self._policy.samples_wanted

    def learn(self, samples: Sequence[MeasuredStep], steps: int) -> None:
        """Take in what a period's samples tell of the gradients' noise; ``steps`` are its optimizer steps."""
        for sample in samples:
            if sample.usable:
                self._noise.add(
                    sample.trace,
                    sample.squared_sum,
                    sample.batch_size,
                    max(1, steps // len(samples)),
                    scale=sample.batch_size / self._reference_batch_size,
                )

    def apply(self, number: int, examples: int) -> None:
        """Bring rates and momentum to where decision ``number`` has them after ``examples``; called for every batch."""
        decision = self._records[number]
        if number != self._applied:
            before, self._applied = self._records.get(self._applied), number
            if decision.requested_lr is not None:
                self._ramp = None
            if before is not None and before.batch_size != decision.batch_size:
                self._tell_weight_decay()
                if self._rule.ramp and decision.requested_lr is None:
                    self._ramp = (self._ramped(before, examples), decision.example)
                if self._rule.momentum == "reset":
                    self._rates.reset_momentum()
        elif self._ramp is None:
            return
        if not self._own_batch_size:
            power = decision.batch_size / self._reference_batch_size if self._rule.momentum == "rescale" else 1.0
            self._rates.use(decision.lr_effective * (self._ramped(decision, examples) / decision.lr), power)

    def forget(self, waiting: Iterable[Cut], next_example: int) -> None:
        """Let go of decisions that neither waiting batches nor what is still to be handed out follows."""
        kept = {cut.decision for cut in waiting} | {self._last, self._last - 1, self._applied}
        kept |= {number for number, own in self._records.items() if own is self._before(self.last.example)}
        to_come = self.number_for(next_example)
        self._records = {number: own for number, own in self._records.items() if number in kept or number >= to_come}

    def state_dict(self) -> dict[str, Any]:
        """Return the decisions in force and what they rest on, as JSON-able values."""
        return {
            "last": self._last,
            "applied": self._applied,
            "records": {str(number): own.to_dict() for number, own in sorted(self._records.items())},
            "reference_batch_size": self._reference_batch_size,
            "ramp": self._ramp,
            "noise": self._noise.state_dict(),
            "rates": self._rates.state_dict(),
            "policy": self._policy.state_dict(),
            "best_period": self.best_period,
            "samples_wanted": self.samples_wanted,
        }

    def load_state_dict(self, state: Mapping[str, Any], waiting: Iterable[Cut]) -> None:
        """Restore what ``state_dict`` returned; a CheckpointError where it is damaged."""
        records = {int(number): DecisionRecord.from_dict(own) for number, own in state["records"].items()}
        last, applied, reference = int(state["last"]), int(state["applied"]), int(state["reference_batch_size"])
        ramp = None if state["ramp"] is None else (float(state["ramp"][0]), int(state["ramp"][1]))
        best_period = None if state.get("best_period") is None else int(state["best_period"])  # older ones have none
        missing = {last, *(cut.decision for cut in waiting)} - records.keys()
        if missing:
            raise CheckpointError(f"controller state is damaged: it lacks the decisions {sorted(missing)}")
        if any(own.batch_size < 1 or not own.lr > 0.0 for own in records.values()) or reference < 1:
            raise CheckpointError("controller state is damaged: a decision without batch size or learning rate")
        self._noise.load_state_dict(state["noise"])
        self._rates.load_state_dict(state["rates"])
        self._policy.load_state_dict(state["policy"])
        self._records, self._last, self._applied = records, last, applied
        self.samples_wanted = int(state.get("samples_wanted", 0))  # nor have they this
        self._reference_batch_size, self._ramp, self.best_period = reference, ramp, best_period

    def _before(self, example: int) -> DecisionRecord | None:
        """Return the decision that the examples before one follow; one that was taken back in its place is none."""
        before = [(own.example, number) for number, own in self._records.items() if own.example < example]
        return self._records[max(before)[1]] if before else None

    def _asked(self, observation: Observation, epoch: Epochs, example: int, back_to: Epochs | None) -> dict[str, Any]:
        """Ask the policy, and return what all ranks have to know of its answer, as JSON-able values."""
        fits = self._passage.fits.largest(self._batch_sizes)
        asked = self._policy.decide(replace(observation, fits=fits))
        if asked.lr is not None:
            check_rate(asked.lr, "learning rate that the policy asked for")
        if asked.batch_size < 1:
            raise ConfigError(
                f"the policy asked for batch size {asked.batch_size}; expected one of {list(self._batch_sizes)}"
            )
        ladder = [size for size in self._batch_sizes if fits is None or size <= fits]
        batch_size = nearest_rung(asked.batch_size, ladder)
        limits = []
        if asked.batch_size > ladder[-1] and fits is not None:
            limits.append(f"{asked.batch_size} would not fit into memory; {batch_size} is the largest that does")
        elif batch_size != asked.batch_size:
            limits.append(f"{asked.batch_size} is not on the ladder; {batch_size} is the nearest rung")
        self._reference_batch_size = self._reference_batch_size or batch_size
        reason, lr = asked.reason, asked.lr
        if lr is None:
            scale = self._rule.factor(batch_size, self._reference_batch_size, self._noise)
            lr = self._rates.reference * scale
            told = self._rule.describe(batch_size, self._reference_batch_size, scale)
            reason = f"{reason}; {told}" if told else reason
        if self._own_batch_size:
            limits.append(_advice(batch_size, lr, asked))
            batch_size, lr = self._own_batch_size, self._rates.reference
        factor = self._ruled.factor(observation.progress)
        if asked.factor is not None:
            check_rate(asked.factor, "factor on the learning rate that the policy asked for")
            if self._ruled.policy_says and not self._own_batch_size:
                factor = asked.factor
            elif not self._own_batch_size:
                limits.append(f"a factor of {asked.factor:.3g} on the rate was asked for; the schedule is the loop's")
        stop = asked.stop and not self._own_batch_size
        sizes = self._passage.sizes(batch_size)
        previous = self._before(example)
        steered = self._ruled.policy_says and not self._own_batch_size and asked.factor is not None
        falls = steered and (factor != 1.0 or (previous is not None and previous.falls))
        planned: int | None = getattr(self._policy, "planned_epochs", None)
        record = DecisionRecord(
            epoch=epoch,
            progress=observation.progress,
            requested_batch_size=asked.batch_size,
            requested_lr=asked.lr,
            batch_size=batch_size,
            lr=lr,
            lr_effective=lr * factor,
            changed=previous is None or (batch_size, lr) != (previous.batch_size, previous.lr),
            reason=reason,
            limit="; ".join(limits) or None,
            c_bar=observation.c_bar,
            l_cum=observation.l_cum,
            validation_loss=observation.validation_loss,
            validation_error=observation.validation_error,
            target=asked.target,
            alternatives=asked.alternatives,
            example=example,
            micro_batch=max(sizes) if self._plan.splits else None,
            accumulation=self._plan.accumulation if self._plan.accumulation > 1 else len(sizes),
            ranks=self._ranks.size,
            stop=stop,
            falls=falls,
            fall_begins=falls and previous is not None and (back_to is not None or not previous.falls),
            planned=planned,
            end_moved=previous is not None and previous.planned not in {None, planned},
            back_to=back_to,
        )
        return {
            "record": record.to_dict(),
            "reference": self._reference_batch_size,
            "weights": self._weights_wanted(),
            "samples": self._samples_wanted(),
        }

    def _ramped(self, decision: DecisionRecord, examples: int) -> float:
        """Return the base learning rate of a batch that is trained now."""
        if self._ramp is None:
            return decision.lr
        rate, start = self._ramp
        share = max(0, examples - start) / self._rule.ramp
        return rate + (decision.lr - rate) * share if share < 1.0 else decision.lr

    def _tell_weight_decay(self) -> None:
        # With the linear rule, rate x steps and so the decay over an epoch stay the same.
        if self._told_weight_decay or self._rule.name == "linear" or not self._rates.decays:
            return
        self._told_weight_decay = True
        _LOG.info(
            "weight decay acts once a step, times the learning rate: as that does not grow in proportion to the batch "
            "size, the strength of the decay over an epoch changes with the batch size",
        )


def _advice(batch_size: int, lr: float, asked: Decision) -> str:
    """Say in a clause what a policy advises, where the loop keeps what it has."""
    rate = f"{lr:.4g}" if asked.factor in {None, 1.0} else f"{lr * asked.factor:.4g}, {asked.factor:.3g} of {lr:.4g}"
    return f"advice: {'stop' if asked.stop else f'{batch_size} at {rate}'}; nothing is changed"
