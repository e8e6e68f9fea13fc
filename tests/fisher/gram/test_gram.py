"""F against dense float64 references, on whole models and on every kind of layer."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch.fisher import FisherProbe
from tests.fisher.conftest import Measure, sum_of_cross_entropies
from tests.fisher.models import DenseNet8, ResNet8, TiedLanguageModel, mlp
from tests.fisher.reference import gram_one_layer_at_a_time, gram_one_sample_at_a_time


def assert_same(gram: Tensor, expected: Tensor) -> None:
    assert gram.dtype == torch.float64
    assert torch.equal(gram, gram.T)
    assert float((gram - expected).abs().max() / expected.abs().max()) < 1e-10


def images(batch: int = 6, channels: int = 3, size: int = 8) -> Tensor:
    return torch.randn(batch, channels, size, size, dtype=torch.float64)


def classes(batch: int = 6, *shape: int, number: int = 5) -> Tensor:
    return torch.randint(0, number, (batch, *shape))


def squared_gradient(model: nn.Module) -> float:
    return sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None)


# -- whole models -----------------------------------------------------------------------------------------------------


def test_mlp(measure: Measure) -> None:
    model, x, y = mlp().double(), images(size=4), classes()
    expected = gram_one_sample_at_a_time(model, x, y, sum_of_cross_entropies)
    assert_same(measure(model, x, y=y).gram(), expected)


@pytest.mark.parametrize("build", [ResNet8, DenseNet8])
def test_batch_norm_in_train_mode_is_the_paper_s_rows(build: Callable[[], nn.Module], measure: Measure) -> None:
    model, x, y = build().double(), images(), classes()
    expected = gram_one_layer_at_a_time(model, x, y, sum_of_cross_entropies)
    probe = measure(model, x, y=y)
    assert_same(probe.gram(), expected)
    assert probe.spectrum().bn == "rows"


@pytest.mark.parametrize("build", [ResNet8, DenseNet8])
@pytest.mark.parametrize("bn", ["rows", "eval"])
def test_batch_norm_in_eval_mode_keeps_samples_apart(build: Callable[[], nn.Module], bn: str, measure: Measure) -> None:
    model, x, y = build().double(), images(), classes()
    model(images())  # running statistics that are not the initial ones
    model.eval()
    expected = gram_one_sample_at_a_time(model, x, y, sum_of_cross_entropies)
    probe = measure(model, x, y=y, bn=bn)
    assert_same(probe.gram(), expected)
    assert probe.spectrum().bn == "eval"


def test_batch_norm_with_zero_scale(measure: Measure) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5)).double()
    with torch.no_grad():
        model[1].weight[:3] = 0.0
    x, y = torch.randn(6, 4).double(), classes()
    assert_same(measure(model, x, y=y).gram(), gram_one_layer_at_a_time(model, x, y, sum_of_cross_entropies))


@pytest.mark.parametrize("tie", ["T", "transpose", "linear", "addmm"])
def test_tied_embedding(tie: str, measure: Measure) -> None:
    model = TiedLanguageModel(tie=tie).double()
    ids, y = torch.randint(0, 11, (5, 6)), classes(5, 6, number=11)
    expected = gram_one_sample_at_a_time(model, ids, y, sum_of_cross_entropies)
    assert_same(measure(model, ids, y=y).gram(), expected)


def test_as_many_positions_as_samples(measure: Measure) -> None:
    model, ids, y = TiedLanguageModel().double(), torch.randint(0, 11, (6, 6)), classes(6, 6, number=11)
    expected = gram_one_sample_at_a_time(model, ids, y, sum_of_cross_entropies)
    assert_same(measure(model, ids, y=y).gram(), expected)


# -- each kind of layer -----------------------------------------------------------------------------------------------

CONVOLUTIONS_2D = {
    "plain": {},
    "no-bias": {"bias": False},
    "stride": {"stride": 2},
    "stride-leaves-a-rest": {"stride": 3, "kernel_size": 2},
    "uneven": {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    "padding": {"padding": 2},
    "dilation": {"dilation": 2, "padding": 1},
    "groups": {"groups": 2},
    "depthwise": {"groups": 4, "padding": 1},
    "same": {"padding": "same"},
    "same-dilated": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid"},
    "circular": {"padding": 1, "padding_mode": "circular"},
    "reflect-same": {"padding": "same", "padding_mode": "reflect"},
    "pointwise": {"kernel_size": 1},
    "whole": {"kernel_size": 7},
}


@pytest.mark.parametrize("options", CONVOLUTIONS_2D.values(), ids=CONVOLUTIONS_2D.keys())
def test_conv2d(options: dict[str, object], measure: Measure) -> None:
    layer = nn.Conv2d(4, 8, **{"kernel_size": 3, **options})
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.LazyLinear(5)).double()
    x, y = images(channels=4, size=7), classes()
    model(x)
    assert_same(measure(model, x, y=y).gram(), gram_one_sample_at_a_time(model, x, y, sum_of_cross_entropies))


CONVOLUTIONS_1D = {
    "plain": {},
    "stride-dilation-padding": {"stride": 2, "dilation": 2, "padding": 3},
    "groups": {"groups": 2, "bias": False},
    "same": {"padding": "same"},
    "same-dilated": {"padding": "same", "dilation": 3},
    "circular": {"padding": 2, "padding_mode": "circular"},
}


@pytest.mark.parametrize("options", CONVOLUTIONS_1D.values(), ids=CONVOLUTIONS_1D.keys())
def test_conv1d(options: dict[str, object], measure: Measure) -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 3, **options), nn.Tanh(), nn.Flatten(), nn.LazyLinear(5)).double()
    x, y = torch.randn(6, 4, 9).double(), classes()
    model(x)
    assert_same(measure(model, x, y=y).gram(), gram_one_sample_at_a_time(model, x, y, sum_of_cross_entropies))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_same_padding_of_an_even_kernel(measure: Measure) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, (2, 4), padding="same"), nn.Flatten(), nn.Linear(2 * 25, 5)).double()
    x, y = images(size=5), classes()
    assert_same(measure(model, x, y=y).gram(), gram_one_sample_at_a_time(model, x, y, sum_of_cross_entropies))


LAYERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "linear-of-sequences": (
        lambda: nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3, bias=False), nn.Flatten(), nn.Linear(15, 5)),
        lambda: torch.randn(6, 5, 4),
    ),
    "linear-of-many-positions": (
        lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(90, 5)),
        lambda: torch.randn(6, 5, 6, 2),
    ),
    "batch-merged-into-the-leading-dimension": (
        lambda: nn.Sequential(
            nn.Flatten(0, 1), nn.Linear(4, 8), nn.Tanh(), nn.Unflatten(0, (-1, 5)), nn.Flatten(), nn.Linear(40, 5)
        ),
        lambda: torch.randn(6, 5, 4),
    ),
    "frames-merged-into-the-batch": (
        lambda: nn.Sequential(
            nn.Flatten(0, 1),
            nn.Conv2d(3, 4, 3, groups=1),
            nn.GroupNorm(2, 4),
            nn.Conv2d(4, 4, 2, groups=2),
            nn.Tanh(),
            nn.Unflatten(0, (-1, 2)),
            nn.Flatten(),
            nn.Linear(2 * 4 * 4, 5),
        ),
        lambda: torch.randn(6, 2, 3, 5, 5),
    ),
    "layer-norm": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Flatten(), nn.Linear(24, 5)),
        lambda: torch.randn(6, 3, 4),
    ),
    "layer-norm-over-three-dimensions": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.LayerNorm((4, 3, 3)), nn.Flatten(), nn.Linear(36, 5)),
        lambda: torch.randn(6, 3, 5, 5),
    ),
    "layer-norm-without-bias": (
        lambda: nn.Sequential(nn.LayerNorm(4, bias=False, eps=1e-2), nn.Flatten(), nn.Linear(12, 5)),
        lambda: torch.randn(6, 3, 4),
    ),
    "group-norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), nn.Tanh(), nn.Flatten(), nn.Linear(54, 5)),
        lambda: torch.randn(6, 3, 5, 5),
    ),
    "embedding-bag-of-words": (
        lambda: nn.Sequential(nn.Embedding(9, 4), nn.Tanh(), nn.Flatten(), nn.Linear(28, 5)),
        lambda: torch.randint(0, 9, (6, 7)),
    ),
    "embedding-with-padding": (
        lambda: nn.Sequential(nn.Embedding(9, 4, padding_idx=-2), nn.Tanh(), nn.Flatten(), nn.Linear(28, 5)),
        lambda: torch.randint(6, 9, (6, 7)),
    ),
    "embedding-of-one-word": (
        lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 5)),
        lambda: torch.randint(0, 9, (6,)),
    ),
}


@pytest.mark.parametrize(("build", "inputs"), LAYERS.values(), ids=LAYERS.keys())
def test_layer(build: Callable[[], nn.Module], inputs: Callable[[], Tensor], measure: Measure) -> None:
    model, x, y = build().double(), inputs(), classes()
    x = x.double() if x.is_floating_point() else x
    assert_same(measure(model, x, y=y).gram(), gram_one_sample_at_a_time(model, x, y, sum_of_cross_entropies))


class SequenceFirst(nn.Module):
    """Moves the batch to dimension 1 for its layers, as many recurrent and attention models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 7)
        self.norm = nn.LayerNorm(7)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.inner(x.transpose(0, 1))))).sum(0)


