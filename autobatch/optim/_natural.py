"""Natural gradient descent in function space, for small batches."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autobatch._errors import ConfigError, UnknownNameError, near_names
from autobatch.fisher import Jacobian, TakenGradients
from autobatch.optim._optimizer import FisherOptimizer
from autobatch.optim._rows import Rows
from autobatch.optim._settings import check_between
from autobatch.optim._solves import SOLVERS, Problem, check_coupled, check_rows

Closure = Callable[[], tuple[Tensor, Tensor]]

_TWICE = "NaturalGradient: the closure calls the model more than once: outputs and loss must come of one call"


class NaturalGradient(FisherOptimizer):
    """Natural gradient descent, θ - lr (G + ρI)⁻¹ ∇L, with G = JᵀJ / N of the outputs or an approximation of it.

    Approximations are those of Karakida and Osawa (2020, arXiv 2010.00879): ``"layer"`` keeps the diagonal blocks of
    layers, ``"tridiagonal"`` also those beside them, ``"unit"`` one block for each unit (a row of a weight, with its
    bias), ``"kfac"`` is the Kronecker product of each layer's factors, damped by √ρ times and over π. Their dynamics
    are what ``isotropy`` tells. Tri-diagonal blocks need not be positive definite: between no damping and much of it a
    step may be long, and one that goes uphill is refused. All is solved in rows of J, C N of them for C outputs and N
    samples, and in float64; no matrix is as wide as there are parameters. A layer is a module that has parameters, in
    the model's order.

    G is the Fisher matrix of a Gaussian model of the outputs, that of squared errors; with another loss it is the same
    G, not the loss's own. The loss is a mean over the samples: a step on their sum is N times as long.

        optimizer = NaturalGradient(model.parameters(), model, approximation="layer", lr=0.25)

        def closure():
            outputs = model(inputs)
            return outputs, 0.5 * (outputs - targets).square().sum(1).mean()

        loss = optimizer.step(closure)

    A step calls the closure C + 1 times, each time for one backward pass of the measuring room's capture, with the same
    random numbers: dropout drops the same units. BatchNorm in training mode is refused, as its outputs are no functions
    of single samples.

    Args:
        params: what it trains, see ``FisherOptimizer``.
        model: the network that they are of.
        lr: learning rate, at least 0.
        approximation: of F; one of those, or ``"exact"``.
        damping: ρ, at least 0; without, what is singular has its pseudo-inverse. A step is at most ten times as
            long as the parameters, or as 1, and a log line tells of the first cut.
        weight_decay: decoupled.
        strict: whether a parameter that no Kronecker factors are known of is an error; else it gets the plain step.

    Raises:
        ConfigError: a setting is out of its range, the model is in a wrapper, or a parameter is none of the model's.
        UnknownNameError: there is no such approximation.
    """

    local: ClassVar = True

    def __init__(
        self,
        params: Any,
        model: nn.Module,
        lr: float = 1.0,
        *,
        approximation: Literal["exact", "layer", "tridiagonal", "kfac", "unit"] = "exact",
        damping: float = 0.0,
        weight_decay: float = 0.0,
        strict: bool = False,
    ) -> None:
        if str(approximation) not in SOLVERS:
            raise UnknownNameError(f"approximation: {approximation!r}: {near_names(str(approximation), SOLVERS)}")
        check_between(damping, "damping", 0.0, math.inf)
        self._look_at(model)
        self._approximation = approximation
        self._damping = damping
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay}, strict=strict)

    def _least_damping(self) -> float:
        return self._damping

    def check_before(self, samples: int, outputs: int) -> None:
        """Refuse what no step can be taken of if all layers are used, before any is.

        Args:
            samples: N of a batch.
            outputs: C of a sample.

        Raises:
            ConfigError: as of ``check``, or tri-diagonal blocks are singular without damping.
        """
        self.check(samples, outputs)
        if self._approximation == "tridiagonal" and not self._damping:
            named = self._model.named_parameters()
            check_coupled(len({name.rpartition(".")[0] for name, own in named if own.requires_grad}))

    def check(self, samples: int, outputs: int) -> None:
        """Refuse what no step can be taken of.

        Args:
            samples: N of a batch.
            outputs: C of a sample.

        Raises:
            ConfigError: C N is above 8,192, or BatchNorm takes its statistics from the batch.
        """
        check_rows(samples * outputs, f"{samples:,} samples of {outputs:,} outputs")
        for name, module in self._model.named_modules():
            if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
                raise ConfigError(
                    f"NaturalGradient: {name!r}, a {type(module).__name__}, joins the samples of a batch, so that no "
                    "output is one sample's: call its eval(), or take another norm layer"
                )

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor:  # type: ignore[override]
        """Take a step.

        Args:
            closure: needed; returns the model's outputs (N, ...) and the loss, a scalar that is a function of them;
                with no backward pass.

        Returns:
            The loss before the step.

        Raises:
            ConfigError: there is no closure, or it returned something else; tri-diagonal blocks are singular without
                damping, or their step goes uphill; BatchNorm is in training mode; C N is above 8,192.
            MeasureError: the gradients of some sample could not be told apart.
        """
        if closure is None:
            raise ConfigError("NaturalGradient: step() needs a closure that returns (outputs, loss)")
        closure = _repeatable(closure, next(self._model.parameters()).device)
        with torch.enable_grad():
            outputs, loss = _checked(closure())
            slope = torch.autograd.grad(loss, outputs, allow_unused=True)[0]
            if slope is None:
                raise ConfigError(
                    "NaturalGradient: the closure's loss does not depend on the outputs that it returns: compute it of "
                    "those, of one call of the model"
                )
            gradient = slope.reshape(len(outputs), -1)
        samples, count = gradient.shape
        self.check(samples, count)
        self._tell_cut()
        taken = {
            name: Rows(parameter, count, samples)
            for name, parameter in self._model.named_parameters()
            if any(parameter is own for group in self.param_groups for own in group["params"])
        }
        self._pass_through(closure, taken, count)
        layers: dict[str, list[Rows]] = {}
        for name, rows in taken.items():
            if rows.taken:
                layers.setdefault(name.rpartition(".")[0], []).append(rows)
        problem = Problem(list(layers.values()), gradient.mT.reshape(-1).double(), samples, self._damping)
        found = {id(parameter): direction for parameter, direction in SOLVERS[self._approximation](problem)}
        self._plainly(problem.plain, "no Kronecker factors of its layer are known")
        for group in self.param_groups:
            own = [parameter for parameter in group["params"] if id(parameter) in found]
            self._descend(own, [found[id(parameter)].to(parameter.dtype) for parameter in own], group)
        return loss.detach()

    def _pass_through(self, closure: Closure, taken: dict[str, Rows], count: int) -> None:
        """Have the gradients of every output taken, one pass for each."""
        parameters = [rows.parameter for rows in taken.values() if rows.parameter.requires_grad]
        place = 0

        def take(name: str, uses: list[Jacobian]) -> None:
            if name in taken:
                taken[name].take(place, uses)

        with torch.enable_grad(), TakenGradients(self._model, take, twice=_TWICE, passes=count):
            for output in range(count):
                outputs, _ = closure()
                place = output  # what the capture settles at the next pass's beginning is still the last one's
                one = outputs.reshape(len(outputs), -1)[:, output].sum()
                torch.autograd.grad(one, parameters, allow_unused=True)


def _repeatable(closure: Closure, device: torch.device) -> Closure:
    """Return a closure that draws the same random numbers in each call."""
    state = torch.get_rng_state()
    of_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def again() -> tuple[Tensor, Tensor]:
        torch.set_rng_state(state)
        if of_device is not None:
            torch.cuda.set_rng_state(of_device, device)
        return closure()

    return again


def _checked(returned: Any) -> tuple[Tensor, Tensor]:
    match returned:
        case (Tensor() as outputs, Tensor() as loss):
            if not outputs.ndim or not len(outputs):
                wrong = f"outputs of one sample at least, (N, ...), got shape {tuple(outputs.shape)}"
            elif loss.numel() != 1:
                wrong = f"a loss that is one number, got shape {tuple(loss.shape)}"
            elif not (outputs.requires_grad and loss.requires_grad):
                wrong = "outputs and a loss that depend on the parameters, got detached ones"
            else:
                return outputs, loss
        case _:
            wrong = f"(outputs, loss), got {type(returned).__name__}"
    raise ConfigError(f"NaturalGradient: expected the closure to return {wrong}")
