"""One random graph, measured and compared with one backward pass for each sample."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autobatch import FisherProbe, MeasureError

from ._graphs import Graph


@dataclass(frozen=True)
class Outcome:
    """What became of one graph.

    Attributes:
        kind: ``"right"``, ``"refused"``, ``"rows"`` (samples meet, and the measure says so), ``"empty"``, ``"wrong"``.
        mixed: whether samples meet or change places in it.
        text: the graph, and what is wrong or refused.
    """

    kind: str
    mixed: bool
    text: str


def check(seed: int) -> Outcome:
    """Measure the graph of a seed; then again, with one probe, at other weights and inputs, and after another graph.

    Args:
        seed: any number.

    Returns:
        What became of it: of the steps, the first that is wrong, or else the first.
    """
    draw = random.Random(seed)
    batch = draw.choice((2, 3, 4))
    shape = [batch, *(draw.choice((1, 2, 3, 4, batch)) for _ in range(draw.choice((1, 1, 2, 2, 3))))]
    model = Graph(seed, batch, draw.randint(2, 9), draw.choice((0.0, 0.0, 0.1, 0.3)))
    probe = FisherProbe(model, loss_reduction="sum", gradients=draw.choice(("library", "rows")))
    made = torch.Generator().manual_seed(seed)
    found = []
    for step in range(4):
        if step == 1:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.1 * torch.randn(parameter.shape, generator=made, dtype=torch.float64)
        model.seed = seed + 7919 * (step == 2)  # the third step goes another way
        found.append(_step(model, torch.randn(shape, generator=made, dtype=torch.float64), probe, draw))
    return next((outcome for outcome in found if outcome.kind == "wrong"), found[0])


def _step(model: Graph, x: Tensor, probe: FisherProbe, draw: random.Random) -> Outcome:
    batch = len(x)
    model.zero_grad()
    try:
        losses = _losses(model(x), batch)
        if losses.requires_grad:
            losses.sum().backward()
    except (RuntimeError, IndexError) as error:  # a graph that overwrites what its own backward pass needs
        return Outcome("empty", model.mixed, f"seed {model.seed}: {error}")
    step = _gradients(model)
    model.zero_grad()
    losses = _losses(model(x), batch)
    parameters = list(model.parameters())
    text = f"seed {model.seed}, B = {batch}, x {tuple(x.shape)}: " + "; ".join(model.trace)
    if not parameters or not losses.requires_grad or not bool(torch.isfinite(step).all()):
        return Outcome("empty", model.mixed, text)
    rows = []
    for i, value in enumerate(losses):
        found = torch.autograd.grad(value, parameters, retain_graph=i + 1 < batch, allow_unused=True)
        rows.append(_flat(parameters, found))
    jacobian = torch.stack(rows)
    expected = jacobian @ jacobian.T
    if float(expected.abs().max()) < 1e-20:
        return Outcome("empty", model.mixed, f"{text}: gradients that are zero but for round-off")
    order = torch.arange(batch)
    if not model.mixed and draw.random() < 0.25:  # the samples are said to be in another order
        draw.shuffle(names := list(range(batch)))
        order, text = torch.tensor(names), f"{text}; samples {names}"
    probe.samples = order if "; samples" in text else None
    with probe:
        _losses(model(x), batch).sum().backward()
    exactly, got = probe.gradients == "library", _gradients(model)
    if not _same(got, step, exactly=exactly):
        moved = 1e-7 if any(made.startswith("single") for made in model.trace) else 1e-13  # of its coarsest numbers
        if not exactly and not _same(_step_at(model, x * (1 + moved)), step, exactly=False):
            return Outcome("empty", model.mixed, f"{text}: gradients that round-off of the input changes as much")
        return Outcome("wrong", model.mixed, f"{text}: the step got other gradients ({probe.gradients})")
    try:
        gram = probe.gram()[order][:, order]
    except MeasureError as error:
        return Outcome("refused", model.mixed, f"{text}: {error}")
    orders = itertools.permutations(range(batch)) if model.mixed else [tuple(range(batch))]
    error = min(_error(gram[list(names)][:, list(names)], expected) for names in orders)  # rows may have changed places
    if error < 1e-5:
        return Outcome("right", model.mixed, text)
    if probe.spectrum().bn == "rows" and model.mixed:
        return Outcome("rows", True, text)
    return Outcome("wrong", model.mixed, f"{text}: off by {error:.2g}, bn={probe.spectrum().bn!r}")


def _step_at(model: Graph, x: Tensor) -> Tensor:
    """Return the gradients of an ordinary step."""
    model.zero_grad()
    _losses(model(x), len(x)).sum().backward()
    return _gradients(model)


def _error(gram: Tensor, expected: Tensor) -> float:
    return float((gram - expected).abs().max() / expected.abs().max()) if gram.shape == expected.shape else 1.0


def _same(one: Tensor, other: Tensor, *, exactly: bool) -> bool:
    return torch.equal(one, other) if exactly else bool((one - other).abs().max() <= 1e-5 * other.abs().max())


def _gradients(model: Graph) -> Tensor:
    parameters = list(model.parameters())
    return _flat(parameters, [p.grad for p in parameters]) if parameters else torch.zeros(0)


def _flat(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor:
    """Return gradients one after the other, float64, of complex ones the real and imaginary parts."""
    found = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    found = [torch.view_as_real(gradient.resolve_conj()) if gradient.is_complex() else gradient for gradient in found]
    return torch.cat([gradient.flatten().double() for gradient in found])


def _losses(output: Tensor, batch: int) -> Tensor:
    """Return a loss of each row that no symmetry makes zero; of samples that have lost their places, of each part."""
    rows = output.reshape(batch, -1) if output.numel() % batch == 0 else output.reshape(1, -1).expand(batch, -1)
    return (torch.tanh(rows).cumsum(1) ** 2).sum(1) + rows.sin().sum(1)
