"""K-FAC: natural gradient by Kronecker factors of each layer, whole or projected, with inverses by recursion."""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from autobatch._errors import CheckpointError, ConfigError, MeasureError
from autobatch._ranges import check_whole
from autobatch.fisher import FisherProbe, Jacobian, TakenGradients
from autobatch.optim._factor import PARTS, Factor, split_damping
from autobatch.optim._moments import Layer, layers_of
from autobatch.optim._optimizer import FisherOptimizer
from autobatch.optim._settings import check_between
from autobatch.optim._steps import momenta_of, step_count, with_gradient

_NOT_TAKEN = (
    "factors are those of the weight of a matrix product, or of a convolution without groups, and of its bias where "
    "that is in the same parameter group and the layer is used once"
)

_TWICE = (
    "KFAC: the model was called twice within one observe(): put one forward pass and its backward pass into it. A "
    "batch in parts has `with optimizer.observe():` around each part, and one step after them; of a loss that needs "
    "several calls of the model K-FAC has no factors"
)


_APART = "bias_apart"
"""In a weight's state: its factors are without the bias, though that is trained."""

_LEAST_SCALE, _SAME_SCALE = 8.0, 1e-3
"""Binary logarithms: from where on gradients that differ by a power of two are a GradScaler's, and how exactly."""


