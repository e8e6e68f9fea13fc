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
from .reference import _recorded as recorded
from .reference import _row as row_of
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
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo's own
@pytest.mark.parametrize(
    ("how", "backend"),
    [("function", "aot_eager"), ("function", "eager"), ("inner", "eager"), ("method", "eager"), ("part", "eager")],
)
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


# -- activation checkpointing -----------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module, **options: object) -> None:
        super().__init__()
        self.inner = inner
        self.options = {"use_reentrant": False} | options

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, **self.options)


def each_stage(model: ResNet8, **options: object) -> nn.Module:
    model.stages = nn.Sequential(*(Checkpointed(stage, **options) for stage in model.stages))
    return model


def nested(model: ResNet8) -> nn.Module:
    model.stages = Checkpointed(each_stage(model).stages)
    return model


def all_but_the_head(model: ResNet8) -> nn.Module:
    model.stem, model.stages = Checkpointed(model.stem), Checkpointed(model.stages)
    return model


def selective(model: ResNet8) -> nn.Module:
    def keep(_: object, operator: object, *__: object, **___: object) -> CheckpointPolicy:
        convolution = operator is torch.ops.aten.convolution.default
        return CheckpointPolicy.MUST_SAVE if convolution else CheckpointPolicy.PREFER_RECOMPUTE

    return each_stage(model, context_fn=lambda: create_selective_checkpoint_contexts(keep))


CHECKPOINTED: dict[str, Callable[[ResNet8], nn.Module]] = {
    "each-stage": each_stage,
    "all-but-the-head": all_but_the_head,
    "nested": nested,
    "without-early-stop": lambda model: each_stage(model, early_stop=False),
    "selective": selective,
}


@pytest.mark.parametrize("wrap", CHECKPOINTED.values(), ids=CHECKPOINTED.keys())
def test_checkpointed(wrap: Callable[[ResNet8], nn.Module]) -> None:
    model, (x, y) = ResNet8().double(), images()
    expected = gram_one_layer_at_a_time(copy.deepcopy(model), x, y, sum_of_cross_entropies)
    model = wrap(model)
    other = copy.deepcopy(model)
    probe = FisherProbe(model, loss_reduction="sum")
    gradients = measured(probe, model, x, y)
    assert_same(probe.gram(), expected)
    assert all(torch.equal(a, b) for a, b in zip(gradients, step(other, x, y), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), other.buffers(), strict=True))


def test_checkpointed_blocks_of_a_language_model_with_dropout() -> None:
    model = TiedLanguageModel().double()
    ids, y = torch.randint(0, 11, (5, 6)), torch.randint(0, 11, (5, 6))
    model.inner = nn.Sequential(model.inner, nn.Dropout(0.3))
    expected = FisherProbe(model)
    torch.manual_seed(1)
    plain = measured(expected, model, ids, y)
    model.inner, model.outer = Checkpointed(model.inner), Checkpointed(model.outer)
    probe = FisherProbe(model)
    torch.manual_seed(1)
    gradients = measured(probe, model, ids, y)
    assert_same(probe.gram(), expected.gram())
    torch.testing.assert_close(gradients, plain)


@pytest.mark.parametrize("backward", [torch.Tensor.backward, torch.autograd.backward])
def test_other_ways_to_call_the_backward_pass_of_checkpoints(backward: Callable[[Tensor], None]) -> None:
    model, (x, y) = ResNet8().double(), images()
    expected = gram_one_layer_at_a_time(copy.deepcopy(model), x, y, sum_of_cross_entropies)
    model = all_but_the_head(model)
    probe = FisherProbe(model, loss_reduction="sum")
    with probe:
        backward(sum_of_cross_entropies(model(x), y))
    assert_same(probe.gram(), expected)


