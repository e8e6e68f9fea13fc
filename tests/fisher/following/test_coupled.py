"""Samples that act on each other through a mask, an order or a factor: their label is "rows"; that of others stays."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch.fisher import FisherProbe

from ..reference import gram_one_sample_at_a_time

B, C = 8, 6
Loss = Callable[[Tensor, Tensor], Tensor]
Between = Callable[[Tensor, Tensor], Tensor]


class Gated(nn.Module):
    def __init__(self, between: Between = lambda h, _: h) -> None:
        super().__init__()
        self.enter, self.head, self.between = nn.Linear(C, 5), nn.Linear(5, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.enter(x), x))


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(B, C, dtype=torch.float64), torch.arange(B) % 3


def cross_entropies(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y, reduction="none")


def measured(model: nn.Module, x: Tensor, y: Tensor, loss: Loss, reduction: str = "sum") -> FisherProbe:
    probe = FisherProbe(model, loss_reduction=reduction)
    with probe:
        loss(model(x), y).backward()
    return probe


def written(h: Tensor, mask: Tensor) -> Tensor:
    h = h.clone()
    h[mask] = 0.0
    return h


MIXED: dict[str, Between] = {
    "above-the-mean": lambda h, x: h * (x[:, :1] > x[:, :1].mean()),
    "where-above-the-median": lambda h, x: torch.where(x[:, :1] >= x[:, :1].median(), h, h.sin()),
    "written-above-the-mean": lambda h, x: written(h, x[:, 0] > x[:, 0].mean()),
    "masks-that-meet": lambda h, x: h * ((x[:, :1] > 0) & (x[:, :1] < x.mean(0).max())),
    "rank": lambda h, x: h * (1 + x[:, :1].argsort(0).argsort(0) / len(x)),
}


@pytest.mark.parametrize("between", MIXED.values(), ids=MIXED.keys())
def test_models_that_compare_samples_are_rows(between: Between) -> None:
    (x, y), model = batch(), Gated(between).double()
    assert measured(model, x, y, F.cross_entropy).spectrum().bn == "rows"


OWN: dict[str, Between] = {
    "above-a-constant": lambda h, x: h * (x[:, :1] > 0.1),
    "above-its-own-mean": lambda h, x: h * (x > x.mean(1, keepdim=True))[:, :5],
    "largest-features": lambda h, x: h + h.topk(2, 1).values.sum(1, keepdim=True) + x.sort(1).values[:, :5],
    "rank-of-features": lambda h, x: h * (1 + x.argsort(1).argsort(1)[:, :5] / 5),
    "clamped": lambda h, x: h.clamp(-1, 1) * h.detach(),
    "written": lambda h, x: written(h, x[:, 0] > 0),
    "rows-by-group": lambda h, x: h[(x[:, 0] > 0).long().sort(stable=True).indices][
        (x[:, 0] > 0).long().sort(stable=True).indices.argsort()
    ],
}


@pytest.mark.parametrize("between", OWN.values(), ids=OWN.keys())
def test_models_that_look_at_each_sample_alone(between: Between) -> None:
    (x, y), model = batch(), Gated(between).double()
    probe = measured(model, x, y, lambda z, y: F.cross_entropy(z, y, reduction="sum"))
    expected = gram_one_sample_at_a_time(model, x, y, lambda z, y: F.cross_entropy(z, y, reduction="sum"))
    assert float((probe.gram() - expected).abs().max() / expected.abs().max()) < 1e-10
    assert probe.spectrum().bn == "none"


def balance(z: Tensor, y: Tensor) -> Tensor:
    chosen = F.one_hot(z.argmax(-1), 3).to(z).mean(0)
    return F.cross_entropy(z, y) + 0.1 * (chosen * z.softmax(1).mean(0)).sum()


def hard(z: Tensor, y: Tensor) -> Tensor:
    each = cross_entropies(z, y)
    return each[each > each.mean()].mean()


def below(z: Tensor, y: Tensor) -> Tensor:
    each = cross_entropies(z, y)
    return (each * (each <= each.detach().median())).sum()


MIXED_LOSSES: dict[str, Loss] = {
    "by-itself": lambda z, y: F.cross_entropy(z, y) * F.cross_entropy(z, y).detach(),
    "by-its-scale": lambda z, y: F.mse_loss(z, z.detach() + 1) / z.detach().pow(2).mean(),
    "balance": balance,
    "hard": hard,
    "hardest": lambda z, y: cross_entropies(z, y).topk(3).values.mean(),
    "hardest-sorted": lambda z, y: cross_entropies(z, y).sort(descending=True).values[:3].mean(),
    "hardest-by-index": lambda z, y: cross_entropies(z, y)[cross_entropies(z, y).argsort()[:3]].mean(),
    "below-the-median": below,
}


@pytest.mark.parametrize("loss", MIXED_LOSSES.values(), ids=MIXED_LOSSES.keys())
def test_losses_that_compare_samples_are_rows(loss: Loss) -> None:
    (x, y), model = batch(), Gated().double()
    assert measured(model, x, y, loss, "mean").spectrum().bn == "rows"


def masked(z: Tensor, y: Tensor) -> Tensor:
    mask = (z.detach().argmax(1) != 1).float()
    return (cross_entropies(z, y) * mask).sum() / mask.sum()


def masked_mean(z: Tensor, y: Tensor) -> Tensor:
    mask = 1 - (z.detach().argmax(1) == 1).to(z)
    return (cross_entropies(z, y) * mask).mean() / (mask.mean() + 1e-8).clamp(min=0.1)


OWN_LOSSES: dict[str, Loss] = {
    "masked": masked,
    "masked-mean": masked_mean,
    "of-some-targets": lambda z, y: cross_entropies(z, y)[y > 0].mean(),
    "focal": lambda z, y: ((1 - (-cross_entropies(z, y)).exp()) ** 2 * cross_entropies(z, y)).mean(),
    "by-the-number": lambda z, y: cross_entropies(z, y).sum() / len(z),
}


@pytest.mark.parametrize("loss", OWN_LOSSES.values(), ids=OWN_LOSSES.keys())
def test_losses_of_each_sample_alone(loss: Loss) -> None:
    (x, y), model = batch(), Gated().double()
    assert measured(model, x, y, loss, "mean").spectrum().bn == "none"


Hook = Callable[[Tensor], Tensor | None]
hooks = pytest.mark.parametrize(
    ("hook", "bn"),
    [
        (lambda g: g / g.norm(), "rows"),
        (lambda g: g.flip(0), "rows"),
        (lambda g: g - g.mean(0), "rows"),
        (lambda g: F.batch_norm(g, None, None, training=True), "rows"),
        (lambda g: (2 * g).clamp(-1, 1), "none"),
        (lambda g: g / g.norm(dim=1, keepdim=True), "none"),
        (lambda g: print(g.norm()), "none"),
    ],
)


def assert_heard(between: Between, bn: str) -> None:
    """The step gets the gradients that it gets without a probe; F is named so, and that of single samples if none."""
    (x, y), model = batch(), Gated(between).double()
    probe = measured(model, x, y, lambda z, y: F.cross_entropy(z, y, reduction="sum"))
    wanted = [p.grad for p in model.parameters()]
    model.zero_grad()
    F.cross_entropy(model(x), y, reduction="sum").backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), wanted, strict=True))
    assert probe.spectrum().bn == bn
    if bn == "none":
        expected = gram_one_sample_at_a_time(model, x, y, lambda z, y: F.cross_entropy(z, y, reduction="sum"))
        assert float((probe.gram() - expected).abs().max() / expected.abs().max()) < 1e-10


@hooks
def test_hooks_on_tensors(hook: Hook, bn: str) -> None:
    def hooked(h: Tensor, _: Tensor) -> Tensor:
        h = h.sin()
        h.register_hook(hook)
        return h

    assert_heard(hooked, bn)


class Sine(nn.Module):
    def forward(self, h: Tensor, _: Tensor) -> Tensor:
        return h.sin()


@hooks
@pytest.mark.parametrize("kind", ["full", "ahead"])
def test_backward_hooks_of_modules(kind: str, hook: Hook, bn: str) -> None:
    def full(_: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        found = hook(inputs[0])
        return None if found is None else (found, *inputs[1:])

    def ahead(_: nn.Module, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        found = hook(outputs[0])
        return None if found is None else (found,)

    sine = Sine()
    if kind == "full":
        sine.register_full_backward_hook(full)
    else:
        sine.register_full_backward_pre_hook(ahead)
    assert_heard(sine, bn)
    assert (list(sine._backward_hooks.values()), list(sine._backward_pre_hooks.values())) == (
        ([full], []) if kind == "full" else ([], [ahead])
    )


def test_backward_hooks_of_a_module_that_is_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sine = Sine()
            self.sine.register_full_backward_hook(lambda _, inputs, outputs: (outputs[0].flip(0), *inputs[1:]))

        def forward(self, h: Tensor, x: Tensor) -> Tensor:
            return self.sine(self.sine(h, x), x)

    assert_heard(Twice(), "rows")


FIRST = pytest.mark.filterwarnings("ignore:Full backward hook is firing when gradients are computed")


@FIRST
@pytest.mark.filterwarnings("ignore:Using a non-full backward hook:FutureWarning")
@hooks
@pytest.mark.parametrize("kind", ["full", "ahead", "half"])
def test_backward_hooks_on_all_modules(kind: str, hook: Hook, bn: str) -> None:
    def full(module: nn.Module, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        found = hook(inputs[0]) if isinstance(module, Sine) else None
        return None if found is None else (found, *inputs[1:])

    def ahead(module: nn.Module, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        found = hook(outputs[0]) if isinstance(module, Sine) else None
        return None if found is None else (found,)

    if kind == "half":  # deprecated: nothing is known of how its gradients lie
        handle = nn.modules.module.register_module_backward_hook(full)
        bn = "none" if hook(torch.zeros(2, 2)) is None else "rows"
    elif kind == "full":
        handle = nn.modules.module.register_module_full_backward_hook(full)
    else:
        handle = nn.modules.module.register_module_full_backward_pre_hook(ahead)
    try:
        own = (
            nn.modules.module._global_backward_pre_hooks
            if kind == "ahead"
            else nn.modules.module._global_backward_hooks
        )
        before = dict(own)
        assert_heard(Sine(), bn)
        assert own == before
    finally:
        handle.remove()
        nn.modules.module._global_is_full_backward_hook = None


@FIRST
def test_a_backward_hook_on_a_loss_beside_the_model() -> None:
    (x, y), model, loss = batch(), Gated().double(), nn.CrossEntropyLoss()
    assert measured(model, x, y, loss, "mean").spectrum().bn == "none"
    handle = nn.modules.module.register_module_full_backward_hook(
        lambda module, inputs, _: (inputs[0].flip(0), *inputs[1:]) if module is loss else None
    )
    try:
        assert measured(model, x, y, loss, "mean").spectrum().bn == "rows"
    finally:
        handle.remove()


def test_backward_hooks_that_a_module_is_given_in_the_step() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sine = Sine()

        def forward(self, h: Tensor, x: Tensor) -> Tensor:
            if not self.sine._backward_hooks:
                self.sine.register_full_backward_hook(lambda _, inputs, __: (inputs[0].flip(0), *inputs[1:]))
            return self.sine(h, x)

    assert_heard(Late(), "rows")


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_hook_that_changes_gradients_in_place(everywhere: bool) -> None:
    def ahead(module: nn.Module, outputs: tuple[Tensor, ...]) -> None:
        if isinstance(module, Sine):
            outputs[0].sub_(outputs[0].mean(0))

    sine = Sine()
    own = nn.modules.module.register_module_full_backward_pre_hook
    handle = own(ahead) if everywhere else sine.register_full_backward_pre_hook(ahead)
    try:
        assert_heard(sine, "rows")
    finally:
        handle.remove()


def test_a_hook_that_all_modules_are_given_in_the_step() -> None:
    handles: list[Any] = []

    def mixing(module: nn.Module, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (outputs[0].flip(0),) if isinstance(module, Sine) else None

    class Late(Sine):
        def forward(self, h: Tensor, x: Tensor) -> Tensor:
            if not handles:
                handles.append(nn.modules.module.register_module_full_backward_pre_hook(mixing))
            return super().forward(h, x)

    (x, y), model = batch(), Gated(Late()).double()
    try:
        assert measured(model, x, y, lambda z, y: F.cross_entropy(z, y, reduction="sum")).spectrum().bn == "rows"
    finally:
        handles[0].remove()
