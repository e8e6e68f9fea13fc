"""What the optimizers of this room share: checked settings, an exact state, and layers that get the plain step."""

import logging
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autobatch._errors import CheckpointError, ConfigError, near_names
from autobatch._ranges import check_kind
from autobatch.fisher import FisherProbe
from autobatch.optim._settings import check_between, check_schedule, check_shaped
from autobatch.optim._steps import LONGEST, descend, hold

_LOG = logging.getLogger("autobatch")

_OF_OTHERS = {"learning_rate", "momentum", "betas", "damping", "dampening", "nesterov", "amsgrad", "maximize"}
"""Settings that other optimizers' groups have, and that would change the step."""


class FisherOptimizer(Optimizer):
    """A ``torch.optim.Optimizer`` of this room.

    Args:
        params: what it trains, as torch's optimizers take it: parameters, named parameters or groups of them.
        defaults: the settings of a group that says nothing else.
        strict: whether a parameter that gets the plain step is an error.

    Raises:
        ConfigError: a setting is out of its range.
    """

    own_shapes: ClassVar[frozenset[str]] = frozenset()
    """Entries of a parameter's state that are not shaped as the parameter is."""
    _model: nn.Module
    """The network, of an optimizer that looks at its layers."""
    local: ClassVar[bool] = False
    """Whether a step goes by what one process sees of layers or outputs, and not by gradients alone."""
    observes: ClassVar[bool] = False
    """Whether ``observe`` is needed around a step's passes."""

    def __init__(self, params: Any, defaults: dict[str, Any], *, strict: bool = False) -> None:
        check_kind(strict, (bool,), "strict")
        self._strict = bool(strict)
        self._told: set[int] = set()
        self._shares: list[Tensor] = []
        self._told_cut = False
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, whose schedule of updates and inversions begins with them.

        Args:
            param_group: as torch's optimizers take it.

        Raises:
            ConfigError: a setting is out of its range, unknown and near a known one, or one of other optimizers; or a
                parameter is complex, or none of the model's whose layers are looked at.
        """
        self._check_names(param_group)
        self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        for parameter in self.param_groups[-1]["params"]:
            if parameter.is_complex():
                raise ConfigError(
                    f"{type(self).__name__}: {self._describe(parameter)} is complex, which it does not take"
                )
        if hasattr(self, "_model"):
            self._check_model()

    def observe(self, probe: FisherProbe | None = None) -> AbstractContextManager[Any]:
        """Return the context of a step's forward and backward pass, in which an optimizer may look at the layers.

        Args:
            probe: what measures the same step for C̄ and L; the step then serves both.

        Returns:
            The context; one that does nothing where there is nothing to look at.
        """
        del probe
        return nullcontext()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step.

        Args:
            closure: evaluates the loss anew, as torch's optimizers take it.

        Returns:
            The loss, where there is a closure.
        """
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        self._tell_cut()
        for group in self.param_groups:
            self._move(group)
        return loss

    def _move(self, group: dict[str, Any]) -> None:
        """Take the step of one group."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state to the last bit: factors keep the dtype that they had, whatever their parameter's is.

        Args:
            state_dict: what ``state_dict`` returned.

        Raises:
            CheckpointError: it is no state, another optimizer's, of other groups or of parameters of other shapes.
        """
        self._check_state(state_dict)
        super().load_state_dict(dict(state_dict))
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for parameter, number in zip(parameters, numbers, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    device = value.device if name == "step" else parameter.device
                    self.state[parameter][name] = value.detach().to(device, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of.

        Raises:
            TypeError: the optimizer looks at a model's layers, which a copy would not find.
        """
        if hasattr(self, "_model"):
            name = type(self).__name__
            raise TypeError(f"{name} looks at its model's layers and cannot be copied or pickled: use its state_dict()")
        return {**super().__getstate__(), "_strict": self._strict, "_told": set(), "_shares": [], "_told_cut": False}

    def _check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse the state of another optimizer, or of parameters of other shapes."""
        name = type(self).__name__
        if not isinstance(state, Mapping) or not {"state", "param_groups"} <= state.keys():
            raise CheckpointError(f"{name}: expected what state_dict() returns, with 'state' and 'param_groups'")
        sizes, own_sizes = ([len(group["params"]) for group in of["param_groups"]] for of in (state, self.__dict__))
        if sizes != own_sizes:
            raise CheckpointError(f"{name}: the state has groups of {sizes} parameters, the optimizer of {own_sizes}")
        for own, theirs in zip(self.param_groups, state["param_groups"], strict=True):
            if missing := sorted(own.keys() - theirs.keys() - {"param_names"}):
                raise CheckpointError(f"{name}: the state is another optimizer's: its groups have no {missing[0]!r}")
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        for parameter, number in zip(parameters, numbers, strict=True):
            for key, value in state["state"].get(number, {}).items():
                shaped = isinstance(value, Tensor) and key not in self.own_shapes and value.dim()
                if shaped and value.shape != parameter.shape:
                    raise CheckpointError(
                        f"{name}: the state's {key!r} of {self._describe(parameter)} is {tuple(value.shape)}, the "
                        f"parameter {tuple(parameter.shape)}"
                    )

    def _check_names(self, group: Mapping[str, Any]) -> None:
        """Refuse what would be a setting if it were one; what users note in a group beside its settings is theirs."""
        of_all = _OF_OTHERS | signature(type(self).__init__).parameters.keys()
        for key in sorted(group.keys() - self.defaults.keys() - {"params", "param_names"}):
            if get_close_matches(key, self.defaults, cutoff=0.85) or (key in of_all and group[key]):
                raise ConfigError(
                    f"{type(self).__name__}: a group has no setting {key!r}; {near_names(key, self.defaults)}"
                )

    def _check(self, group: Mapping[str, Any]) -> None:
        """Refuse a group's settings that are out of range."""
        check_between(group["lr"], "lr", 0.0, math.inf)
        check_between(group["weight_decay"], "weight_decay", 0.0, math.inf)
        for name in group.keys() & {"momentum", "decay"}:
            check_between(group[name], name, 0.0, 1.0, below=True)
        if "damping" in group:
            check_between(group["damping"], "damping", 0.0, math.inf)
        if "update_every" in group:
            check_schedule(group)

    def _look_at(self, model: nn.Module) -> None:
        """Take the network whose layers or outputs a step goes by, which may have no wrappers."""
        name, kind = type(self).__name__, type(model).__name__
        if not isinstance(model, nn.Module):
            raise ConfigError(f"{name}: model: expected the network, an nn.Module, got {model!r}")
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise ConfigError(f"{name} takes one process, and so no {kind}: each would go by its own samples")
        if isinstance(model, nn.DataParallel) or hasattr(model, "_orig_mod"):
            raise ConfigError(f"{name}: model: expected one without wrappers, got {kind}")
        check_shaped(model, name)
        self._model = model

    def _check_model(self) -> None:
        """Refuse parameters that are none of the model's."""
        known = {id(parameter) for parameter in self._model.parameters()}
        for parameter in self.param_groups[-1]["params"]:
            if id(parameter) not in known:
                raise ConfigError(f"{type(self).__name__}: {self._describe(parameter)} is no parameter of the model")

    def _plainly(self, parameters: Iterable[Tensor], why: str) -> None:
        """Tell of parameters that get the plain step, each once.

        Raises:
            ConfigError: the optimizer is strict.
        """
        new = [parameter for parameter in parameters if id(parameter) not in self._told]
        if not new:
            return
        names = ", ".join(self._describe(parameter) for parameter in new)
        if self._strict:
            raise ConfigError(f"{type(self).__name__}(strict=True): {names}: {why}")
        self._told |= {id(parameter) for parameter in new}
        _LOG.info("%s takes the plain step for %s: %s", type(self).__name__, names, why)

    def _descend(self, parameters: list[Tensor], directions: list[Tensor], group: Mapping[str, Any]) -> None:
        """Take a step of at most ten times the parameters' length, or 1; directions that are cut stay so."""
        if parameters:
            self._shares.append(hold(parameters, directions, group["lr"]))
            descend(parameters, directions, group)

    def _tell_cut(self) -> None:
        """Tell once of a step that was cut: the step before this one, so that nothing waits for an accelerator."""
        shares, self._shares = self._shares, []
        if not self._told_cut and (least := min(map(float, shares), default=1.0)) < 1.0:
            self._told_cut = True
            _LOG.warning(
                "%s: a step %.3g times as long as its parameters was cut to %g times; others will be, untold, and the "
                "training may diverge. More damping than %g, a lower rate or larger batches keep it from going far "
                "where few samples have shown a slope",
                type(self).__name__,
                LONGEST / least,
                LONGEST,
                self._least_damping(),
            )

    def _least_damping(self) -> float:
        """Return the least damping of any group."""
        return min(float(group["damping"]) for group in self.param_groups)

    def _describe(self, parameter: Tensor) -> str:
        model = getattr(self, "_model", None)
        names_there = model.named_parameters() if isinstance(model, nn.Module) else ()
        if name := next((name for name, own in names_there if own is parameter), None):
            return repr(name)
        for number, group in enumerate(self.param_groups):
            for place, own in enumerate(group["params"]):
                if own is parameter:
                    names = group.get("param_names")
                    return repr(names[place]) if names else f"parameter {place} of group {number} {tuple(own.shape)}"
        return f"a parameter of shape {tuple(parameter.shape)}"


def observing(optimizer: Optimizer, probe: FisherProbe | None = None) -> AbstractContextManager[Any]:
    """Return the context of a step's passes that any optimizer may need.

    Args:
        optimizer: one of this room, or any other.
        probe: what measures the same step.

    Returns:
        ``optimizer.observe(probe)``; for any other, one that does nothing.
    """
    return optimizer.observe(probe) if isinstance(optimizer, FisherOptimizer) else nullcontext()
