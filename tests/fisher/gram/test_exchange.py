"""Global F over gloo processes, against J J^T of all their samples in float64."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.gram._exchange import ExchangedGram
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.gram._jacobians import DenseJacobian, EmbeddingJacobian, OuterJacobian
from autobatch.fisher.layers._convolution import ConvolutionJacobian
from autobatch.fisher.layers._unfold import Geometry
from tests.fisher.gram.test_spill import peak
from tests.fisher.processes import run_in_processes

CPU = torch.device("cpu")
# Samples of each rank.
SIZES = {2: (3, 5), 4: (2, 4, 1, 3)}


def parameters(sizes: tuple[int, ...], rank: int, dtype: torch.dtype) -> list[list[Jacobian]]:
    """Uses of each parameter on one rank: slices of what all ranks have."""
    generator = torch.Generator().manual_seed(3)
    total, first = sum(sizes), sum(sizes[:rank])
    own = slice(first, first + sizes[rank])

    def numbers(*shape: int) -> Tensor:
        return torch.randn(total, *shape, generator=generator, dtype=torch.float64).to(dtype)[own]

    indices = torch.randint(0, 11, (total, 4), generator=generator)[own]
    return [
        [DenseJacobian(numbers(7, 2))],
        [DenseJacobian(numbers(1))],
        [OuterJacobian(numbers(1, 30), numbers(1, 40))],  # by its factors
        [OuterJacobian(numbers(3, 6), numbers(3, 9))],
        [
            ConvolutionJacobian(
                numbers(3, 6, 6),
                numbers(4, 6, 6),
                batch=sizes[rank],
                geometry=Geometry((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
                groups=1,
            )
        ],
        [OuterJacobian(numbers(1, 11), numbers(1, 5)), EmbeddingJacobian(indices, numbers(4, 5), 11)],
    ]


def jacobian(per_parameter: list[list[Jacobian]]) -> Tensor:
    blocks = [torch.stack([use.block(0, use.rows).double() for use in uses]).sum(0) for uses in per_parameter]
    return torch.cat(blocks, 1)


def relative(gram: Tensor, expected: Tensor) -> float:
    return float((gram - expected).abs().max() / expected.abs().max())


def exactly(group: dist.ProcessGroup, _: dist.ProcessGroup) -> None:
    rank = group.rank()
    world = group.size()
    sizes = SIZES[world]
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        rows = torch.cat([jacobian(parameters(sizes, other, dtype)) for other in range(world)])
        scales = torch.cat([torch.full((size,), float(size), dtype=torch.float64) for size in sizes])
        scaled = rows * scales[:, None]
        for max_memory in (1 << 24, 1 << 14, 1 << 10):
            gram = ExchangedGram(CPU, max_memory, group=group, mean=True)
            gram.begin(sizes[rank])
            for number, uses in enumerate(parameters(sizes, rank, dtype)):
                gram.add(str(number), uses)
            result = gram.result()
            assert result.dtype == torch.float64
            assert torch.equal(result, result.T)
            assert relative(result, scaled @ scaled.T) < tolerance
            own = jacobian(parameters(sizes, rank, dtype))
            assert relative(gram.local(), own @ own.T) < tolerance
            assert float(gram.local().sum()) == pytest.approx(float(own.sum(0).square().sum()), rel=tolerance * 100)
            everyone = [torch.empty_like(result) for _ in range(world)]
            dist.all_gather(everyone, result, group=group)
            assert all(torch.equal(other, result) for other in everyone)


def other_order(group: dist.ProcessGroup, _: dist.ProcessGroup) -> None:
    rank = group.rank()
    gram = ExchangedGram(CPU, 1 << 20, group=group, mean=False)
    gram.begin(2)
    for name in ("ab", "ba")[rank]:
        gram.add(name, [DenseJacobian(torch.ones(2, 3))])
    with pytest.raises(MeasureError, match="did not use the same parameters in the same order"):
        gram.result()


def capped(group: dist.ProcessGroup, _: dist.ProcessGroup) -> None:
    rank = group.rank()
    for max_memory in (1 << 18, 1 << 20):
        # J of each parameter has (8 + 4) x 6400 numbers (0.6 MB) on two ranks, that of the factored one 12 x 20000.
        batch = (8, 4)[rank]
        uses: list[Jacobian] = [OuterJacobian(torch.randn(batch, 2, 64), torch.randn(batch, 2, 100)) for _ in range(3)]
        uses.append(OuterJacobian(torch.randn(batch, 1, 10000), torch.randn(batch, 1, 20000)))

        def run(max_memory: int = max_memory, uses: list[Jacobian] = uses, batch: int = batch) -> None:
            gram = ExchangedGram(CPU, max_memory, group=group, mean=False)
            gram.begin(batch)
            for number, use in enumerate(uses):
                gram.add(str(number), [use])
            gram.result()

        assert peak(run) < max_memory


BODIES = [("two", 2, exactly), ("four", 4, exactly), ("other_order", 2, other_order), ("capped", 2, capped)]


@pytest.fixture(scope="module")
def tracebacks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run_in_processes(BODIES, tmp_path_factory.mktemp("exchange"))


@pytest.mark.parametrize("name", [name for name, _, _ in BODIES])
def test_in_processes(name: str, tracebacks: dict[str, str]) -> None:
    assert not tracebacks[name], tracebacks[name]
