"""The streaming Gram matrix by itself: its precision, its shortcuts and its memory."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from autobatch.fisher.gram._gram import GramAccumulator, Jacobian, add_blocks
from autobatch.fisher.gram._jacobians import BagJacobian, DenseJacobian, EmbeddingJacobian, OuterJacobian, joined
from autobatch.fisher.layers._convolution import ConvolutionJacobian
from autobatch.fisher.layers._unfold import Geometry
from tests.fisher.gram.test_spill import peak

CPU = torch.device("cpu")


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def exact(rows: Tensor) -> Tensor:
    return rows.double() @ rows.double().T


def with_twins(rows: Tensor, weight: float) -> Tensor:
    """Return all rows twice, the second time with a weight, in random order."""
    return torch.cat([rows, weight * rows])[torch.randperm(2 * len(rows))]


@pytest.mark.parametrize(
    "widths", [(3, 500, 600, 70), (1, 511, 512, 513), (1024, 1024), (3000,), (2999,), (300, 300, 301), (0, 5)]
)
@pytest.mark.parametrize("max_memory", [1 << 10, 1 << 17, 1 << 26])
@pytest.mark.parametrize("batch", [1, 7, 130])
def test_blocks_of_any_width(widths: tuple[int, ...], max_memory: int, batch: int) -> None:
    max_memory *= batch
    blocks = [torch.randn(batch, width, dtype=torch.float64) for width in widths]
    gram = GramAccumulator(batch, CPU, max_memory)
    for block in blocks:
        gram.add(block)
    assert relative(gram.result(), exact(torch.cat(blocks, 1))) < 1e-13


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("max_memory", [1, 1 << 12, 1 << 26])
@pytest.mark.parametrize("batch", [1, 9, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_pairs(positions: int, max_memory: int, batch: int, dtype: torch.dtype) -> None:
    left = torch.randn(batch, positions, 5, dtype=dtype)
    right = torch.randn(batch, positions, 300, dtype=dtype)
    gram = GramAccumulator(batch, CPU, max_memory)
    gram.add_products(left, right)
    rows = torch.einsum("btr,btw->brw", left.double(), right.double()).flatten(1)
    assert relative(gram.result(), exact(rows)) < 1e-13


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("batch", [8, 128, 1100])
def test_a_bias_after_its_weight(side: int, batch: int) -> None:
    factors = torch.randn(2, batch, 1, 260, dtype=torch.float64)
    gram = GramAccumulator(batch, CPU)
    gram.add_products(*factors)
    gram.add(factors[side][:, 0])
    gram.add(factors[side][:, 0, :100])  # starts at the same address, but is another tensor
    rows = factors[side][:, 0]
    expected = exact(factors[0][:, 0]) * exact(factors[1][:, 0]) + exact(rows) + exact(rows[:, :100])
    assert relative(gram.result(), expected) < 1e-13


def graded(batch: int, width: int) -> Tensor:
    """Return float32 rows of a condition number of about 1e3, like a net's that is sure of most samples."""
    return torch.randn(batch, width) * torch.logspace(0, -3, batch)[torch.randperm(batch), None]


