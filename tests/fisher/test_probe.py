"""The probe around a step: it never changes training, it starts afresh, and it says what it cannot measure."""

import dataclasses
import gc
import weakref
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe

from .conftest import Measure
from .models import ResNet8, TiedLanguageModel, mlp
from .reference import gram_one_sample_at_a_time


def batch(size: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, 8, 8, generator=generator), torch.randint(0, 5, (size,), generator=generator)


def train(measured: bool) -> dict[str, Tensor]:
    torch.manual_seed(3)
    model = nn.Sequential(ResNet8(), nn.Dropout(0.3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    probe = FisherProbe(model)
    for epoch in range(3):
        for step, size in enumerate((8, 16, 5)):
            x, y = batch(size, seed=100 * epoch + step)
            optimizer.zero_grad()
            if measured and step != 1:
                with probe:
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
                assert len(probe.spectrum().eigenvalues) == size
            else:
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    return model.state_dict()


def test_weights_are_bit_identical_with_and_without_measuring() -> None:
    plain, measured = train(measured=False), train(measured=True)
    assert all(torch.equal(plain[name], measured[name]) for name in plain)


def test_one_probe_serves_many_steps() -> None:
    model = mlp_of_images()
    probe = FisherProbe(model)
    first, second = batch(6), batch(4, seed=1)
    grams = []
    for x, y in (first, second, first):
        model.zero_grad()
        with probe:
            F.cross_entropy(model(x), y).backward()
        grams.append(probe.gram())
        assert probe.gram() is grams[-1]
        assert probe.seconds > 0
    assert grams[1].shape == (4, 4)
    assert torch.equal(grams[0], grams[2])


def mlp_of_images() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(inplace=True), nn.Linear(8, 5))


def hooks(model: nn.Module) -> int:
    return sum(len(p._backward_hooks or {}) for p in model.parameters()) + sum(
        len(m._forward_pre_hooks) for m in model.modules()
    )


def test_nothing_is_left_behind() -> None:
    model, (x, y) = mlp_of_images(), batch()
    probe = FisherProbe(model)
    with pytest.raises(IndexError), probe:
        F.cross_entropy(model(x), y + 100)
    assert hooks(model) == 0
    with pytest.raises(MeasureError, match="nothing was measured"):
        probe.gram()
    with probe:
        loss = F.cross_entropy(model(x), y)
        loss.backward(retain_graph=True)
    gram = probe.gram().clone()
    loss.backward()  # the graph outlives the body; its hooks do not
    assert hooks(model) == 0
    assert torch.equal(probe.gram(), gram)
    graph = weakref.ref(loss)
    del loss
    gc.disable()
    try:
        assert graph() is None
    finally:
        gc.enable()


def test_optimizer_steps_and_evaluation_inside_the_body_do_not_disturb() -> None:
    model, (x, y) = mlp_of_images(), batch()
    optimizer = torch.optim.AdamW(model.parameters())
    probe, alone = FisherProbe(model), FisherProbe(model)
    with alone:
        F.cross_entropy(model(x), y).backward()
    model.zero_grad()
    with probe:
        with torch.no_grad():
            model(batch(3)[0])
        F.cross_entropy(model(x), y).backward()
        assert sum(p.numel() for p in model.parameters()) == 1589
        optimizer.step()
    assert torch.equal(probe.gram(), alone.gram())


def test_autograd_functions_instead_of_backward() -> None:
    model, (x, y) = mlp_of_images(), batch()
    by_method, by_backward, by_grad = FisherProbe(model), FisherProbe(model), FisherProbe(model)
    with by_method:
        F.cross_entropy(model(x), y).backward()
    with by_backward:
        torch.autograd.backward(F.cross_entropy(model(x), y))
    with by_grad:
        torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    assert torch.equal(by_method.gram(), by_backward.gram())
    assert torch.equal(by_method.gram(), by_grad.gram())


def test_gradients_of_low_precision_raise_the_rank_threshold() -> None:
    model, (x, y) = mlp_of_images(), batch()
    probe = FisherProbe(model)
    with probe, torch.autocast("cpu", dtype=torch.bfloat16):
        F.cross_entropy(model(x), y).backward()
    spectrum = probe.spectrum()
    limit = (4 * torch.finfo(torch.bfloat16).eps) ** 2 * spectrum.trace / 6
    assert spectrum.rank == int((spectrum.eigenvalues > limit).sum())


# -- what cannot be measured ------------------------------------------------------------------------------------------


class Sorted(nn.Module):
    """Its head gets the samples in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1).sort(dim=0).values)


def test_what_cannot_be_measured_is_named_and_leaves_the_step_alone(caplog: pytest.LogCaptureFixture) -> None:
    model, (x, y) = Sorted(), batch()
    probe = FisherProbe(model)
    F.cross_entropy(model(x), y).backward()
    undisturbed = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with probe:
        F.cross_entropy(model(x), y).backward()
    with pytest.raises(
        MeasureError,
        match=r"'head.weight' of module 'head' \(Linear\) in linear\(\).*through sort\(\).*requires_grad_\(False\)",
    ):
        probe.spectrum()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), undisturbed, strict=True))
    assert caplog.messages == []  # least of all that it was measured slowly


class Gated(nn.Module):
    """A parameter in a function that no rule covers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"slopes": nn.ParameterList([nn.Parameter(torch.rand(192))])})
        self.head = nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.linalg.cross(x.view(-1, 64, 3), self.body["slopes"][0].view(1, 64, 3)).flatten(1))


