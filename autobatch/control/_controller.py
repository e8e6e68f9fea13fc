"""The controller: cuts batches, measures, asks the policy, applies what it says."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autobatch._errors import AutoBatchError, CheckpointError, ConfigError, near_names
from autobatch.beacons import BeaconLibrary, CostTable, FinalPrediction, predict_final
from autobatch.control._deciding import Decisions
from autobatch.control._decisions import DecisionRecord, figure
from autobatch.control._own_task import check_own_task, check_scouts_loop, loop_facts
from autobatch.control._ranks import Ranks
from autobatch.control._records import Recorder, told_at
from autobatch.control.batches import PlannedBatchSampler, examples_in, part_of, permutation, rebatched
from autobatch.control.measuring import Measurement, MeasureWithinBudget, MeasuringPlan, Period, gradient_moments
from autobatch.control.rates import (
    STEERED,
    LearningRateRule,
    OptimizerRates,
    RuleName,
    Schedule,
    check_ladder,
    check_rate,
    constant_schedule,
    steered_schedule,
)
from autobatch.control.steps import BatchPlan, Course, Cut, Passage, Passing, Step, check_divisible
from autobatch.fisher import GradientMoments, SpectralPosition
from autobatch.policies import (
    Observation,
    Policy,
    ScoutingPolicy,
    ScoutReport,
    TaskInfo,
    load_policy_spec,
    make_policy,
    planned_epochs,
)

if TYPE_CHECKING:
    from autobatch.tracking import Logger

SCOUT = "scout"
"""Key that the state of a scout's controller has besides, so that another one knows how to go on from it."""

_STATE_VERSION = 3
_LOG = logging.getLogger("autobatch")


class _Uncontrolled(AbstractContextManager[Step]):
    """A step that the controller does not count."""

    def __enter__(self) -> Step:
        return Step()

    def __exit__(self, *_: object) -> None:
        pass


