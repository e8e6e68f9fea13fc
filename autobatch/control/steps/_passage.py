"""How a rank's share of a batch goes through the model: split, measured, synchronised, repeated."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.optim import Optimizer

from autobatch._errors import AutoBatchError, ConfigError, MeasureError
from autobatch.control._ranks import Ranks
from autobatch.control.measuring import is_out_of_memory, saved_tensors, stretches
from autobatch.control.steps._course import Cut
from autobatch.control.steps._fits import Fits
from autobatch.control.steps._plan import BatchPlan, MicroBatches
from autobatch.control.steps._step import Passing, Trainer
from autobatch.fisher import FisherProbe
from autobatch.optim import FisherOptimizer

_LOG = logging.getLogger("autobatch")

_FITTED, _UNMEASURED, _SMALLER = 0, 1, 2  # how a batch is to be trained again; ranks agree on the largest


class Passage:
    """Makes the ``Passing`` of every batch.

    Each part's loss is weighted so that its gradients, averaged over the ranks as wrappers do it, add up to those of
    one process with the whole batch.

    Args:
        model: the network, with the wrappers that training puts around it.
        optimizer: its optimizer.
        plan: how batches are split.
        ranks: the processes that share a batch.
        probe_arguments: what ``FisherProbe`` is made with.
        measure_all: whether several ranks measure the whole batch; else the first measures its share.
        device: where the model is.
        advise: whether the loop is only watched: no loss is weighted, and no batch split.

    Attributes:
        fits: foretells which batch sizes fit into memory.

    Raises:
        ConfigError: the plan does not go with the model.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        plan: BatchPlan,
        ranks: Ranks,
        *,
        probe_arguments: Mapping[str, Any],
        measure_all: bool,
        device: torch.device,
        advise: bool = False,
    ) -> None:
        if advise:
            plan = BatchPlan(accumulation=plan.accumulation)
        self._plan = plan
        self._ranks = ranks
        self.fits = Fits(device, self._bytes_of_gradients)
        self.micro = MicroBatches(plan, least_examples(model, ranks=1, accumulation=1))
        self._probe_arguments = probe_arguments
        self._measure_all = measure_all and ranks.size > 1
        self._advise = advise
        self._mean = probe_arguments["loss_reduction"] == "mean"
        self.take(model, optimizer)
        self._buffers: list[Tensor] = []
        self._random_state = torch.empty(0)
        self._device_state: Tensor | None = None
        self._used: list[int] = []
        self._told_batch_norm = self._told_weight = False

    def take(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Take a model and its optimizer, the first or others in their place."""
        if isinstance(optimizer, FisherOptimizer):
            _check_fisher(optimizer, self._ranks, self._probe_arguments["bn"])
        self._wrapped = [
            module for module in model.modules() if isinstance(module, nn.parallel.DistributedDataParallel)
        ]
        self._sharded = [module for module in model.modules() if hasattr(module, "set_requires_gradient_sync")]
        if self._ranks.size > 1:
            self._check(model, self._plan, self._ranks)
        self.model, self.optimizer = model, optimizer
        self._probes: dict[int, FisherProbe | None] = {1: self._new_probe(1)}

    @property
    def mixes_rows(self) -> bool:
        """Whether measured rows are no gradients of single samples, as under BatchNorm."""
        rows = self._probe_arguments["bn"] == "rows"
        return rows and any(isinstance(module, _BatchNorm) for module in self.model.modules())

    def sizes(self, examples: int, start: int = 0) -> list[int]:
        """Return the micro-batches of this rank's share of a batch that starts at ``start``: as many on all ranks."""
        own = self._own_share(examples, start)
        parts = len(self.micro.sizes(self._largest_share(examples)))
        if not self._plan.guarded:  # wrappers talk in every part, so that no rank may have fewer
            parts = min(parts, max(1, examples // self._ranks.size))
        return _lengths(own, min(parts, own))

    def accumulated(self, examples: int, start: int = 0) -> list[int]:
        """Return the parts of this rank's share of a batch that the loop accumulates by itself."""
        own = self._own_share(examples, start)
        if self._advise:  # the loop's own loader shares out the last batch as it likes
            return _lengths(max(own, self._plan.accumulation), self._plan.accumulation)
        return _lengths(own, min(own, self._plan.accumulation))

    def measured_examples(self, cut: Cut) -> int:
        """Return how many examples of a batch a measured step measures here."""
        return cut.examples if self._measure_all else self._own_share(cut.examples, cut.start)

    def passing(
        self,
        cut: Cut,
        sizes: Sequence[int],
        *,
        lr: float,
        measured: bool,
        trainer: Trainer,
        in_micro_batches: bool = False,
    ) -> Passing:
        """Make the passing of a batch.

        Args:
            cut: the global batch.
            sizes: its parts on this rank.
            lr: effective learning rate of the step.
            measured: whether it is to be measured.
            trainer: is told when the last part is done, and when one has raised.
            in_micro_batches: whether a loop over micro-batches sees to the end of the batch.

        Returns:
            The passing.

        Raises:
            AutoBatchError: the plan splits batches, and this is no loop over micro-batches.
        """
        if not in_micro_batches and self._plan.splits:
            raise AutoBatchError(
                "BatchPlan: micro_batch and bn_batch split batches: put the step into "
                "`for part in controller.micro_batches(batch)`"
            )
        if len(sizes) > 1:
            self._tell_batch_norm(max(sizes), cut.examples)
        probe = self._probe(len(sizes)) if measured else None
        return Passing(
            cut,
            sizes,
            [self._weight(size, cut.examples) for size in sizes],
            contexts=lambda part: self._contexts(sizes, part, probe),
            probe=probe,
            lr=lr,
            unweighted=self._tell_weight,
            trainer=trainer,
            in_micro_batches=in_micro_batches,
            fits=self.fits if self._tells_memory(cut, measured) else None,
        )

    def _tells_memory(self, cut: Cut, measured: bool) -> bool:
        """Whether what a batch takes of memory says what larger ones would."""
        whole = cut.full and not (measured or self._plan.splits or self._sharded)
        return whole and self.fits.learns(cut.batch_size)

    def _bytes_of_gradients(self) -> int:
        """Return how much memory is to be taken yet by gradients."""
        missing = [parameter for parameter in self._trained() if parameter.grad is None]
        return sum(parameter.numel() * parameter.element_size() for parameter in missing)

    def begin_batch(self) -> None:
        """Note what a batch that runs out of memory has to be brought back to."""
        self.micro.begin()
        if self._plan.guarded:
            self._buffers = [buffer.detach().clone() for buffer in self.model.buffers()]
            self._random_state = torch.get_rng_state()
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                self._device_state = torch.cuda.get_rng_state()

    def deals_with(self, passing: Passing, error: BaseException) -> bool:
        """Return whether a batch is trained again after an error, instead of ending the training."""
        if not self._plan.guarded:
            return False
        return is_out_of_memory(error) or (passing.measured and isinstance(error, MeasureError))

    def must_repeat(self, passing: Passing) -> bool:
        """Get everything ready and return True where a batch, done or given up, has to be trained again."""
        if not self._plan.guarded:
            passing.measure()
            return False
        wanted = _FITTED
        if passing.given_up:
            wanted = _UNMEASURED if passing.measured else _SMALLER
        again, *self._used = self._ranks.most([wanted, *(p.grad is not None for p in self._trained())])
        # What is known of memory is the same on all ranks: it speaks of the largest share.
        size = max(self.micro.sizes(self._largest_share(passing.cut.examples)))
        if again == _FITTED:
            self.micro.fitted(size)
            passing.measure()
            return False
        passing.abandon()
        self._bring_back()
        if again == _UNMEASURED:
            _LOG.warning("out of memory in a measured step: the batch is trained again without measuring")
        elif size < 2 * self.micro.least:
            examples = "a single example" if size == 1 else f"{size} examples"
            raise AutoBatchError(f"out of memory with a micro-batch of {examples}: nothing smaller can be tried")
        else:
            self.micro.failed(size)
            smaller = max(self.sizes(passing.cut.examples, passing.cut.start))
            _LOG.warning("out of memory with micro-batches of %d: the batch is trained again in %d", size, smaller)
        return True

    def end_batch(self) -> None:
        """Bring the ranks' gradients together where that was put off until all had fitted."""
        if not (self._plan.guarded and self._ranks.size > 1):
            return
        # What no rank has used keeps no gradient, as with one process.
        used = [parameter for parameter, anywhere in zip(self._trained(), self._used, strict=True) if anywhere]
        for parameter in used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._ranks.average([parameter.grad for parameter in used if parameter.grad is not None])
        self._ranks.copy_first([
            buffer
            for wrapper in self._wrapped
            if wrapper.broadcast_buffers
            for buffer in wrapper.module.buffers()
            if buffer.numel()
        ])

    def _own_share(self, examples: int, first: int) -> int:
        start, stop = self._ranks.share(first, first + examples)
        return stop - start

    def _largest_share(self, examples: int) -> int:
        return -(-examples // self._ranks.size)

    def _trained(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]

    def _bring_back(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in zip(self.model.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        torch.set_rng_state(self._random_state)
        if self._device_state is not None:
            torch.cuda.set_rng_state(self._device_state)
            torch.cuda.empty_cache()

    def _weight(self, size: int, examples: int) -> float:
        """Return what a part's loss is multiplied by."""
        if self._advise:
            return 1.0
        return self._ranks.size * size / examples if self._mean else float(self._ranks.size)

    def _contexts(
        self, sizes: Sequence[int], part: int, probe: FisherProbe | None
    ) -> list[AbstractContextManager[Any]]:
        contexts: list[AbstractContextManager[Any]] = []
        if isinstance(self.optimizer, FisherOptimizer):
            contexts.append(self.optimizer.observe(probe))
        last = part == len(sizes) - 1
        if self._ranks.size > 1 and not self._advise:
            if self._plan.guarded or not last:
                # With a static graph the first pass must not be without; averaging twice does no harm.
                contexts += [wrapper.no_sync() for wrapper in self._wrapped if not wrapper.static_graph]
            if len(sizes) > 1 and self._sharded:
                contexts.append(_synchronising(self._sharded, last))
        if self._plan.guarded and not self.micro.proven(sizes[part]):
            contexts.append(saved_tensors(self.model, self._plan.memory_limit))
        return contexts

    def _probe(self, parts: int) -> FisherProbe | None:
        if parts not in self._probes:
            self._probes[parts] = self._new_probe(parts)
        return self._probes[parts]

    def _new_probe(self, parts: int) -> FisherProbe | None:
        if self._ranks.size > 1 and not self._measure_all and not self._ranks.leads:
            return None
        if parts > 1 and self._probe_arguments["bn"] == "exact":
            _LOG.warning('with bn="exact", batches that are split into %d parts are not measured', parts)
            return None
        arguments = {**self._probe_arguments}
        if self._measure_all:
            group = self._ranks.side_group
            # Not in the backward pass, where wrappers use the same group, or a rank may run out of memory and leave the
            # others waiting.
            exchange_after = parts > 1 or self._plan.guarded or group is self._ranks.group
            arguments |= {"process_group": group, "exchange_after": exchange_after}
        if not self._mean and self._ranks.size > 1 and not self._advise:
            arguments["grad_scaler"] = _Weighted(self._ranks.size, arguments["grad_scaler"])
        return FisherProbe(self.model, micro_batches=parts, **arguments)

    def _check(self, model: nn.Module, plan: BatchPlan, ranks: Ranks) -> None:
        for wrapper in self._wrapped:
            if wrapper.process_group.size() != ranks.size:
                raise ConfigError(
                    f"process_group: DistributedDataParallel trains with {wrapper.process_group.size()} processes, the "
                    f"controller with {ranks.size}: give both the same group"
                )
        if not plan.guarded:
            return
        reason = ""
        if self._sharded or any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
            reason = "FSDP"
        elif any(isinstance(module, SyncBatchNorm) for module in model.modules()):
            reason = "SyncBatchNorm"
        elif any(wrapper.static_graph for wrapper in self._wrapped):
            raise ConfigError(
                "BatchPlan: micro_batch does not go with DistributedDataParallel(static_graph=True): it must bring "
                "gradients together in its first pass, and here that waits until all ranks have fitted"
            )
        if reason:
            raise ConfigError(
                f"BatchPlan: micro_batch does not go with {reason}: a rank that runs out of memory leaves the others "
                "waiting in the forward pass; choose a micro-batch that fits with bn_batch or accumulation"
            )

    def _tell_weight(self) -> None:
        if not self._told_weight:
            self._told_weight = True
            _LOG.warning(
                "a part of a batch was trained without step.backward(loss): its loss is not weighted by its share of "
                "the batch"
            )

    def _tell_batch_norm(self, part: int, examples: int) -> None:
        if self._told_batch_norm:
            return
        self._told_batch_norm = True
        layers = sum(isinstance(module, _BatchNorm) and module.training for module in self.model.modules())
        if layers and self._plan.bn_batch is None:
            _LOG.warning(
                "%d BatchNorm layers take their statistics over parts of %d examples, not over the batch of %d: the "
                "step is not that of the whole batch. BatchPlan(bn_batch=...) keeps the statistics' batch the same at "
                "every batch size",
                layers,
                part,
                examples,
            )


def _check_fisher(optimizer: FisherOptimizer, ranks: Ranks, bn: str) -> None:
    """Refuse an optimizer that looks at layers or outputs where it would see a part of them, or something else."""
    name = type(optimizer).__name__
    if optimizer.local and ranks.size > 1:
        raise ConfigError(
            f"optimizer: {name} takes one process, not {ranks.size}: each would go by its own samples, and their "
            "parameters drift apart. MiniBlockFisher and Padam, which see nothing but gradients, take several"
        )
    if optimizer.observes and bn == "exact":
        raise ConfigError(
            f'Measuring: bn="exact" does not go with {name}, whose factors are of the loss\'s own backward pass, where '
            f'that one has a pass for each sample\'s loss: use bn="rows" or "eval"'
        )


class _Weighted:
    """Undoes the weight of summed losses in measuring; in place of a GradScaler, or around one."""

    def __init__(self, weight: float, scaler: torch.amp.GradScaler | None) -> None:
        self._weight = weight
        self._scaler = scaler

    def scale(self, outputs: Tensor) -> Tensor:
        scaled = outputs * self._weight
        return scaled if self._scaler is None else self._scaler.scale(scaled)


@contextmanager
def _synchronising(modules: Sequence[Any], wanted: bool) -> Iterator[None]:
    """Have FSDP bring gradients together in a backward pass, or not."""
    for module in modules:
        module.set_requires_gradient_sync(wanted)
    try:
        yield
    finally:
        for module in modules:
            module.set_requires_gradient_sync(True)


def least_examples(model: nn.Module, ranks: int, accumulation: int) -> int:
    """Return how many examples a global batch has at least: one a rank, and BatchNorm has no statistics of one."""
    return 2 * ranks * accumulation if any(isinstance(module, _BatchNorm) for module in model.modules()) else ranks


def _lengths(examples: int, parts: int) -> list[int]:
    return [examples] if parts == 1 else [stop - start for start, stop in stretches(examples, parts)]