def test_what_has_no_rule_is_measured_one_sample_at_a_time_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    model, (x, y) = Gated().double(), batch()
    probe = FisherProbe(model, loss_reduction="sum")
    for _ in range(2):
        with probe:
            F.cross_entropy(model(x.double()), y, reduction="sum").backward()
        probe.gram()
    messages = [record.getMessage() for record in caplog.records if "slow" in record.getMessage()]
    assert len(messages) == 1
    assert "'body.slopes.0'" in messages[0]
    assert "linalg_cross()" in messages[0]
    loss = partial(F.cross_entropy, reduction="sum")
    expected = gram_one_sample_at_a_time(model, x.double(), y, loss)
    assert torch.allclose(probe.gram(), expected, rtol=1e-10)


def test_a_penalty_on_the_weights_is_in_each_samples_loss() -> None:
    model, (x, y) = mlp_of_images().double(), batch()
    x = x.double()
    grams = []
    for reduction, gradients in (("none", "library"), ("mean", "library"), ("mean", "rows")):
        probe = FisherProbe(model, gradients=gradients)
        model.zero_grad()
        with probe:
            penalty = 0.1 * model[1].weight.pow(2).sum()
            (F.cross_entropy(model(x), y, reduction=reduction) + penalty).mean().backward()
        grams.append(probe.gram())
    for gram in grams[1:]:
        assert torch.allclose(gram, grams[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_norm": 1.0}, "max_norm"),
        ({"scale_grad_by_freq": True}, "scale_grad_by_freq"),
        ({"sparse": True}, "sparse"),
    ],
)
def test_embedding_options_without_per_sample_gradients(
    options: dict[str, object], name: str, measure: Measure
) -> None:
    model = nn.Sequential(nn.Embedding(7, 4, **options), nn.Flatten(), nn.Linear(12, 5))
    probe = measure(model, torch.randint(0, 7, (6, 3)), y=torch.randint(0, 5, (6,)))
    with pytest.raises(MeasureError, match=rf"parameter '0.weight' of module '0' \(Embedding\).*{name}="):
        probe.gram()


