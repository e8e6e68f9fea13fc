"""F of a sketch of J beside the exact F in float64: unbiased, within the stated errors, whatever the blocks."""

import math
from collections.abc import Callable
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe, Spectrum
from autobatch.fisher.gram import _sketch
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.gram._sketch import SketchedGram

from ..models import ResNet8, TiedLanguageModel, mlp
from .test_spill import KINDS, dense, outer, rows

CPU = torch.device("cpu")
BATCH = 6


def sketched(uses: list[list[Jacobian]], places: int, seed: int, max_memory: int = 1 << 24) -> Tensor:
    sink = SketchedGram(CPU, max_memory, rows=places, seed=seed)
    sink.begin(BATCH)
    for index, own in enumerate(uses):
        sink.add(f"parameter {index}", own)
    return sink.result()


def bound(exact: Tensor, places: int) -> float:
    """Of the expected squared Frobenius norm of F's error."""
    return float((exact.trace() ** 2 + exact.square().sum()) / places)


@pytest.mark.parametrize("kind", KINDS)
def test_entries_are_unbiased_and_their_error_is_bounded(kind: Callable[..., Jacobian]) -> None:
    uses = [[kind(BATCH, torch.float64)], [dense(BATCH, torch.float64), dense(BATCH, torch.float64)]]
    exact = sum((rows(own) @ rows(own).T for own in uses), torch.zeros(BATCH, BATCH, dtype=torch.float64))
    places, seeds = 13, 80
    found = torch.stack([sketched(uses, places, seed) for seed in range(seeds)])
    errors = found - exact
    assert float(errors.square().sum((1, 2)).mean()) < 1.3 * bound(exact, places)
    assert float(errors.mean(0).square().sum()) < 4.0 * bound(exact, places) / seeds


def test_columns_of_one_stretch_never_meet() -> None:
    uses = [outer(BATCH, torch.float64)]  # 54 columns
    torch.testing.assert_close(sketched([uses], 54, seed=3), rows(uses) @ rows(uses).T)


@pytest.mark.parametrize("places", [12, 24, 5000])
def test_blocks_do_not_matter(places: int) -> None:
    uses = [[kind(BATCH, torch.float64)] for kind in KINDS]
    whole = sketched(uses, places, seed=1)
    torch.testing.assert_close(sketched(uses, places, seed=1, max_memory=1 << 10), whole)
    assert not torch.equal(sketched(uses, places, seed=2), whole)
    assert torch.equal(sketched(uses, places, seed=1), whole)


def test_large_calls_of_an_accelerator_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    uses = [[kind(BATCH, torch.float64)] for kind in KINDS]
    small = sketched(uses, 13, seed=1)
    monkeypatch.setattr(_sketch, "_IN_SMALL_CALLS", frozenset())
    torch.testing.assert_close(sketched(uses, 13, seed=1), small)


# -- models ------------------------------------------------------------------------------------------------------------


def images(batch: int, size: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 3, size, size, dtype=torch.float64), torch.randint(0, 5, (batch,))


def multilayer() -> tuple[nn.Module, Tensor, Tensor]:
    return mlp().double(), *images(16, 4)


def residual() -> tuple[nn.Module, Tensor, Tensor]:
    return ResNet8().double(), *images(16)


def language() -> tuple[nn.Module, Tensor, Tensor]:
    ids = torch.randint(0, 11, (16, 6))
    return TiedLanguageModel(tie="linear").double(), ids, torch.randint(0, 11, ids.shape)


def step(model: nn.Module, x: Tensor, y: Tensor, parts: int = 1, **options: object) -> FisherProbe:
    probe = FisherProbe(model, micro_batches=parts, **options)
    model.zero_grad()
    with probe:
        for some, targets in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (F.cross_entropy(model(some).flatten(0, -2), targets.flatten()) / parts).backward()
    return probe


def spectra(example: Callable[[], tuple[nn.Module, Tensor, Tensor]], places: int) -> tuple[Spectrum, list[Spectrum]]:
    model, x, y = example()
    found = [
        step(model, x, y, measure="sketched", sketch_rows=places, sketch_seed=seed).spectrum() for seed in range(12)
    ]
    return step(model, x, y).spectrum(), found


@pytest.mark.parametrize("example", [multilayer, residual, language])
@pytest.mark.parametrize("places", [64, 512])
def test_figures_have_the_stated_errors(example: Callable[[], tuple[nn.Module, Tensor, Tensor]], places: int) -> None:
    exact, found = spectra(example, places)
    batch = exact.batch_size

    def mean_square(errors: list[float]) -> float:
        return math.sqrt(sum(error**2 for error in errors) / len(errors))

    trace = mean_square([one.trace / exact.trace - 1.0 for one in found])
    share = math.sqrt(float((exact.eigenvalues**2).sum())) / exact.trace
    assert trace < 1.6 * math.sqrt(2.0 / places) * share
    largest = mean_square([one.eigenvalues[-1] / exact.eigenvalues[-1] - 1.0 for one in found])
    assert largest < 1.5 * (math.sqrt(2.0 / places) + batch / places)
    width = math.sqrt(batch / places)
    for one in found:
        assert one.sketch_rows == places
        assert one.rank == exact.rank
        factors = (one.eigenvalues / exact.eigenvalues) ** 0.5
        assert (1.0 - width) * 0.9 < factors.min()
        assert factors.max() < (1.0 + width) * 1.1
        c = one.condition_number / exact.condition_number
        assert (1.0 - width) / (1.0 + width) < c < (1.0 + width) / (1.0 - width)


def test_passes_and_single_precision_make_no_difference() -> None:
    model, x, y = multilayer()
    options = {"measure": "sketched", "sketch_rows": 40}
    whole = step(model, x, y, **options).gram()
    torch.testing.assert_close(step(model, x, y, parts=4, **options).gram(), whole)
    single = step(model.float(), x.float(), y, **options).gram()
    torch.testing.assert_close(single, whole, rtol=1e-4, atol=1e-6 * float(whole.abs().max()))


def test_the_step_is_left_as_it_is() -> None:
    model, x, y = residual()
    F.cross_entropy(model(x), y).backward()
    plain = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    step(model, x, y, measure="sketched").gram()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), plain, strict=True) if p.grad is not None)


def test_a_use_that_was_missed_is_found() -> None:
    model, x, y = multilayer()
    add = SketchedGram.add
    with mock.patch.object(SketchedGram, "add", lambda *given: None if given[1] == "3.weight" else add(*given)):
        probe = step(model, x, y, measure="sketched", sketch_rows=64)
    with pytest.raises(MeasureError, match=r"parameter '3.weight': its per-sample gradients add up"):
        probe.gram()


def test_a_batch_that_is_too_large_is_an_error() -> None:
    model, x, y = multilayer()
    with pytest.raises(MeasureError, match=r"sketch_rows=31 is too small for a batch of 16 samples: give at least 32"):
        step(model, x, y, measure="sketched", sketch_rows=31).gram()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "sketch"}, "measure='sketch': .*sketched"),
        ({"sketch_rows": 2.5}, "sketch_rows: expected a whole number of at least 2, got 2.5"),
        ({"sketch_rows": True}, "sketch_rows: expected a whole number"),
        ({"sketch_rows": 1}, "sketch_rows: expected .* at least 2, got 1"),
        ({"sketch_seed": -1}, "sketch_seed: expected .* at least 0, got -1"),
        ({"measure": "sketched", "bn": "exact"}, 'goes neither with bn="exact"'),
        ({"measure": "sketched", "by_module": True}, "nor with by_module"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        FisherProbe(mlp(), **options)
