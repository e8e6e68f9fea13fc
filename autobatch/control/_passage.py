"""How a rank's share of a batch goes through the model: split, measured, synchronised, repeated."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from autobatch._errors import AutoBatchError, ConfigError, MeasureError
from autobatch.control._course import Cut
from autobatch.control._measuring import stretches
from autobatch.control._memory import is_out_of_memory, saved_bytes_limit
from autobatch.control._plan import BatchPlan, MicroBatches
from autobatch.control._ranks import Ranks
from autobatch.control._step import Passing
from autobatch.fisher import FisherProbe

_LOG = logging.getLogger("autobatch")

_FITTED, _UNMEASURED, _SMALLER = 0, 1, 2  # how a batch is to be trained again; ranks agree on the largest


class Passage:
    """Makes the :class:`~autobatch.control._step.Passing` of every batch.

    Args:
        model: the network, with the wrappers that training puts around it.
        optimizer: its optimizer.
        plan: how batches are split.
        ranks: the processes that share a batch.
        probe_arguments: what :class:`~autobatch.fisher.FisherProbe` is made with.
        measure_all: whether several ranks measure the whole batch; else the first measures its share.

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
    ) -> None:
        self._fully_sharded = hasattr(model, "set_requires_gradient_sync")
        if plan.guarded and self._fully_sharded and ranks.size > 1:
            raise ConfigError(
                "BatchPlan: micro_batch does not go with FSDP: a rank that runs out of memory leaves the others "
                "waiting in the forward pass; choose a micro-batch that fits with bn_batch or accumulation"
            )
        self._model = model
        self._optimizer = optimizer
        self._plan = plan
        self._ranks = ranks
        self._micro = MicroBatches(plan)
        self._probe_arguments = probe_arguments
        self._measure_all = measure_all and ranks.size > 1
        self._probes: dict[int, FisherProbe | None] = {1: self._new_probe(1)}
        self._mean = probe_arguments["loss_reduction"] == "mean"
        self._synchronised = isinstance(model, nn.parallel.DistributedDataParallel)
        self._buffers: list[Tensor] = []
        self._random_states: list[Tensor] = []
        self._told_batch_norm = False

    def sizes(self, share: int) -> list[int]:
        """Return the micro-batches of a share.

        Args:
            share: examples of a rank's share.

        Returns:
            Their sizes.
        """
        return self._micro.sizes(share)

    def accumulated(self, share: int) -> list[int]:
        """Return the parts of a share that the loop accumulates by itself.

        Args:
            share: examples of a rank's share.

        Returns:
            Their sizes.
        """
        return [stop - start for start, stop in stretches(share, min(share, self._plan.accumulation))]

    def measured_examples(self, cut: Cut) -> int:
        """Return how many examples of a batch a measured step measures here.

        Args:
            cut: the global batch.

        Returns:
            Examples.
        """
        start, stop = (0, cut.examples) if self._measure_all else self._ranks.share(cut.examples)
        return stop - start

    def passing(
        self,
        cut: Cut,
        sizes: Sequence[int],
        *,
        lr: float,
        measured: bool,
        finished: Callable[[Passing], None] | None,
        failed: Callable[[Passing, BaseException], bool],
    ) -> Passing:
        """Make the passing of a batch.

        Args:
            cut: the global batch.
            sizes: its parts on this rank.
            lr: effective learning rate of the step.
            measured: whether it is to be measured.
            finished: called after the last part.
            failed: called when a part raised; returns whether the error is dealt with.

        Returns:
            The passing.
        """
        if len(sizes) > 1:
            self._tell_batch_norm(max(sizes), cut.examples)
        return Passing(
            cut,
            sizes,
            [self._weight(size, cut.examples) for size in sizes],
            contexts=lambda part: self._contexts(sizes, part, micro=finished is None),
            probe=self._probe(len(sizes)) if measured else None,
            lr=lr,
            finished=finished,
            failed=failed,
        )

    def begin_batch(self) -> None:
        """Note what a batch that runs out of memory has to be brought back to."""
        self._micro.begin()
        if self._plan.guarded:
            self._buffers = [buffer.detach().clone() for buffer in self._model.buffers()]
            self._random_states = [torch.get_rng_state()]
            if torch.cuda.is_available():
                self._random_states.append(torch.cuda.get_rng_state())

    def deals_with(self, passing: Passing, error: BaseException) -> bool:
        """Return whether a batch is trained again after an error, instead of ending the training.

        Args:
            passing: the batch.
            error: the error.

        Returns:
            Whether it is.
        """
        if not self._plan.guarded:
            return False
        # With reuse_weight_gradient a hook that ran out of memory has lost a gradient.
        return is_out_of_memory(error) or (passing.probe is not None and isinstance(error, MeasureError))

    def must_repeat(self, passing: Passing) -> bool:
        """Return whether a batch has to be trained again, having got everything ready for that.

        Args:
            passing: the batch, done or given up.

        Returns:
            Whether it has to.

        Raises:
            AutoBatchError: a single example does not fit.
        """
        if not self._plan.guarded:
            return False
        wanted = _FITTED
        if passing.given_up:
            wanted = _SMALLER if passing.probe is None else _UNMEASURED
        again = self._ranks.most(wanted)
        size = max(passing.sizes)
        if again == _FITTED:
            self._micro.fitted(size)
            return False
        self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in zip(self._model.buffers(), self._buffers, strict=True):
                buffer.copy_(before)
        torch.set_rng_state(self._random_states[0])
        if len(self._random_states) > 1:
            torch.cuda.set_rng_state(self._random_states[1])
            torch.cuda.empty_cache()
        if again == _UNMEASURED:
            _LOG.warning("out of memory in a measured step: the batch is trained again without measuring")
        elif size == 1:
            raise AutoBatchError("out of memory with a micro-batch of a single example: nothing smaller can be tried")
        else:
            self._micro.failed(size)
            smaller = max(self.sizes(sum(passing.sizes)))
            _LOG.warning("out of memory with micro-batches of %d: the batch is trained again in %d", size, smaller)
        return True

    def end_batch(self) -> None:
        """Bring the ranks' gradients together where that was put off until all had fitted."""
        if not (self._plan.guarded and self._ranks.size > 1):
            return
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        self._ranks.add_up([
            p.grad for group in self._optimizer.param_groups for p in group["params"] if p.requires_grad
        ])
        if self._synchronised and self._model.broadcast_buffers:
            self._ranks.copy_first([buffer for buffer in self._model.buffers() if buffer.numel()])

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of memory, as JSON-able values."""
        return self._micro.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Args:
            state: the state.
        """
        self._micro.load_state_dict(state)

    def _weight(self, size: int, examples: int) -> float:
        """Return what a part's mean loss is multiplied by so that gradients add up to those of the global mean."""
        if not self._mean:
            return 1.0
        # Wrappers average gradients over the ranks; where that is put off they are summed.
        ranks = 1 if self._plan.guarded else self._ranks.size
        return ranks * size / examples

    def _contexts(self, sizes: Sequence[int], part: int, *, micro: bool) -> list[AbstractContextManager[Any]]:
        contexts: list[AbstractContextManager[Any]] = []
        last = part == len(sizes) - 1
        if micro and self._ranks.size > 1:
            if self._synchronised and (self._plan.guarded or not last):
                contexts.append(self._model.no_sync())  # type: ignore[operator]
            elif self._fully_sharded and len(sizes) > 1:
                self._model.set_requires_gradient_sync(last)  # type: ignore[operator]
        if micro and self._plan.memory_limit is not None and not self._micro.proven(sizes[part]):
            contexts.append(saved_bytes_limit(self._plan.memory_limit, self._model))
        return contexts

    def _probe(self, parts: int) -> FisherProbe | None:
        if parts not in self._probes:
            self._probes[parts] = self._new_probe(parts)
        return self._probes[parts]

    def _new_probe(self, parts: int) -> FisherProbe | None:
        if self._ranks.size > 1 and not self._measure_all and not self._ranks.leads:
            return None
        if self._ranks.size > 1 and self._measure_all and parts > 1:
            _LOG.warning(
                "C̄ and L are not measured where several ranks split their shares into parts; measure='local' measures "
                "the first rank's share"
            )
            return None
        group = None
        if self._measure_all:
            members = dist.get_process_group_ranks(self._ranks.group)
            group = dist.new_group(members, use_local_synchronization=True)
        arguments = {**self._probe_arguments}
        if parts > 1:
            arguments["reuse_weight_gradient"] = False
        return FisherProbe(self._model, micro_batches=parts, process_group=group, **arguments)

    def _tell_batch_norm(self, part: int, examples: int) -> None:
        if self._told_batch_norm:
            return
        self._told_batch_norm = True
        layers = sum(isinstance(module, _BatchNorm) and module.training for module in self._model.modules())
        if layers and self._plan.bn_batch is None:
            _LOG.warning(
                "%d BatchNorm layers take their statistics over parts of %d examples, not over the batch of %d: the "
                "step is not that of the whole batch. BatchPlan(bn_batch=...) keeps the statistics' batch the same at "
                "every batch size",
                layers,
                part,
                examples,
            )
