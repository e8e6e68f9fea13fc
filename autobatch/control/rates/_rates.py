"""Learning rates: the loop's own, times a factor that holds during a step of the optimizer and never longer."""

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from autobatch._errors import ConfigError
from autobatch.control.rates._around import AroundSteps
from autobatch.optim import FisherOptimizer

_LOG = logging.getLogger("autobatch")

_SCALING = frozenset({"RMSprop", "Adagrad", "Adadelta", "Rprop", "Adafactor", "Muon"})
"""Optimizers that scale their steps by the gradients' own size and have no ``betas``."""

Schedule = Callable[[float], float]
"""Maps progress in [0, 1] to a positive factor on the base learning rate."""


def constant_schedule(progress: float) -> float:
    """Return 1.0 at any progress."""
    return 1.0


STEERED = "steered"
"""Name of the schedule that a policy has in hand."""

STEERED_DECAY = 0.4
"""Share of the training over which the rate falls where the schedule is steered and a policy leaves it alone."""


def steered_schedule(progress: float) -> float:
    """Return the factor of a steered schedule where the policy says none: constant, then linear towards zero.

    This is warmup-stable-decay without a warm-up (Hägele et al. 2024, arXiv 2405.18392, section 3).

    Args:
        progress: examples seen / examples of the whole training, in [0, 1].

    Returns:
        The factor, in [0, 1].
    """
    return min(1.0, (1.0 - progress) / STEERED_DECAY)


_ATTRIBUTE = "_autobatch_rates"