def test_reused_weight_gradients_of_checkpoints() -> None:
    model, (x, y) = ResNet8().double(), images()
    expected = gram_one_layer_at_a_time(copy.deepcopy(model), x, y, sum_of_cross_entropies)
    model = each_stage(model)
    plain = step(copy.deepcopy(model), x, y)
    probe = FisherProbe(model, loss_reduction="sum", gradients="rows")
    with probe:
        probe.backward(sum_of_cross_entropies(model(x), y))
    assert_same(probe.gram(), expected)
    torch.testing.assert_close([p.grad for p in model.parameters()], plain)


def test_saved_tensors_that_are_moved_elsewhere() -> None:
    model, (x, y) = ResNet8().double(), images()
    expected = gram_one_layer_at_a_time(copy.deepcopy(model), x, y, sum_of_cross_entropies)
    probe = FisherProbe(model, loss_reduction="sum")
    with probe, torch.autograd.graph.save_on_cpu():
        sum_of_cross_entropies(model(x), y).backward()
    assert_same(probe.gram(), expected)


def test_reentrant_checkpoints_are_named_with_the_way_out() -> None:
    model, (x, y) = ResNet8().double(), images()
    model.stages = Checkpointed(model.stages, use_reentrant=True)
    plain = step(model, x, y)
    probe = FisherProbe(model, loss_reduction="sum")
    gradients = measured(probe, model, x, y)
    with pytest.raises(MeasureError, match=r"'stages\.inner\.[^']*'.*its use was not seen(.|\n)*use_reentrant=False"):
        probe.gram()
    torch.testing.assert_close(gradients, plain)


# -- several micro-batches --------------------------------------------------------------------------------------------


def accumulated(probe: FisherProbe, model: nn.Module, x: Tensor, y: Tensor, sizes: tuple[int, ...]) -> None:
    with probe:
        for part_x, part_y in zip(x.split(sizes), y.split(sizes), strict=True):
            (F.cross_entropy(model(part_x), part_y, reduction="sum") / len(x)).backward()


@pytest.mark.parametrize("max_memory", [64 << 20, 1 << 14])
@pytest.mark.parametrize("sizes", [(3, 3), (4, 1, 1), (1,) * 6])
def test_micro_batches_of_independent_samples(sizes: tuple[int, ...], max_memory: int) -> None:
    model, (x, y) = ResNet8().double().eval(), images()
    expected = gram_one_sample_at_a_time(model, x, y, sum_of_cross_entropies)
    probe = FisherProbe(model, micro_batches=len(sizes), max_memory=max_memory)
    for _ in range(2):
        model.zero_grad()
        accumulated(probe, model, x, y, sizes)
        assert_same(probe.gram(), expected)
    gradients = [p.grad for p in model.parameters()]
    torch.testing.assert_close(gradients, [gradient / len(x) for gradient in step(model, x, y)])


@pytest.mark.parametrize("max_memory", [64 << 20, 1 << 14])
def test_micro_batches_of_a_language_model(max_memory: int) -> None:
    model = TiedLanguageModel().double()
    ids, y = torch.randint(0, 11, (5, 6)), torch.randint(0, 11, (5, 6))
    expected = gram_one_sample_at_a_time(model, ids, y, sum_of_cross_entropies)
    probe = FisherProbe(model, loss_reduction="sum", micro_batches=2, max_memory=max_memory)
    with probe:
        for part in (slice(0, 2), slice(2, 5)):
            sum_of_cross_entropies(model(ids[part]), y[part]).backward()
    assert_same(probe.gram(), expected)


def test_micro_batches_have_their_own_batch_statistics() -> None:
    model, (x, y) = ResNet8().double(), images(7)
    sizes = (4, 3)
    rows = [
        rows_one_layer_at_a_time(model, part_x, part_y)
        for part_x, part_y in zip(x.split(sizes), y.split(sizes), strict=True)
    ]
    jacobian = torch.cat(rows)
    probe = FisherProbe(model, micro_batches=2)
    accumulated(probe, model, x, y, sizes)
    assert_same(probe.gram(), jacobian @ jacobian.T)
    assert probe.spectrum().bn == "rows"


