"""Kinds of models that were once measured wrong without an error: now right, or refused with what and why."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe, _registry, register_keeping

B, T, C = 6, 6, 6  # as many positions and channels as samples: shapes tell nothing


def randn(*shape: int, **options: Any) -> Tensor:
    return torch.randn(*shape, **{"dtype": torch.float64, **options})


def losses(output: Tensor) -> Tensor:
    rows = output.reshape(len(output), -1)
    return (rows.cumsum(1) ** 2).sum(1) + rows.sin().sum(1)


def expected(model: nn.Module, *inputs: Tensor) -> Tensor:
    """F of the rows' own losses, one backward pass for each."""
    parameters = list(model.parameters())
    each = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses(model(*inputs))]
    rows = [
        torch.cat([(torch.view_as_real(g.resolve_conj()) if g.is_complex() else g).flatten() for g in row])
        for row in each
    ]
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def probed(model: nn.Module, *inputs: Tensor) -> FisherProbe:
    probe = FisherProbe(model, loss_reduction="sum")
    with probe:
        losses(model(*inputs)).sum().backward()
    return probe


def assert_right(model: nn.Module, *inputs: Tensor) -> None:
    gram, reference = probed(model, *inputs).gram(), expected(model, *inputs)
    assert float((gram - reference).abs().max() / reference.abs().max()) < 1e-9


