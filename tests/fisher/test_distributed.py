"""F of models that several processes train: each process's own rows, and those of all of them together."""

import copy
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe
from autobatch.fisher.gram import SketchedGram, _group
from autobatch.fisher.gram._spill import SpilledGram

from .conftest import sum_of_cross_entropies
from .models import ResNet8, TiedLanguageModel
from .processes import Body, run_in_processes
from .reference import gram_one_layer_at_a_time, gram_one_sample_at_a_time

# Samples of each process.
SIZES = {2: (3, 5), 4: (2, 4, 1, 3)}
Group = dist.ProcessGroup
Example = tuple[nn.Module, Tensor, Tensor]


def assert_same(gram: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    assert gram.dtype == torch.float64
    assert torch.equal(gram, gram.T)
    assert gram.shape == expected.shape
    difference = float((gram - expected).abs().max() / expected.abs().max())
    assert difference < tolerance, difference


# -- models, and the batch of all processes --------------------------------------------------------------------------


def residual(total: int) -> Example:
    model = ResNet8().double()
    model(torch.randn(6, 3, 8, 8, dtype=torch.float64))  # running statistics that are not the initial ones
    return model.eval(), torch.randn(total, 3, 8, 8, dtype=torch.float64), torch.randint(0, 5, (total,))


def residual_in_train_mode(total: int) -> Example:
    model, x, y = residual(total)
    return model.train(), x, y


def language(total: int, *, in_place: bool = True) -> Example:
    ids = torch.randint(0, 11, (total, 6))
    return TiedLanguageModel(tie="linear", in_place=in_place).double(), ids, torch.randint(0, 11, ids.shape)


def multilayer(total: int) -> Example:
    model = nn.Sequential(nn.Linear(48, 20), nn.ReLU(inplace=True), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5))
    return model.double(), torch.randn(total, 48, dtype=torch.float64), torch.randint(0, 5, (total,))


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


class Shared:
    """A model on each process of a group, and the samples of this process and of all of them."""

    def __init__(self, build: Callable[[int], Example], group: Group, wrapper: Group) -> None:
        sizes = SIZES[group.size()]
        first = sum(sizes[: group.rank()])
        own = slice(first, first + sizes[group.rank()])
        self.model, self.all_x, self.all_y = build(sum(sizes))
        self.x, self.y = self.all_x[own], self.all_y[own]
        self.group = group
        self.wrapper_group = wrapper

    def step(self, model: nn.Module, probe: FisherProbe | None = None) -> list[Tensor]:
        """Take a step, measured by the probe if there is one; return the gradients."""
        model.zero_grad()
        with probe or nullcontext():
            (sum_of_cross_entropies(model(self.x), self.y) / len(self.x)).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return [g.full_tensor() if isinstance(g, DTensor) else g.clone() for g in gradients]

    def local_gram(self) -> Tensor:
        if any(isinstance(module, nn.BatchNorm2d) and module.training for module in self.model.modules()):
            return gram_one_layer_at_a_time(copy.deepcopy(self.model), self.x, self.y, sum_of_cross_entropies)
        return gram_one_sample_at_a_time(self.model, self.x, self.y, sum_of_cross_entropies)

    def global_gram(self) -> Tensor:
        return gram_one_sample_at_a_time(self.model, self.all_x, self.all_y, sum_of_cross_entropies)


def check(shared: Shared, wrapped: nn.Module, *, everyone: bool = True) -> None:
    """Measure each process's own rows and those of all, beside ordinary steps of the same model."""
    shared.step(wrapped)  # from the next one on, DistributedDataParallel sums in the order in which gradients come
    plain = shared.step(wrapped)
    measurements = [(FisherProbe(wrapped), shared.local_gram())] * 2
    if everyone:
        gram = shared.global_gram()
        measurements += [(FisherProbe(wrapped, process_group=shared.group), gram)] * 2
        measurements += [(FisherProbe(wrapped, process_group=shared.group, max_memory=1 << 14), gram)]
    probe = FisherProbe(wrapped, gradients="rows")
    torch.testing.assert_close(shared.step(wrapped, probe), plain)
    assert_same(probe.gram(), shared.local_gram())
    for probe, expected in measurements:
        assert all(torch.equal(a, b) for a, b in zip(shared.step(wrapped, probe), plain, strict=True))
        assert_same(probe.gram(), expected)
    assert all(torch.equal(a, b) for a, b in zip(shared.step(wrapped), plain, strict=True))


