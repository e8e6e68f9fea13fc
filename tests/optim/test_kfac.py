"""K-FAC against dense float64 computations, and against curvlinops."""

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch._errors import ConfigError, MeasureError
from autobatch.fisher import FisherProbe
from autobatch.optim import KFAC
from autobatch.optim._inverse import damped_inverse
from tests.optim.networks import Mirrored, Turned, convolutional, examples, perceptron


def one_step(optimizer: KFAC, model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    with optimizer.observe():
        F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()


def plain_factors(model: nn.Sequential, inputs: Tensor, labels: Tensor) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
    """A and B of every layer, by the gradients of each sample's own loss and unfolded inputs."""
    count = len(inputs)
    values, kept = inputs, []
    for module in model:
        if isinstance(module, nn.Linear | nn.Conv2d):
            columns = values.unsqueeze(1)
            if isinstance(module, nn.Conv2d):
                columns = F.unfold(values, module.kernel_size, padding=module.padding).mT
            values = module(values)
            kept.append((module, torch.cat([columns, torch.ones_like(columns[..., :1])], 2), values))
        else:
            values = module(values)
    summed = F.cross_entropy(values, labels, reduction="sum")
    for module, columns, output in kept:
        gradient = torch.autograd.grad(summed, output, retain_graph=True)[0].flatten(2) if output.ndim > 2 else None
        if gradient is None:
            gradient = torch.autograd.grad(summed, output, retain_graph=True)[0].unsqueeze(2)
        positions = columns.shape[1]
        yield (
            module,
            torch.einsum("ntw,ntv->wv", columns, columns).detach() / (count * positions),
            torch.einsum("nrt,nst->rs", gradient, gradient).detach() / count,
        )


@pytest.mark.parametrize(("model", "shape"), [(perceptron(), (4,)), (convolutional(), (2, 4, 4))])
def test_a_step_is_that_of_the_dense_kronecker_product(model: nn.Sequential, shape: tuple[int, ...]) -> None:
    model = copy.deepcopy(model)
    inputs, labels = examples(7, *shape)
    optimizer = KFAC(model.parameters(), model, lr=0.1, momentum=0.0, damping=0.04, clip=None)
    reference = copy.deepcopy(model)
    factors = list(plain_factors(reference, inputs, labels))
    F.cross_entropy(reference(inputs), labels).backward()
    one_step(optimizer, model, inputs, labels)
    for (module, a, b), own in zip(
        factors, (own for own in model if isinstance(own, nn.Linear | nn.Conv2d)), strict=True
    ):
        state = optimizer.state[own.weight]
        torch.testing.assert_close(state["input_moment"], a)
        torch.testing.assert_close(state["output_moment"], b)
        balance = math.sqrt((a.trace() / len(a)) / (b.trace() / len(b)))
        damped = torch.kron(b + 0.2 / balance * torch.eye(len(b)), a + 0.2 * balance * torch.eye(len(a)))
        gradient = torch.cat([module.weight.grad.flatten(1), module.bias.grad[:, None]], 1)
        step = torch.linalg.solve(damped, gradient.flatten()).view(gradient.shape)
        torch.testing.assert_close(own.weight.detach(), module.weight.detach() - 0.1 * step[:, :-1].view_as(own.weight))
        torch.testing.assert_close(own.bias.detach(), module.bias.detach() - 0.1 * step[:, -1])


@pytest.mark.parametrize(("model", "shape"), [(perceptron(), (4,)), (convolutional(), (2, 4, 4))])
def test_factors_are_those_of_curvlinops(model: nn.Sequential, shape: tuple[int, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curvlinops = pytest.importorskip("curvlinops")
    model = copy.deepcopy(model).eval()
    inputs, labels = examples(7, *shape)
    optimizer = KFAC(model.parameters(), model, lr=0.0)
    one_step(optimizer, model, inputs, labels)
    for own in (own for own in model if isinstance(own, nn.Linear | nn.Conv2d)):
        theirs = curvlinops.KFACLinearOperator(
            model,
            nn.CrossEntropyLoss(),
            [own.weight, own.bias],
            [(inputs, labels)],
            fisher_type="empirical",
            separate_weight_and_bias=False,
        )
        size = own.weight.numel() + own.bias.numel()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            matrix = theirs @ torch.eye(size, dtype=torch.float64)
        state = optimizer.state[own.weight]
        ours = torch.kron(state["output_moment"], state["input_moment"])
        width = own.weight.numel() // len(own.weight) + 1
        order = torch.arange(size).view(-1, width)
        order = torch.cat([order[:, :-1].flatten(), order[:, -1]])
        torch.testing.assert_close(torch.as_tensor(matrix), ours[order][:, order])


def test_a_sum_of_losses_and_parts_of_a_batch_give_the_same_factors() -> None:
    inputs, labels = examples(6, 4)
    states = []
    for parts, reduction in ((1, "mean"), (1, "sum"), (3, "sum"), (3, "mean")):
        model = perceptron()
        optimizer = KFAC(model.parameters(), model, lr=0.0, loss_reduction=reduction)  # type: ignore[arg-type]
        for own, target in zip(inputs.chunk(parts), labels.chunk(parts), strict=True):
            with optimizer.observe():
                loss = F.cross_entropy(model(own), target, reduction=reduction)
                (loss / parts if reduction == "mean" else loss).backward()
        optimizer.step()
        states.append({name: value for name, value in optimizer.state[model[0].weight].items() if "moment" in name})
        del states[-1]["momentum_buffer"]
    for other in states[1:]:
        torch.testing.assert_close(other, states[0])


def test_inverses_follow_by_recursion_and_are_made_anew_where_they_drift() -> None:
    """Of two samples a step and five inputs. The recursion multiplies damping by what the mean keeps."""
    inputs, labels = examples(6, 4)
    damping = {}
    for bound in (0.0, 1e6):
        model = perceptron(hidden=5)
        optimizer = KFAC(
            model.parameters(), model, lr=0.0, damping=0.04, update_every=1, invert_every=1000, drift=bound
        )
        for start in (0, 2, 4):
            one_step(optimizer, model, inputs[start : start + 2], labels[start : start + 2])
        state = optimizer.state[model[0].weight]
        damping[bound] = state["input_damping"].item()
        faded = damping[bound] / 3 if bound else damping[bound]  # a plain mean of three, begun with the first
        expected = damped_inverse(state["input_moment"], faded)
        torch.testing.assert_close(state["input_inverse"], expected)
    assert damping[0.0] != damping[1e6]


def test_an_inverse_is_made_anew_when_it_is_due() -> None:
    """Eight samples are more than a factor has rows, so its inverse stands until then."""
    model = perceptron()
    optimizer = KFAC(model.parameters(), model, lr=0.1, update_every=2, invert_every=4, drift=1e6)
    state, seen = optimizer.state[model[0].weight], []
    for step in range(6):
        one_step(optimizer, model, *examples(8 + step, 4))
        seen.append((state["input_moment"].clone(), state["input_inverse"].clone()))
    moments = [place for place in range(1, 6) if not torch.equal(seen[place][0], seen[place - 1][0])]
    inverses = [place for place in range(1, 6) if not torch.equal(seen[place][1], seen[place - 1][1])]
    assert (moments, inverses) == ([2, 4], [4])


def test_between_updates_nothing_is_hooked() -> None:
    model = perceptron()
    optimizer = KFAC(model.parameters(), model, update_every=2, invert_every=2)
    for step in range(4):
        with optimizer.observe():
            assert bool(model._forward_pre_hooks) == (step % 2 == 0)
            F.cross_entropy(model(examples(4, 4)[0]), examples(4, 4)[1]).backward()
        optimizer.step()
        assert not model._forward_pre_hooks


def test_a_measured_step_serves_both() -> None:
    inputs, labels = examples(7, 4)
    model, alone = perceptron(), perceptron()
    optimizer, other = KFAC(model.parameters(), model), KFAC(alone.parameters(), alone)
    probe, single = FisherProbe(model, gradients="rows"), FisherProbe(alone, gradients="rows")
    with probe, optimizer.observe(probe):
        assert len(model._forward_pre_hooks) == 1
        F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    with single:
        F.cross_entropy(alone(inputs), labels).backward()
    torch.testing.assert_close(probe.gram(), single.gram(), rtol=0, atol=0)
    one_step(other, alone, inputs, labels)
    torch.testing.assert_close(list(model.parameters()), list(alone.parameters()))
    assert probe.taker is None


def test_projected_to_all_dimensions_it_is_whole() -> None:
    models = perceptron(), perceptron()
    for model, projection in zip(models, ("none", 5), strict=True):
        optimizer = KFAC(model.parameters(), model, clip=None, projection=projection)  # type: ignore[arg-type]
        for count in (5, 6, 7):
            one_step(optimizer, model, *examples(count, 4))
    torch.testing.assert_close(list(models[0].parameters()), list(models[1].parameters()))


def test_a_projected_factor_is_a_whole_matrix_of_low_rank_and_a_multiple_of_one() -> None:
    model = perceptron(inputs=12, hidden=3, bias=False)
    optimizer = KFAC(
        model.parameters(), model, lr=0.0, momentum=0.0, clip=None, projection=2, update_every=1, invert_every=1
    )
    directions = torch.linalg.qr(examples(12, 2)[0]).Q  # inputs lie in a plane, but for a little
    for count in range(20, 40):
        inputs = examples(count, 2)[0] @ directions.mT + 0.01 * examples(count, 12)[0]
        one_step(optimizer, model, inputs, examples(count, 2)[1])
    layer = optimizer._layers["0.weight"]
    factor, _ = optimizer._factors(layer, optimizer.param_groups[0])
    state = optimizer.state[model[0].weight]
    basis, own, size = state["input_basis"], state["input_moment"], len(state["input_basis"])
    torch.testing.assert_close(basis.mT @ basis, torch.eye(2, dtype=torch.float64))
    others = (state["input_trace"] - own.trace()) / (size - 2)
    whole = basis @ own @ basis.mT + others * (torch.eye(size) - basis @ basis.mT)
    expected = torch.linalg.inv(whole + state["input_damping"] * torch.eye(size))
    torch.testing.assert_close(factor.apply(torch.eye(size, dtype=torch.float64)), expected)
    assert float(own.trace() / state["input_trace"]) > 0.99


def test_projected_inverses_follow_by_recursion_too() -> None:
    model = perceptron(inputs=12, hidden=3)
    optimizer = KFAC(
        model.parameters(), model, lr=0.0, projection=4, update_every=1, invert_every=1000, drift=1e6, damping=0.04
    )
    for count in (2, 3):
        one_step(optimizer, model, *examples(count, 12))
    state = optimizer.state[model[0].weight]
    expected = damped_inverse(state["input_moment"], state["input_damping"] / 2)
    torch.testing.assert_close(state["input_inverse"], expected)


def test_the_step_is_held_to_a_squared_norm() -> None:
    model, free = perceptron(), perceptron()
    for own, clip in ((model, 1e-4), (free, None)):
        optimizer = KFAC(own.parameters(), own, lr=1.0, momentum=0.0, clip=clip)
        one_step(optimizer, own, *examples(7, 4))
    start = perceptron()
    F.cross_entropy(start(examples(7, 4)[0]), examples(7, 4)[1]).backward()
    steps = [
        [before.detach() - after.detach() for before, after in zip(start.parameters(), own.parameters(), strict=True)]
        for own in (model, free)
    ]
    squared = sum(
        float((step * parameter.grad).sum()) for step, parameter in zip(steps[1], start.parameters(), strict=True)
    )
    assert squared > 1e-4
    share = math.sqrt(1e-4 / squared)
    torch.testing.assert_close(steps[0], [share * step for step in steps[1]])


class Tied(nn.Module):
    """A table that is a head too, and layers that K-FAC takes and does not take."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.table = nn.Embedding(6, 4)
        self.norm = nn.LayerNorm(4)
        self.inner = nn.Linear(4, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = torch.tanh(self.inner(self.norm(self.table(tokens))))
        logits: Tensor = (hidden @ self.table.weight.mT).mean(1)
        return logits


def test_what_is_no_layer_gets_the_plain_step_and_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    model = Tied().double()
    tokens = torch.randint(6, (5, 3), generator=torch.Generator().manual_seed(1))
    labels = torch.arange(5)
    optimizer = KFAC(model.named_parameters(), model, lr=0.1, momentum=0.0, clip=None)
    with caplog.at_level(logging.INFO, "autobatch"):
        for _ in range(2):
            before = [parameter.detach().clone() for parameter in model.parameters()]
            one_step(optimizer, model, tokens, labels)
            for parameter, start in list(zip(model.parameters(), before, strict=True))[:3]:
                torch.testing.assert_close(parameter.detach(), start - 0.1 * parameter.grad)
    assert [record.getMessage() for record in caplog.records] == [
        "KFAC takes the plain step for 'table.weight', 'norm.weight', 'norm.bias': factors are those of the weight of "
        "a matrix product, or of a convolution without groups, and of its bias where that is in the same parameter "
        "group and the layer is used once"
    ]
    strict = KFAC(model.named_parameters(), model, strict=True)
    with pytest.raises(ConfigError, match=r"KFAC\(strict=True\): 'table.weight', 'norm.weight'"):
        one_step(strict, model, tokens, labels)


def test_a_step_that_was_not_observed_is_refused() -> None:
    model = perceptron()
    optimizer = KFAC(model.parameters(), model)
    F.cross_entropy(model(examples(4, 4)[0]), examples(4, 4)[1]).backward()
    with pytest.raises(ConfigError, match=r"put the step's forward and backward pass into `with optimizer.observe\(\)"):
        optimizer.step()


def test_two_calls_of_the_model_within_one_observation() -> None:
    model, (inputs, labels) = perceptron(), examples(5, 4)
    optimizer = KFAC(model.parameters(), model)
    with (
        pytest.raises(MeasureError, match=r"^KFAC: the model was called twice within one observe\(\): put one forward"),
        optimizer.observe(),
    ):
        (F.cross_entropy(model(inputs), labels) + model(inputs).square().mean()).backward()
    with optimizer.observe():
        F.cross_entropy(model(inputs), labels).backward()
        with torch.no_grad():  # an evaluation is none
            model(inputs)
    optimizer.step()


def test_a_closure_is_observed() -> None:
    model, other = perceptron(), perceptron()
    inputs, labels = examples(6, 4)
    optimizer = KFAC(model.parameters(), model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(F.cross_entropy(other(inputs), labels).item())
    one_step(KFAC(other.parameters(), other), other, inputs, labels)
    torch.testing.assert_close(list(model.parameters()), list(other.parameters()))


@pytest.mark.parametrize("damping", [0.0, 1e-2])
@pytest.mark.parametrize("count", [1, 3])
def test_singular_factors_and_a_batch_of_one(damping: float, count: int) -> None:
    """Without damping each singular factor has its pseudo-inverse, made anew at every update."""
    model = perceptron()
    optimizer = KFAC(model.parameters(), model, lr=0.01, damping=damping, update_every=1, invert_every=10)
    for step in range(4):
        one_step(optimizer, model, *(own[:count] for own in examples(5 + step, 4)))
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    state = optimizer.state[model[2].weight]
    if damping == 0.0:
        expected = torch.linalg.pinv(state["output_moment"], hermitian=True, rtol=1e-12)
        torch.testing.assert_close(state["output_inverse"], expected, rtol=1e-5, atol=1e-5)


def test_gradients_of_zero() -> None:
    model = perceptron()
    optimizer = KFAC(model.parameters(), model, lr=0.1, damping=0.0)
    with optimizer.observe():
        (model(examples(4, 4)[0]) * 0.0).sum().backward()
    optimizer.step()
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_factors_do_not_take_in_what_is_not_finite() -> None:
    model = perceptron()
    optimizer = KFAC(model.parameters(), model, lr=0.0, update_every=1, invert_every=1)
    one_step(optimizer, model, *examples(6, 4))
    kept = optimizer.state[model[0].weight]["input_moment"].clone()
    with optimizer.observe():
        (model(examples(6, 4)[0]) * torch.inf).sum().backward()
    optimizer.step()
    torch.testing.assert_close(optimizer.state[model[0].weight]["input_moment"], kept, rtol=0, atol=0)


def test_a_scaled_loss_and_mixed_precision() -> None:
    """Layers see bfloat16; factors are float32 and those of the loss without its scale."""
    inputs, labels = examples(32, 4)
    states: list[Any] = []
    for scale in (1.0, 1024.0):
        model = perceptron().float()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = KFAC(model.parameters(), model, lr=0.1, grad_scaler=scaler)
        with optimizer.observe(), torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(inputs.float()), labels)
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        states.append(optimizer.state[model[0].weight])
    assert states[0]["output_moment"].dtype is torch.float32
    for name in ("input_moment", "output_moment", "momentum_buffer"):
        torch.testing.assert_close(states[0][name], states[1][name], rtol=0.05, atol=1e-4)


def test_parameters_of_half_precision_have_factors_of_single() -> None:
    model = perceptron().bfloat16()
    optimizer = KFAC(model.parameters(), model, lr=0.01)
    inputs, labels = examples(6, 4)
    one_step(optimizer, model, inputs.bfloat16(), labels)
    state = optimizer.state[model[0].weight]
    assert (state["input_inverse"].dtype, state["momentum_buffer"].dtype) == (torch.float32, torch.bfloat16)


def test_parameters_that_are_added_have_a_schedule_of_their_own() -> None:
    model = perceptron()
    optimizer = KFAC(model[0].parameters(), model, update_every=4, invert_every=4)
    for _ in range(2):
        one_step(optimizer, model, *examples(6, 4))
    optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.01})
    one_step(optimizer, model, *examples(6, 4))
    assert int(optimizer.state[model[2].weight]["step"]) == 1
    assert "input_inverse" in optimizer.state[model[2].weight]
    with pytest.raises(ConfigError, match="no parameter of the model"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 2))]})


def test_a_scaler_that_it_was_not_told_of_is_noticed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    optimizer = KFAC(model.parameters(), model, lr=0.1)
    with optimizer.observe():
        scaler.scale(F.cross_entropy(model(torch.randn(16, 6)), torch.randint(3, (16,)))).backward()
    with pytest.raises(ConfigError, match=r"are 65,536 times those that the step has.*grad_scaler=scaler"):
        scaler.step(optimizer)


def test_gradients_that_are_clipped_are_no_scaler() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    optimizer = KFAC(model.parameters(), model, lr=0.1)
    with optimizer.observe():
        F.cross_entropy(model(torch.randn(16, 6)), torch.randint(3, (16,))).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-4)
    optimizer.step()


@pytest.mark.parametrize("projection", ["none", 2])
@pytest.mark.parametrize("settings", [{}, {"loss_reduction": "sum"}])
def test_a_weight_that_lies_the_other_way_has_the_same_factors(projection: Any, settings: dict[str, Any]) -> None:
    """Over batches of any size: what is an input and what a gradient decides what becomes a mean."""
    turned = Turned()
    upright, transposed = turned.upright(), nn.ConvTranspose2d(4, 4, 1).double()
    transposed.load_state_dict({"weight": turned.weight[:, :, None, None], "bias": turned.bias})
    models = [turned, upright, transposed]
    for model in models:
        model.bias.requires_grad_(False)  # joins an upright weight only
    own: dict[str, Any] = {"momentum": 0.0, "update_every": 1, "invert_every": 1, "clip": None, "damping": 0.1}
    optimizers = [KFAC([model.weight], model, projection=projection, **own, **settings) for model in models]
    for count in (4, 40, 3):
        inputs, labels = examples(count, 4, classes=4)
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            with optimizer.observe():
                outputs = model(inputs[:, :, None, None] if model is transposed else inputs).flatten(1)
                F.cross_entropy(outputs, labels, reduction=settings.get("loss_reduction", "mean")).backward()
            optimizer.step()
        torch.testing.assert_close(turned.weight.T, upright.weight)
        torch.testing.assert_close(transposed.weight[:, :, 0, 0], turned.weight)


def test_a_weight_that_is_used_both_ways_gets_the_plain_step(caplog: pytest.LogCaptureFixture) -> None:
    model, (inputs, labels) = Mirrored(), examples(5, 4)
    optimizer = KFAC(model.parameters(), model, lr=0.1, momentum=0.0)
    before = model.weight.detach().clone()
    with caplog.at_level(logging.INFO, "autobatch"):
        one_step(optimizer, model, inputs, labels)
    torch.testing.assert_close(model.weight.detach(), before - 0.1 * model.weight.grad)
    assert "KFAC takes the plain step for 'weight': " in caplog.text


class Scaled(nn.Linear):
    """A layer whose own forward pass does not add the bias to the product."""

    def forward(self, inputs: Tensor) -> Tensor:
        return 0.1 * F.linear(inputs, self.weight) + self.bias


@pytest.mark.parametrize("count", [3, 9])
@pytest.mark.parametrize("settings", [{}, {"projection": 2}])
def test_a_bias_that_is_not_added_to_the_product_gets_the_plain_step(count: int, settings: dict[str, Any]) -> None:
    """As if it were in a parameter group of its own, with vectors and with sums of their products."""
    torch.manual_seed(9)
    joined = Scaled(4, 2).double()
    apart = copy.deepcopy(joined)
    own: dict[str, Any] = {"update_every": 2, "invert_every": 4, "clip": None, **settings}
    optimizers = [
        KFAC(joined.parameters(), joined, **own),
        KFAC([{"params": [parameter]} for parameter in apart.parameters()], apart, **own),
    ]
    for _ in range(4):
        for model, optimizer in zip((joined, apart), optimizers, strict=True):
            one_step(optimizer, model, *examples(count, 4))
    torch.testing.assert_close(list(joined.parameters()), list(apart.parameters()))
    plain = nn.Linear(4, 2).double()
    optimizer = KFAC(plain.parameters(), plain)
    one_step(optimizer, plain, *examples(count, 4))
    assert len(optimizer.state[plain.weight]["input_moment"]) == 5
