"""Mini-Block Fisher: many small blocks of the empirical Fisher matrix, inverted in batches."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from autobatch._errors import CheckpointError
from autobatch._ranges import check_whole
from autobatch.optim._inverse import damped_inverse
from autobatch.optim._optimizer import FisherOptimizer
from autobatch.optim._steps import momenta_of, step_count, with_gradient, working_dtype


class MiniBlockFisher(FisherOptimizer):
    """A step that each small block of the empirical Fisher matrix preconditions (Bahamou et al., arXiv 2202.04124).

    With the gradient ḡ of the mini-batch, m = μ m + ḡ and for each block G = β G + (1 - β) ḡ ḡᵀ, a step is
    -lr ((G + λ I)⁻¹ m + γ θ). The blocks are: of a convolution one for each kernel, of k² x k² elements; of a linear
    layer's weight one of its inputs, shared by all of its outputs, over which ḡ ḡᵀ is averaged; of all else, biases and
    norm layers' scales, single elements. Nothing is known of a parameter but its shape: one of two dimensions, as an
    embedding's table too, is taken for a linear layer's weight (out, in), of more for a convolution's.

    That the Fisher matrix is the empirical one, and in blocks within layers, is from the paper's abstract. The blocks'
    shapes, their averages of mini-batch gradients, and the defaults are from memory. Ours are: G is a plain mean until
    that of weight β takes over; in the first ``invert_every`` steps, in which G is young, each update is followed by an
    inversion (the paper averages G over the data before it begins); a bias is not joined to its weight. Blocks are kept
    in float32 at least.

    Args:
        params: what it trains, see ``FisherOptimizer``.
        lr: learning rate, at least 0. A step is 1 / λ times that of SGD where gradients are small.
        momentum: μ, in [0, 1).
        decay: β, in [0, 1).
        damping: λ, at least 0; a singular block without damping has its pseudo-inverse. Of little damping steps may be
            long: one is at most ten times as long as the parameters, or as 1, and a log line tells of the first cut.
        weight_decay: γ, decoupled.
        update_every: steps from one update of G to the next.
        invert_every: steps from one inversion to the next, a multiple of that.
        largest_block: rows of a block, above which a weight gets the plain step, m.
        strict: whether that is an error.

    Raises:
        ConfigError: a setting is out of its range; with ``strict``, a weight has too large a block.
    """

    own_shapes: ClassVar = frozenset({"fisher", "inverse"})

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        *,
        momentum: float = 0.9,
        decay: float = 0.9,
        damping: float = 3e-3,
        weight_decay: float = 0.0,
        update_every: int = 10,
        invert_every: int = 100,
        largest_block: int = 4096,
        strict: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "decay": decay,
            "damping": damping,
            "weight_decay": weight_decay,
            "update_every": update_every,
            "invert_every": invert_every,
            "largest_block": largest_block,
        }
        super().__init__(params, defaults, strict=strict)

    def _check(self, group: Any) -> None:
        super()._check(group)
        check_whole(group["largest_block"], "largest_block")

    def _check_state(self, state: Mapping[str, Any]) -> None:
        super()._check_state(state)
        for own, theirs in zip(self.param_groups, state["param_groups"], strict=True):
            limits = sorted((own["largest_block"], theirs["largest_block"]))
            for parameter in own["params"]:
                if limits[0] < _block_rows(parameter) <= limits[1]:
                    raise CheckpointError(
                        f"MiniBlockFisher: the state is of largest_block={theirs['largest_block']}, the optimizer of "
                        f"{own['largest_block']}: {self._describe(parameter)} has blocks with one of them only"
                    )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, whose schedule of updates and inversions begins with them.

        Args:
            param_group: as torch's optimizers take it.
        """
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        large = [own for own in group["params"] if _block_rows(own) > group["largest_block"]]
        self._plainly(large, f"a block has more than largest_block={group['largest_block']} rows")

    def _move(self, group: dict[str, Any]) -> None:
        parameters, gradients = with_gradient(group)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if _block_rows(parameter) <= group["largest_block"]:
                _learn(self.state[parameter], gradient, group)
        momenta = momenta_of(self, parameters, group["momentum"], gradients)
        directions = [
            _direction(self.state[parameter], momentum)
            if _block_rows(parameter) <= group["largest_block"]
            else momentum
            for parameter, momentum in zip(parameters, momenta, strict=True)
        ]
        self._descend(parameters, directions, group)


def _block_rows(parameter: Tensor) -> int:
    """Return how many rows the blocks of a parameter have."""
    return math.prod(parameter.shape[2:]) if parameter.ndim > 2 else parameter.shape[1] if parameter.ndim == 2 else 1


def _learn(state: dict[str, Any], gradient: Tensor, group: dict[str, Any]) -> None:
    """Update and invert a parameter's blocks where it is time."""
    done = step_count(state)
    if done % group["update_every"]:
        return
    values = gradient.to(working_dtype(gradient))
    if values.ndim > 2:
        each = values.flatten(2).flatten(0, 1)
        blocks = each.unsqueeze(2) * each.unsqueeze(1)
    elif values.ndim == 2:
        blocks = values.mT @ values / len(values)
    else:
        blocks = values.square()
    updates = done // group["update_every"]
    if updates == 0:
        state["fisher"] = blocks.contiguous()
    else:
        state["fisher"].lerp_(blocks, 1.0 - min(group["decay"], updates / (updates + 1.0)))
    if done % group["invert_every"] == 0 or done < group["invert_every"]:
        if values.ndim > 1:
            state["inverse"] = damped_inverse(state["fisher"], group["damping"])
        else:
            damped = state["fisher"] + group["damping"]
            state["inverse"] = torch.where(damped == 0.0, 0.0, 1.0 / damped)


def _direction(state: dict[str, Any], momentum: Tensor) -> Tensor:
    """Return a parameter's momentum, preconditioned where it has blocks."""
    inverse: Tensor | None = state.get("inverse")
    if inverse is None:
        return momentum
    values = momentum.to(inverse.dtype)
    if values.ndim > 2:
        values = (inverse @ values.flatten(2).flatten(0, 1).unsqueeze(2)).view(momentum.shape)
    elif values.ndim == 2:
        values = values @ inverse
    else:
        values = values * inverse
    return values.to(momentum.dtype)
