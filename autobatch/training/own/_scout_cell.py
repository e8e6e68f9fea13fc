"""One scout of a loop of somebody's own: its controller, what it came to, and where it ends."""

import math
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autobatch._errors import AutoBatchError
from autobatch.beacons import BeaconLibrary
from autobatch.control import Measuring, Step
from autobatch.control._state import SCOUT
from autobatch.control.steps._step import Passing
from autobatch.policies import Decision, Observation, Scout, ScoutPlan, SteerPolicy, TaskInfo
from autobatch.policies._parameters import Stateless
from autobatch.policies._wording import figure, in_epochs
from autobatch.policies.steer import AT_ONCE, clearly_worse, hopeless
from autobatch.training.own._cell import LoopCell, RecordingController, divergence
from autobatch.training.own._options import words_of
from autobatch.training.own._scout_files import KeptScout

_SCORES = ("validation_loss", "validation_error")

MOVES = 0.5
"""Share of a scout's batches from which a rate that differs from that of the batch before is one that counts them."""


class NothingToScoutError(AutoBatchError):
    """The training is too short for scouts; it ends the loop that said so."""


class ScoutController(RecordingController):
    """A controller that ends the training where its scout ends, and listens to the losses that it is given."""

    cell: "ScoutCell"

    def step(self, *, samples: int | Tensor | None = None, batch_dim: int = 0) -> AbstractContextManager[Step]:
        """Return the context of ``AutoBatchController.step``; the loss that ``backward`` gets is noted."""
        passing = super().step(samples=samples, batch_dim=batch_dim)
        if isinstance(passing, Passing) and "backward" not in vars(passing):
            own = passing.backward

            def backward(loss: Tensor, using: Callable[[Tensor], Any] | None) -> None:
                own(loss, using)
                self.cell.hear(loss, passing.sizes[passing.part])

            passing.backward = backward  # type: ignore[method-assign]
        return passing

    def state_dict(self) -> dict[str, Any]:
        """Return the state, which says that it is a scout's: another controller goes on with its own policy.

        Where the scout has ended within an epoch, it is that of there, not of the epoch's end that the loop told since.
        """
        return {**(self.cell.within or super().state_dict()), SCOUT: True}


class ScoutPolicy(Stateless):
    """Stays at the configuration of one scout, which is known as soon as a loop has told how long it is."""

    needs_library = False
    periods_of_epoch = staticmethod(SteerPolicy.periods_of_epoch)

    def __init__(self, cell: "ScoutCell") -> None:
        self._cell = cell

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Learn what the task is."""
        self._cell.meet(task)

    def decide(self, observation: Observation) -> Decision:
        """Return the scout's configuration."""
        return Decision(*self._cell.configuration, "the configuration of this scout")