# -- DistributedDataParallel -------------------------------------------------------------------------------------------


def data_parallel(group: Group, wrapper: Group, *, build: Callable[[int], Example], **options: object) -> None:
    shared = Shared(build, group, wrapper)
    wrapped = DistributedDataParallel(copy.deepcopy(shared.model), process_group=shared.wrapper_group, **options)
    check(shared, wrapped)


def data_parallel_batch_norm(group: Group, wrapper: Group) -> None:
    shared = Shared(residual_in_train_mode, group, wrapper)
    options = {"process_group": shared.wrapper_group, "broadcast_buffers": False}
    check(shared, DistributedDataParallel(copy.deepcopy(shared.model), **options), everyone=False)


def data_parallel_checkpointed(group: Group, wrapper: Group) -> None:
    shared = Shared(residual, group, wrapper)
    model = copy.deepcopy(shared.model)
    model.stages = Checkpointed(model.stages)
    check(shared, DistributedDataParallel(model, process_group=shared.wrapper_group))


def data_parallel_compiled(group: Group, wrapper: Group) -> None:
    shared = Shared(multilayer, group, wrapper)
    wrapped = DistributedDataParallel(copy.deepcopy(shared.model), process_group=shared.wrapper_group)
    check(shared, torch.compile(wrapped, backend="eager"))


def micro_batches(group: Group, wrapper: Group) -> None:
    shared = Shared(residual, group, wrapper)
    wrapped = DistributedDataParallel(copy.deepcopy(shared.model), process_group=shared.wrapper_group)
    plain = shared.step(wrapped)
    wrapped.zero_grad()
    probe = FisherProbe(wrapped, micro_batches=2)
    with probe:
        with wrapped.no_sync():
            (sum_of_cross_entropies(wrapped(shared.x[:1]), shared.y[:1]) / len(shared.x)).backward()
        (sum_of_cross_entropies(wrapped(shared.x[1:]), shared.y[1:]) / len(shared.x)).backward()
    assert_same(probe.gram(), shared.local_gram())
    torch.testing.assert_close([p.grad for p in wrapped.parameters()], plain)


def exchanged_after(group: Group, wrapper: Group) -> None:
    """What each process has kept is brought together after the step, by the wrapper's own group."""
    shared = Shared(residual, group, wrapper)
    wrapped = DistributedDataParallel(copy.deepcopy(shared.model), process_group=shared.wrapper_group)
    plain, gram = shared.step(wrapped), shared.global_gram()
    parts = FisherProbe(wrapped, micro_batches=2, process_group=wrapper, exchange_after=True)
    wrapped.zero_grad()
    with parts:
        for part in (slice(0, 1), slice(1, None)):
            (sum_of_cross_entropies(wrapped(shared.x[part]), shared.y[part]) / len(shared.x)).backward()
    torch.testing.assert_close([p.grad for p in wrapped.parameters()], plain)
    small = {"process_group": wrapper, "exchange_after": True, "max_memory": 1 << 16}
    for probe in (parts, FisherProbe(wrapped, **small)):
        if probe is not parts:
            shared.step(wrapped, probe)
        with pytest.raises(MeasureError, match=r"call exchange\(\)"):
            probe.measurement()
        probe.exchange()
        assert_same(probe.gram(), gram)
    with pytest.raises(MeasureError, match="nothing to exchange"):
        probe.exchange()