class OptimizerRates:
    """Multiplies an optimizer's learning rates, and its momentum where asked, during its steps.

    The parameter groups keep what their owner has set, be it a person or a scheduler: the factor is there while the
    optimizer's own code runs, and nobody else's: hooks, whatever their order, the step's closure, state dicts and
    whoever catches what a step raises see their owner's rates. So every scheduler works, groups keep their proportions
    and nothing drifts. The optimizer does not keep this object: where its controller is gone, the factor is.

    Attributes:
        reference: the first group's learning rate, which base learning rates are relative to.
        adaptive: whether the optimizer scales its steps by the gradients' own size, as Adam and its kin do.

    Args:
        optimizer: any optimizer whose groups have ``lr``. A controller that had it before is relieved of it.
        took_step: called after each of its steps, with what says on its device whether the step was skipped.

    Raises:
        ConfigError: a group has no learning rate, or one that is negative or not finite, or it takes no hooks.
    """

    def __init__(self, optimizer: Optimizer, took_step: Callable[[Tensor | None], None] = lambda skipped: None) -> None:
        check_groups(optimizer)
        # A scheduler with a warm-up may start at 0; what it multiplies is in initial_lr.
        first = optimizer.param_groups[0]
        self.reference = float(first.get("initial_lr", first["lr"]))
        check_rate(self.reference, "learning rate of the optimizer's first parameter group")
        self._lr = self.reference
        self._momentum_power = 1.0
        self._owners: list[dict[str, Any]] | None = None  # what the groups have, while they have the factor
        self._applied: list[dict[str, Any]] = []
        self._entered = self._in_closure = self._trained = False
        self._nested = 0
        self._took_step = took_step
        self._take(optimizer)

    def move(self, optimizer: Optimizer) -> None:
        """Go over to another optimizer in mid-training; the reference stays that of the training's start."""
        check_groups(optimizer)
        self.release()
        self._take(optimizer)

    def _take(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._owned = [float(group["lr"]) for group in optimizer.param_groups]
        self.adaptive = is_adaptive(optimizer)
        before = getattr(optimizer, _ATTRIBUTE, lambda: None)()
        if before is not None and before is not self:
            _LOG.warning("the optimizer had another controller, which steers it no longer")
            before.release()
        setattr(optimizer, _ATTRIBUTE, weakref.ref(self))
        self._around = AroundSteps(optimizer, self)

    def use(self, lr: float, momentum_power: float = 1.0) -> None:
        """Set what the next steps use.

        Args:
            lr: learning rate of the first group where its owner leaves it at the reference.
            momentum_power: power of the momentum coefficient.
        """
        self._lr, self._momentum_power = lr, momentum_power
        self._tidy()

    def effective(self, lr: float | None = None) -> float:
        """Return the first group's learning rate in a step taken now, with ``lr`` in place of the one in ``use``."""
        self._tidy()
        owned = self._optimizer.param_groups[0] if self._owners is None else self._owners[0]
        return float(self._effective(0, owned["lr"], self._lr if lr is None else lr))

    @property
    def parameters(self) -> Iterator[Tensor]:
        """What the optimizer trains."""
        return (parameter for group in self._optimizer.param_groups for parameter in group["params"])

    @property
    def moved(self) -> bool:
        """Whether a group's rate is another than when the optimizer came, so that somebody else changes it, too."""
        owners = self._optimizer.param_groups if self._owners is None else self._owners
        return any(float(own["lr"]) != rate for own, rate in zip(owners, self._owned, strict=False))

    @property
    def decays(self) -> bool:
        """Whether a group has weight decay."""
        return any(group.get("weight_decay") for group in self._optimizer.param_groups)

    def trained(self) -> None:
        """Take down that a batch is trained."""
        self._trained = self._in_closure

    @property
    def repeats(self) -> bool:
        """Whether a step's closure is called again on the batch that it has trained, as LBFGS does."""
        return self._in_closure and self._trained

    def reset_momentum(self) -> None:
        """Empty the momentum buffers: SGD's, and the first moment of the Adam family."""
        for state in self._optimizer.state.values():
            for key in ("momentum_buffer", "exp_avg"):
                if isinstance(state.get(key), Tensor):
                    state[key].zero_()

    def release(self) -> None:
        """Let go of the optimizer."""
        self._restore()
        self._around.undo()

    def state_dict(self) -> dict[str, Any]:
        """Return the references, and what is in use, as JSON-able values."""
        return {
            "reference": self.reference,
            "owned": list(self._owned),
            "lr": self._lr,
            "momentum_power": self._momentum_power,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned: rates are computed from the references of the training's start."""
        self.reference = float(state["reference"])
        self._owned = [float(rate) for rate in state["owned"]]
        self._lr, self._momentum_power = float(state["lr"]), float(state["momentum_power"])

    def enter(self) -> None:
        """Take notice that ``optimizer.step()`` was called."""
        self._restore()
        self._entered, self._nested = True, 0

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Apply the factor: the optimizer's own code begins. Return arguments whose closure goes without it."""
        if self._entered and self._owners is not None:  # a step that calls that of its base class
            self._nested += 1
            return None
        self._restore()
        self._apply()
        self._trained = False
        if len(args) > 1 and callable(args[1]):
            return (args[0], self._guarded(args[1]), *args[2:]), kwargs
        if callable(kwargs.get("closure")):
            return args, {**kwargs, "closure": self._guarded(kwargs["closure"])}
        return None

    def end(self) -> None:
        """Take the factor away: the optimizer's own code is done."""
        if self._nested:
            self._nested -= 1
        else:
            self._restore(changed_inside=True)
            # A GradScaler leaves it to fused optimizers to skip a step, and does not call the others.
            self._took_step(getattr(self._optimizer, "found_inf", None))

    def leave(self) -> None:
        """Take the factor away where the step has raised."""
        self._restore(changed_inside=True)
        self._entered, self._nested = False, 0

    def mend(self, state: Mapping[str, Any]) -> None:
        """Have a state that is taken in the midst of a step, as a signal's handler may, hold the owner's rates."""
        for group, owned, own in zip(state["param_groups"], self._owners or (), self._applied, strict=False):
            group.update({key: owned[key] for key, value in own.items() if group[key] is value})

    def _guarded(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            self._restore(changed_inside=True)
            self._in_closure = True
            try:
                result = closure()
            finally:
                self._in_closure = False
            self._apply()
            return result

        return call

    def _tidy(self) -> None:
        if not self._entered:  # a step that was called past the optimizer's own method, and raised
            self._restore()

    def _apply(self) -> None:
        groups = self._optimizer.param_groups
        self._applied = []
        self._owners = [{key: group[key] for key in ("lr", "momentum", "betas") if key in group} for group in groups]
        for index, (group, owned) in enumerate(zip(groups, self._owners, strict=True)):
            own = {"lr": self._effective(index, owned["lr"], self._lr)}
            if self._momentum_power != 1.0:
                if owned.get("momentum"):
                    own["momentum"] = owned["momentum"] ** self._momentum_power
                if "betas" in owned:
                    own["betas"] = (owned["betas"][0] ** self._momentum_power, *owned["betas"][1:])
            self._applied.append(own)
            group.update(own)

    def _restore(self, *, changed_inside: bool = False) -> None:
        """Give the groups back what their owner has set; a rate that the optimizer has changed, less the factor."""
        if self._owners is None:
            return
        for group, owned, own in zip(self._optimizer.param_groups, self._owners, self._applied, strict=False):
            for key, value in own.items():
                if group[key] is value:
                    group[key] = owned[key]
                elif changed_inside and key == "lr" and value is not owned[key] and value > 0.0:
                    group[key] = group[key] * (owned[key] / value)
        self._owners = None

    def _effective(self, index: int, owned: Any, lr: float) -> Any:
        if lr == self.reference:
            return owned
        if not isinstance(owned, Tensor) and index < len(self._owned) and owned == self._owned[index]:
            return lr * (owned / self.reference)  # exactly lr where the group has the reference
        return owned * (lr / self.reference)


def check_optimizer(optimizer: Any) -> None:
    """Refuse what is no optimizer whose steps can be watched: none, several, or one without hooks."""
    if isinstance(optimizer, list | tuple | dict):
        raise ConfigError(
            f"optimizer: a controller steers one, got a {type(optimizer).__name__} of {len(optimizer)}: put their "
            "parameter groups into one optimizer; or give it the one that trains most of the model, and multiply "
            "the others' rates by controller.lr_effective over its own rate"
        )
    if not hasattr(optimizer, "param_groups"):
        raise ConfigError(f"optimizer: expected a torch.optim.Optimizer, got {optimizer!r}")
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        raise ConfigError(
            f"optimizer: {type(optimizer).__name__} takes no step hooks; give the torch.optim.Optimizer within it"
        )


def check_rate(rate: float, what: str) -> None:
    """Refuse a learning rate that is not positive and finite; ``what`` names it in the message."""
    if not (math.isfinite(rate) and rate > 0.0):
        raise ConfigError(f"{what}: expected a positive finite number, got {rate}")


def is_adaptive(optimizer: Optimizer) -> bool:
    """Say whether an optimizer scales its steps by the gradients' own size."""
    names = [kind.__name__ for kind in type(optimizer).__mro__]
    return isinstance(optimizer, FisherOptimizer) or are_scaled(names, optimizer.param_groups)


def are_scaled(names: Iterable[str], groups: Iterable[Mapping[str, Any]]) -> bool:
    """Say the same of an optimizer's names and parameter groups, which Adam's kin have ``betas`` in."""
    return not _SCALING.isdisjoint(names) or any("betas" in group for group in groups)


def check_groups(optimizer: Optimizer) -> None:
    """Refuse an optimizer that takes no hooks, or of whose groups one has no learning rate that is a finite number."""
    check_optimizer(optimizer)
    for index, group in enumerate(optimizer.param_groups):
        if "lr" not in group:
            raise ConfigError(f"the optimizer's parameter group {index} has no learning rate 'lr'")
        rate = float(group["lr"])
        if not (math.isfinite(rate) and rate >= 0.0):
            raise ConfigError(
                f"learning rate of the optimizer's parameter group {index}: expected a finite number of at least 0, "
                f"got {rate}"
            )
