"""The controller: cuts batches, measures, asks the policy, applies what it says."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autobatch._errors import AutoBatchError, CheckpointError, ConfigError
from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.control._batches import batch_bounds, full_steps_per_epoch, permutation, steps_per_epoch
from autobatch.control._budget import MeasureWithinBudget
from autobatch.control._decisions import DecisionRecord, figure
from autobatch.control._limits import check_ladder, nearest_rung
from autobatch.control._measuring import MeasuringPlan, stretches
from autobatch.control._rates import Schedule, check_rate, constant_schedule, rate_proportions, set_rates
from autobatch.control._samples import Measurement, Samples
from autobatch.control._step import Step
from autobatch.control._timing import EpochTimer
from autobatch.fisher import FisherProbe, SpectralPosition
from autobatch.policies import Observation, Policy, TaskInfo, load_policy_spec, make_policy

_STATE_VERSION = 2
_UNMEASURED = nullcontext(Step())


class AutoBatchController:
    """Chooses batch size and learning rate from epoch to epoch while a loop of yours trains.

    .. code-block:: python

        controller = AutoBatchController(
            model, optimizer, policy="s32-to-128", dataset_size=len(x), epochs=40, batch_sizes=(32, 64, 128)
        )
        while not controller.finished:
            for indices in controller.batches():
                with controller.step() as step:
                    loss = F.cross_entropy(model(x[indices]), y[indices])
                    step.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            controller.end_epoch(validation_loss=..., validation_error=...)

    The policy is asked once before the first epoch (in the constructor) and once after every epoch. Everything random
    follows from ``seed`` and the epoch, so :meth:`state_dict`, taken between epochs, is all that a restart needs.

    Args:
        model: the network in training; it is measured, not changed.
        optimizer: its optimizer; the proportions between its parameter groups' learning rates are kept.
        policy: a policy, or the name or YAML file of one.
        dataset_size: training examples; every epoch sees each of them once.
        epochs: length of the whole training.
        batch_sizes: the ladder that the policy chooses from, ascending.
        learning_rates: base learning rates that the policy chooses from; by default the optimizer's own.
        library: the task's beacons, or the env folder that holds them; some policies need one.
        schedule: factor on the base learning rate by progress, evaluated at the start of each epoch.
        milestones: progress values in (0, 1) at which the schedule decays, for policies that care.
        score: the figure that ranks runs, ``"validation_loss"`` or ``"validation_error"``.
        costs: modelled seconds by batch size, for policies and for a measuring budget.
        measuring: which steps are measured. By default the first batch of each epoch and every 50th after it, as far as
            2 % of the training time allow, see :class:`~autobatch.control.MeasureWithinBudget`. Without ``costs`` the
            loop is timed for that, and a training run again may sample other steps.
        loss_reduction: how the loss reduces over a batch, ``"mean"`` or ``"sum"``.
        bn: what a sample's gradient means under BatchNorm, see :class:`~autobatch.fisher.FisherProbe`.
        reuse_weight_gradient: take the gradients of measured steps from what measuring computes anyway, which is
            faster and differs from the ordinary ones in round-off, see :class:`~autobatch.fisher.FisherProbe`; needs a
            loop with ``step.backward(loss)``.
        grad_scaler: the GradScaler that scales the loss, so that measuring can undo it.
        task_name: name of the task, for messages.
        seed: seeds permutations and random policies.
        device: where :meth:`batches` puts its indices; by default the device of the model's parameters.

    Raises:
        ConfigError: an argument cannot be used, or the policy needs what was not given.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        policy: Policy | str,
        dataset_size: int,
        epochs: int,
        batch_sizes: Sequence[int],
        learning_rates: Sequence[float] | None = None,
        library: BeaconLibrary | str | Path | None = None,
        schedule: Schedule = constant_schedule,
        milestones: Sequence[float] = (),
        score: str = "validation_loss",
        costs: CostTable | None = None,
        measuring: MeasuringPlan | None = None,
        loss_reduction: str = "mean",
        bn: str = "rows",
        reuse_weight_gradient: bool = False,
        grad_scaler: torch.amp.GradScaler | None = None,
        task_name: str = "task",
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        if epochs < 1:
            raise ConfigError(f"epochs: expected at least 1, got {epochs}")
        check_ladder(batch_sizes, dataset_size)
        self._proportions = rate_proportions(optimizer)
        rates = tuple(learning_rates) if learning_rates is not None else (float(optimizer.param_groups[0]["lr"]),)
        for rate in rates:
            check_rate(rate, "learning_rates")
        self._optimizer = optimizer
        self._schedule = schedule
        self._measuring = measuring if measuring is not None else MeasureWithinBudget(costs=costs)
        self._probe = FisherProbe(
            model,
            loss_reduction,
            bn,
            reuse_weight_gradient=reuse_weight_gradient,
            grad_scaler=grad_scaler,
        )
        self._device = torch.device(device) if device is not None else _device_of(model)
        self.task = TaskInfo(
            name=task_name,
            batch_sizes=tuple(batch_sizes),
            learning_rates=rates,
            epochs=epochs,
            train_size=dataset_size,
            score=score,
            milestones=tuple(milestones),
            seed=seed,
            costs=costs,
            measuring_budget=self._measuring.budget,
        )
        self._measuring.reset(self.task)
        self._position = SpectralPosition()
        self._epoch = 0
        self._stopped = False
        self._steps = 0
        self._measuring_seconds = 0.0
        self._figures = {"train_loss": math.nan, "validation_loss": math.nan, "validation_error": math.nan}
        self._samples = Samples()
        self._timer: EpochTimer | None = None
        self._last_batch_size: int | None = None
        self._batch_examples = 0
        self._step_in_epoch: int | None = None
        self._measured_steps: frozenset[int] = frozenset()
        self._policy = make_policy(load_policy_spec(policy)) if isinstance(policy, str) else policy
        self._policy.reset(
            self.task, library if isinstance(library, BeaconLibrary | None) else BeaconLibrary.load(library)
        )
        self._decision = self._decide(previous=None)
        self._apply(self._decision)

    # What the loop reads ---------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the training was stopped."""
        return self._stopped or self._epoch >= self.task.epochs

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self._epoch

    @property
    def progress(self) -> float:
        """Examples seen at the last epoch's end / examples of the whole training, in [0, 1]."""
        return self._epoch / self.task.epochs

    @property
    def examples(self) -> int:
        """Training examples seen at the last epoch's end."""
        return self._epoch * self.task.train_size

    @property
    def steps(self) -> int:
        """Optimizer steps taken at the last epoch's end."""
        return self._steps

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch at the batch size in use."""
        return steps_per_epoch(self.task.train_size, self.batch_size)

    @property
    def samples(self) -> int:
        """Measured steps that entered C̄ and L."""
        return self._position.samples

    @property
    def batch_size(self) -> int:
        """Global batch size in use."""
        return self._decision.batch_size

    @property
    def lr(self) -> float:
        """Base learning rate in use, before the schedule's factor."""
        return self._decision.lr

    @property
    def lr_effective(self) -> float:
        """Learning rate of the optimizer's first parameter group, the schedule's factor included."""
        return self._decision.lr_effective

    @property
    def c_bar(self) -> float:
        """C̄_K at the last epoch's end; NaN before the first measurement."""
        return self._position.c_bar

    @property
    def l_cum(self) -> float:
        """L_K at the last epoch's end."""
        return self._position.l_cum

    @property
    def measuring_seconds(self) -> float:
        """Wall time that measuring had added at the last epoch's end, eigenvalues included."""
        return self._measuring_seconds

    @property
    def measuring_share_modelled(self) -> float | None:
        """What the budget bounds: modelled measuring time / modelled training time so far; None without a budget."""
        return self._measuring.modelled_share

    @property
    def decision(self) -> DecisionRecord:
        """The decision in force."""
        return self._decision

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        """The measured steps of the last finished epoch."""
        return self._samples.measurements

    @property
    def observation(self) -> Observation:
        """What the policy sees."""
        started = self._epoch > 0
        return Observation(
            epoch=self._epoch,
            progress=self.progress,
            batch_size=self._decision.batch_size if started else 0,
            lr=self._decision.lr if started else math.nan,
            c_bar=self.c_bar,
            l_cum=self.l_cum,
            steps=self._steps,
            **self._figures,
        )

    # What the loop calls ---------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Tensor]:
        """Return the batches of the next epoch.

        Returns:
            An iterator over int64 tensors of example indices, each of shape (examples of the batch,).

        Raises:
            AutoBatchError: the training is finished, or an epoch has begun and is not ended.
        """
        if self.finished:
            raise AutoBatchError(f"the training is finished after {self._epoch} of {self.task.epochs} epochs")
        if self._step_in_epoch is not None:
            raise AutoBatchError("batches() was called twice in one epoch; call end_epoch() first")
        self._begin_epoch()
        return self._batches()

    def step(self) -> AbstractContextManager[Step]:
        """Return the context around one step's forward and backward pass; it measures on sampled steps only.

        A sampled step does not wait for the device: its eigenvalues are computed in :meth:`end_epoch`.

        Returns:
            A context manager; one that does nothing on a step that is not sampled. What it yields has a method
            ``backward(loss)`` to call in place of ``loss.backward()``.

        Raises:
            AutoBatchError: no batch of :meth:`batches` is being trained.
        """
        if self._step_in_epoch is None:
            raise AutoBatchError("step() was called outside of a loop over batches()")
        return self._measured_step(self._step_in_epoch) if self._step_in_epoch in self._measured_steps else _UNMEASURED

    def end_epoch(
        self,
        *,
        validation_loss: float = math.nan,
        validation_error: float = math.nan,
        train_loss: float = math.nan,
        stop: bool = False,
    ) -> DecisionRecord | None:
        """Close the epoch: decompose its samples, bring the position up to date, ask the policy, apply its decision.

        Args:
            validation_loss: mean validation loss, where known.
            validation_error: share of validation examples classified wrongly, where known.
            train_loss: mean training loss over the epoch, where known.
            stop: whether the training ends here, before its last epoch; no decision is made then.

        Returns:
            The decision for the next epoch; None after the last.

        Raises:
            AutoBatchError: no epoch has begun, or it has batches left.
            MeasureError: the gradients that a step got are not those that were measured.
        """
        steps = self.steps_per_epoch
        if self._step_in_epoch is None:
            raise AutoBatchError("end_epoch() was called without an epoch of batches() before it")
        if self._step_in_epoch < steps:
            raise AutoBatchError(
                f"end_epoch() was called in the middle of an epoch: {self._step_in_epoch} of {steps} batches are done"
            )
        self._samples.settle()
        self._step_in_epoch = None
        self._measuring_seconds += sum(sample.seconds for sample in self.measurements)
        if self._timer is not None:
            self._measuring.learn(*self._timer.seconds(self.measurements[-1].seconds))
        self._advance_position(steps)
        self._steps += steps
        self._epoch += 1
        self._figures = {
            "train_loss": float(train_loss),
            "validation_loss": float(validation_loss),
            "validation_error": float(validation_error),
        }
        self._stopped = stop
        if self.finished:
            return None
        self._decision = self._decide(previous=self._decision)
        self._apply(self._decision)
        return self._decision

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart needs, as JSON-able values; only between epochs.

        Returns:
            The state.

        Raises:
            AutoBatchError: an epoch has begun and is not ended.
        """
        if self._step_in_epoch is not None:
            raise AutoBatchError("state_dict() was called in the middle of an epoch; call end_epoch() first")
        return {
            "version": _STATE_VERSION,
            "identity": self._identity(),
            "epoch": self._epoch,
            "stopped": self._stopped,
            "steps": self._steps,
            "last_batch_size": self._last_batch_size,
            "measuring_seconds": self._measuring_seconds,
            "figures": dict(self._figures),
            "proportions": list(self._proportions),
            "decision": self._decision.to_dict(),
            "position": self._position.state_dict(),
            "measuring": self._measuring.state_dict(),
            "policy": self._policy.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Args:
            state: the state, of a controller made with the same arguments.

        Raises:
            CheckpointError: the state is damaged, of another version, or of another training.
        """
        try:
            if state["version"] != _STATE_VERSION:
                raise CheckpointError(f"controller state: expected version {_STATE_VERSION}, got {state['version']!r}")
            _check_identity(state["identity"], self._identity())
            decision = DecisionRecord.from_dict(state["decision"])
            figures = {key: figure(state["figures"][key]) for key in self._figures}
            proportions = [float(value) for value in state["proportions"]]
            epoch, steps = int(state["epoch"]), int(state["steps"])
            stopped, last_batch_size = bool(state["stopped"]), state["last_batch_size"]
            measuring_seconds = float(state["measuring_seconds"])
            self._position.load_state_dict(state["position"])
            self._measuring.load_state_dict(state["measuring"])
            self._policy.load_state_dict(state["policy"])
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise CheckpointError(f"controller state is damaged: {error!r}") from None
        self._epoch, self._stopped = epoch, stopped
        self._steps, self._last_batch_size = steps, last_batch_size
        self._measuring_seconds = measuring_seconds
        self._figures, self._proportions, self._decision = figures, proportions, decision
        self._samples.clear()
        self._step_in_epoch = None
        self._apply(decision)

    # Inside ----------------------------------------------------------------------------------------------------------

    def _begin_epoch(self) -> None:
        steps = self.steps_per_epoch
        full_steps = full_steps_per_epoch(self.task.train_size, self.batch_size)
        changed = self.batch_size != self._last_batch_size
        chosen = self._measuring.choose(self.batch_size, steps, full_steps, changed=changed)
        self._measured_steps = frozenset(chosen)
        self._timer = EpochTimer(self._device, steps, chosen) if self._measuring.timing else None
        self._last_batch_size = self.batch_size
        self._samples.clear()
        self._step_in_epoch = 0

    def _batches(self) -> Iterator[Tensor]:
        order = permutation(self.task.train_size, self.task.seed, self._epoch).to(self._device)
        for step, (start, stop) in enumerate(batch_bounds(self.task.train_size, self.batch_size)):
            self._step_in_epoch = step
            self._batch_examples = stop - start
            self._mark(step)
            yield order[start:stop]
        self._mark(self.steps_per_epoch)
        self._step_in_epoch = self.steps_per_epoch

    def _mark(self, step: int) -> None:
        if self._timer is not None:
            self._timer.mark(step)

    @contextmanager
    def _measured_step(self, step: int) -> Iterator[Step]:
        with self._probe:
            yield Step(self._probe)
        self._samples.add(
            self._probe,
            epoch=self._epoch + 1,
            step=self._steps + step + 1,
            batch_size=self._batch_examples,
            lr=self.lr_effective,
        )
        if self._timer is not None:
            self._samples.settle()

    def _advance_position(self, steps: int) -> None:
        usable = [measurement for measurement in self.measurements if measurement.usable]
        for measurement, (start, stop) in zip(usable, stretches(steps, len(usable)), strict=True):
            self._position.add(
                measurement.condition_number,
                measurement.trace,
                batch_size=measurement.batch_size,
                lr=measurement.lr,
                steps=stop - start,
            )
        if not usable:
            self._position.carry(steps, self.lr_effective)

    def _decide(self, previous: DecisionRecord | None) -> DecisionRecord:
        asked = self._policy.decide(self.observation)
        check_rate(asked.lr, "learning rate that the policy asked for")
        batch_size = nearest_rung(asked.batch_size, self.task.batch_sizes)
        on_ladder = batch_size == asked.batch_size
        return DecisionRecord(
            epoch=self._epoch,
            progress=self.progress,
            requested_batch_size=asked.batch_size,
            requested_lr=asked.lr,
            batch_size=batch_size,
            lr=asked.lr,
            lr_effective=asked.lr * self._schedule(self.progress),
            changed=previous is None or (batch_size, asked.lr) != (previous.batch_size, previous.lr),
            reason=asked.reason,
            limit=None if on_ladder else f"{asked.batch_size} is not on the ladder; {batch_size} is the nearest rung",
            c_bar=self.c_bar,
            l_cum=self.l_cum,
            validation_loss=self._figures["validation_loss"],
            validation_error=self._figures["validation_error"],
            target=asked.target,
            alternatives=asked.alternatives,
        )

    def _apply(self, decision: DecisionRecord) -> None:
        set_rates(self._optimizer, decision.lr_effective, self._proportions)

    def _identity(self) -> dict[str, Any]:
        return {
            "dataset_size": self.task.train_size,
            "epochs": self.task.epochs,
            "batch_sizes": list(self.task.batch_sizes),
            "learning_rates": list(self.task.learning_rates),
            "seed": self.task.seed,
        }


def _check_identity(theirs: dict[str, Any], mine: dict[str, Any]) -> None:
    differing = [key for key, value in mine.items() if theirs.get(key) != value]
    if differing:
        raise CheckpointError(
            "the controller state belongs to another training: "
            + "; ".join(f"'{key}' was {theirs.get(key)} and is {mine[key]}" for key in differing)
        )


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