def one_cannot_measure(group: Group, wrapper: Group, *, sink: type, **options: object) -> None:
    """A process that could not measure its part leaves none waiting, and the others hear of it."""
    shared = Shared(multilayer, group, wrapper)
    probe = FisherProbe(shared.model, process_group=group, exchange_after=True, **options)
    failures = [torch.OutOfMemoryError("simulated"), ValueError("simulated")]
    for failure in failures:
        with pytest.MonkeyPatch.context() as patch:
            if group.rank() == 1:
                patch.setattr(sink, "add", mock.Mock(side_effect=failure))
            shared.step(shared.model, probe)
        probe.exchange()
        problem = probe.measurement().problem
        assert problem is not None
        memory = isinstance(failure, torch.OutOfMemoryError)
        assert isinstance(problem.__cause__, torch.OutOfMemoryError) == memory
        if group.rank() != 1:
            assert re.search("process 1 .*(ran out of memory|could not measure)", str(problem))


def sketched(group: Group, wrapper: Group, *, wrap: Callable[[Shared], nn.Module]) -> None:
    """One projection on all processes: as one process has it, of k numbers from each sample."""
    shared = Shared(residual, group, wrapper)
    wrapped = wrap(shared)
    shared.step(wrapped)
    plain = shared.step(wrapped)
    options = {"measure": "sketched", "sketch_rows": 64, "sketch_seed": 5}
    alone = FisherProbe(shared.model, loss_reduction="sum", **options)
    with alone:
        sum_of_cross_entropies(shared.model(shared.all_x), shared.all_y).backward()
    sent: list[Tensor] = []

    def all_gather(received: Tensor, own: Tensor, group: Group) -> None:
        sent.append(own)
        gather(received, own, group=group)

    gather = _group._all_gather
    after = FisherProbe(wrapped, process_group=wrapper, exchange_after=True, **options)
    for probe in (FisherProbe(wrapped, process_group=group, **options), after):
        with mock.patch.object(_group, "_all_gather", all_gather):
            gradients = shared.step(wrapped, probe)
            if probe is after:
                probe.exchange()
        assert all(torch.equal(a, b) for a, b in zip(gradients, plain, strict=True))
        assert_same(probe.gram(), alone.gram())
        assert probe.spectrum().sketch_rows == 64
        assert [one.numel() for one in sent if one.is_floating_point()] == [64 * max(SIZES[group.size()])]
        sent.clear()


def wrapped_by_data_parallel(shared: Shared) -> nn.Module:
    return DistributedDataParallel(copy.deepcopy(shared.model), process_group=shared.wrapper_group)


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(48, 5) for _ in range(2))
        self.expert = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.experts[self.expert](x)


def other_parameters(group: Group, wrapper: Group) -> None:
    shared = Shared(lambda total: (Conditional().double(), *multilayer(total)[1:]), group, wrapper)
    shared.model.expert = group.rank()
    wrapped = DistributedDataParallel(shared.model, process_group=shared.wrapper_group, find_unused_parameters=True)
    probe = FisherProbe(wrapped, process_group=group)
    shared.step(wrapped, probe)
    with pytest.raises(MeasureError, match="did not use the same parameters in the same order"):
        probe.gram()
    for measure in ("exact", "sketched"):
        probe = FisherProbe(wrapped, process_group=group, exchange_after=True, measure=measure)
        shared.step(wrapped, probe)
        probe.exchange()
        with pytest.raises(MeasureError, match="did not use the same parameters"):
            probe.gram()


# -- FSDP2 -------------------------------------------------------------------------------------------------------------