class Between(nn.Module):
    """A layer, something without parameters, and a layer."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.between = nn.Linear(C, C).double(), nn.Linear(C, 3).double(), between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x).sin()))


def copied(h: Tensor) -> Tensor:
    y = h.clone()
    y[:] = h.flip(0)
    return y


def changed_under_a_view(h: Tensor) -> Tensor:
    buffer = torch.zeros_like(h)
    view = buffer[:]
    buffer.copy_(h.flip(0))
    return view


def written_in_parts(one: Tensor, other: Tensor) -> Tensor:
    buffer = one.new_empty(B, 2 * C)
    buffer[:, :C].copy_(one)
    buffer[:, C:].copy_(other)
    return buffer[:, ::2]


def written_over_what_has_gradients(h: Tensor) -> Tensor:
    buffer = torch.ones(len(h), C, dtype=h.dtype, requires_grad=True).sin()
    buffer[:, :3].copy_(h[:, :3])
    return buffer


def written_by_steps(steps: Sequence[Tensor]) -> Tensor:
    buffer = torch.empty(len(steps), *steps[0].shape, dtype=steps[0].dtype)
    for i, step in enumerate(steps):
        buffer[i].copy_(step)
    return buffer.sum(0)


# In place of the samples' own rows come those of others: alone, or joined with what is in its place.
MOVED: dict[str, Callable[[Tensor], Tensor]] = {
    "mixup": lambda h: 0.7 * h + 0.3 * h.flip(0),
    "where": lambda h: torch.where(h > 0, h, h.roll(1, 0)),
    "cat": lambda h: torch.cat([h[:, :3], h.flip(0)[:, 3:]], 1),
    "stack": lambda h: torch.stack([h, h.flip(0)], -1).sum(-1),
    "cumulated": lambda h: h + h.cumsum(0),
    "lerp": lambda h: torch.lerp(h, h.flip(0), 0.3),
    "addcmul": lambda h: torch.addcmul(h, h, h.flip(0)),
    "in-place": lambda h: h.clone().add_(h.flip(0)),
    "assigned": copied,
    "under-a-view": changed_under_a_view,
    "written-in-parts": lambda h: written_in_parts(h, h.flip(0)),
    "written-by-steps": lambda h: written_by_steps([h, h.flip(0)]),
    "strided": lambda h: h.as_strided((B, C), (1, C)),
    "strided-over-samples": lambda h: h.as_strided((B - 1, 2 * C), (C, 1))[:, ::2],
    "turned-in-place": lambda h: h.clone().t_() * h,
    "padded": lambda h: F.pad(h, (0, 0, 1, -1)),
    "looked-up": lambda h: F.embedding(torch.arange(B).flip(0), h),
    "indexed-by-two": lambda h: h[torch.arange(B), torch.arange(C).expand(B, C).T],
    "sorted-by-axis": lambda h: h.sort(axis=0).values,
    "largest": lambda h: h.topk(B, 0).values,
    "vector-on-a-matrix": lambda h: h * h[:, 0],
    "groups-of-samples": lambda h: F.group_norm(h.T.unsqueeze(0), 2)[0].T,
    "layer-norm-of-all": lambda h: F.layer_norm(h, h.shape) * h.flip(0),
    "attention-over-samples": lambda h: (h @ h.T).softmax(-1) @ h,
    "product-of-square": lambda h: h @ h,
    "turned-by-einsum": lambda h: torch.einsum("ab,bc->ac", torch.eye(B, dtype=h.dtype).flip(0), h) + h,
    "without-gradient": lambda h: h * without_gradient(lambda: h.flip(0)),
    "renorm": lambda h: h.renorm(2, 1, 0.1) * h.flip(0),
    "gumbel": lambda h: F.gumbel_softmax(h, 1, dim=0) * h.flip(0),
}


@pytest.mark.parametrize("between", MOVED.values(), ids=MOVED.keys())
def test_what_is_lost_stays_lost(between: Callable[[Tensor], Tensor]) -> None:
    probe = probed(Between(between), randn(B, C))
    with pytest.raises(
        MeasureError, match=r"'second.weight' of module 'second' \(Linear\).*(not be followed|lies in a feature)"
    ):
        probe.gram()


def without_gradient(run: Callable[[], Tensor]) -> Tensor:
    with torch.no_grad():
        return run()


# Samples act on each other's values, but every row is still a sample's own.
COUPLED: dict[str, Callable[[Tensor], Tensor]] = {
    "centred": lambda h: h - h.mean(0, keepdim=True),
    "standardised": lambda h: (h - h.mean(0)) / (h.std(0) + 1),
    "by-the-largest": lambda h: h / h.abs().max(),
    "minibatch-deviation": lambda h: torch.cat([h[:, 1:], h.std(0).mean().expand(len(h), 1)], 1),
    "without-gradient": lambda h: h - without_gradient(lambda: h.mean(0)),
    "norm-over-samples": lambda h: h / (h.norm(1, dim=0, keepdim=True) + 1),
}


@pytest.mark.parametrize("between", COUPLED.values(), ids=COUPLED.keys())
def test_batch_statistics_by_hand_are_rows_and_said_to_be(between: Callable[[Tensor], Tensor]) -> None:
    assert probed(Between(between), randn(B, C)).spectrum().bn == "rows"


@pytest.mark.parametrize(
    ("loss", "bn"),
    [
        (lambda z: losses(z).mean(), "none"),
        (lambda z: F.cross_entropy(z, torch.zeros(B, dtype=torch.long)), "none"),
        (lambda z: 0.5 * F.mse_loss(z, torch.ones_like(z)) + 0.1 * z.abs().mean(), "none"),
        (lambda z: (losses(z) * torch.arange(B)).sum() / 3.0, "none"),
        (lambda z: F.cross_entropy(z[1:], torch.zeros(B - 1, dtype=torch.long)), "none"),
        (lambda z: torch.stack([F.mse_loss(row, torch.ones_like(row)) for row in z[:, None]]).mean(), "none"),
        (
            lambda z: F.ctc_loss(
                z.log_softmax(1).expand(4, B, 3), torch.ones(B, 2, dtype=torch.long), (4,) * B, (2,) * B
            ),
            "none",
        ),
        (lambda z: F.cross_entropy(F.normalize(z) @ F.normalize(z).T, torch.arange(B)), "rows"),
        (lambda z: F.cross_entropy(z.T, torch.zeros(3, dtype=torch.long)), "rows"),
        (lambda z: losses(z).mean().sqrt(), "rows"),
        (lambda z: losses(z).mean() * z.sum(), "rows"),
        (lambda z: (z.var(0) - 1).square().sum() + z.mean(), "rows"),
        (lambda z: losses(z).logsumexp(0), "rows"),
        # Losses that sum by themselves, of several arguments: each sample's own.
        (lambda z: F.mse_loss(z, z.sin()), "none"),
        (lambda z: F.l1_loss(z.flip(0), z.flip(0).sin()), "none"),
        (lambda z: F.cross_entropy(z, z.sin().softmax(1)) + F.cross_entropy(z, z.argmax(1)), "none"),
        (lambda z: F.kl_div(z.log_softmax(1), z.sin().softmax(1), reduction="batchmean"), "none"),
        (lambda z: F.gaussian_nll_loss(z, z.sin(), z[:, 0].exp()), "none"),
        (lambda z: F.gaussian_nll_loss(z[:, 1], z[:, 2], var=z[:, 0].exp()), "none"),
        (lambda z: F.triplet_margin_loss(anchor=z, positive=z.sin(), negative=z.roll(1, 1)), "none"),
        (lambda z: F.cosine_embedding_loss(input1=z, input2=z.sin(), target=z[:, 0].sign()), "none"),
        (lambda z: F.multi_margin_loss(z, z.argmax(1)), "none"),
        (
            lambda z: F.ctc_loss(
                z.log_softmax(1).expand(4, B, 3), 1 + 0 * z[:, :1].argmax(1, True), (4,) * B, (1,) * B
            ),
            "none",
        ),
        (lambda z: z[:, 0] @ z[:, 1].sin() + torch.dot(z[:, 2], torch.arange(B).double()), "none"),
        (lambda z: torch.inner(z[:, 0], z[:, 1]) + torch.vdot(z[:, 1].flip(0), z[:, 2].flip(0)), "none"),
        (lambda z: torch.einsum("bc,bc,c->", z, z.sin(), torch.ones(3).double()) + torch.einsum("bc->", z), "none"),
        # Another sample's.
        (lambda z: z[:, 0] @ z[:, 1].flip(0), "rows"),
        (lambda z: torch.dot(z[:3, 0], z[3:, 1]), "rows"),
        (lambda z: torch.inner(z[:, 0], z[:, 1].roll(1)), "rows"),
        (lambda z: torch.einsum("bc,bc->", z, z.flip(0)), "rows"),
        (lambda z: torch.einsum("a,ab,b->", z[:, 0], torch.ones(B, B).double(), z[:, 1]), "rows"),
        (lambda z: torch.einsum("ab,ab->", z[:3], z[:3].T), "rows"),
        (lambda z: F.mse_loss(z, z.flip(0)), "rows"),
        (lambda z: F.l1_loss(z, z[torch.tensor([1, 0, 3, 2, 5, 4])].detach()), "rows"),
        (lambda z: F.smooth_l1_loss(z[:3], z[3:]), "rows"),
        (lambda z: F.huber_loss(z, z[:1].expand(B, 3)), "rows"),
        (lambda z: F.mse_loss(z[:, :1].expand(B, B), z[:, 0].expand(B, B)), "rows"),
        (lambda z: F.mse_loss(z[:3, :3], z[:3, :3].T), "rows"),
        (lambda z: F.kl_div(z.log_softmax(1), z.softmax(1).roll(1, 0), reduction="batchmean"), "rows"),
        (lambda z: F.cross_entropy(z, z.flip(0).softmax(1)), "rows"),
        (lambda z: F.gaussian_nll_loss(z, z.sin(), z[:, 0].exp().flip(0)), "rows"),
        (lambda z: F.triplet_margin_loss(z, z.roll(1, 0), z.roll(2, 0), margin=9.0), "rows"),
        (lambda z: F.cosine_embedding_loss(z, z.roll(1, 0), -torch.ones(B)), "rows"),
        (lambda z: F.margin_ranking_loss(z[:, 0], z[:, 0].flip(0), torch.ones(B), margin=9.0), "rows"),
        (
            lambda z: F.ctc_loss(
                z.log_softmax(1).expand(4, B, 3), 1 + 0 * z.flip(0).argmax(1, True), (4,) * B, (1,) * B
            ),
            "rows",
        ),
    ],
)
def test_the_label_of_losses(loss: Callable[[Tensor], Tensor], bn: str) -> None:
    model = Between(torch.tanh)
    probe = FisherProbe(model)
    with probe:
        loss(model(randn(B, C))).backward()
    assert probe.spectrum().bn == bn


class Prototypes(nn.Module):
    """A fixed table through a layer, which then meets the batch."""

    def __init__(self, meet: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.register_buffer("table", randn(10, 7))
        self.image, self.text, self.meet = nn.Linear(C, 8).double(), nn.Linear(7, 8).double(), meet

    def forward(self, x: Tensor) -> Tensor:
        return self.meet(self.image(x).sin(), self.text(self.table).tanh())


MEETINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "einsum": lambda x, t: torch.einsum("bd,kd->bk", x, t),
    "einsum-turned": lambda x, t: torch.einsum("kd,bd->bk", t, x),
    "cdist": lambda x, t: torch.cdist(x, t),
    "cdist-turned": lambda x, t: torch.cdist(t, x).T,
    "inner": torch.inner,
    "tensordot": lambda x, t: torch.tensordot(x, t, dims=([1], [1])),
    "addmm": lambda x, t: torch.addmm(x[:, :1], x, t.T),
    "matmul": lambda x, t: x @ t.T,
    "linear": F.linear,
    "cosine": lambda x, t: F.cosine_similarity(x.unsqueeze(1), t, dim=-1),
    "differences": lambda x, t: (x.unsqueeze(1) - t).square().sum(-1),
    "looked-up": lambda x, t: t[x.argmax(1)] * x,
    "bilinear": lambda x, t: torch.stack(
        [F.bilinear(x, row.expand_as(x), torch.ones(2, 8, 8).double()) for row in t], 1
    ),
}


@pytest.mark.parametrize("batch", [9, 10])
@pytest.mark.parametrize("meet", MEETINGS.values(), ids=MEETINGS.keys())
def test_a_table_with_as_many_rows_as_the_batch(meet: Callable[[Tensor, Tensor], Tensor], batch: int) -> None:
    assert_right(Prototypes(meet), randn(batch, C))


@pytest.mark.parametrize("steps", [4, 5])
def test_recurrent_layers_that_take_steps_first(steps: int) -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.LSTM(C, 5).double(), nn.Linear(5, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x)[0])

    with pytest.raises(MeasureError, match=r"module 'layer' \(LSTM\).*lstm\(\)"):
        probed(First(), randn(steps, 4, C)).gram()


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("packed", [False, True])
def test_states_that_a_recurrent_layer_begins_with(kind: type[nn.Module], packed: bool) -> None:
    """Each sample's own is right, another's is refused, and one of all samples is noted."""

    class Begun(nn.Module):
        def __init__(self, pick: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.first, self.layer, self.head = nn.Linear(C, 5), kind(C, 5, batch_first=True), nn.Linear(5, 3)
            self.pick = pick

        def forward(self, x: Tensor) -> Tensor:
            state = self.pick(torch.tanh(self.first(x[:, 0]))).unsqueeze(0).contiguous()
            given = x
            if packed:
                lengths = torch.tensor([2, 3, 1, 3])
                given = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            last = self.layer(given, (state, state) if kind is nn.LSTM else state)[1]
            return self.head((last[0] if kind is nn.LSTM else last)[-1])

    x = randn(4, 3, C)
    assert_right(Begun(lambda h: h).double(), x)
    for other in (lambda h: h.flip(0), lambda h: h[[1, 0, 3, 2]]):
        with pytest.raises(MeasureError, match=r"module 'layer'"):
            probed(Begun(other).double(), x).gram()
    if not packed:
        probe = probed(Begun(lambda h: h.mean(0, keepdim=True).expand(4, -1)).double(), x)
        assert probe.spectrum().bn == "rows"


# -- functions of one's own -------------------------------------------------------------------------------------------


class Turned(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.flip(0)

    @staticmethod
    def backward(context: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g.flip(0)


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x / 2

    @staticmethod
    def backward(context: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g / 2


class Rounded(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(context: Any, w: Tensor) -> Tensor:
        return w.round(decimals=1)

    @staticmethod
    def backward(context: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g


def test_a_custom_function_is_refused_until_it_is_said_to_keep_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autobatch.fisher._registry._KNOWN", dict(_registry._KNOWN))
    for between in (Turned.apply, Halved.apply, lambda h: Halved.apply(h) + h, lambda h: Halved.apply(h).relu()):
        named = r"through tests\.\S+\.(Turned|Halved)\.apply.*register_keeping\(tests\.\S+\.(Turned|Halved)\)"
        with pytest.raises(MeasureError, match=named):
            probed(Between(between), randn(B, C)).gram()
    register_keeping(Halved)
    assert_right(Between(lambda h: Halved.apply(h) + h), randn(B, C))
    with pytest.raises(MeasureError, match=r"Turned.apply"):
        probed(Between(Turned.apply), randn(B, C)).gram()
    monkeypatch.setattr(Halved, "forward", staticmethod(lambda context, x: x[:, :5] / 2))
    monkeypatch.setattr(Halved, "backward", staticmethod(lambda context, g: F.pad(g, (0, 1)) / 2))
    with pytest.raises(MeasureError, match=r"through cumsum\(\)"):  # also where the shape is another one
        probed(Between(lambda h: F.pad(Halved.apply(h.cumsum(0)), (0, 1))), randn(B, C)).gram()
    with pytest.raises(MeasureError, match=r"expected a torch\.autograd\.Function or an operator"):
        register_keeping(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("between", [lambda h: h.flip(0), lambda h: h.cumsum(0), lambda h: torch.eye(B).double() @ h])
@pytest.mark.parametrize("twice", [False, True])
def test_a_function_that_keeps_samples_finds_nothing_that_was_lost(
    monkeypatch: pytest.MonkeyPatch, twice: bool, between: Callable[[Tensor], Tensor]
) -> None:
    monkeypatch.setattr("autobatch.fisher._registry._KNOWN", dict(_registry._KNOWN))
    register_keeping(Halved)
    model = Between(lambda h: Halved.apply(Halved.apply(between(h)) if twice else between(h)) + h)
    with pytest.raises(MeasureError, match=r"through (add|cumsum|matmul)\(\)"):
        probed(model, randn(B, C)).gram()


def test_what_was_seen_without_gradients_is_not_taken_for_what_lies_in_its_place_later() -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(C, C) for _ in range(20)).double()

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                without_gradient(lambda x=x: torch.stack([x.sin() for _ in range(9)]))
                x = layer(x.unsqueeze(1).expand(-1, T, -1)).sin().sum(1)
            return x

    probe = FisherProbe(model := Looking(), gradients="rows")
    with probe:
        model(randn(B, C)).square().mean().backward()
    assert probe.gram().shape == (B, B)


def test_backward_hooks_of_modules_find_nothing_that_was_lost() -> None:
    class Cumulated(nn.Module):
        def forward(self, h: Tensor) -> Tensor:
            return h.cumsum(0)

    cumulated = Cumulated()
    cumulated.register_full_backward_hook(lambda *_: None)
    with pytest.raises(MeasureError, match=r"through cumsum\(\)"):
        probed(Between(lambda h: cumulated(h)), randn(B, C)).gram()


def test_the_way_out_for_a_function_of_torch_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_KNOWN", dict(_registry._KNOWN))
    model, x = Between(lambda h: torch.gradient(h, dim=1)[0]), randn(B, C)
    with pytest.raises(MeasureError, match=r"gradient\(\) leaves them in place, say so with register_keeping"):
        probed(model, x).gram()
    with pytest.raises(MeasureError, match=r"through cumsum\(\)(?!.*register_keeping)"):
        probed(Between(lambda h: h.cumsum(0)), x).gram()
    register_keeping(torch.gradient)
    assert_right(model, x)


def test_straight_through_weights() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(C, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            weight = torch.fake_quantize_per_tensor_affine(self.layer.weight.float(), 0.1, 0, -8, 7).double()
            return F.linear(x, Rounded.apply(self.layer.weight), self.layer.bias) + F.linear(x.sin(), weight)

    assert_right(Quantised(), randn(B, C))


def test_activations_that_are_quantised() -> None:
    assert_right(
        Between(lambda h: torch.fake_quantize_per_tensor_affine(h.float(), 0.1, 0, -8, 7).double() * 0.1 + h),
        randn(B, C),
    )


def test_functions_that_dispatch_by_themselves_are_not_disturbed() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.head = nn.Parameter(randn(1, 1, 12, 12)), nn.Linear(36, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x * F.max_pool2d(self.map, 2).flatten())

    assert_right(Pooled(), randn(B, 36))


# -- complex numbers --------------------------------------------------------------------------------------------------


class Spectral(nn.Module):
    def __init__(self, run: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.run = nn.Parameter(randn(C, 5, dtype=torch.complex128)), run

    def forward(self, x: Tensor) -> Tensor:
        return torch.view_as_real(self.run(x.to(torch.complex128), self.weight)).flatten(1)


@pytest.mark.parametrize(
    "run",
    [
        lambda x, w: x @ w,
        lambda x, w: torch.einsum("bc,cd->bd", x * 1j, w),
        lambda x, w: F.linear(x * (1 + 2j), w.T.conj()),
        lambda x, w: x[:, :5] * 1j * w[0] + w[1],
    ],
)
def test_complex_parameters(run: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Spectral(run)
    assert_right(model, randn(B, C))


def test_a_parameter_without_elements_is_none() -> None:
    model = Between(torch.tanh)
    model.memory = nn.Parameter(randn(0, C))
    model.between = lambda h: torch.cat([model.memory.expand(0, C), h]).tanh()
    probe = probed(model, x := randn(B, C))
    del model.memory
    model.between = torch.tanh
    reference = expected(model, x)
    assert float((probe.gram() - reference).abs().max() / reference.abs().max()) < 1e-9


# -- the step itself --------------------------------------------------------------------------------------------------


def test_running_statistics_are_updated_once() -> None:
    class Direct(nn.Module):
        def __init__(self, run: Callable[..., Tensor]) -> None:
            super().__init__()
            self.norm, self.run = nn.BatchNorm1d(C).double(), run

        def forward(self, x: Tensor) -> Tensor:
            n = self.norm
            return self.run(x, n.weight, n.bias, n.running_mean, n.running_var)

    for run in (
        lambda x, w, b, mean, var: torch.batch_norm(x, w, b, mean, var, True, 0.1, 1e-5, False),
        lambda x, w, b, mean, var: torch.instance_norm(
            x.unsqueeze(2).expand(-1, -1, 3) * torch.arange(3), w, b, mean, var, True, 0.1, 1e-5, False
        ),
    ):
        x, plain, measured = randn(B, C), Direct(run), Direct(run)
        losses(plain(x)).sum().backward()
        probe = probed(measured, x)
        assert torch.equal(plain.norm.running_mean, measured.norm.running_mean)
        assert torch.equal(plain.norm.running_var, measured.norm.running_var)
        probe.gram()


def test_gradients_are_added_to_in_place() -> None:
    model, x = nn.Sequential(nn.Linear(C, C), nn.LayerNorm(C), nn.Tanh(), nn.Linear(C, 3)).double(), randn(B, C)
    flat = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for p, part in zip(model.parameters(), flat.split([p.numel() for p in model.parameters()]), strict=True):
        p.grad = part.view_as(p)
    probe = FisherProbe(model, loss_reduction="sum", gradients="rows")
    with probe:
        probe.backward(losses(model(x)).sum())
    wanted = torch.autograd.grad(losses(model(x)).sum(), list(model.parameters()))
    assert torch.allclose(flat, torch.cat([g.flatten() for g in wanted]))


@pytest.mark.parametrize("shape", [(1,), (1, C)])
def test_a_first_argument_that_is_not_the_batch(shape: tuple[int, ...]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(C, 3).double()

        def forward(self, scale: Tensor, x: Tensor) -> Tensor:
            return self.layer(x * scale)

    with pytest.raises(MeasureError, match=r"first tensor has 1 rows, but another argument and the output have 6"):
        probed(Scaled(), randn(*shape), randn(B, C)).gram()


def test_a_small_difference_beside_a_large_gradient_is_found() -> None:
    """The check goes parameter by parameter: a gradient of a thousandth of the others' size, off by a tenth."""
    model, x = nn.Sequential(nn.Linear(C, C), nn.Tanh(), nn.Linear(C, 3)), randn(B, C, dtype=torch.float32)
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
    model[0].bias.register_hook(lambda gradient: 1.1 * gradient)
    with pytest.raises(MeasureError, match=r"'0.bias'.*add up to a squared norm"):
        probed(model, x).gram()


