"""What a training loop reads of its controller: where the training stands, and what is decided."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from autobatch._errors import AutoBatchError
from autobatch._show import Shown, drawn
from autobatch.beacons import BeaconLibrary
from autobatch.control._decision_record import DecisionRecord
from autobatch.control._training import Training
from autobatch.control.measuring import MeasuredStep
from autobatch.control.run import EpochRow
from autobatch.control.settings import Settings
from autobatch.control.steps import BatchPlan, Course
from autobatch.policies import Observation, TaskInfo


class Readings(Shown):
    """A controller as it is read.

    Args:
        settings: what the controller was told.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._attached: Training | None = None

    def __repr__(self) -> str:
        if self._attached is None:
            return "<AutoBatchController: no model yet, attach() gives it one>"
        name = self._attached.log.config.policy.name
        if self.finished:
            why = f": {self.stopped_because}" if self.stopped_because else ""
            return f"<AutoBatchController {name}: finished after {self.epoch} of {self.epochs} epochs{why}>"
        return (
            f"<AutoBatchController {name}: epoch {self.epoch + 1} of {self.epochs}, batch size {self.batch_size}, "
            f"base rate {self.lr:g}, applied {self.lr_effective:.3g}, C̄ {self.c_bar:.4g}, L {self.l_cum:.4g}>"
        )

    def _repr_html_(self) -> str:
        html: str = drawn("html", self if self._attached is None else self._attached.log)
        return html

    @property
    def _training(self) -> Training:
        if self._attached is None:
            raise AutoBatchError("the controller has no model yet: call attach(model, optimizer, ...) first")
        return self._attached

    @property
    def seed(self) -> int:
        """What seeds permutations and random policies."""
        return self._settings.seed

    @property
    def plan(self) -> BatchPlan:
        """How batches are made; another one may be given before there is a model."""
        return self._settings.plan

    @plan.setter
    def plan(self, plan: BatchPlan) -> None:
        if self._attached is not None:
            raise AutoBatchError("plan: the controller has its model already; give the plan before attach()")
        self._settings = replace(self._settings, plan=plan)

    @property
    def kept(self) -> dict[str, Any]:
        """Two copies of model and optimizer, in host memory, to which the policy may have the training go back.

        Save it beside the state (``torch.save``; ``torch.load`` reads it with ``weights_only=True``) and give it back
        after ``load_state_dict``. Under FSDP2 each process has its own share. Where nothing is kept, both are None.

        Raises:
            CheckpointError: what is given back is no such thing.
        """
        return self._training.rewinding.kept

    @kept.setter
    def kept(self, kept: Mapping[str, Any]) -> None:
        self._training.rewinding.kept = kept

    @property
    def task(self) -> TaskInfo:
        """What the policy knows of the training."""
        return self._training.task

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the training was stopped."""
        return self._attached is not None and self._attached.course.finished

    @property
    def stopped_because(self) -> str | None:
        """Why the training was stopped before its last epoch; None where it was not."""
        return None if self._attached is None else self._attached.course.stopped

    @property
    def epochs(self) -> int:
        """Length of the whole training."""
        return self._training.course.epochs

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self._training.course.epoch

    @property
    def progress(self) -> float:
        """Examples trained / examples of the whole training, in [0, 1]."""
        return self._training.course.progress

    @property
    def examples(self) -> int:
        """Training examples seen."""
        return self._training.course.examples

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return self._training.stepping.steps

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a whole epoch at the batch size in use."""
        course = self._training.course
        return Course(course.dataset_size, 1, course.periods, course.least).steps(self.batch_size)

    @property
    def steps_left(self) -> int:
        """Optimizer steps to the end of the training at the batch size in use, for schedules that count steps."""
        return self._training.course.steps_left(self.batch_size)

    @property
    def samples(self) -> int:
        """Measured steps that entered C̄ and L."""
        return self._training.account.position.samples

    @property
    def batch_size(self) -> int:
        """Global batch size in use."""
        return self.decision.batch_size

    @property
    def lr(self) -> float:
        """Base learning rate in use, before the schedule's factor."""
        return self.decision.lr

    @property
    def lr_effective(self) -> float:
        """Learning rate of the optimizer's first parameter group in a step taken now, all factors included."""
        return self._training.rates.effective()

    @property
    def c_bar(self) -> float:
        """C̄_K at the last decision; NaN before the first measurement."""
        return self._training.account.position.c_bar

    @property
    def l_cum(self) -> float:
        """L_K at the last decision."""
        return self._training.account.position.l_cum

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, over restarts; set it where time was spent on the training elsewhere."""
        return self._training.account.seconds

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._training.account.seconds = seconds

    @property
    def measuring_seconds(self) -> float:
        """Wall time that measuring had added at the last decision, eigenvalues included."""
        return self._training.account.measuring_seconds

    @property
    def measuring_share_modelled(self) -> float | None:
        """What the budget bounds: modelled measuring time / modelled training time so far; None without a budget."""
        return self._training.measured.modelled_share

    @property
    def decision(self) -> DecisionRecord:
        """The last decision; batches that a loader has fetched ahead may still follow the one before."""
        return self._training.decisions.last

    @property
    def measurements(self) -> tuple[MeasuredStep, ...]:
        """The measured steps of the last finished period."""
        return self._training.period.samples.measurements

    @property
    def rows(self) -> Sequence[EpochRow]:
        """The finished epochs."""
        return self._training.log.epochs

    @property
    def library(self) -> BeaconLibrary | None:
        """The beacons that the policy is steered by."""
        return self._settings.library

    @property
    def observation(self) -> Observation:
        """What the policy sees."""
        return self._training.periods.observation