class HandWrittenRecurrence(nn.Module):
    """Shares two matrices over time; its initial state does not descend from the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(4, 7)
        self.again = nn.Linear(7, 7)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.ones(len(x), 7).to(x)
        for step in range(x.shape[1]):
            state = torch.tanh(self.enter(x[:, step]) + self.again(state))
        return self.head(state)


class SharedConvolution(nn.Module):
    """One convolution at two resolutions, one norm twice; the last use of the head is not part of the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.GroupNorm(1, 3)
        self.head = nn.Linear(3 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.norm(self.conv(x)))
        x = F.max_pool2d(F.relu_(self.norm(self.conv(x))), 2)
        self.unused = self.head(x.flatten(1) * 2)
        return self.head(x.flatten(1))


class PlainMatrix(nn.Module):
    """Bare parameters used by matrix products, as they are and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.inward = nn.Parameter(torch.randn(4, 7))
        self.bias = nn.Parameter(torch.randn(5))
        self.outward = nn.Parameter(torch.randn(5, 7))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(torch.matmul(x, self.inward)) + x @ self.outward.mT.T[:4].detach()
        return (
            torch.addmm(self.bias, torch.mm(h.mean(1), self.inward.mT), torch.randn(4, 5).to(x))
            + h.mean(1) @ self.outward.mT
        )


@pytest.mark.parametrize("tokens", [5, 6])
@pytest.mark.parametrize("build", [SequenceFirst, HandWrittenRecurrence])
def test_where_the_batch_lies(build: Callable[[], nn.Module], tokens: int, measure: Measure) -> None:
    model, x, y = build().double(), torch.randn(6, tokens, 4).double(), classes()
    assert_same(measure(model, x, y=y).gram(), gram_one_sample_at_a_time(model, x, y, sum_of_cross_entropies))


def test_shared_weights_are_summed_before_the_product(measure: Measure) -> None:
    model, x, y = SharedConvolution().double(), images(size=6), classes()
    expected = gram_one_sample_at_a_time(model, x, y, sum_of_cross_entropies)
    assert_same(measure(model, x, y=y).gram(), expected)


def test_last_position_of_each_sample(measure: Measure) -> None:
    class Pooled(TiedLanguageModel):
        def forward(self, ids: Tensor) -> Tensor:
            h = self.norm1(self.tokens(ids))
            return self.inner(h[torch.arange(len(ids)), (ids > 3).sum(1) % ids.shape[1]])

    model, ids, y = Pooled().double(), torch.randint(0, 11, (6, 6)), classes()
    assert_same(measure(model, ids, y=y).gram(), gram_one_sample_at_a_time(model, ids, y, sum_of_cross_entropies))


def test_frozen_parameters_are_left_out(measure: Measure) -> None:
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.LSTM(8, 8)), images(size=4), classes()
    model[2].requires_grad_(False)
    model = model.double()

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: Tensor) -> Tensor:
            return self.body[2](self.body[:2](x).unsqueeze(0))[0].squeeze(0)

    expected = gram_one_sample_at_a_time(First(), x, y, sum_of_cross_entropies)
    assert_same(measure(First(), x, y=y).gram(), expected)


# -- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sum_of_entries_is_the_squared_gradient_of_the_summed_loss(reduction: str) -> None:
    model, x, y = ResNet8().double(), images(), classes()
    probe = FisherProbe(model, loss_reduction=reduction)
    with probe:
        F.cross_entropy(model(x), y, reduction=reduction).backward()
    scale = len(x) if reduction == "mean" else 1
    assert float(probe.gram().sum()) == pytest.approx(squared_gradient(model) * scale**2, rel=1e-10)


@pytest.mark.parametrize("max_memory", [1, 1 << 14, 1 << 18])
@pytest.mark.parametrize("build", [ResNet8, SharedConvolution, TiedLanguageModel])
def test_chunking_changes_nothing(build: Callable[[], nn.Module], max_memory: int, measure: Measure) -> None:
    model = build().double()
    x, y = images(size=8 if build is ResNet8 else 6), classes()
    if build is TiedLanguageModel:
        x, y = torch.randint(0, 11, (6, 6)), classes(6, 6, number=11)
    whole = measure(model, x, y=y).gram()
    probe = FisherProbe(model, loss_reduction="sum", max_memory=max_memory)
    with probe:
        sum_of_cross_entropies(model(x), y).backward()
    assert_same(probe.gram(), whole)


def test_float32_gradients_give_a_float64_gram_matrix(measure: Measure) -> None:
    model, x, y = mlp(), images(size=4).float(), classes()
    gram = measure(model, x, y=y).gram()
    expected = gram_one_sample_at_a_time(model.double(), x.double(), y, sum_of_cross_entropies)
    assert gram.dtype == torch.float64
    torch.testing.assert_close(gram, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_one_sample(measure: Measure) -> None:
    model, ids, y = TiedLanguageModel().double(), torch.randint(0, 11, (1, 6)), classes(1, 6, number=11)
    expected = gram_one_sample_at_a_time(model, ids, y, sum_of_cross_entropies)
    assert_same(measure(model, ids, y=y).gram(), expected)