class ScoutCell(LoopCell):
    """One scout.

    Args:
        place: its place among the scouts.
        plan: says which scouts a task has, once a loop has told how long it is.
        check: refuses a loop that is another than that of the scouts before.
        others: the scouts before it.
        arguments: arguments of the controller, grouped.
        code: fingerprint of the loop's code.

    Attributes:
        task: the task; None until the loop has attached the controller.
        whole: whether the scout has come to its end.
        ended: why it ended before; None where it did not.
        within: the controller's state where it came to its end within an epoch, with nothing fetched ahead.
    """

    def __init__(
        self,
        place: int,
        *,
        plan: Callable[[TaskInfo], ScoutPlan],
        check: Callable[[Mapping[str, Any]], None],
        others: Sequence[Scout],
        arguments: Mapping[str, Any],
        code: str,
    ) -> None:
        self._begun = time.perf_counter()
        super().__init__(ScoutController(policy=ScoutPolicy(self), **arguments), arguments)
        self._code = code
        self.task: TaskInfo | None = None
        self.whole = False
        self.ended: str | None = None
        self._place = place
        self._plan_of = plan
        self._plan = ScoutPlan((), 1)
        self._check = check
        self._others = others
        self._reached: Mapping[str, Any] = {}
        self._loss, self._heard = torch.zeros(()), 0
        self._applied = (0.0, 0)
        self._moves, self._last_rate = 0, math.nan
        self._first: Tensor | None = None
        self._first_examples = 0
        self._optimizer: Optimizer | None = None
        self.within: dict[str, Any] | None = None
        self._then: Any = None
        self._names: Set[str] = frozenset()

    @property
    def has_trained(self) -> bool:
        """Whether the loop has trained a batch."""
        return self.facts is not None and self.controller.steps > 0

    @property
    def configuration(self) -> tuple[int, float]:
        """Batch size and base learning rate."""
        return self._plan.configurations[self._place]

    @property
    def too_large(self) -> set[int]:
        """Its batch size where that did not fit into memory and there is a smaller one; else none."""
        if not self.out_of_memory or self.task is None or self.configuration[0] == self.task.batch_sizes[0]:
            return set()
        return {self.configuration[0]}

    @property
    def over(self) -> bool:
        """Whether the scout has come to its end, soundly or not."""
        return self.whole or self.ended is not None

    def state(self, returned: object) -> Any:
        """Return what the loop returned to go on from; None where it returned none, or it is not of the scout's end.

        Where that was within an epoch, the loop took the epoch to be over: the state is of there only if no batch was
        fetched ahead, nothing was trained or its own rate moved since, and it holds no more than model, optimizer and
        controller. A scheduler or an average of the weights may have gone on.
        """
        state = returned.get("state") if isinstance(returned, Mapping) and self.whole else None
        if len(self.rows) % self._periods == 0 or state is None:
            return state
        known = isinstance(state, Mapping) and all(map(self._stands_still, state.values()))
        return state if self.within is not None and known else None

    def _stands_still(self, part: Any) -> bool:
        """Whether a part of a state is that of the controller, the optimizer or the model."""
        return isinstance(part, Mapping) and (SCOUT in part or "param_groups" in part or part.keys() == self._names)

    @property
    def _periods(self) -> int:
        """Decision periods of an epoch."""
        return 1 if self.task is None else self.task.periods

    def meet(self, task: TaskInfo) -> None:
        """Learn what the task is, and so what this scout's configuration is, if the task has such a scout."""
        self._plan = self._plan_of(task)
        if self._place >= len(self._plan.configurations):
            raise NothingToScoutError("the training is too short for scouts")
        self.task = task

    def attach(self, model: nn.Module, optimizer: Optimizer, **sizes: Any) -> None:
        """Take down what the loop is, and refuse one that is another than that of the scouts before."""
        super().attach(model, optimizer, **sizes)
        assert self.facts is not None
        self._check(self.facts)
        self._optimizer = optimizer

    @property
    def on_accelerator(self) -> bool:
        """Whether its losses were on another device than a CPU."""
        return self._loss.device.type != "cpu"

    def hear(self, loss: Tensor, examples: int) -> None:
        """Note the loss of a batch, or of a part of one, and how many examples it is of."""
        measuring: Measuring = self._arguments["measuring"]
        weight = 1.0 if measuring.loss_reduction == "sum" else float(examples)
        weight /= measuring.grad_scaler.get_scale() if measuring.grad_scaler is not None else 1.0
        whole = loss.detach().float() * weight
        if self._first is None or self.controller.steps == 0:  # the first step's, of which a part may come at a time
            self._first = whole if self._first is None else self._first + whole
            self._first_examples += examples
        self._loss = self._loss.to(loss.device) + whole
        self._heard += examples
        if not self.over:
            total, batches = self._applied
            rate = self.controller.lr_effective
            self._applied = total + rate / self.configuration[1], batches + 1
            self._moves += batches > 0 and rate != self._last_rate
            self._last_rate = rate

    def observe(self, figures: Mapping[str, Any]) -> None:
        """Take down a decision period, and end the scout where it has come to its end."""
        known = {name: float(figures[name]) for name in ("train_loss", *_SCORES)}
        known |= {name: math.nan for name in _SCORES if not math.isfinite(known[name])}  # unknown, as to the policy
        heard = float(self._loss) / self._heard if self._heard else math.nan
        unsound = f"the training loss became {heard}" if self._heard and not math.isfinite(heard) else None
        if math.isnan(known["train_loss"]):
            known["train_loss"] = heard
        self._loss, self._heard = torch.zeros(()), 0
        if self.over:  # the end came within an epoch, whose figures come now
            late = ("train_loss", *_SCORES) if math.isnan(self.rows[-1]["train_loss"]) else _SCORES
            self.rows[-1] |= {name: known[name] for name in late}
            return
        self.rows.append(known)
        self._reached = figures
        when = f"in epoch {math.ceil(len(self.rows) / self._periods)}"
        if self._first is not None and not math.isfinite(self._first):
            unsound, when = f"the training loss was {self._first_loss}", AT_ONCE
        self.ended = f"{unsound} {when}" if unsound else divergence(known, self.model, None, when)
        if self.ended is None and len(self.rows) >= self._plan.epochs:
            self.whole = True
        elif self.ended is None:
            self.ended = hopeless(self._scout(), self._others, clearly_worse(self.controller.steps))
        if self.over:
            if self.whole and len(self.rows) % self._periods and not self.controller.fetched_ahead:
                self.within, self._then = deepcopy(self.controller.state_dict()), self._standing()
            self.controller.stop(self.ended or f"this scout has come to its end, {self._scout().trained}")

    @property
    def _counts_batches(self) -> bool:
        """Whether a schedule of the loop goes by the number of its batches."""
        if self._arguments["rates"].policy_says or self.controller.schedules_by_examples:
            return False
        return self._moves > MOVES * self._applied[1]

    @property
    def _first_loss(self) -> float:
        """The mean loss of the first batch, of all its parts; NaN where it is not known."""
        return math.nan if self._first is None else float(self._first) / self._first_examples

    def check_end(self) -> None:
        """Refuse a loop that has not trained the scout to its end."""
        self.check_attached()
        if not self.over:
            trained = f"{figure(len(self.rows) / self._periods)} of this scout's"
            raise AutoBatchError(
                f"train(controller) returned after {trained} {in_epochs(self._plan.epochs, self._periods)}: write the "
                "loop as 'for epoch in controller.each_epoch()', call controller.end_epoch(...) after each, and let a "
                "rule of its own for stopping early wait until controller.finished"
            )

    @property
    def seconds(self) -> float:
        """Wall time so far, with what the loop does before and after its steps."""
        return time.perf_counter() - self._begun

    def kept(self) -> KeptScout:
        """Return what the scout came to, to be kept."""
        assert self.task is not None
        scout = self._scout()
        return KeptScout(
            batch_size=scout.batch_size,
            lr=scout.lr,
            seed=self.controller.seed,
            length=self._plan.epochs,
            train_losses=scout.train_losses,
            validation_losses=tuple(row["validation_loss"] for row in self.rows),
            validation_errors=tuple(row["validation_error"] for row in self.rows),
            ended=self.ended,
            steps=int(self._reached.get("steps", 0)),
            examples=int(self._reached.get("examples", 0)),
            seconds=self.seconds,
            training_seconds=float(self._reached.get("seconds", 0.0)),
            epochs=self.task.epochs,
            train_size=self.task.train_size,
            loop=self.facts or {},
            options=words_of(self._arguments),
            code=self._code,
            first_loss=self._first_loss,
            batch_sizes=self.task.batch_sizes,
            learning_rates=self.task.learning_rates,
            applied=self._applied[0] / self._applied[1] if self._applied[1] else 1.0,
            moves_each_batch=self._counts_batches,
        )

    def _standing(self) -> Any:
        """Return what changes as soon as a loop trains on, or moves its rate."""
        assert self.model is not None
        assert self._optimizer is not None
        self._names = self.model.state_dict().keys()
        tensors = (*self.model.parameters(), *self.model.buffers())
        rates = [group["lr"] for group in self._optimizer.param_groups]
        return [each._version for each in tensors], [float(rate) for rate in rates]

    def release(self) -> None:
        """Let go of model and optimizer, so that the next scout has their memory."""
        if self.within is not None and self._standing() != self._then:
            self.within = None
        super().release()
        self._optimizer = None
        if self.task is not None:
            self.controller.close()

    def _scout(self) -> Scout:
        losses = tuple(row["train_loss"] for row in self.rows)
        scores = (math.nan,) * len(losses)
        return Scout(*self.configuration, losses, scores, self.ended, periods=self._periods)
