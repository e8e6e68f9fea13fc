"""The controller: what a training loop calls, and reads."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from pickle import PicklingError
from typing import TYPE_CHECKING, Any, Literal, Never, Self, SupportsIndex

from torch import Tensor, nn
from torch.optim import Optimizer

from autobatch._errors import AutoBatchError, ConfigError
from autobatch._ranges import check_kind
from autobatch._show import drawn
from autobatch.beacons import BeaconLibrary, FinalPrediction, predict_final
from autobatch.control._decision_record import DecisionRecord
from autobatch.control._readings import Readings
from autobatch.control._state import restore, state_of
from autobatch.control._training import Training
from autobatch.control.batches import PlannedBatchSampler
from autobatch.control.measuring import MeasuringPlan
from autobatch.control.rates import RuleName
from autobatch.control.rewinding import Stateful
from autobatch.control.settings import Measuring, Processes, Rates, Settings, TaskFacts, refuse_moved, with_length
from autobatch.control.steps import BatchPlan, Step
from autobatch.policies import Policy, ScoutReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from autobatch.tracking import Logger


class AutoBatchController(Readings):
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

    The policy is asked once before the first epoch and once after every epoch, or as often as the plan's
    ``decide_every`` says. Everything random follows from ``seed`` and the epoch, so ``state_dict`` is all that a
    restart needs.

    Args:
        model: the network in training; it is measured, not changed. It may come later, by ``attach``.
        optimizer: its optimizer, or later by ``attach``. Its parameter groups keep the rates that you or your
            scheduler give them; the controller multiplies them during its steps only. The first group's rate now (or
            its ``initial_lr``) is the reference that base learning rates are relative to.
        policy: a policy, or the name or YAML file of one.
        dataset_size: training examples; every epoch sees each of them once.
        epochs: length of the whole training.
        examples: length of a training that knows no epochs, in place of both: iterations x batch size of the loop as it
            was. It is one epoch for the controller, with twenty decisions within unless ``plan`` says otherwise;
            ``sizes`` gives the batches.
        batch_sizes: the ladder that the policy chooses from, ascending; by default that of ``scouts``. Policies that
            need no beacons have powers of two without it, as suits the training's length.
        library: the task's beacons, or the env folder that holds them; some policies need one.
        scouts: what ``autobatch.scout`` came to with this loop; the policy, ``"beacon-follow"`` or ``"steer"``, starts
            from there.
        rates: how the learning rate is ruled: its choices, schedule, and what a batch size does to it. ``"steered"``
            is short for ``Rates(schedule="steered")``, and a rule's name, such as ``"sqrt"``, for ``Rates(rule=...)``.
        measuring: what is measured; a ``MeasuringPlan`` is short for ``Measuring(steps=...)``.
        plan: how batches are made: how often decided, how split to fit into memory.
        processes: who else trains.
        task: what is known of the task: its name, score, costs.
        advise: the batch size that your loop really uses. The controller then measures and decides, logs what it would
            have done, and changes nothing.
        loggers: get one record a decision: objects, or names such as ``"csv:run.csv"``, see ``autobatch.tracking``.
        seed: seeds permutations and random policies.
        out: a run directory to write, as ``autobatch run`` does, for ``autobatch explain``, ``report``, ``watch``,
            ``plot`` and ``runs``. It must hold no run, unless that goes on by ``load_state_dict``.
        moved: nothing. An argument that is now within another is refused, with the name of that.

    Raises:
        ConfigError: an argument cannot be used, or the policy needs what was not given.
    """

    _scouts_are_made = False  # by whoever makes the controller, before or after
    schedules_by_examples = False
    """Whether a framework moves the loop's schedules by the examples trained, whatever the number of batches."""

    def __init__(
        self,
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        *,
        policy: Policy | str,
        dataset_size: int | None = None,
        epochs: int | None = None,
        examples: int | None = None,
        batch_sizes: Sequence[int] | None = None,
        library: BeaconLibrary | str | Path | None = None,
        scouts: ScoutReport | None = None,
        rates: Rates | RuleName | Literal["steered"] | None = None,
        measuring: Measuring | MeasuringPlan | None = None,
        plan: BatchPlan | None = None,
        processes: Processes | None = None,
        task: TaskFacts | None = None,
        advise: int | None = None,
        loggers: Sequence["Logger | str"] = (),
        seed: int = 0,
        out: str | Path | None = None,
        **moved: Never,
    ) -> None:
        refuse_moved(moved, ARGUMENTS)
        super().__init__(
            Settings.of(
                policy,
                batch_sizes,
                library=library,
                scouts=scouts,
                rates=rates,
                measuring=measuring,
                plan=plan,
                processes=processes,
                task=task,
                advise=advise,
                loggers=loggers,
                seed=seed,
                out=out,
            )
        )
        self._dataset_size, self._epochs, self._examples = dataset_size, epochs, examples
        if (model is None) != (optimizer is None):
            raise ConfigError("give the controller model and optimizer together, or both later by attach()")
        if model is not None and optimizer is not None:
            self.attach(model, optimizer)

    def attach(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        dataset_size: int | None = None,
        epochs: int | None = None,
        examples: int | None = None,
    ) -> Self:
        """Give the controller what it controls, and have the first decision made.

        Args:
            model: the network in training.
            optimizer: its optimizer.
            dataset_size: training examples, unless the constructor has them.
            epochs: length of the whole training, unless the constructor has it.
            examples: length of one without epochs, unless the constructor has it.

        Returns:
            The controller.

        Raises:
            ConfigError: something is missing or cannot be used, or the controller is attached already.
        """
        if self._attached is not None:
            raise ConfigError("this controller is attached already; make a new one for another training")
        settings, dataset_size, epochs = with_length(
            self._settings,
            dataset_size if dataset_size is not None else self._dataset_size,
            epochs if epochs is not None else self._epochs,
            examples := examples if examples is not None else self._examples,
        )
        self._attached = Training(settings, model, optimizer, dataset_size=dataset_size, epochs=epochs)
        self._settings, self._examples = settings, examples
        if not self._scouts_are_made:
            self._attached.tell_unscouted()
        return self

    def replace(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Go on with another model and optimizer, such as a widened copy in mid-training; called between two steps.

            if epoch == 6:
                model = widened(model)
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
                controller.replace(model, optimizer)

        Base learning rates stay relative to the first optimizer's; position, decisions and the way through the data go
        on. A model whose parts are replaced within it needs no more than an optimizer that has them.

        Args:
            model: the network that is trained from here on.
            optimizer: its optimizer.

        Raises:
            AutoBatchError: a step has begun and is not ended, or there is no model yet.
            ConfigError: they cannot be used.
        """
        self._training.replace(model, optimizer)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Refuse to be pickled or copied once there is a model: the optimizer's steps are watched."""
        if self._attached is not None:
            raise PicklingError(
                "an AutoBatchController with its model cannot be pickled or copied; keep controller.state_dict(), and "
                "give it to load_state_dict() of a new one"
            )
        return super().__reduce_ex__(protocol)

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
        _ = self._training
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
        self._refuse_indices("batch_sampler")
        return self._training.feed.sampler()

    def batches(self) -> Iterator[Tensor]:
        """Return this rank's batches of the next epoch, or of the rest of one that has begun.

        Returns:
            An iterator over int64 tensors of example indices on the controller's device, each of shape (examples of the
            batch,).

        Raises:
            AutoBatchError: the training is finished. The iterator raises it where the epoch before is not ended, or
                where a batch was not trained.
        """
        self._refuse_indices("batches()")
        self._training.course.refuse_finished()
        return self._training.feed.batches()

    def sizes(self) -> Iterator[int]:
        """Return the sizes of this rank's batches, for loops that draw each batch by themselves.

            for size in controller.sizes():
                x, y = get_batch(size)
                with controller.step() as step:
                    step.backward(F.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
            controller.end_epoch(val_loss=...)

        Returns:
            An iterator over the batches of the next epoch, or of the rest of one that has begun; to the end of a
            training without epochs.

        Raises:
            AutoBatchError: the training is finished. The iterator raises it where the epoch before is not ended, or
                where a batch was not trained.
        """
        self._training.course.refuse_finished()
        return self._training.feed.sizes()

    def _refuse_indices(self, what: str) -> None:
        if self._examples is not None:
            raise AutoBatchError(
                f"{what} goes through a data set, and this training was given by its examples: draw batches of "
                "controller.sizes(), or give dataset_size and epochs"
            )

    def rebatch(self, source: Iterable[Any]) -> Iterator[Any]:
        """Return this rank's batches of the next epoch out of a stream, such as a loader of an iterable dataset.

        The stream's own batches may be of any size; they are joined and split. An epoch that is gone on with passes
        over the examples that are trained. A stream that ends early ends the epoch.

        Args:
            source: batches, tensors in any nest of tuples, lists and mappings; this rank's examples.

        Returns:
            Batches of the same structure, of the sizes that are decided.
        """
        check_kind(source, (Iterable,), "rebatch(source)")
        return self._training.feed.rebatched(source)

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

        Returns:
            An iterator over parts of the batch, of the same structure.

        Raises:
            AutoBatchError: the loader returned another batch than asked for, a part was not trained, or a single
                example does not fit.
        """
        return self._training.stepping.micro_batches(batch)

    def step(self, *, samples: int | Tensor | None = None, batch_dim: int = 0) -> AbstractContextManager[Step]:
        """Return the context around one forward and backward pass; it measures on sampled steps only.

        A sampled step does not wait for the device: its eigenvalues are computed when the next decision is made. One
        that cannot be measured is left out with a warning; three in a row end the measuring, not the training.

        Args:
            samples: what an example is, where it is not one row of the model's inputs: how many consecutive rows it
                has, or an index tensor that says which example each row belongs to, see ``FisherProbe``.
            batch_dim: the dimension of the inputs that the batch is along, 1 for time-major data.

        Returns:
            A context manager. What it yields has a method ``backward(loss)`` to call in place of ``loss.backward()``.

        Raises:
            AutoBatchError: no batch of the controller's is to be trained.
        """
        return self._training.stepping.step(samples, batch_dim)

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
            val_error: share of validation examples classified wrongly, in [0, 1], where known.
            train_loss: mean training loss over the epoch, where known.
            stop: whether the training ends here, before its last epoch; no decision is made then. Of several ranks the
                first's word counts.

        Returns:
            The decision for the next epoch; None after the last.

        Raises:
            AutoBatchError: no epoch has begun, it has examples left, or the training is finished.
            ConfigError: a figure is no number, or outside its range; nothing is changed then.
            MeasureError: the gradients that a step got are not those that were measured.
        """
        training = self._training
        if training.course.finished and training.settings.advise:
            return None
        given = {"val_loss": val_loss, "val_error": val_error, "train_loss": train_loss}
        training.periods.end_epoch(**training.stepping.end(given, stop=stop))
        return None if training.course.finished else training.decisions.last

    def redecide(self) -> DecisionRecord:
        """Ask the policy again what the coming period shall use, before its first batch is handed out.

        For whoever steers from outside: the policy is asked at the end of a period, and an environment's agent answers
        later.

        Returns:
            The decision that holds now.

        Raises:
            AutoBatchError: the training is finished, or a batch of the period has been handed out.
        """
        self._training.course.refuse_finished()
        self._training.periods.redecide()
        return self.decision

    def stop(self, reason: str) -> None:
        """End the training early: no more batches are handed out, and ``finished`` is true.

        Several ranks must all call it at the same place; or the first gives ``stop=True`` to ``end_epoch``.

        Args:
            reason: why, in words.
        """
        self._training.course.stop(reason)

    def keep_along(self, *parts: Stateful) -> None:
        """Have more than model and optimizer go back to where they were, where the policy has a training go back.

            controller.keep_along(average)

        Args:
            parts: objects with ``state_dict`` and ``load_state_dict``, such as an average of the weights. They are kept
                as each epoch begins.

        Raises:
            ConfigError: one has no such methods.
        """
        for part in parts:
            if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
                raise ConfigError(f"keep_along: expected objects with state_dict and load_state_dict, got {part!r}")
        self._training.rewinding.along += parts

    def predict(self, level: float = 0.9) -> FinalPrediction:
        """Predict how the training will end if it goes on as it does, from its place among the beacons.

        Args:
            level: probability that the interval shall have.

        Returns:
            The prediction, see ``autobatch.predict_final``; printing it gives sentences.

        Raises:
            ConfigError: the controller has no library, or nothing is measured yet.
        """
        if self.library is None:
            raise ConfigError("predict() needs beacons: give the controller library=...")
        if not self.samples:
            raise ConfigError("predict() needs a position: nothing is measured before the first decision period ends")
        return predict_final(self.library, self.observation, self.batch_size, self.lr, level=level)

    def plot(self) -> "Figure":
        """Draw the journey so far through the (C̄, L) plane, over the landscape of the library's beacons.

        Returns:
            A matplotlib figure; its ``savefig`` writes it, notebooks show it.

        Raises:
            AutoBatchError: the controller is not attached to a model yet.
        """
        figure: Figure = drawn("figure", self._training.log)
        return figure

    def close(self) -> None:
        """Let go of the optimizer, close the loggers and the run directory."""
        if self._attached is not None:
            self._attached.rates.release()
            self._attached.periods.end_run()
            self._attached.recorder.close()
            self._attached.log.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart needs, as JSON-able values; after any ``optimizer.step()``.

        Returns:
            The state; of several ranks, the first's serves all.

        Raises:
            AutoBatchError: a step has begun and is not ended.
        """
        return state_of(self._training)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, at any number of ranks.

        Args:
            state: the state, of a controller made with the same arguments; or of a scout of the same loop, whose
                training goes on with this controller's policy.

        Raises:
            AutoBatchError: a step has begun and is not ended.
            CheckpointError: the state is damaged, of another version, or of another training.
        """
        restore(self._training, state)


ARGUMENTS = frozenset(inspect.signature(AutoBatchController.__init__).parameters) - {"self", "moved"}
"""Names of the controller's arguments."""