def assert_small_eigenvalues_are_right(gram: Tensor, expected: Tensor) -> None:
    actual, right = torch.linalg.eigvalsh(gram), torch.linalg.eigvalsh(expected)
    assert float(right[-1] / right[0]) > 1e5
    torch.testing.assert_close(actual, right, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("batch", [32, 128, 150])
def test_float32_blocks_keep_small_eigenvalues(batch: int) -> None:
    rows = graded(batch, 5000)
    gram = GramAccumulator(batch, CPU)
    gram.add(rows)
    assert not torch.equal(gram.result(), exact(rows))  # this is about products in float32
    assert_small_eigenvalues_are_right(gram.result(), exact(rows))


def test_float32_pairs_keep_small_eigenvalues() -> None:
    left, right = graded(128, 400), torch.randn(128, 500).relu()
    gram = GramAccumulator(128, CPU)
    gram.add_products(left.unsqueeze(1), right.unsqueeze(1))
    expected = exact(left) * exact(right)
    assert not torch.equal(gram.result(), expected)
    assert_small_eigenvalues_are_right(gram.result(), expected)


@pytest.fixture(params=["this-processor", "another-order-at-the-edge"])
def _orders(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products as this processor makes them, and as one that adds up the last rows in another order."""
    bmm = torch.bmm

    def other(left: Tensor, right: Tensor) -> Tensor:
        products = bmm(left, right)
        products[:, -5:] = bmm(left[:, -5:].flip(2), right.flip(1))
        return products

    if request.param != "this-processor":
        monkeypatch.setattr(torch, "bmm", other)


@pytest.mark.usefixtures("_orders")
@pytest.mark.parametrize("half", [16, 19, 32, 45, 64, 65, 71, 100])
@pytest.mark.parametrize("pairs_first", [False, True])
@pytest.mark.parametrize("weight", [1.0, 0.125])
def test_samples_that_occur_twice_leave_no_eigenvalue(half: int, pairs_first: bool, weight: float) -> None:
    gram = GramAccumulator(2 * half, CPU)
    # A power of two, and on one factor of the pairs alone: then the twins' gradients are the same but for it, exactly.
    twins = with_twins(torch.cat([torch.randn(half, 5700), torch.ones(half, 1)], 1), weight)
    columns, left, right, weights = twins.split((5000, 300, 400, 1), dim=1)
    right = right / weights
    if pairs_first:
        gram.add_products(left.unsqueeze(1), right.unsqueeze(1))
    gram.add(columns)
    if not pairs_first:
        gram.add_products(left.unsqueeze(1), right.unsqueeze(1))
    values = torch.linalg.eigvalsh(gram.result())
    assert float(values[:half].abs().max()) < 1e-13 * float(values[-1])


@pytest.mark.parametrize("distance", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
@pytest.mark.parametrize("batch", [64, 256])
def test_samples_that_are_alike_have_their_small_eigenvalues(batch: int, distance: float) -> None:
    rows = torch.randn(batch // 2, 5000)
    rows = torch.cat([rows, rows + distance * torch.randn_like(rows)])
    gram = GramAccumulator(batch, CPU)
    gram.add(torch.zeros(batch, 3000))
    gram.add(rows)
    gram.add(rows.sin())
    expected = torch.linalg.eigvalsh(exact(rows) + exact(rows.sin()))
    torch.testing.assert_close(torch.linalg.eigvalsh(gram.result()), expected, rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("distance", [1.0, 1e-1, 1e-2, 4e-3, 1e-3, 1e-4])
@pytest.mark.parametrize("batch", [32, 64, 128])
def test_condition_numbers_of_pairs(batch: int, distance: float) -> None:
    """Of samples nearly alike in one factor, whose gradients differ in size by a factor of ten."""
    left, right = torch.randn(batch // 2, 300), torch.randn(batch // 2, 400)
    left = torch.cat([left, left + distance * torch.randn_like(left)]) * torch.logspace(-1, 0, batch).unsqueeze(1)
    right = torch.cat([right, right])
    gram = GramAccumulator(batch, CPU)
    gram.add_products(left.unsqueeze(1), right.unsqueeze(1))
    expected = torch.linalg.eigvalsh(exact(left) * exact(right))
    values = torch.linalg.eigvalsh(gram.result())
    assert float((values[-1] / values[0]).sqrt()) == pytest.approx(float((expected[-1] / expected[0]).sqrt()), rel=0.01)


@pytest.mark.parametrize("batch", [32, 128, 256])
def test_fewer_parameters_than_samples_leave_no_eigenvalue(batch: int) -> None:
    gram = GramAccumulator(batch, CPU)
    gram.add_products(torch.randn(batch, 1, 2), torch.randn(batch, 1, 8))
    gram.add(torch.randn(batch, 5))
    values = torch.linalg.eigvalsh(gram.result())
    assert float(values[: batch - 21].abs().max()) < 1e-13 * float(values[-1])


def convolution(batch: int, inputs: int, outputs: int, size: int, groups: int = 1) -> ConvolutionJacobian:
    return ConvolutionJacobian(
        torch.randn(batch, inputs, size, size),
        torch.randn(batch, outputs, size, size),
        batch=batch,
        geometry=Geometry((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
        groups=groups,
    )


BIG: dict[str, Callable[[], Jacobian]] = {
    "convolution-of-many-channels": lambda: convolution(16, 64, 64, 8),
    "convolution-of-many-positions": lambda: convolution(2, 32, 2, 64),
    "convolution-in-groups": lambda: convolution(16, 96, 96, 8, groups=4),
    "convolution-in-pairs": lambda: convolution(16, 128, 128, 2),
    "sequence": lambda: OuterJacobian(torch.randn(16, 40, 128), torch.randn(16, 40, 200)),
    "sequence-in-pairs": lambda: OuterJacobian(torch.randn(32, 4, 400), torch.randn(32, 4, 500)),
    "linear": lambda: OuterJacobian(torch.randn(64, 1, 2000), torch.randn(64, 1, 3000)),
    "embedding": lambda: EmbeddingJacobian(torch.randint(0, 3000, (32, 40)), torch.randn(32, 40, 32), 3000),
    "bags": lambda: BagJacobian(torch.randint(0, 3000, (32, 40)), torch.rand(32, 40), torch.randn(32, 32), 3000),
    "bags-of-few-words": lambda: BagJacobian(
        torch.randint(0, 300, (64, 40)), torch.rand(64, 40), torch.randn(64, 512), 3000
    ),
    "held": lambda: DenseJacobian(torch.randn(64, 20000)),
}


@pytest.mark.parametrize("build", BIG.values(), ids=BIG.keys())
def test_memory_is_capped(build: Callable[[], Jacobian]) -> None:
    max_memory = 1 << 21  # J has 1.4 to 1500 MB
    jacobian = build()
    batch = len(jacobian.block(0, 1))
    gram = GramAccumulator(batch, CPU, max_memory)
    assert peak(lambda: jacobian.add_to(gram)) < max_memory
    whole = GramAccumulator(batch, CPU)
    jacobian.add_to(whole)
    assert relative(gram.result(), whole.result()) < 1e-5


@pytest.mark.parametrize("build", BIG.values(), ids=BIG.keys())
def test_sums_over_samples(build: Callable[[], Jacobian]) -> None:
    jacobian = build()
    expected = jacobian.block(0, jacobian.rows).double().sum(0)
    batch = len(jacobian.block(0, 1))
    for fill in (jacobian.total, lambda gradient: jacobian.add_to(GramAccumulator(batch, CPU), gradient)):
        gradient = torch.full((len(expected),), torch.nan)
        fill(gradient)
        assert relative(gradient, expected) < 1e-5


def test_a_parameter_used_twice() -> None:
    uses: list[Jacobian] = [
        OuterJacobian(torch.randn(6, 2, 4).double(), torch.randn(6, 2, 30).double()),
        OuterJacobian(torch.randn(6, 3, 4).double(), torch.randn(6, 3, 30).double()),
    ]
    rows = sum((use.block(0, 4) for use in uses), torch.zeros(6, 120).double())
    for max_memory in (1, 1 << 26):
        gram = GramAccumulator(6, CPU, max_memory)
        add_blocks(uses, gram)
        assert relative(gram.result(), exact(rows)) < 1e-13


def test_products_of_several_uses_are_one() -> None:
    def product(positions: int, *, turned: bool = False) -> Jacobian:
        sides = torch.randn(6, positions, 4).double(), torch.randn(6, positions, 30).double()
        return OuterJacobian(*sides, turned=turned)

    uses = [product(2), DenseJacobian(torch.randn(6, 4, 30).double()), product(1), product(3, turned=True), product(1)]
    one = joined(uses)
    assert sorted(len(use.factors()[0][0]) for use in one if isinstance(use, OuterJacobian)) == [3, 4]
    assert [use.turned for use in one if isinstance(use, OuterJacobian)] == [False, True]
    assert len(one) == 3
    before, after = (sum(use.block(1, 3) for use in some) for some in (uses, one))
    torch.testing.assert_close(after, before)
