"""The end of a decision period: its samples become a position, the position a decision, the decision a record."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

from autobatch._errors import AutoBatchError
from autobatch._steps import epochs_of
from autobatch.control._account import UNKNOWN, or_nan
from autobatch.control._decision_record import DecisionRecord
from autobatch.control._parts import Parts
from autobatch.control.measuring import MeasuredStep, leap_words
from autobatch.control.run import EpochRow
from autobatch.control.settings import Declared
from autobatch.control.steps._finite import all_finite
from autobatch.policies import Observation, ScoutReport

_LOG = logging.getLogger("autobatch")


class Periods:
    """Ends each period in turn, on all ranks at the same place.

    Args:
        parts: of the training.
    """

    def __init__(self, parts: Parts) -> None:
        self._ranks, self._course, self._period = parts.ranks, parts.course, parts.period
        self._account, self._decisions, self._rates = parts.account, parts.decisions, parts.rates
        self._recorder, self._log, self._rewinding = parts.recorder, parts.log, parts.rewinding
        self._plan, self._steered = parts.measured, parts.task.steered
        self._advise = parts.advise
        self._scouts_before = _scouts_before(parts.settings.scouts)
        self._declared = Declared(parts.settings)
        self._diverged: str | None = None
        self._told_moved = False
        self._told_unsound: set[str] = set()
        self.watcher: Callable[[Mapping[str, float]], None] | None = None
        """Called at the end of each period with the figures that the loop gave, NaN within an epoch."""

    @property
    def observation(self) -> Observation:
        """What the policy sees."""
        account = self._account
        return account.observation(self._course.progress, self._decisions.last if account.periods else None)

    def begin(self) -> None:
        """Have the first decision made."""
        self._decide(example=0)
        self._record(self._account.figures)

    def end_if_due(self, figures: dict[str, float] | None = None) -> None:
        """End a period within the epoch that is trained, with figures where the loop has validated after it."""
        if self._course.finished_periods > self._account.periods and not self._course.epoch_trained:
            self._end(figures)

    def end_epoch(self, *, val_loss: float | None, val_error: float | None, train_loss: float | None) -> None:
        """End the epoch, and its last period with it; None is what the loop does not know."""
        given = {"train_loss": train_loss, "val_loss": val_loss, "val_error": val_error}
        unsound = {name: value for name, value in given.items() if value is not None and not math.isfinite(value)}
        if unsound:
            self._take_unsound(unsound)
        self._course.end()
        if not self._period.batches:  # it was stopped where its last period ended, which has counted its samples
            self._period.samples.restore(())
        self._end({
            "train_loss": or_nan(train_loss),
            "validation_loss": or_nan(val_loss),
            "validation_error": or_nan(val_error),
        })

    def _take_unsound(self, figures: Mapping[str, float]) -> None:
        """Say that figures are no numbers; end a training that has diverged where its end is the policy's to say."""
        epoch = self._course.epoch + 1
        if all_finite(self._rates.parameters):
            for name, value in figures.items():
                if name not in self._told_unsound:
                    self._told_unsound.add(name)
                    _LOG.warning(
                        "epoch %d: %s is %s; the training goes on, and the policy goes without (not said again)",
                        epoch,
                        name,
                        value,
                    )
            return
        name, value = next(iter(figures.items()))
        ends = self._steered and not self._advise
        if self._diverged is None:
            self._diverged = f"diverged: {name} is {value} and the parameters are no longer finite after epoch {epoch}"
            told = "it ends here" if ends else "nothing more will come of it"
            _LOG.warning(
                "the training has %s; %s, and a lower learning rate is needed, unless its first loss was NaN already",
                *(self._diverged, told),
            )
        if ends:
            self._course.stop(self._diverged)

    def _tell_moved(self) -> None:
        """Say once that somebody else changes the rate, too, where the schedule is the policy's."""
        if self._told_moved or not self._steered or self._advise or not self._rates.moved:
            return
        self._told_moved = True
        if self._ranks.leads:
            _LOG.warning(
                "the loop has changed the optimizer's learning rate, as a scheduler does, and rates='steered' has the "
                "policy say the schedule: the two multiply; leave the scheduler out, or rates='steered'"
            )

    def redecide(self) -> None:
        """Have the decision for the coming period made again, while none of its batches is handed out."""
        if self._course.waiting or self._course.next_example != self._decisions.last.example:
            raise AutoBatchError("redecide() comes too late: a batch of this period has been handed out")
        self._decide(example=self._course.next_example)

    def first_free(self) -> int:
        """Return the first example that no rank has handed out yet, wherever their loaders have come to."""
        here = self._course.examples
        free, place, minus = self._ranks.most([self._course.next_example, here, -here])
        if place != -minus:
            raise AutoBatchError(
                f"rank {self._ranks.rank}: the ranks stand at different places of the training, between example "
                f"{-minus} and {place}, here {here}: they must train the same batches, from the same state"
            )
        return free

    def _end(self, figures: dict[str, float] | None) -> None:
        period = self._period
        first_free = self.first_free()

        def own() -> dict[str, Any]:
            period.samples.settle()
            return {
                "timed": period.timed(),
                "samples": [sample.to_dict() for sample in period.samples.measurements],
            }

        told = self._ranks.first_makes(own)
        if not self._ranks.leads:
            period.samples.restore(MeasuredStep.from_dict(sample) for sample in told["samples"])
        if told["timed"] is not None:
            self._plan.learn(*told["timed"])
        if self._ranks.leads:
            self._declared.compare(period.batches, period.steps, period.first_step)
        self._tell_moved()
        self._decisions.learn(period.samples.measurements, period.steps)
        ended, applied = self._decisions.last, self._rates.effective()
        samples, c_bar = period.samples.measurements, self._account.position.c_bar
        if samples:
            self._log.measured(samples)
        self._account.take(period, figures, applied)
        self._account.periods = self._course.finished_periods
        leapt = leap_words(c_bar, self._account.position.c_bar, samples)
        if leapt is not None and self._ranks.leads:
            _LOG.info("%s", leapt)
        if figures is not None:
            self._log.epoch(self._row(ended, applied))
        if not self._course.finished:
            self._decide(example=first_free)
        known = self._account.figures if figures is not None else UNKNOWN
        self._record(known)
        if self.watcher is not None:
            self.watcher(known)
        self.end_run()

    def end_run(self) -> None:
        """Write how the training ended, once it has."""
        if self._course.finished:
            facts = {
                "measuring_share_modelled": self._plan.modelled_share,
                "measuring_budget": self._plan.budget or None,
                **self._scouts_before,
            }
            self._log.end(self._diverged or self._course.stopped, facts)

    def _row(self, decision: DecisionRecord, applied: float) -> EpochRow:
        """Return what is kept of an epoch that has just ended; ``applied`` is the rate of its last step."""
        return EpochRow(
            batch_size=decision.batch_size,
            lr=decision.lr,
            lr_effective=applied,
            **self._counters() | self._account.figures | {"epoch": self._course.finished_epochs},
        )

    def _counters(self) -> dict[str, Any]:
        """Return where the training stands, as rows and records have it."""
        course, account = self._course, self._account
        return {
            "epoch": course.epoch,
            "progress": course.progress,
            "c_bar": account.position.c_bar,
            "l_cum": account.position.l_cum,
            "steps": account.steps,
            "samples": account.position.samples,
            "examples": course.examples,
            "measuring_seconds": account.measuring_seconds,
            "seconds": account.seconds,
        }

    def _decide(self, example: int) -> None:
        """Have a decision made that holds from an example on; apply it where nothing is handed out before it.

        Where the policy has the training go back to other weights, it is asked again once that is done.
        """
        course, decisions = self._course, self._decisions
        decisions.decide(self.observation, epoch=course.finished_epochs, example=example)
        back_to = decisions.back_to
        if self._rewinding.goes_back(decisions.best_period, back_to):
            assert back_to is not None
            decisions.gone_back()
            there = epochs_of(back_to, course.periods)
            decisions.decide(self.observation, epoch=course.finished_epochs, example=example, back_to=there)
        self._log.decided(decisions.last)
        decisions.forget(course.waiting, course.next_example)
        if decisions.last.stop:
            course.stop(decisions.last.reason)
        if self._ranks.leads:
            self._recorder.tell(decisions.last, advice=self._advise)
        if not course.waiting:
            decisions.apply(decisions.number_for(course.next_example), course.examples)

    def _record(self, figures: Mapping[str, float]) -> None:
        decision = self._decisions.last
        self._recorder.record(
            decision,
            figures,
            lr_effective=self._rates.effective(None if self._advise else decision.lr_effective),
            **self._counters(),
        )


def _scouts_before(report: ScoutReport | None) -> dict[str, float]:
    """Return how many scouts were made before a training, and what they cost beside it, as a summary has them."""
    if report is None:
        return {}
    made = len(report.trained) + len(report.failed)
    return {"scouts_before": made, "scouts_before_seconds": report.charged_seconds}