def rows_one_layer_at_a_time(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """J by the "rows" definition."""
    with recorded(model) as calls:
        total = sum_of_cross_entropies(model(x), y)
    gradients = torch.autograd.grad(total, [output for _, _, output in calls])
    parts = [
        torch.stack([torch.cat(row_of(module, inputs, gradient, i)) for i in range(len(x))])
        for (module, inputs, _), gradient in zip(calls, gradients, strict=True)
    ]
    return torch.cat(parts, 1)


def test_a_parameter_that_one_micro_batch_does_not_use() -> None:
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(48, 5) for _ in range(2))

        def forward(self, x: Tensor, expert: int) -> Tensor:
            return self.experts[expert](x.flatten(1))

    model, (x, y) = Conditional().double(), images(5, size=4)
    probe = FisherProbe(model, loss_reduction="sum", micro_batches=2)
    rows = []
    with probe:
        for expert, part in enumerate((slice(0, 2), slice(2, 5))):
            sum_of_cross_entropies(model(x[part], expert), y[part]).backward()
    for i in range(5):
        gradients = torch.autograd.grad(
            sum_of_cross_entropies(model(x[i : i + 1], int(i >= 2)), y[i : i + 1]), trainable(model), allow_unused=True
        )
        rows.append(
            torch.cat([
                (torch.zeros_like(p) if g is None else g).flatten()
                for p, g in zip(trainable(model), gradients, strict=True)
            ])
        )
    jacobian = torch.stack(rows)
    assert_same(probe.gram(), jacobian @ jacobian.T)


def test_micro_batches_that_do_not_come_as_said() -> None:
    model, (x, y) = mlp().double(), images(size=4)
    probe = FisherProbe(model, micro_batches=2)
    accumulated(probe, model, x, y, (6,))
    with pytest.raises(MeasureError, match=r"micro_batches=2, but the model was called 1 times"):
        probe.gram()
    accumulated(probe, model, x, y, (2, 2, 2))
    with pytest.raises(MeasureError, match=r"called more than micro_batches=2 times"):
        probe.gram()


def test_all_forward_passes_before_the_backward_passes() -> None:
    model, (x, y) = mlp().double(), images(size=4)
    probe = FisherProbe(model, micro_batches=2)
    with probe:
        losses = [F.cross_entropy(model(x[part]), y[part]) for part in (slice(0, 3), slice(3, 6))]
        sum(losses).backward()
    with pytest.raises(MeasureError, match=r"call backward\(\) on each micro-batch before the next"):
        probe.gram()


def test_checkpointed_micro_batches() -> None:
    model, (x, y) = ResNet8().double().eval(), images()
    expected = gram_one_sample_at_a_time(model, x, y, sum_of_cross_entropies)
    model = each_stage(model)
    probe = FisherProbe(model, micro_batches=2)
    accumulated(probe, model, x, y, (2, 4))
    assert_same(probe.gram(), expected)


# -- exact derivatives through batch statistics ----------------------------------------------------------------------


@pytest.mark.parametrize("max_memory", [64 << 20, 1 << 14])
@pytest.mark.parametrize("wrap", [lambda model: model, each_stage], ids=["plain", "checkpointed"])
def test_exact_batch_norm(wrap: Callable[[ResNet8], nn.Module], max_memory: int) -> None:
    model, (x, y) = ResNet8().double(), images()
    plain = copy.deepcopy(model)
    losses = F.cross_entropy(plain(x), y, reduction="none")
    rows = [torch.autograd.grad(loss, trainable(plain), retain_graph=True) for loss in losses]
    jacobian = torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in rows])
    model = wrap(model)
    probe = FisherProbe(model, bn="exact", max_memory=max_memory)
    with probe:
        probe.backward(F.cross_entropy(model(x), y))
    assert_same(probe.gram(), jacobian @ jacobian.T)
    assert probe.spectrum().bn == "exact"
    torch.testing.assert_close(torch.cat([p.grad.flatten() for p in model.parameters()]), jacobian.mean(0))