class KFAC(FisherOptimizer):
    """Natural gradient with F ≈ A ⊗ B in each layer (Martens and Grosse 2015, arXiv 1503.05671).

    A is the running mean of a aᵀ over inputs, with a 1 for the bias, B that of g gᵀ over the gradients of single
    samples' losses by outputs, so that A ⊗ B stands for the empirical Fisher matrix: g is that of the labels in the
    data, of the step's own backward pass, with no second pass for sampled ones. Over the positions of a convolution A
    is a mean and B a sum (Grosse and Martens 2016, arXiv 1602.01407; "expand" in later libraries). A step is
    -lr (m + γ θ) with m = μ m + ν B⁻¹ ∇W A⁻¹, both inverses damped by λ split as in section 6.3 of the first, and ν
    holding lr² times the squared Fisher norm of the step to ``clip`` at most (from memory of common programs).

        optimizer = KFAC(model.parameters(), model, lr=0.1)
        for images, labels in loader:
            optimizer.zero_grad()
            with optimizer.observe():
                loss = F.cross_entropy(model(images), labels)
                loss.backward()
            optimizer.step()

    With ``projection`` r the factors are projected to r dimensions, and inverses follow each update by Woodbury's
    identity where a step has fewer vectors than they have rows; one that has drifted is made anew. The projection of
    factors and the recursion are those of Kaul and Lall, "Projective Fisher Information for Natural Gradient Descent"
    (2023), as far as its abstract says; the basis, what is done outside of it, and the bound on drift are inferred.
    The recursion lets damping fade by what the mean keeps, which counts as drift.

    Every ``update_every`` steps the layers are seen through the hooks of ``FisherProbe``; in between, ``observe`` does
    nothing. In a step that a probe measures, ``observe(probe)`` adds no hooks: the measured gradients are taken.

    Args:
        params: what it trains, see ``FisherOptimizer``.
        model: the network that they are of, without wrappers.
        lr: learning rate, at least 0.
        momentum: μ, in [0, 1).
        decay: weight of what was in the running means, in [0, 1); a plain mean until it takes over.
        damping: λ, at least 0; singular factors without damping have their pseudo-inverse, made anew at each update.
            ``clip`` lets a step be √(clip / λ) long in directions that factors have not seen; one is at most ten
            times as long as the parameters, or as 1, where momentum is cut too, and a log line tells of the first.
        weight_decay: γ, decoupled.
        clip: bound on the step's squared Fisher norm; None for none.
        projection: "none", or the rank r that factors are projected to.
        update_every: steps from one update of the factors to the next.
        invert_every: steps from one new inverse to the next at most, a multiple of that.
        drift: relative residual above which an inverse is made anew after an update, at least 0.
        loss_reduction: how the loss reduces over the batch, "mean" or "sum".
        grad_scaler: a ``torch.amp.GradScaler`` that scales the loss.
        strict: whether a parameter that is no layer's weight or bias is an error; else it gets the plain step, that of
            SGD with momentum.

    Raises:
        ConfigError: a setting is out of its range, the model is in a wrapper, or a parameter is none of the model's.
    """

    own_shapes: ClassVar = frozenset(f"{side}_{part}" for side in ("input", "output") for part in PARTS)

    local: ClassVar = True

    observes: ClassVar = True

    def __init__(
        self,
        params: Any,
        model: nn.Module,
        lr: float = 0.1,
        *,
        momentum: float = 0.9,
        decay: float = 0.95,
        damping: float = 1e-2,
        weight_decay: float = 0.0,
        clip: float | None = 1e-3,
        projection: Literal["none"] | int = "none",
        update_every: int = 10,
        invert_every: int = 100,
        drift: float = 0.1,
        loss_reduction: Literal["mean", "sum"] = "mean",
        grad_scaler: torch.amp.GradScaler | None = None,
        strict: bool = False,
    ) -> None:
        if loss_reduction not in {"mean", "sum"}:
            raise ConfigError(f"loss_reduction: expected 'mean' or 'sum', got {loss_reduction!r}")
        if grad_scaler is not None and not hasattr(grad_scaler, "get_scale"):
            raise ConfigError(f"KFAC: grad_scaler: expected a torch.amp.GradScaler, got {grad_scaler!r}")
        self._look_at(model)
        self._mean = loss_reduction == "mean"
        self._scaler = grad_scaler
        self._layers: dict[str, Layer] = {}
        self._layer_of_bias: dict[str, Layer] = {}
        self._as_found: list[Any] = []
        self._seen = False
        self._probe: FisherProbe | None = None
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "decay": decay,
            "damping": damping,
            "weight_decay": weight_decay,
            "clip": clip,
            "projection": projection,
            "update_every": update_every,
            "invert_every": invert_every,
            "drift": drift,
        }
        super().__init__(params, defaults, strict=strict)

    def _check(self, group: Any) -> None:
        super()._check(group)
        check_between(group["drift"], "drift", 0.0, math.inf)
        if group["clip"] is not None:
            check_between(group["clip"], "clip", 0.0, math.inf, above=True)
        if group["projection"] != "none":
            check_whole(group["projection"], "projection: 'none', or the rank")
            if not group["damping"]:
                raise ConfigError(
                    "damping: 0 does not go with a projection: what it leaves out has nothing but the damping"
                )

    def _check_state(self, state: Mapping[str, Any]) -> None:
        super()._check_state(state)
        for own, theirs in zip(self.param_groups, state["param_groups"], strict=True):
            if own["projection"] != theirs["projection"]:
                raise CheckpointError(
                    f"KFAC: the state's factors are of projection={theirs['projection']!r}, the optimizer's of "
                    f"projection={own['projection']!r}"
                )

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state to the last bit; where a bias was frozen then and is not now, or the reverse, begin anew.

        Args:
            state_dict: what ``state_dict`` returned.

        Raises:
            CheckpointError: it is no state, another optimizer's, of other groups, shapes or projections.
        """
        super().load_state_dict(state_dict)
        self._find_layers()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, whose schedule of updates and inversions begins with them.

        Args:
            param_group: as torch's optimizers take it.

        Raises:
            ConfigError: a setting is out of its range, or a parameter is none of the model's.
        """
        super().add_param_group(param_group)
        self._find_layers()

    def observe(self, probe: FisherProbe | None = None) -> AbstractContextManager[Any]:
        """Return the context of a step's forward and backward pass; it looks at the layers when their factors are due.

        Args:
            probe: what measures the same step, entered around or within; its gradients are taken.

        Returns:
            The context.
        """
        if self._as_found != self._as_it_is():
            self._find_layers()
        if all(parameter.grad is None for group in self.param_groups for parameter in group["params"]):
            self._forget()  # what a pass said that no step followed, as where a GradScaler has skipped one
        if not any(self._due(layer) for layer in self._layers.values()):
            return nullcontext()
        if probe is not None:
            return self._measured(probe)
        return TakenGradients(self._model, self._take, twice=_TWICE)

    def _find_layers(self) -> None:
        """Take down which parameters are a layer's weight and bias, of those that are trained now."""
        self._layers, self._as_found = layers_of(self._model, self.param_groups), self._as_it_is()
        of_bias = {id(layer.bias): layer for layer in self._layers.values() if layer.bias is not None}
        named = self._model.named_parameters()
        self._layer_of_bias = {name: of_bias[id(own)] for name, own in named if id(own) in of_bias}
        for layer in self._layers.values():
            state = self.state[layer.weight]
            if state.get(_APART):
                layer.bias = None
            if not all(factor.fits for factor in self._factors(layer, self._group_of(layer))):
                for key in (*self.own_shapes, "step"):  # a bias frozen or trained, or a projection, in between
                    state.pop(key, None)

    def _as_it_is(self) -> list[Any]:
        trained = [parameter.requires_grad for group in self.param_groups for parameter in group["params"]]
        return [*trained, *(group["projection"] for group in self.param_groups)]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, and forget what passes said that no step was taken for.

        Args:
            set_to_none: see torch's.
        """
        super().zero_grad(set_to_none)
        self._forget()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step; with a closure, which computes the loss and its backward pass, it is observed.

        Args:
            closure: evaluates the loss anew, as torch's optimizers take it.

        Returns:
            The loss, where there is a closure.

        Raises:
            ConfigError: factors are due, and no pass was observed; with ``strict``, a parameter is no layer's.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad(), self.observe():
                loss = closure()
        self._tell_cut()
        layers = []
        for layer in self._layers.values():
            layer.part()
            if layer.taken and all(parameter.grad is not None for parameter in layer.parameters):
                layers.append(layer)
            else:  # its schedule goes on, or it would be due in every step
                step_count(self.state[layer.weight])
        if self._seen:
            joined = {id(parameter) for layer in layers for parameter in layer.parameters}
            trained = [parameter for group in self.param_groups for parameter in with_gradient(group)[0]]
            self._plainly([parameter for parameter in trained if id(parameter) not in joined], _NOT_TAKEN)
        for group in self.param_groups:
            own = {id(parameter) for parameter in group["params"]}
            self._go(group, [layer for layer in layers if id(layer.weight) in own])
        self._forget()
        return loss

    def _go(self, group: dict[str, Any], layers: list[Layer]) -> None:
        """Take the step of one group."""
        parameters, gradients = with_gradient(group)
        directions = {id(parameter): gradient for parameter, gradient in zip(parameters, gradients, strict=True)}
        found: dict[int, Tensor] = {}
        products = []
        for layer in layers:
            state = self.state[layer.weight]
            factors = self._factors(layer, group)
            gradient = layer.joined([directions[id(parameter)] for parameter in layer.parameters])
            self._check_scale(layer, gradient)
            self._learn(layer, factors, group, step_count(state))
            if not all(factor.inverted for factor in factors):
                continue
            inputs, outputs = factors
            direction = inputs.apply(outputs.apply(gradient).mT).mT
            products.append((direction * gradient).sum())
            found.update(zip(map(id, layer.parameters), layer.parted(direction), strict=True))
        if found and group["clip"] is not None:
            squared = group["lr"] ** 2 * torch.stack(products).sum().clamp_min(0.0)
            share = (group["clip"] / squared).sqrt().clamp_max(1.0)
            found = {key: value * share.to(value.dtype) for key, value in found.items()}
        directions |= found
        chosen = [directions[id(parameter)] for parameter in parameters]
        self._descend(parameters, momenta_of(self, parameters, group["momentum"], chosen), group)

    def _check_scale(self, layer: Layer, gradient: Tensor) -> None:
        """Refuse, at first sight, a loss that a GradScaler has scaled without this being told; its scale is 2^k."""
        if layer.product is None or layer.compared:
            return
        layer.compared = True
        if self._scaler is not None:
            return
        sizes = torch.stack([layer.product.norm(), gradient.norm()]).tolist()
        if not all(math.isfinite(size) and size > 0.0 for size in sizes):
            return
        power = math.log2(sizes[0] / sizes[1])
        if power >= _LEAST_SCALE and abs(power - round(power)) < _SAME_SCALE:
            raise ConfigError(
                f"KFAC: the loss's gradients at {layer.name!r} are {2 ** round(power):,} times those that the step "
                "has, as under a GradScaler: give it, KFAC(..., grad_scaler=scaler)"
            )

    def _learn(self, layer: Layer, factors: tuple[Factor, Factor], group: dict[str, Any], done: int) -> None:
        """Update a layer's factors where it is time, and make anew the inverses that need it."""
        if done % group["update_every"]:
            return
        if not self._seen:
            raise self._blind()
        moments = layer.inputs, layer.gradients
        if not layer.samples or not all(bool(moment.trace().isfinite()) for moment in moments):
            return
        if layer.apart:
            self.state[layer.weight][_APART] = True
        loss_scale = 1.0 if self._scaler is None else self._scaler.get_scale()
        output_scale = (layer.samples if self._mean else 1.0 / layer.samples) / loss_scale**2
        updates = done // group["update_every"]
        keep = min(group["decay"], updates / (updates + 1.0))
        scales = 1.0 / layer.inputs.count, output_scale
        for factor, moment, scale in zip(factors, moments, scales[:: -1 if layer.turned else 1], strict=True):
            factor.learn(moment, scale, keep)
        anew = done % group["invert_every"] == 0
        stale = [anew or factor.drifted(group["drift"]) for factor in factors]
        if any(stale):
            for factor, moment, damping, is_stale in zip(
                factors, moments, split_damping(group["damping"], *factors), stale, strict=True
            ):
                if is_stale:
                    factor.invert(damping, moment)

    def _factors(self, layer: Layer, group: dict[str, Any]) -> tuple[Factor, Factor]:
        rank = None if group["projection"] == "none" else int(group["projection"])
        state, out = self.state[layer.weight], len(layer.weight)
        width = sum(parameter.numel() for parameter in layer.parameters) // out
        return Factor(state, "input", width, rank), Factor(state, "output", out, rank)

    def _due(self, layer: Layer) -> bool:
        if not layer.taken:
            return False
        return int(self.state[layer.weight].get("step", 0)) % int(self._group_of(layer)["update_every"]) == 0

    def _group_of(self, layer: Layer) -> dict[str, Any]:
        return next(own for own in self.param_groups if any(layer.weight is one for one in own["params"]))

    @contextmanager
    def _measured(self, probe: FisherProbe) -> Iterator[None]:
        before, probe.taker, self._probe = probe.taker, self._take, probe
        try:
            yield
        finally:
            probe.taker = before

    def _take(self, name: str, uses: list[Jacobian]) -> None:
        self._seen = True
        layer = self._layers.get(name)
        if layer is not None and self._due(layer):
            layer.take(uses)
        layer = self._layer_of_bias.get(name)
        if layer is not None and self._due(layer):
            layer.take_bias(uses)

    def _blind(self) -> ConfigError:
        """Return what is wrong where factors are due and nothing was seen."""
        if self._probe is None:
            return ConfigError(
                "KFAC has seen no layers: put the step's forward and backward pass into `with optimizer.observe():`"
            )
        try:
            self._probe.gram()
            why = "its probe has measured nothing of them"
        except MeasureError as problem:
            why = str(problem)
        return ConfigError(f"KFAC has seen no layers in the measured step, whose factors are due: {why}")

    def _forget(self) -> None:
        self._seen, self._probe = False, None
        for layer in self._layers.values():
            layer.clear()
