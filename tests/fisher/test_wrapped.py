"""Models that are compiled, checkpointed, or trained by several backward passes a step: F as without all that."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe

from .conftest import sum_of_cross_entropies
from .models import ResNet8, TiedLanguageModel, mlp
from .reference import gram_one_layer_at_a_time, gram_one_sample_at_a_time, trainable

Build = Callable[[], nn.Module]


def assert_same(gram: Tensor, expected: Tensor) -> None:
    assert gram.dtype == torch.float64
    assert torch.equal(gram, gram.T)
    assert float((gram - expected).abs().max() / expected.abs().max()) < 1e-10


def images(batch: int = 6, size: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 3, size, size, dtype=torch.float64), torch.randint(0, 5, (batch,))


def step(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """Gradients of an ordinary step."""
    model.zero_grad()
    sum_of_cross_entropies(model(x), y).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    return gradients


def measured(probe: FisherProbe, model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    """Gradients of a measured step."""
    model.zero_grad()
    with probe:
        sum_of_cross_entropies(model(x), y).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


# -- compiled ---------------------------------------------------------------------------------------------------------


def compiled(model: nn.Module, how: str, backend: str) -> tuple[nn.Module, nn.Module]:
    """The model to call, and the one to measure."""
    if how == "method":
        model.compile(backend=backend)
        return model, model
    if how == "part":
        model.stages = torch.compile(model.stages, backend=backend)
        return model, model
    wrapped = torch.compile(model, backend=backend, fullgraph=True)
    return wrapped, wrapped if how == "function" else model


@pytest.fixture
def _fresh_compiler() -> None:
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("how", ["function", "inner", "method", "part"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(how: str, backend: str) -> None:
    model, (x, y) = ResNet8().double(), images()
    expected = gram_one_layer_at_a_time(copy.deepcopy(model), x, y, sum_of_cross_entropies)
    call, of = compiled(model, how, backend)
    plain = step(call, x, y)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs > 0
    probe = FisherProbe(of, loss_reduction="sum")
    for _ in range(2):
        gradients = measured(probe, call, x, y)
        assert_same(probe.gram(), expected)
        torch.testing.assert_close(gradients, plain)
    torch.testing.assert_close(step(call, x, y), plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "measuring recompiled the model"


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_measured_step_before_the_model_was_ever_compiled() -> None:
    model, (x, y) = ResNet8().double(), images()
    expected = gram_one_layer_at_a_time(copy.deepcopy(model), x, y, sum_of_cross_entropies)
    call = torch.compile(model, backend="aot_eager")
    probe = FisherProbe(call, loss_reduction="sum")
    gradients = measured(probe, call, x, y)
    assert_same(probe.gram(), expected)
    torch.testing.assert_close(step(call, x, y), gradients)


@pytest.mark.usefixtures("_fresh_compiler")
def test_the_user_s_own_compiler_stance_comes_back() -> None:
    model, (x, y) = mlp().double(), images(size=4)
    with torch.compiler.set_stance("eager_on_recompile"):
        before = torch._dynamo.eval_frame._stance
        with pytest.raises(IndexError), FisherProbe(model):
            F.cross_entropy(model(x), y + 100)
        assert torch._dynamo.eval_frame._stance == before


def test_a_frozen_parameter_is_named_as_in_the_original_model() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).double()
    x, y = images(size=4)
    call = torch.compile(model, backend="eager")
    probe = FisherProbe(call)
    with probe:
        out = call(x)
        with torch.no_grad():
            x.mul_(2)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            pass
        F.cross_entropy(out.detach().requires_grad_(), y).backward()
    with pytest.raises(MeasureError) as raised:
        probe.gram()
    assert "_orig_mod" not in str(raised.value)