class Hidden(nn.Module):
    """A layer inside a block that torch functions cannot see into."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(192, 5)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x.flatten(1).requires_grad_(), use_reentrant=True)


def test_a_use_that_was_not_seen_is_found() -> None:
    model, (x, y) = Hidden(), batch()
    probe = FisherProbe(model)
    with probe:
        F.cross_entropy(model(x), y).backward()
    with pytest.raises(
        MeasureError, match=r"'inner.weight' of module 'inner' \(Linear\) got a gradient, but its use was not"
    ):
        probe.gram()


def test_a_second_use_that_was_not_seen_is_found() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(192, 192)
            self.last = nn.Linear(192, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x.flatten(1))
            return self.last(x) + checkpoint(lambda h: self.last(self.first(h)), x, use_reentrant=True)

    model, (x, y) = Twice().double(), batch()
    probe = FisherProbe(model)
    with probe:
        F.cross_entropy(model(x.double()), y).backward()
    with pytest.raises(MeasureError, match="some use of a parameter was not seen"):
        probe.gram()


def test_an_input_changed_in_place_behind_autograd_is_found() -> None:
    class Overwriting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.GroupNorm(1, 3)
            self.head = nn.Linear(192, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.head(x.flatten(1))
            with torch.no_grad():
                x.detach().mul_(2)
            return y

    model, (x, y) = Overwriting(), batch()
    model.norm.requires_grad_(False)
    probe = FisherProbe(model)
    with probe, torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        F.cross_entropy(model(x), y).backward()
    with pytest.raises(MeasureError, match=r"'head.weight' of module 'head' \(Linear\).*changed in place"):
        probe.gram()


def test_not_finite_gradients() -> None:
    model, (x, y) = mlp_of_images(), batch()
    x[2] = float("nan")
    probe = FisherProbe(model)
    with probe:
        F.cross_entropy(model(x), y).backward()
    with pytest.raises(MeasureError, match="gradients of this step are not finite"):
        probe.spectrum()


def test_no_gradient_at_all_is_a_zero_matrix() -> None:
    model, (x, y) = mlp_of_images(), batch()
    probe = FisherProbe(model)
    with probe:
        (F.cross_entropy(model(x), y) * 0).backward()
    spectrum = probe.spectrum()
    assert (spectrum.trace, spectrum.rank) == (0.0, 0)
    assert spectrum.condition_number != spectrum.condition_number  # NaN


def test_misuse_of_the_body() -> None:
    model, (x, y) = mlp_of_images(), batch()
    probe = FisherProbe(model)
    with pytest.raises(MeasureError, match="nothing was measured"):
        probe.gram()
    with probe:
        pass
    with pytest.raises(MeasureError, match="was not called inside the body"):
        probe.gram()
    with probe:
        model(x)
    with pytest.raises(MeasureError, match="no gradient arrived"):
        probe.gram()
    with probe:
        for half in (slice(0, 3), slice(3, 6)):
            F.cross_entropy(model(x[half]), y[half]).backward()
    with pytest.raises(MeasureError, match="called twice in one measured step"):
        probe.gram()
    with probe:
        loss = F.cross_entropy(model(x), y)
        loss.backward(retain_graph=True)
        loss.backward()
    with pytest.raises(MeasureError, match="arrived twice"):
        probe.gram()
    with probe:
        F.cross_entropy(model[1:](model[0](x)), y).backward()
    with pytest.raises(MeasureError, match="was not called inside the body"):
        probe.gram()
    with probe:
        with pytest.raises(MeasureError, match="already entered"):
            probe.__enter__()
        with pytest.raises(MeasureError, match="has not ended"):
            probe.gram()


def test_batch_norm_in_train_mode_is_not_eval(measure: Measure) -> None:
    probe = measure(ResNet8(), batch()[0], y=batch()[1], bn="eval")
    with pytest.raises(MeasureError, match=r'bn="eval" was asked for.*call model.eval\(\)'):
        probe.gram()


def test_no_batch_norm_is_named(measure: Measure) -> None:
    assert measure(mlp(), torch.randn(6, 3, 4, 4), y=batch()[1]).spectrum().bn == "none"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batches": 0}, "micro_batches and max_memory must be at least 1"),
        ({"micro_batches": 2, "bn": "exact"}, 'goes neither with bn="exact"'),
        ({"bn": "exact", "process_group": object()}, 'does not go with bn="exact"'),
        ({"gradients": "row"}, "did you mean 'rows'"),
        ({"bn": "row"}, "did you mean 'rows'"),
        ({"loss_reduction": "avg"}, "loss_reduction='avg'"),
    ],
)
def test_bad_arguments(options: dict[str, str], message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        FisherProbe(TiedLanguageModel(), **options)  # type: ignore[arg-type]


def test_arguments_that_there_are_no_more() -> None:
    with pytest.raises(MeasureError, match=r"'reuse_weight_gradient' is now gradients=\"rows\""):
        FisherProbe(mlp(), reuse_weight_gradient=True)  # type: ignore[arg-type]
    with pytest.raises(MeasureError, match="no argument is called 'sample'; did you mean 'samples'"):
        FisherProbe(mlp(), sample=2)  # type: ignore[arg-type]


def test_parameters_that_get_their_shape_in_the_step() -> None:
    model, (x, y) = nn.Sequential(nn.Flatten(), nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(5)), batch()
    probe = FisherProbe(model)
    grams = []
    for _ in range(2):
        with probe:
            F.cross_entropy(model(x), y).backward()
        grams.append(probe.gram())
    assert torch.equal(*grams)
    expected = gram_one_sample_at_a_time(model.double(), x.double(), y, F.cross_entropy)
    assert torch.allclose(grams[0], expected, rtol=1e-4)


def test_an_empty_batch() -> None:
    model = mlp()
    probe = FisherProbe(model, loss_reduction="sum")
    with probe:
        model(torch.randn(0, 48)).sum().backward()
    with pytest.raises(MeasureError, match=r"the batch is empty.*\(0, 48\)"):
        probe.gram()


def test_rows_that_one_sample_has_none_of() -> None:
    class Leaving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.late = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            late = x[:, 0] > 10.0
            return torch.cat([self.first(x[~late]), self.late(x[late])])

    model, x = Leaving().double(), torch.randn(1, 4).double()
    probe = FisherProbe(model)
    with probe:
        model(x).square().sum().backward()
    expected = sum(gradient.square().sum() for gradient in (model.first.weight.grad, model.first.bias.grad))
    assert torch.allclose(probe.gram(), expected.view(1, 1))


@dataclasses.dataclass
class Pair:
    left: Tensor
    right: Tensor


class Store:
    def __init__(self, **tensors: Tensor) -> None:
        self.inner = {"self": self, **tensors}

    def __call__(self) -> int:
        return len(self.inner)


@pytest.mark.parametrize("kind", [Pair, Store])
def test_tensors_within_what_the_model_is_called_with(kind: type) -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 5), nn.Linear(3, 5)

        def forward(self, given: Any) -> Tensor:
            values = vars(given).get("inner", vars(given))
            return self.left(values["left"]) * self.right(values["right"])

    model, left, right = Joined().double(), torch.randn(5, 4).double(), torch.randn(5, 3).double()
    probe = FisherProbe(model, loss_reduction="sum")
    with probe:
        model(kind(left=left, right=right)).sin().sum().backward()
    rows = [
        torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
        for value in model(kind(left=left, right=right)).sin().sum(1)
    ]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    assert torch.allclose(probe.gram(), jacobian @ jacobian.T)


def test_a_weight_that_the_model_is_called_with_is_no_batch() -> None:
    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(6, 4))

        def forward(self, table: Tensor, x: Tensor) -> Tensor:
            return x @ table.T

    model, x, y = Called().double(), torch.randn(6, 4).double(), torch.arange(6)
    probe = FisherProbe(model)
    with probe:
        F.cross_entropy(model(F.softplus(model.table), x), y).backward()
    rows = torch.stack([
        torch.autograd.grad(value, model.table)[0].flatten()
        for i in range(6)
        for value in [F.cross_entropy(model(F.softplus(model.table), x[i : i + 1]), y[i : i + 1])]
    ])
    assert torch.allclose(probe.gram(), rows @ rows.T)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("size", [1, 3])
def test_sparse_weights_are_refused(size: int) -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values = nn.Parameter(torch.randn(3))

        def forward(self, x: Tensor) -> Tensor:
            weight = torch.sparse_coo_tensor(torch.tensor([[0, 1, 2], [1, 2, 0]]), self.values, (3, 4))
            return torch.sparse.mm(weight, x.T).T

    model = Sparse()
    probe = FisherProbe(model)
    with probe:
        model(torch.randn(size, 4)).square().sum().backward()
    assert model.values.grad is not None
    with pytest.raises(MeasureError, match=r"'values'.*a sparse weight.*to_dense\(\)"):
        probe.gram()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused() -> None:
    model = nn.Linear(4, 3)
    given = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)])
    probe = FisherProbe(model)
    with probe:
        torch.nested.to_padded_tensor(model(given), 0.0).square().sum().backward()
    assert model.weight.grad is not None
    with pytest.raises(MeasureError, match=r"nested tensors.*samples=index"):
        probe.gram()


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_scripted_modules_are_refused_and_leave_the_step_alone(whole: bool) -> None:
    plain = nn.Linear(4, 3)
    scripted = torch.jit.script(plain)
    model = scripted if whole else nn.Sequential(nn.Linear(4, 4), scripted)
    with FisherProbe(model) as probe:
        model(torch.randn(5, 4)).square().mean().backward()
    assert plain.weight.grad is not None
    with pytest.raises(MeasureError, match=r"scripted module.*NeverMeasure\(\)"):
        probe.gram()