class AutoBatchController:
    """Chooses batch size and learning rate while a loop of yours trains.

        controller = AutoBatchController(
            model, optimizer, policy="s32-to-128", dataset_size=len(data), epochs=40, batch_sizes=(32, 64, 128)
        )
        loader = DataLoader(data, batch_sampler=controller.batch_sampler)
        for epoch in controller.each_epoch():
            for x, y in loader:
                with controller.step() as step:
                    loss = F.cross_entropy(model(x), y)
                    step.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            controller.end_epoch(val_loss=..., val_error=...)

    The policy is asked once before the first epoch and once after every epoch, or as often as ``decide_every`` says.
    Everything random follows from ``seed`` and the epoch, so ``state_dict`` is all that a restart needs.

    Args:
        model: the network in training; it is measured, not changed. It may come later, by ``attach``.
        optimizer: its optimizer, or later by ``attach``. Its parameter groups keep the rates that you or your
            scheduler give them; the controller multiplies them during its steps only. The first group's rate now (or
            its ``initial_lr``) is the reference that base learning rates are relative to.
        policy: a policy, or the name or YAML file of one.
        batch_sizes: the ladder that the policy chooses from, ascending; by default that of ``scouts``.
        dataset_size: training examples; every epoch sees each of them once.
        epochs: length of the whole training.
        learning_rates: base learning rates that the policy chooses from; by default those of ``scouts``, or the
            optimizer's own.
        library: the task's beacons, or the env folder that holds them; some policies need one.
        scouts: what ``autobatch.scout`` came to with this loop; the policy, ``"beacon-follow"`` or ``"steer"``, starts
            from there.
        schedule: factor on the base learning rate by progress, evaluated at each decision; for loops without a
            scheduler of their own. ``"steered"`` is a constant rate that falls to 0 over the last 40 %, with
            ``steered=True``.
        steered: whether a policy may say another factor than the schedule's, such as when the rate falls; for loops
            without a scheduler of their own.
        milestones: progress values in (0, 1) at which the schedule decays, for policies that care.
        milestone_factor: what the schedule multiplies the rate by at each of them, in (0, 1], for policies that care.
        score: the figure that ranks runs, ``"validation_loss"`` or ``"validation_error"``; by default the library's, or
            the loss.
        costs: modelled seconds by batch size, for policies and for a measuring budget.
        measuring: which steps are measured. By default the first batch of each epoch and every 50th after it, as far as
            2 % of the training time allow, see ``MeasureWithinBudget``. Without ``costs`` the
            loop is timed for that, and a training run again may sample other steps.
        loss_reduction: how the loss reduces over a batch, ``"mean"`` or ``"sum"``.
        bn: what a sample's gradient means under BatchNorm, see ``FisherProbe``.
        reuse_weight_gradient: take the gradients of measured steps from what measuring computes anyway, which is
            faster and differs from the ordinary ones in round-off, see ``FisherProbe``; needs a
            loop with ``step.backward(loss)``. Memory that runs out in measuring takes the gradients with it then: the
            step raises, unless ``plan`` has it repeated.
        grad_scaler: the GradScaler that scales the loss, so that measuring can undo it.
        decide_every: examples between two decisions, or a share of an epoch in (0, 1); None decides once an epoch.
        lr_rule: what a batch size does to the rate where the policy leaves it open: the name of a rule or a
            ``LearningRateRule``.
        plan: how a batch is split to fit into memory, see ``BatchPlan``.
        mode: ``"control"``, or ``"advise"``: measure and decide, log what would have been done, and change nothing.
        batch_size: the batch size that the loop really uses; with ``mode="advise"`` only.
        process_group: the processes that train together; by default all of ``torch.distributed`` where it is
            initialised. The first of them decides.
        measure: under several processes, ``"global"`` measures the whole batch, ``"local"`` the first process's share.
        loggers: get one record a decision: objects, or names such as ``"csv:run.csv"``, see ``autobatch.tracking``.
        task_name: name of the task, for messages.
        dataset_name: name of the data set, for policies that know of others, such as ``"mnist"``.
        seed: seeds permutations and random policies.
        device: where ``batches`` puts its indices; by default the device of the model's parameters.

    Raises:
        ConfigError: an argument cannot be used, or the policy needs what was not given.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        *,
        policy: Policy | str,
        batch_sizes: Sequence[int] | None = None,
        dataset_size: int | None = None,
        epochs: int | None = None,
        learning_rates: Sequence[float] | None = None,
        library: BeaconLibrary | str | Path | None = None,
        scouts: ScoutReport | None = None,
        schedule: Schedule | Literal["steered"] = constant_schedule,
        steered: bool = False,
        milestones: Sequence[float] = (),
        milestone_factor: float | None = None,
        score: str | None = None,
        costs: CostTable | None = None,
        measuring: MeasuringPlan | None = None,
        loss_reduction: str = "mean",
        bn: str = "rows",
        reuse_weight_gradient: bool = False,
        grad_scaler: torch.amp.GradScaler | None = None,
        decide_every: float | None = None,
        lr_rule: RuleName | LearningRateRule = "none",
        plan: BatchPlan | None = None,
        mode: Literal["control", "advise"] = "control",
        batch_size: int | None = None,
        process_group: Any = None,
        measure: Literal["global", "local"] = "global",
        loggers: Sequence["Logger | str"] = (),
        task_name: str = "task",
        dataset_name: str = "",
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        for name, given, known in (("mode", mode, ("control", "advise")), ("measure", measure, ("global", "local"))):
            if given not in known:
                raise ConfigError(f"{name}={given!r}: {near_names(str(given), known)}")
        if (mode == "advise") != (batch_size is not None):
            raise ConfigError("batch_size, which your loop really uses, belongs to mode='advise', and only there")
        for rate in learning_rates or ():
            check_rate(rate, "learning_rates")
        if milestone_factor is not None and not 0.0 < milestone_factor <= 1.0:
            raise ConfigError(f"milestone_factor: expected a number in (0, 1], got {milestone_factor}")
        self.seed = seed
        self.plan = plan or BatchPlan()
        self._advise = mode == "advise"
        self._own_batch_size = batch_size or 0
        self._scouts = scouts
        if scouts is not None:
            batch_sizes = scouts.batch_sizes if batch_sizes is None else batch_sizes
            learning_rates = scouts.learning_rates if learning_rates is None else learning_rates
        if batch_sizes is None:
            raise ConfigError("batch_sizes: the ladder to choose from is missing, such as batch_sizes=(32, 64, 128)")
        self._batch_sizes = tuple(batch_sizes)
        self._learning_rates = None if learning_rates is None else tuple(learning_rates)
        self._steered = steered or isinstance(schedule, str)
        if isinstance(schedule, str) and schedule != STEERED:
            raise ConfigError(f"schedule={schedule!r}: expected a function of progress, or {STEERED!r}")
        self._schedule = steered_schedule if isinstance(schedule, str) else schedule
        self._milestones = tuple(milestones)
        self._milestone_factor = milestone_factor
        self._costs = costs
        self._measuring = measuring if measuring is not None else MeasureWithinBudget(costs=costs)
        self._probe_arguments = {
            "loss_reduction": loss_reduction,
            "bn": bn,
            "reuse_weight_gradient": reuse_weight_gradient,
            "grad_scaler": grad_scaler,
        }
        self._decide_every = decide_every
        self._rule = lr_rule if isinstance(lr_rule, LearningRateRule) else LearningRateRule(lr_rule)
        self._process_group = process_group
        self._measure_all = measure == "global"
        self._loggers = tuple(loggers)
        self._task_name = task_name
        self._dataset_name = dataset_name
        self._wanted_device = device
        self._policy = make_policy(load_policy_spec(policy)) if isinstance(policy, str) else policy
        self._library = (
            library if isinstance(library, BeaconLibrary) or library is None else BeaconLibrary.load(library)
        )
        if scouts is not None and (self._library is not None or not isinstance(self._policy, ScoutingPolicy)):
            raise ConfigError(
                "scouts: they are for the policies 'beacon-follow' and 'steer', where there are no beacons: leave out "
                "either scouts or " + ("library" if self._library is not None else "this policy")
            )
        self._score = score or (self._library.score if self._library is not None else "validation_loss")
        self._task: TaskInfo | None = None
        if (model is None) != (optimizer is None):
            raise ConfigError("give the controller model and optimizer together, or both later by attach()")
        self._dataset_size, self._epochs = dataset_size, epochs
        if model is not None and optimizer is not None:
            self.attach(model, optimizer)

    def attach(
        self, model: nn.Module, optimizer: Optimizer, *, dataset_size: int | None = None, epochs: int | None = None
    ) -> Self:
        """Give the controller what it controls, and have the first decision made.

        Args:
            model: the network in training.
            optimizer: its optimizer.
            dataset_size: training examples, unless the constructor has them.
            epochs: length of the whole training, unless the constructor has it.

        Returns:
            The controller.

        Raises:
            ConfigError: something is missing or cannot be used, or the controller is attached already.
        """
        if self._task is not None:
            raise ConfigError("this controller is attached already; make a new one for another training")
        dataset_size = dataset_size if dataset_size is not None else self._dataset_size
        epochs = epochs if epochs is not None else self._epochs
        if dataset_size is None or epochs is None:
            raise ConfigError("the controller needs dataset_size and epochs: give them here or to attach()")
        if epochs < 1:
            raise ConfigError(f"epochs: expected at least 1, got {epochs}")
        check_ladder(self._batch_sizes, dataset_size)
        if self._library is not None or self._scouts is not None:
            facts = loop_facts(
                model,
                optimizer,
                dataset_size=dataset_size,
                epochs=epochs,
                decide_every=self._decide_every,
                loss_reduction=str(self._probe_arguments["loss_reduction"]),
            )
            if self._library is not None:
                check_own_task(self._library, facts)
            if self._scouts is not None:
                check_scouts_loop(self._scouts.loop, facts)
        self._device = torch.device(self._wanted_device) if self._wanted_device is not None else _device_of(model)
        self._ranks = Ranks(self._process_group, self._device)
        if not self._advise:
            check_divisible(self._batch_sizes, self._ranks.size, self.plan.accumulation)
        self._rates = OptimizerRates(optimizer)
        self._course = Course(dataset_size, epochs, _periods(self._decide_every, dataset_size))
        if not self._advise and 2 * self._course.longest_period < self._batch_sizes[-1]:
            raise ConfigError(
                f"decide_every: batches do not reach across decisions; {self._course.longest_period} examples between "
                f"two are too few for batches of {self._batch_sizes[-1]}"
            )
        self._task = TaskInfo(
            name=self._task_name,
            batch_sizes=self._batch_sizes,
            learning_rates=self._learning_rates or (self._rates.reference,),
            epochs=epochs * self._course.periods,
            train_size=self._course.longest_period,
            score=self._score,
            milestones=self._milestones,
            seed=self.seed,
            costs=self._costs,
            measuring_budget=self._measuring.budget,
            steered=self._steered,
            milestone_factor=self._milestone_factor,
            dataset=self._dataset_name,
            adaptive=self._rates.adaptive,
        )
        self._check_ranks()
        self._passage = Passage(
            model,
            optimizer,
            self.plan,
            self._ranks,
            probe_arguments=self._probe_arguments,
            measure_all=self._measure_all,
            advise=self._advise,
        )
        self._period = Period(self._measuring, self._device)
        self._position = SpectralPosition()
        self._stopped: str | None = None
        self._iteration = 0
        self._steps = 0
        self._closed_periods = 0
        self._measuring_seconds = 0.0
        self._figures = {"train_loss": math.nan, "validation_loss": math.nan, "validation_error": math.nan}
        self._gradients: GradientMoments | None = None
        self._passing: Passing | None = None
        self._orphans = 0
        self._recorder = Recorder(self._loggers if self._ranks.leads else (), self._library)
        self._policy.reset(self._task, self._library)
        # What a training that ends early would have earned in its missing epochs, measuring must not spend.
        self._measuring.reset(replace(self._task, epochs=planned_epochs(self._policy, self._task)))
        self._take_scouts()
        self._decisions = Decisions(
            self._policy,
            batch_sizes=self._batch_sizes,
            schedule=self._schedule,
            steered=self._steered,
            rule=self._rule,
            rates=self._rates,
            ranks=self._ranks,
            passage=self._passage,
            plan=self.plan,
            own_batch_size=self._own_batch_size,
        )
        self._decide(example=0)
        self._log_decision(self._figures)
        return self

    # What the loop reads ---------------------------------------------------------------------------------------------

    @property
    def task(self) -> TaskInfo:
        """What the policy knows of the training.

        Raises:
            AutoBatchError: the controller is not attached to a model yet.
        """
        if self._task is None:
            raise AutoBatchError("the controller has no model yet: call attach(model, optimizer, ...) first")
        return self._task

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the training was stopped."""
        return self._task is not None and (self._stopped is not None or self._course.epoch >= self._course.epochs)

    @property
    def stopped_because(self) -> str | None:
        """Why the training was stopped before its last epoch; None where it was not."""
        return self._stopped

    @property
    def epochs(self) -> int:
        """Length of the whole training."""
        return self._course.epochs

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self._course.epoch

    @property
    def progress(self) -> float:
        """Examples trained / examples of the whole training, in [0, 1]."""
        return self._course.progress

    @property
    def examples(self) -> int:
        """Training examples seen."""
        return self._course.examples

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return self._steps + self._period.steps

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a whole epoch at the batch size in use."""
        return Course(self._course.dataset_size, 1, self._course.periods).steps(self.batch_size)

    @property
    def samples(self) -> int:
        """Measured steps that entered C̄ and L."""
        return self._position.samples

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
        return self._rates.effective()

    @property
    def c_bar(self) -> float:
        """C̄_K at the last decision; NaN before the first measurement."""
        return self._position.c_bar

    @property
    def l_cum(self) -> float:
        """L_K at the last decision."""
        return self._position.l_cum

    @property
    def measuring_seconds(self) -> float:
        """Wall time that measuring had added at the last decision, eigenvalues included."""
        return self._measuring_seconds

    @property
    def measuring_share_modelled(self) -> float | None:
        """What the budget bounds: modelled measuring time / modelled training time so far; None without a budget."""
        return self._measuring.modelled_share

    @property
    def decision(self) -> DecisionRecord:
        """The last decision; batches that a loader has fetched ahead may still follow the one before."""
        if self._task is None:
            raise AutoBatchError("the controller has no model yet: call attach(model, optimizer, ...) first")
        return self._decisions.last

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The measured steps of the last finished period."""
        return self._period.samples.measurements

    @property
    def library(self) -> BeaconLibrary | None:
        """The beacons that the policy is steered by."""
        return self._library

    @property
    def observation(self) -> Observation:
        """What the policy sees."""
        started = self._closed_periods > 0
        return Observation(
            epoch=self._closed_periods,
            progress=self.progress,
            batch_size=self.decision.batch_size if started else 0,
            lr=self.decision.lr if started else math.nan,
            c_bar=self.c_bar,
            l_cum=self.l_cum,
            steps=self._steps,
            gradients=self._gradients,
            **self._figures,
        )

    def each_epoch(self) -> Iterator[int]:
        """Go through the epochs until the training is finished, whether at its last epoch or because it was stopped.

            for epoch in controller.each_epoch():
                for x, y in loader:
                    ...
                controller.end_epoch(val_loss=...)

        Yields:
            The number of the epoch, from 0; after a restart it begins where the training stands.

        Raises:
            AutoBatchError: the epoch before was not ended.
        """
        _ = self.task
        while not self.finished:
            epoch = self.epoch
            yield epoch
            if self.epoch == epoch and not self.finished:
                raise AutoBatchError(f"epoch {epoch + 1} was not ended: call end_epoch() at the end of the loop's body")

    # What the loop calls ---------------------------------------------------------------------------------------------

    @property
    def batch_sampler(self) -> PlannedBatchSampler:
        """This rank's batches as lists of example indices, for ``DataLoader(data, batch_sampler=...)``.

        Each iteration is one epoch, or the rest of one that has begun. Workers may fetch ahead: a new batch size takes
        effect at the first example that is not handed out yet.
        """
        return PlannedBatchSampler(self._parts, self._part_count, lambda: self._order().tolist())

    def batches(self) -> Iterator[Tensor]:
        """Return this rank's batches of the next epoch, or of the rest of one that has begun.

        Returns:
            An iterator over int64 tensors of example indices on the controller's device, each of shape (examples of the
            batch,).

        Raises:
            AutoBatchError: the training is finished. The iterator raises it where the epoch before is not ended, or
                where a batch was not trained.
        """
        self._refuse_finished()
        return self._batches()

    def rebatch(self, source: Iterable[Any]) -> Iterator[Any]:
        """Return this rank's batches of the next epoch out of a stream, such as a loader of an iterable dataset.

        The stream's own batches may be of any size; they are joined and split. An epoch that is gone on with passes
        over the examples that are trained. A stream that ends early ends the epoch.

        Args:
            source: batches, tensors in any nest of tuples, lists and mappings; this rank's examples.

        Returns:
            Batches of the same structure, of the sizes that are decided.
        """
        skip = self._ranks.passed(self._course.examples - self._course.epoch * self._course.dataset_size)
        return rebatched(source, self._parts(), skip, self._shorten)

    def micro_batches(self, batch: Any) -> Iterator[Any]:
        """Split a batch so that it fits, and go through its parts again where memory runs out.

            for batch in loader:
                for x, y in controller.micro_batches(batch):
                    with controller.step() as step:
                        step.backward(F.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()

        ``step.backward`` scales each part's loss to its share of the global batch, so that the gradients add up to
        those of the whole batch however ragged the parts are. With ``BatchPlan(micro_batch=...)`` memory that runs out,
        in the forward pass, the backward pass or in measuring, clears the gradients, restores BatchNorm's statistics
        and the generators, halves the micro-batch on all ranks and trains the same batch again. Gradients of several
        ranks are then averaged after the last part, once all have agreed that it fitted.

        Args:
            batch: one batch of the loader: tensors in any nest of tuples, lists and mappings.

        Yields:
            Parts of the batch, of the same structure.

        Raises:
            AutoBatchError: the loader returned another batch than asked for, a part was not trained, or a single
                example does not fit.
        """
        if self._is_beyond():
            yield batch
            return
        count = examples_in(batch)
        cut = self._enter()
        start, stop = self._ranks.share(cut.start, cut.stop)
        if count != stop - start:
            raise AutoBatchError(
                f"the loader returned a batch of {count} examples where {stop - start} were asked for (examples "
                f"{start} to {stop} of the epoch)"
            )
        measured = self._period.measured and cut.full
        self._passage.begin_batch()
        while True:
            self._passing = passing = self._passage.passing(
                cut,
                self._passage.sizes(cut.examples, cut.start),
                lr=self.lr_effective,
                measured=measured,
                finished=None,
                failed=self._fail,
            )
            left = True
            try:
                yield from self._micro_batches(passing, batch)
                again = self._passage.must_repeat(passing)
                if not again:
                    self._passage.end_batch()
                left = False
            finally:
                if left:
                    self._break_off(passing)
            if not again:
                break
            measured = False
        self._finish(passing)

    def step(self) -> AbstractContextManager[Step]:
        """Return the context around one forward and backward pass; it measures on sampled steps only.

        A sampled step does not wait for the device: its eigenvalues are computed when the next decision is made.

        Returns:
            A context manager. What it yields has a method ``backward(loss)`` to call in place of ``loss.backward()``.

        Raises:
            AutoBatchError: no batch of the controller's is to be trained.
        """
        if self._passing is None:
            if self._orphans or self._is_beyond():
                self._orphans = max(0, self._orphans - 1)
                return _Uncontrolled()
            if self._stopped is not None and not self._course.waiting:  # what workers had fetched ahead is trained
                self._refuse_finished()
            cut = self._enter()
            measured = self._period.measured and (cut.full or self._advise)
            self._passing = self._passage.passing(
                cut,
                self._passage.accumulated(cut.examples, cut.start),
                lr=self.lr_effective,
                measured=measured,
                finished=self._finish,
                failed=self._fail,
            )
        return self._passing

    def end_epoch(
        self,
        *,
        val_loss: float | None = None,
        val_error: float | None = None,
        train_loss: float | None = None,
        stop: bool = False,
    ) -> DecisionRecord | None:
        """Close the epoch: decompose its samples, bring the position up to date, ask the policy, apply its decision.

        Args:
            val_loss: mean validation loss, where known; of several ranks' figures the first's counts.
            val_error: share of validation examples classified wrongly, where known.
            train_loss: mean training loss over the epoch, where known.
            stop: whether the training ends here, before its last epoch; no decision is made then. Of several ranks the
                first's word counts.

        Returns:
            The decision for the next epoch; None after the last.

        Raises:
            AutoBatchError: no epoch has begun, it has examples left, or the training is finished.
            MeasureError: the gradients that a step got are not those that were measured.
        """
        if self.finished and self._advise:
            return None
        if self._stopped is not None and not self._course.running:
            self._refuse_finished()
        stopped = self._ranks.agreed(self._stopped or ("stopped by the loop" if stop else None))
        if stopped:
            self.stop(stopped)
        if self._passing is not None and self._stopped is None:
            raise AutoBatchError("end_epoch() was called in the middle of a step")
        if self._course.running and (self._stopped is not None or self._advise):
            self._break_off(self._passing)
            self._course.skip_to_end()
        figures = {
            "train_loss": figure(train_loss),
            "validation_loss": figure(val_loss),
            "validation_error": figure(val_error),
        }
        given = {"train_loss": train_loss, "val_loss": val_loss, "val_error": val_error}
        for name, value in given.items():
            if value is not None and not math.isfinite(value):
                _LOG.warning("epoch %d: %s is %s; nothing is changed for that", self.epoch + 1, name, value)
        self._course.end()
        if not self._period.steps:  # it was stopped where its last period ended, which has counted its samples
            self._period.samples.restore(())
        self._close_period(figures)
        return None if self.finished else self.decision

    def redecide(self) -> DecisionRecord:
        """Ask the policy again what the coming period shall use, before its first batch is handed out.

        For whoever steers from outside: the policy is asked at the end of a period, and an environment's agent answers
        later.

        Returns:
            The decision that holds now.

        Raises:
            AutoBatchError: the training is finished, or a batch of the period has been handed out.
        """
        self._refuse_finished()
        if self._course.waiting or self._course.next_example != self.decision.example:
            raise AutoBatchError("redecide() comes too late: a batch of this period has been handed out")
        self._decide(example=self._course.next_example)
        return self.decision

    def stop(self, reason: str) -> None:
        """End the training early: no more batches are handed out, and ``finished`` is true.

        Several ranks must all call it at the same place; or the first gives ``stop=True`` to ``end_epoch``.

        Args:
            reason: why, in words.
        """
        self._stopped = self._stopped or reason

    def predict(self, level: float = 0.9) -> FinalPrediction:
        """Predict how the training will end if it goes on as it does, from its place among the beacons.

        Args:
            level: probability that the interval shall have.

        Returns:
            The prediction, see ``autobatch.predict_final``; printing it gives sentences.

        Raises:
            ConfigError: the controller has no library, or nothing is measured yet.
        """
        if self._library is None:
            raise ConfigError("predict() needs beacons: give the controller library=...")
        if not self.samples:
            raise ConfigError("predict() needs a position: nothing is measured before the first decision period ends")
        return predict_final(self._library, self.observation, self.batch_size, self.lr, level=level)

    def close(self) -> None:
        """Let go of the optimizer and close the loggers."""
        self._rates.release()
        self._recorder.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart needs, as JSON-able values; after any ``optimizer.step()``.

        Returns:
            The state; of several ranks, the first's serves all.

        Raises:
            AutoBatchError: a step has begun and is not ended.
        """
        if self._passing is not None and self._passing.inside:
            raise AutoBatchError("state_dict() was called inside of a step; call it after optimizer.step()")
        if self._passing is None:
            self._course.fail()  # a batch whose step was not even begun
        return {
            "version": _STATE_VERSION,
            "identity": self._identity(),
            "course": self._course.state_dict(),
            "period": self._period.state_dict(),
            "stopped": self._stopped,
            "steps": self._steps,
            "closed_periods": self._closed_periods,
            "seconds": self._recorder.seconds,
            "measuring_seconds": self._measuring_seconds,
            "figures": dict(self._figures),
            "gradients": None if self._gradients is None else self._gradients.to_dict(),
            "decisions": self._decisions.state_dict(),
            "micro_batches": self._passage.state_dict(),
            "position": self._position.state_dict(),
            "measuring": self._measuring.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, at any number of ranks.

        Args:
            state: the state, of a controller made with the same arguments; or of a scout of the same loop, whose
                training goes on with this controller's policy.

        Raises:
            CheckpointError: the state is damaged, of another version, or of another training.
        """
        _ = self.task
        self._break_off(self._passing)
        adopted = bool(state.get(SCOUT))
        if adopted:
            state = self._adopted(state)
        try:
            if state["version"] != _STATE_VERSION:
                raise CheckpointError(f"controller state: expected version {_STATE_VERSION}, got {state['version']!r}")
            _check_identity(state["identity"], self._identity())
            stopped = None if state["stopped"] is None else str(state["stopped"])
            figures = {key: figure(state["figures"][key]) for key in self._figures}
            moments = state.get("gradients")  # states of older versions have none
            gradients = None if moments is None else GradientMoments.from_dict(moments)
            steps, closed_periods = int(state["steps"]), int(state["closed_periods"])
            seconds, measuring_seconds = float(state["seconds"]), float(state["measuring_seconds"])
            self._course.load_state_dict(state["course"])
            self._period.load_state_dict(state["period"])
            self._decisions.load_state_dict(state["decisions"], self._course.waiting)
            self._passage.load_state_dict(state["micro_batches"])
            self._position.load_state_dict(state["position"])
            self._measuring.load_state_dict(state["measuring"])
        except (LookupError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise CheckpointError(f"controller state is damaged: {error!r}") from None
        self._stopped = stopped
        self._steps, self._closed_periods = steps, closed_periods
        self._measuring_seconds, self._figures, self._gradients = measuring_seconds, figures, gradients
        self._orphans = 0
        self._iteration += 1
        self._recorder.resume(self.examples, seconds)
        if adopted and not self.finished:  # what the scout's policy has decided for the coming epoch does not hold
            self.redecide()

    # Inside: the way through the data --------------------------------------------------------------------------------

    def _order(self) -> Tensor:
        _ = self.task
        return permutation(self._course.dataset_size, self.seed, self._course.epoch)

    def _refuse_finished(self) -> None:
        _ = self.task
        if self.finished:
            raise AutoBatchError(
                f"the training is finished after {self.epoch} of {self.epochs} epochs"
                + (f" ({self._stopped})" if self._stopped is not None else "")
                + ": write the loop as 'for epoch in controller.each_epoch()' or 'while not controller.finished', "
                "which end there"
            )

    def _batches(self) -> Iterator[Tensor]:
        order = self._order().to(self._device)
        for start, stop in self._parts():
            yield order[start:stop]
            if self._passing is None and self._course.queued:
                raise AutoBatchError(
                    "a batch of batches() was not trained: put its forward and backward pass into "
                    "`with controller.step()`"
                )

    def _cuts(self) -> Iterator[Cut]:
        """Hand out the epoch's batches; those that an earlier iteration has left untrained come first."""
        self._refuse_finished()
        self._recorder.begin()
        self._break_off(self._passing)
        self._orphans = 0
        self._course.begin()
        self._iteration += 1
        iteration, epoch = self._iteration, self.epoch
        waiting = iter(self._course.waiting)
        while self._stopped is None and self.epoch == epoch:
            if iteration != self._iteration:
                raise AutoBatchError(
                    "this iteration over the controller's batches is over: another has begun, or a state was loaded"
                )
            self._course.go_on()
            self._decide_if_due()
            if self.finished:  # that decision was to stop
                return
            cut = next(waiting, None) or self._hand_out()
            if cut is None:
                return
            yield cut

    def _hand_out(self) -> Cut | None:
        number = self._decisions.number_for(self._course.next_example)
        return self._course.hand_out(self._decisions.batch_size(number), number, plain=self._advise)

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Return where this rank's parts of the epoch's batches start and stop in the epoch's order."""
        for cut in self._cuts():
            place = self._ranks.share(cut.start, cut.stop)[0]
            for size in self._passage.accumulated(cut.examples, cut.start):
                yield place, place + size
                place += size

    def _part_count(self) -> int:
        return self._course.steps(self.batch_size, plain=self._advise) * self.plan.accumulation

    def _is_beyond(self) -> bool:
        """Whether a step is none that the controller counts."""
        if self._rates.repeats:
            return True
        if not self._advise or self._course.queued:  # a loop that is only advised may train more than it has said
            return False
        self._course.go_on()
        return self.finished or (self._course.running and self._course.epoch_trained)

    def _shorten(self, start: int, examples: int) -> None:
        if self._ranks.size > 1 or self.plan.accumulation > 1:
            raise AutoBatchError(
                "a stream ended before dataset_size examples; with several ranks or accumulated parts the others would "
                "wait for ever: give dataset_size the number of examples that every rank's stream has"
            )
        _LOG.warning(
            "the stream ended %d examples before dataset_size=%d; the epoch ends with them",
            self._course.dataset_size - start - examples,
            self._course.dataset_size,
        )
        self._course.shorten(start, examples)

    def _enter(self) -> Cut:
        self._decide_if_due()
        if self._advise and not self._course.queued:  # the loop cuts its batches itself: they are counted as they come
            self._course.begin()
            self._hand_out()
        cut = self._course.enter()
        self._period.begin_step(cut.batch_size, self._course.period_left)
        self._decisions.apply(cut.decision, self.examples)
        return cut

    def _micro_batches(self, passing: Passing, batch: Any) -> Iterator[Any]:
        """Yield the parts of one attempt at a batch, until one is given up."""
        place = 0
        for part, size in enumerate(passing.sizes):
            yield batch if len(passing.sizes) == 1 else part_of(batch, place, place + size)
            place += size
            if passing.given_up:
                return
            if passing.part == part:
                raise AutoBatchError(
                    "a part of micro_batches() was not trained: put its forward and backward pass into "
                    "`with controller.step()`"
                )

    def _fail(self, passing: Passing, error: BaseException) -> bool:
        """Deal with an error in a step: True where the batch is trained again."""
        if passing.in_micro_batches and self._passage.deals_with(passing, error):
            return True
        self._forget(passing)
        if not passing.in_micro_batches:  # the parts that the loop still has of this batch
            self._orphans = len(passing.sizes) - 1 - passing.part
        return False

    def _forget(self, passing: Passing) -> None:
        """Put a batch aside whose step has raised; it is trained again unless the loop goes on."""
        if self._passing is passing:
            self._passing = None
            self._course.fail()

    def _break_off(self, passing: Passing | None) -> None:
        """Put a batch aside that the loop has left before its end."""
        if passing is not None and self._passing is passing:
            if passing.done and self._ranks.size == 1:  # several have not brought their gradients together
                passing.measure()
                self._finish(passing)
            else:
                passing.abandon()
                self._forget(passing)

    def _finish(self, passing: Passing) -> None:
        """Count a batch as trained."""
        self._passing = None
        self._rates.trained()
        if passing.probe is not None:
            self._period.samples.add(
                passing.probe,
                epoch=self.epoch + 1,
                step=self.steps + 1,
                batch_size=self._passage.measured_examples(passing.cut),
                lr=passing.lr,
                exact=not self._advise,
            )
            if self._period.timing:
                self._period.samples.settle()
        self._course.done()
        self._period.steps += 1

    # Inside: scouts --------------------------------------------------------------------------------------------------

    def _take_scouts(self) -> None:
        """Have the policy start from what the scouts came to."""
        scouts = self._scouts
        if scouts is None:
            return
        assert isinstance(self._policy, ScoutingPolicy)
        if scouts.trained:
            self._policy.take(scouts.scouts)
        if self._ranks.leads:
            _LOG.log(told_at(advice=self._advise), "scouts%s: %s", " advise" if self._advise else "", scouts.advice())

    def _adopted(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a scout's state as that of this controller's training: with this one's policy, and not stopped."""
        return {
            **state,
            "stopped": None,
            "decisions": {**state.get("decisions", {}), "policy": self._policy.state_dict()},
        }

    # Inside: decisions -----------------------------------------------------------------------------------------------

    def _decide_if_due(self) -> None:
        """Decide where a period within the epoch has ended; at an epoch's end, end_epoch() does."""
        if self._passing is None and self._course.finished_periods > self._closed_periods:
            if self._course.epoch_trained:
                return
            self._close_period(None)

    def _close_period(self, figures: dict[str, float] | None) -> None:
        period = self._period
        first_free = self._first_free()

        def own() -> dict[str, Any]:
            period.samples.settle()
            return {
                "figures": figures,
                "timed": period.timed(),
                "samples": [sample.to_dict() for sample in period.samples.measurements],
            }

        told = self._ranks.first_makes(own)
        if not self._ranks.leads:
            period.samples.restore(Measurement.from_dict(sample) for sample in told["samples"])
        if told["figures"] is not None:
            self._figures = {key: figure(told["figures"][key]) for key in self._figures}
        self._measuring_seconds += sum(sample.seconds for sample in period.samples.measurements)
        if told["timed"] is not None:
            self._measuring.learn(*told["timed"])
        self._decisions.learn(period.samples.measurements, period.steps)
        self._gradients = gradient_moments(period.samples.measurements)
        self._steps += period.steps
        period.close(self._position, self.lr_effective)
        self._closed_periods = self._course.finished_periods
        if not self.finished:
            self._decide(example=first_free)
        self._log_decision(self._figures if figures is not None else dict.fromkeys(self._figures, math.nan))

    def _first_free(self) -> int:
        """Return the first example that no rank has handed out yet, wherever their loaders have come to."""
        free, place, minus = self._ranks.most([self._course.next_example, self.examples, -self.examples])
        if place != -minus:
            raise AutoBatchError(
                f"rank {self._ranks.rank}: the ranks stand at different places of the training, between example "
                f"{-minus} and {place}, here {self.examples}: they must train the same batches, from the same state"
            )
        return free

    def _check_ranks(self) -> None:
        """Refuse ranks that do not train the same thing."""
        mine = {
            **self._identity(),
            "decide_every": self._decide_every,
            "plan": str(self.plan),
            "measure": "global" if self._measure_all else "local",
            "mode": "advise" if self._advise else "control",
        }
        theirs = self._ranks.agreed(mine)
        differing = sorted(key for key, value in mine.items() if theirs.get(key) != value)
        if self._ranks.most([len(differing)]) != [0]:
            raise ConfigError(
                f"rank {self._ranks.rank}: the ranks' controllers differ"
                + "".join(f"; {key}: {mine[key]!r} here, {theirs[key]!r} on the first rank" for key in differing)
                + "; give all of them the same arguments"
            )

    def _decide(self, example: int) -> None:
        """Have a decision made that holds from an example on; apply it where nothing is handed out before it."""
        self._decisions.decide(self.observation, epoch=self.epoch, example=example)
        self._decisions.forget(self._course.waiting, self._course.next_example)
        if self.decision.stop:
            self.stop(self.decision.reason)
        if self._ranks.leads:
            self._recorder.tell(self.decision, advice=self._advise)
        if not self._course.waiting:
            self._decisions.apply(self._decisions.number_for(self._course.next_example), self.examples)

    def _log_decision(self, figures: dict[str, float]) -> None:
        self._recorder.record(
            self.decision,
            figures,
            lr_effective=self._rates.effective(None if self._advise else self.decision.lr_effective),
            epoch=self.epoch,
            progress=self.progress,
            c_bar=self.c_bar,
            l_cum=self.l_cum,
            steps=self._steps,
            samples=self.samples,
            examples=self.examples,
            measuring_seconds=self._measuring_seconds,
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "dataset_size": self._course.dataset_size,
            "epochs": self._course.epochs,
            "periods": self._course.periods,
            "batch_sizes": list(self._batch_sizes),
            "learning_rates": list(self.task.learning_rates),
            "seed": self.seed,
        }


def _periods(decide_every: float | None, dataset_size: int) -> int:
    """Return how many decision periods an epoch has."""
    if decide_every is None:
        return 1
    if isinstance(decide_every, bool) or not decide_every > 0 or (decide_every >= 1 and decide_every % 1):
        raise ConfigError(
            f"decide_every: expected a number of examples or a share of an epoch in (0, 1), got {decide_every!r}"
        )
    examples = decide_every * dataset_size if decide_every < 1 else decide_every
    return min(dataset_size, max(1, round(dataset_size / examples)))


def _check_identity(theirs: dict[str, Any], mine: dict[str, Any]) -> None:
    differing = [key for key, value in mine.items() if theirs.get(key) != value]
    if differing:
        raise CheckpointError(
            "the controller state belongs to another training: "
            + "; ".join(f"'{key}' was {theirs.get(key)} and is {mine[key]}" for key in differing)
        )


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
