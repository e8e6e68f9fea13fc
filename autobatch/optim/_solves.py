"""The natural gradient in function space: each approximation of F as solves in rows of J, never P x P.

With rows J of the outputs' gradients, N samples and u the loss's gradient by the outputs, the step is
(G + ρI)⁻¹ Jᵀu for a G that is JᵀJ / N or blocks of it. Where G = SᵀTS / N with S the blocks of J in a diagonal,
(G + ρI)⁻¹ Sᵀ = Sᵀ (T S Sᵀ / N + ρI)⁻¹: what is solved has as many rows as J, or as many as the blocks together.
Each solver takes the layers' rows, u (C N,), N and ρ, and returns a direction for every parameter.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autobatch._errors import ConfigError
from autobatch.optim._dynamics import couplings
from autobatch.optim._inverse import damped_inverse
from autobatch.optim._rows import Rows

_LARGEST = 8192
"""Rows of what is solved: in float64 a matrix of half a gibibyte."""

Directions = list[tuple[Tensor, Tensor]]
"""(parameter, direction) of each."""


@dataclass(frozen=True)
class Problem:
    """What is solved in one step.

    Attributes:
        layers: the rows of each layer's parameters, layer by layer from the input on.
        gradient: u, (C N,) float64.
        samples: N.
        damping: ρ.
        plain: parameters that a solver has given the gradient itself.
    """

    layers: list[list[Rows]]
    gradient: Tensor
    samples: int
    damping: float
    plain: list[Tensor] = field(default_factory=list)

    def solved(self, gram: Tensor) -> Tensor:
        """Return (gram / N + ρI)⁻¹ u, with the pseudo-inverse of what is singular."""
        return damped_inverse(gram / self.samples, self.damping) @ self.gradient


def check_rows(rows: int, of: str) -> None:
    """Refuse what has too many rows to be solved.

    Args:
        rows: how many.
        of: what they are of.

    Raises:
        ConfigError: they are too many.
    """
    if rows > _LARGEST:
        raise ConfigError(
            f"NaturalGradient: {of} are {rows:,} rows to solve, expected at most {_LARGEST:,}: take smaller batches, "
            "or KFAC"
        )


def check_coupled(layers: int) -> None:
    """Refuse tri-diagonal blocks that are singular without damping.

    Args:
        layers: how many.

    Raises:
        ConfigError: they are.
    """
    if layers % 3 == 2:
        raise ConfigError(
            f'approximation="tridiagonal" of {layers} layers is singular without damping (so it is of 2, 5, 8, ...): '
            "give damping, or another approximation"
        )


def exact(problem: Problem) -> Directions:
    """Solve with the whole of F."""
    rows = [own for layer in problem.layers for own in layer]
    return _pulled(rows, problem.solved(_gram(rows)))


def by_layer(problem: Problem) -> Directions:
    """Solve with the diagonal blocks of layers."""
    return [found for layer in problem.layers for found in _pulled(layer, problem.solved(_gram(layer)))]


def tridiagonal(problem: Problem) -> Directions:
    """Solve with the diagonal blocks of layers and those beside them."""
    grams = [_gram(layer) for layer in problem.layers]
    size = len(problem.gradient)
    coupled = couplings(len(grams)).to(problem.gradient)
    if problem.damping == 0.0:
        check_coupled(len(grams))
        shares = torch.linalg.solve(coupled, torch.ones_like(coupled[0]))
        weights = [share * problem.solved(gram) for share, gram in zip(shares, grams, strict=True)]
    else:
        check_rows(size * len(grams), f'{size} outputs of all samples in {len(grams)} layers of "tridiagonal"')
        system = torch.cat(
            [torch.kron(column.unsqueeze(1), gram) for column, gram in zip(coupled, grams, strict=True)], 1
        )
        system /= problem.samples
        system.diagonal().add_(problem.damping)
        weights = list(torch.linalg.solve(system, problem.gradient.repeat(len(grams))).view(len(grams), size))
        if sum(float(problem.gradient @ gram @ own) for gram, own in zip(grams, weights, strict=True)) < 0.0:
            raise ConfigError(
                f'approximation="tridiagonal" with damping={problem.damping:g} is indefinite, and its step goes uphill:'
                " give much less or more damping, or another approximation"
            )
    return [found for layer, own in zip(problem.layers, weights, strict=True) for found in _pulled(layer, own)]


def by_unit(problem: Problem) -> Directions:
    """Solve with one block for each unit: a row of a weight, with its bias."""
    found: Directions = []
    size = len(problem.gradient)
    for layer in problem.layers:
        first = layer[0]
        joined = [rows for rows in layer if rows.units == first.units and not any(rows.turned | first.turned)] or [
            first
        ]
        for together in [joined, *([rows] for rows in layer if rows not in joined)]:
            parts: list[list[Tensor]] = [[] for _ in together]
            for units, block in together[0].blocks(spare=2 * size * size):
                blocks = [block, *(rows.block(units.start, units.stop) for rows in together[1:])]
                whole = torch.cat(blocks, dim=2).transpose(0, 1)
                weights = damped_inverse(whole @ whole.mT / problem.samples, problem.damping) @ problem.gradient
                for part, own in zip(parts, blocks, strict=True):
                    part.append(torch.einsum("un,nuw->uw", weights, own))
            found += [
                (rows.parameter, torch.cat(part).view(rows.parameter.shape))
                for rows, part in zip(together, parts, strict=True)
            ]
    return found


def kronecker(problem: Problem) -> Directions:
    """Solve with Kronecker factors of each layer; what is no layer's weight or bias gets the gradient."""
    found: Directions = []
    for layer in problem.layers:
        weight = next((rows for rows in layer if rows.factors() is not None and len(rows.turned) == 1), None)
        bias = next((rows for rows in layer if weight is not None and rows.shifts(weight)), None)
        if weight is not None:
            left, right, places = weight.factors()  # type: ignore[misc]
            check_rows(len(left), 'the positions of a layer in all outputs of all samples, which "kfac" takes,')
            if bias is not None:
                right = torch.cat([right, right.new_ones(len(right), 1)], dim=1)
            scales = left.square().sum() / problem.samples / left.shape[1], right.square().sum() / right.numel()
            balance = (scales[1] / scales[0]).sqrt() if bool(scales[0] * scales[1] > 0) else torch.ones_like(scales[0])
            root = problem.damping**0.5
            outer = damped_inverse(left @ left.mT / problem.samples, root / balance)
            inner = damped_inverse(right @ right.mT / len(right), root * balance)
            direction = left.mT @ (outer * problem.gradient[places]) @ inner @ right
            if bias is not None:
                found.append((bias.parameter, direction[:, -1]))
                direction = direction[:, :-1]
            found.append((weight.parameter, direction.reshape(weight.parameter.shape)))
        others = [rows for rows in layer if rows is not weight and rows is not bias]
        problem.plain.extend(rows.parameter for rows in others)
        found += _pulled(others, problem.gradient)
    return found


SOLVERS: dict[str, Callable[[Problem], Directions]] = {
    "exact": exact,
    "layer": by_layer,
    "tridiagonal": tridiagonal,
    "kfac": kronecker,
    "unit": by_unit,
}


def _gram(layer: list[Rows]) -> Tensor:
    total = layer[0].gram()
    for rows in layer[1:]:
        total = total + rows.gram()
    return total


def _pulled(layer: list[Rows], weights: Tensor) -> Directions:
    return [(rows.parameter, rows.transposed(weights)) for rows in layer]