def sharded(shared: Shared, model: nn.Module | None = None, **options: object) -> nn.Module:
    """Shard each child that has parameters, and the rest."""
    model = copy.deepcopy(shared.model) if model is None else model
    mesh = DeviceMesh.from_group(shared.wrapper_group, "cpu")
    for child in model.children():
        if not isinstance(child, nn.Embedding) and any(True for _ in child.parameters()):
            fully_shard(child, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def fully_sharded(group: Group, wrapper: Group, *, build: Callable[[int], Example], **options: object) -> None:
    shared = Shared(build, group, wrapper)
    check(shared, sharded(shared, **options))


def fully_sharded_checkpointed(group: Group, wrapper: Group) -> None:
    shared = Shared(residual, group, wrapper)
    model = copy.deepcopy(shared.model)
    model.stages = Checkpointed(model.stages)
    check(shared, sharded(shared, model))


def fully_sharded_micro_batches(group: Group, wrapper: Group) -> None:
    shared = Shared(multilayer, group, wrapper)
    wrapped = sharded(shared)
    probe = FisherProbe(wrapped, micro_batches=2)
    with probe:
        for last, part in enumerate((slice(0, 1), slice(1, None))):
            wrapped.set_requires_gradient_sync(bool(last))
            (sum_of_cross_entropies(wrapped(shared.x[part]), shared.y[part]) / len(shared.x)).backward()
    assert_same(probe.gram(), shared.local_gram())


def mixed_precision(group: Group, wrapper: Group) -> None:
    shared = Shared(multilayer, group, wrapper)
    model = copy.deepcopy(shared.model).float()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    wrapped = sharded(shared, model, mp_policy=policy)
    shared.x = shared.x.float()
    of_own, of_all = FisherProbe(wrapped), FisherProbe(wrapped, process_group=group)
    shared.step(wrapped, of_own)
    shared.step(wrapped, of_all)
    shared.x = shared.x.double()
    assert_same(of_own.gram(), shared.local_gram(), tolerance=0.1)
    assert_same(of_all.gram(), shared.global_gram(), tolerance=0.1)


BODIES: list[tuple[str, int, Body]] = [
    ("ddp-residual-2", 2, partial(data_parallel, build=residual)),
    ("ddp-residual-4", 4, partial(data_parallel, build=residual)),
    ("ddp-language-2", 2, partial(data_parallel, build=language)),
    ("ddp-multilayer-4", 4, partial(data_parallel, build=multilayer)),
    ("ddp-many-buckets", 2, partial(data_parallel, build=multilayer, bucket_cap_mb=1e-5)),
    ("ddp-bucket-view", 2, partial(data_parallel, build=multilayer, gradient_as_bucket_view=True)),
    ("ddp-static-graph", 2, partial(data_parallel, build=multilayer, static_graph=True)),
    ("ddp-batch-norm", 2, data_parallel_batch_norm),
    ("ddp-checkpointed", 2, data_parallel_checkpointed),
    ("ddp-compiled", 2, data_parallel_compiled),
    ("ddp-micro-batches", 2, micro_batches),
    ("exchanged-after", 2, exchanged_after),
    ("one-cannot-measure", 2, partial(one_cannot_measure, sink=SpilledGram)),
    ("one-cannot-measure-sketched", 2, partial(one_cannot_measure, sink=SketchedGram, measure="sketched")),
    ("sketched-2", 2, partial(sketched, wrap=wrapped_by_data_parallel)),
    ("sketched-4", 4, partial(sketched, wrap=wrapped_by_data_parallel)),
    ("sketched-fsdp", 2, partial(sketched, wrap=sharded)),
    ("other-parameters", 2, other_parameters),
    ("fsdp-residual-2", 2, partial(fully_sharded, build=residual)),
    ("fsdp-multilayer-4", 4, partial(fully_sharded, build=multilayer)),
    # FSDP hangs hooks on the outputs of layers. Where a linear layer's is a view, an operation in place takes them out
    # of the graph, and FSDP's own backward pass fails, measured or not.
    ("fsdp-language-2", 2, partial(fully_sharded, build=partial(language, in_place=False))),
    ("fsdp-kept-unsharded", 2, partial(fully_sharded, build=multilayer, reshard_after_forward=False)),
    ("fsdp-checkpointed", 2, fully_sharded_checkpointed),
    ("fsdp-micro-batches", 2, fully_sharded_micro_batches),
    ("fsdp-mixed-precision", 2, mixed_precision),
]


@pytest.fixture(scope="module")
def tracebacks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run_in_processes(BODIES, tmp_path_factory.mktemp("distributed"))


@pytest.mark.parametrize("name", [name for name, _, _ in BODIES])
def test_in_processes(name: str, tracebacks: dict[str, str]) -> None:
    assert not tracebacks[name], tracebacks[name]