@pytest.mark.parametrize(("left", "off"), [(0.01, 1.1), (0.1, 1.02), (1.0, 1.02)])
def test_a_bias_whose_gradient_cancels_over_the_positions_of_a_map(left: float, off: float) -> None:
    """The library's sum over positions is off by more than the samples' gradients tell; more than that is found."""
    model, x = nn.Conv2d(1, 1, 3, padding=1), torch.randn(4, 1, 256, 256)
    arriving = F.interpolate(torch.randn(4, 1, 32, 32), scale_factor=8)
    arriving = arriving - arriving.mean((2, 3), keepdim=True) + left

    def probe() -> FisherProbe:
        probe = FisherProbe(model, loss_reduction="sum")
        with probe:
            (model(x) * arriving).sum().backward()
        return probe

    probe().gram()
    model.bias.register_hook(lambda gradient: off * gradient)
    with pytest.raises(MeasureError, match=r"'bias'.*add up to a squared norm"):
        probe().gram()


def test_where_a_librarys_own_sum_is_off_the_error_says_that_too_and_the_rows_are_right() -> None:
    """A constant background against as much in the midst: the float32 sum over all positions is off by 3e-4."""
    size, midst = 28, torch.zeros(1, 1, 28, 28, dtype=torch.bool)
    midst[..., 7:21, 7:21] = True
    x = torch.where(midst, 3 * torch.rand(64, 1, size, size) - 0.4, torch.tensor(-0.4))
    arriving = torch.where(midst, torch.randn(64, 8, size, size).abs(), torch.tensor(-1.0))
    balance = -arriving.masked_fill(midst, 0).sum((0, 2, 3)) / arriving.masked_fill(~midst, 0).sum((0, 2, 3))
    arriving = torch.where(midst, arriving * balance[:, None, None], arriving)
    model = nn.Conv2d(1, 8, 3, padding=1, bias=False)
    inner = nn.Conv2d(1, 8, 3, padding=1, bias=False).double()
    inner.load_state_dict(model.state_dict())

    def probe(model: nn.Module, dtype: torch.dtype, gradients: Literal["library", "rows"]) -> FisherProbe:
        probe = FisherProbe(model, loss_reduction="sum", gradients=gradients)
        with probe:
            (model(x.to(dtype)) * arriving.to(dtype)).sum().backward()
        return probe

    reference = probe(inner, torch.float64, "library").gram()
    gram = probe(model, torch.float32, "rows").gram()
    assert float((gram - reference).abs().max() / reference.abs().max()) < 1e-5
    try:
        probe(model, torch.float32, "library").gram()
    except MeasureError as error:  # on some machines the sum is right
        assert "own sum over 50,176 positions is off by that" in str(error)  # noqa: PT017


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_parameters_in_coarser_numbers_than_what_they_meet(dtype: torch.dtype) -> None:
    """Their gradients are rounded on arrival; the rows are not."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = nn.Linear(C, C).double(), nn.Parameter(randn(C).to(dtype))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).sin() * self.scale

    model, x = Mixed(), randn(B, C)
    gram, reference = probed(model, x).gram(), expected(model, x)
    error = float((gram - reference).abs().max() / reference.abs().max())
    assert error < 10 * torch.finfo(dtype).eps
    model.scale.register_hook(lambda gradient: 3 * gradient)
    with pytest.raises(MeasureError, match=r"'scale'.*add up to a squared norm"):
        probed(model, x).gram()


def test_the_check_says_where_it_is_void() -> None:
    model, x = Between(torch.tanh), randn(B, C)
    probe = probed(model, x)
    probe.gram()
    assert probe.measurement().unchecked == ()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = probed(Between(torch.tanh).float(), x.float().repeat(8, 1))
    half.gram()
    assert isinstance(half.measurement().unchecked, tuple)


@pytest.mark.parametrize("where", ["capture._ledgers.norm_of", "_probe.SumCheck.of"])
def test_an_error_of_the_measure_does_not_reach_the_training(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def fails(*_: object) -> Tensor:
        raise ZeroDivisionError("in the measure")

    model, x = Between(torch.tanh), randn(B, C)
    monkeypatch.setattr(f"autobatch.fisher.{where}", fails)
    with pytest.raises(MeasureError, match="ZeroDivisionError: in the measure"):
        probed(model, x).gram()
    assert all(p.grad is not None for p in model.parameters())


# -- functions that keep samples in place, with as many features as samples ------------------------------------------


def matrices(h: Tensor) -> Tensor:
    return 4 * torch.eye(C, dtype=h.dtype) + 0.1 * h.unsqueeze(-1) * h.unsqueeze(-2)


def asked_for_gradients(h: Tensor) -> Tensor:
    leaf = h.detach().sin()
    leaf.requires_grad = True
    return leaf.cos()


def positions_by_hand(h: Tensor) -> Tensor:
    """Whole numbers by loops over samples, as multimodal rotary positions are made."""
    positions = torch.zeros(len(h), dtype=torch.long)
    for i, signs in enumerate((h > 0).long()):
        positions[i] = signs[0] + signs.sum()
    return positions


KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "written-in-parts": lambda h: written_in_parts(h, h.sin()),
    "written-by-steps": lambda h: written_by_steps([h, h.sin()]),
    "written-over": written_over_what_has_gradients,
    "windows-by-strides": lambda h: h.as_strided((len(h), 4, 3), (C, 1, 1)).reshape(len(h), -1)[:, ::2],
    "turned-in-place": lambda h: h.clone().transpose_(0, 1).t_(),
    "widened-in-place": lambda h: h.clone().unsqueeze_(0).unsqueeze_(-1)[0, ..., 0],
    "as-tensor": torch.as_tensor,
    "random-signs": lambda h: h + 0 * h.clone().uniform_(-1, 1).sign(),
    "named-arguments": lambda h: F.layer_norm(input=h, normalized_shape=(C,)) + F.gelu(input=h),
    "asked-for-gradients": lambda h: asked_for_gradients(h) * h,
    "counts-written-down": lambda h: h * positions_by_hand(h)[..., None],
    "quantile": lambda h: h - h.quantile(0.5, dim=1, keepdim=True),
    "hstack": lambda h: torch.hstack([h[:, :3], h[:, 3:].sin()]),
    "column-stack": lambda h: torch.column_stack([h[:, :3], h[:, 3:]]),
    "column-stack-of-vectors": lambda h: torch.column_stack([h[:, 0], h[:, 1:5], h[:, 5].sin()]),
    "dstack": lambda h: torch.dstack([h, h.sin()]).sum(-1) + torch.dstack([h[:, 0], h[:, 1]])[0, :, :1],
    "split-by-columns": lambda h: torch.cat([part.sin() for part in reversed(h.hsplit(3))], 1),
    "split-by-layers": lambda h: torch.cat([part.sin() for part in h.unsafe_chunk(2, 1)], 1),
    "at-least-3d": lambda h: torch.atleast_3d(h).sum(-1) * torch.atleast_2d(h),
    "cumulated-in-place": lambda h: h.clone().cumsum_(1),
    "fliplr": torch.fliplr,
    "rotated": lambda h: h.view(-1, 2, 3).rot90(1, (1, 2)).flatten(1),
    "linalg-norm": lambda h: h / torch.linalg.norm(h, dim=-1, keepdim=True),
    "smallest": lambda h: h - torch.aminmax(h, dim=1, keepdim=True).min,
    "inverse": lambda h: torch.linalg.inv(matrices(h)).sum(-1),
    "determinant": lambda h: torch.linalg.det(matrices(h)).unsqueeze(1) * h,
    "cholesky": lambda h: torch.linalg.cholesky(matrices(h)).sum(-1),
    "solved": lambda h: torch.linalg.solve(matrices(h), h.unsqueeze(-1)).squeeze(-1),
    "solved-vectors": lambda h: torch.linalg.solve(matrices(h), h),
    "solved-columns": lambda h: torch.linalg.solve(3 * torch.eye(C, dtype=h.dtype), h.T).T,
    "multi-dot": lambda h: torch.linalg.multi_dot([h, torch.ones(C, C).to(h), torch.eye(C).to(h)]) * h,
    "inner": lambda h: torch.inner(h, torch.ones(C, C).to(h).tril()),
    "inner-of-numbers": lambda h: torch.inner(torch.ones(C, C).to(h).tril(), h).T,
    "inner-by-rows": lambda h: torch.linalg.vecdot(h, h.sin()).unsqueeze(1) * h,
    "norm-of-power": lambda h: h / (h.norm(3, 1, keepdim=True) + 1),
    "by-axis": lambda h: h - torch.mean(h, axis=1, keepdims=True),
    "repeated-index": lambda h: h[torch.arange(len(h))[:, None], torch.tensor([0, 0, 1, 2, 3, 4])],
    "table-by-column": lambda h: torch.ones(C, 9).to(h)[:, h.argmax(1)].T * h,
    "broadcast": lambda h: torch.broadcast_tensors(h[:, :1], h)[0] + torch.broadcast_tensors(torch.ones(C).to(h), h)[1],
    "distribution": lambda h: torch.distributions.Normal(h, h.exp()).log_prob(h.detach().roll(1, 1)),
    "paired": lambda h: torch.where(h > h.mean(1, keepdim=True), h, h.sin()),
}


def differentiable(between: Callable[[Tensor], Tensor]) -> bool:
    """Whether torch has a derivative; older ones have none of ``aminmax``."""
    try:
        between(randn(B, C).requires_grad_()).sum().backward()
    except RuntimeError as error:
        return "is not implemented" not in str(error)
    return True


@pytest.mark.parametrize("between", KEPT.values(), ids=KEPT.keys())
def test_functions_that_keep_samples(between: Callable[[Tensor], Tensor]) -> None:
    if not differentiable(between):
        pytest.skip("this torch has no derivative of it")
    model, x = Between(between), randn(B, C)
    assert_right(model, x)
    parameters = list(model.parameters())
    alone = [torch.autograd.grad(losses(model(row[None]))[0], parameters) for row in x]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in alone])
    gram = probed(model, x).gram()
    assert float((gram - jacobian @ jacobian.T).abs().max() / gram.abs().max()) < 1e-9


def _mixed_beneath(h: Tensor) -> Tensor:
    h = h.clone()
    view = h[:, :C]
    h += h.flip(0)
    return view


def _replaced(h: Tensor) -> Tensor:
    h = h.clone()
    h.data = h.data.flip(0)
    return h


def _assigned(h: Tensor) -> Tensor:
    out = torch.zeros_like(h)
    out[:, :3] = h[:, :3]
    return out


@pytest.mark.parametrize(
    ("between", "through"),
    [
        (_mixed_beneath, "memory that it shares"),
        (_replaced, r"data\.__set__"),
        (lambda h: _assigned(h.cumsum(0)), r"cumsum\(\)"),
    ],
    ids=["through-a-view", "by-its-data", "before-it-is-assigned"],
)
def test_samples_that_change_places_unseen_are_refused(between: Callable[[Tensor], Tensor], through: str) -> None:
    with pytest.raises(MeasureError, match=through):
        probed(Between(between), randn(B, C)).gram()


@pytest.mark.parametrize(
    "between",
    [
        lambda h: h.diagonal(dim1=0, dim2=1).unsqueeze(1).expand(B, C),
        lambda h: h.unsqueeze(1).permute(dims=(1, 0, 2)).transpose(dim0=0, dim1=1).squeeze(1),
        lambda h: torch.movedim(h[None], source=(0, 1), destination=(1, 0))[:, 0],
        lambda h: torch.swapaxes(h, axis0=0, axis1=1).mT,
        lambda h: torch.einsum("bi,ij->bj", [h, torch.eye(C, dtype=h.dtype).flip(0)]),
    ],
)
def test_views_take_samples_with_them(between: Callable[[Tensor], Tensor]) -> None:
    assert_right(Between(between), randn(B, C))


def added_to_a_product(h: Tensor) -> Tensor:
    """A matrix in the place of a bias, with as many features as samples."""
    whole = torch.linspace(0.1, 1.0, B * C, dtype=h.dtype).view(B, C)
    return F.linear(whole, whole.flip(0), h)


def test_a_matrix_in_the_place_of_a_bias_keeps_its_samples_in_front() -> None:
    assert_right(Between(added_to_a_product), randn(B, C))
    with pytest.raises(MeasureError, match=r"linear\(\)"):
        probed(Between(lambda h: added_to_a_product(h).mT), randn(B, C)).gram()


class WeightedBags(nn.Module):
    """A bag of each sample's words, which count as a layer says, for the sample itself or for another."""

    def __init__(self, weighing: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.weighing = nn.Linear(C, T).double(), nn.Linear(4, 2).double(), weighing
        self.table = nn.Parameter(randn(9, 4))

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        weights = self.weighing(self.first(x).tanh()).flatten()
        starts = torch.arange(0, words.numel(), words.shape[1])
        bags = F.embedding_bag(words.flatten(), self.table, starts, mode="sum", per_sample_weights=weights)
        out: Tensor = self.last(bags)
        return out


def test_words_that_count_as_another_sample_says_are_refused() -> None:
    words = torch.randint(9, (B, T))
    assert_right(WeightedBags(lambda h: h), randn(B, C), words)
    with pytest.raises(MeasureError, match=r"embedding_bag\(\)"):
        probed(WeightedBags(lambda h: h.flip(0)), randn(B, C), words).gram()
