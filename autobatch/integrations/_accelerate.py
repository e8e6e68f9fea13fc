"""The controller in a loop with Accelerate's ``Accelerator``."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from autobatch._errors import AutoBatchError, ConfigError
from autobatch.control import AutoBatchController, Measuring, Processes, Step, derive_seed
from autobatch.integrations._arguments import with_accumulation
from autobatch.integrations._loaders import SeededBatches, loader_like
from autobatch.integrations._schedules import ScheduleByExamples
from autobatch.integrations._unwrapped import unsupported_kind, unwrapped_optimizer

try:
    from accelerate import Accelerator
    from accelerate.utils import DistributedType, send_to_device
except ImportError as error:
    raise ConfigError(
        f"AcceleratedController needs accelerate, which cannot be imported ({error}); install it with: "
        "pip install 'autobatch[hf]'"
    ) from error


_KEPT = "kept"
"""Key of the weights in a state."""


class AcceleratedController(AutoBatchController):
    """An ``AutoBatchController`` for what ``Accelerator.prepare`` returns.

        model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
        controller = AcceleratedController(
            accelerator, model, optimizer, loader, policy="s32-to-128", batch_sizes=(32, 64, 128), epochs=40
        )
        loader, scheduler = controller.loader, controller.schedule(scheduler, steps)
        for epoch in range(40):
            for x, y in loader:
                with accelerator.accumulate(model):
                    with controller.step() as step:
                        loss = F.cross_entropy(model(x), y)
                        step.backward(loss)  # in place of accelerator.backward(loss)
                    optimizer.step()
                    scheduler.step()
                    optimizer.zero_grad()
            controller.end_epoch(val_error=...)

    Batch sizes are global: a loader's batch x ``gradient_accumulation_steps`` x processes. Each process gets its own
    share from the controller, so the loader must not be sharded once more; ``loader`` sees to that.
    ``accelerator.register_for_checkpointing(controller)`` makes it part of ``save_state`` and ``load_state``, in the
    middle of an epoch too: then iterate the loader as ever, and skip no batches.

    Args:
        accelerator: the accelerator.
        model: the model, prepared.
        optimizer: its optimizer, prepared.
        loader: a loader of the training data, prepared or not; its batches are replaced by the controller's.
        settings: the arguments of ``AutoBatchController``; ``dataset_size`` is by default that of the
            loader's data.

    Raises:
        ConfigError: an argument cannot be used, or does not go with the accelerator.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: Any, loader: DataLoader[Any], **settings: Any
    ) -> None:
        kind = unsupported_kind(accelerator)
        if kind is not None:
            raise ConfigError(f"AcceleratedController: {kind} is not supported; use DistributedDataParallel")
        if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
            raise ConfigError(
                "AcceleratedController: loader: expected one of a dataset with a length and an index; for streams take "
                "AutoBatchController and its rebatch(loader)"
            )
        accumulation = accelerator.gradient_accumulation_steps
        plan = with_accumulation(settings.pop("plan", None), accumulation)
        if plan.accumulation != accumulation:
            raise ConfigError(
                f"plan: the accelerator accumulates {accumulation} batches: give gradient_accumulation_steps=1 to it, "
                "or a plan here that neither splits nor accumulates"
            )
        measuring = Measuring.of(settings.pop("measuring", None))
        if measuring.grad_scaler is None:
            measuring = replace(measuring, grad_scaler=accelerator.scaler)
        processes = settings.pop("processes", None) or Processes()
        if processes.device is None:
            processes = replace(processes, device=accelerator.device)
        self._accelerator = accelerator
        batches = SeededBatches(
            lambda: iter(self.batch_sampler),
            lambda: len(self.batch_sampler),
            lambda: derive_seed(self.seed, "workers", self.epoch),
        )
        self._loader = _OnDevice(loader_like(loader, batches), accelerator)
        super().__init__(
            model,
            unwrapped_optimizer(optimizer),
            plan=plan,
            measuring=measuring,
            processes=processes,
            **{"dataset_size": len(loader.dataset), **settings},
        )

    @property
    def loader(self) -> "_OnDevice":
        """A loader like the one given, with this process's share of the controller's batches, on its device."""
        return self._loader

    def schedule(self, scheduler: Any, steps: int) -> ScheduleByExamples:
        """Return a scheduler that goes by the examples trained, for one that was made for a number of steps.

        Args:
            scheduler: the scheduler, prepared or not.
            steps: for how many of its steps it was made.

        Returns:
            The scheduler, to be stepped wherever the other would be.
        """
        return ScheduleByExamples(scheduler, lambda: self.progress * steps)

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart needs, and the weights that the training may go back to where there are such.

        Returns:
            The state, of JSON-able values but for those weights, which ``save_state`` keeps as they are. Under FSDP2,
            where each process has a share, they are left out.
        """
        kept = self.kept
        if not any(kept.values()) or self._accelerator.distributed_type == DistributedType.FSDP:
            return super().state_dict()
        return {**super().state_dict(), _KEPT: kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Args:
            state: the state, see ``AutoBatchController.load_state_dict``.
        """
        super().load_state_dict(state)
        if _KEPT in state:
            self.kept = state[_KEPT]

    def step(self, *, samples: int | Tensor | None = None, batch_dim: int = 0) -> AbstractContextManager[Step]:
        """Return the context around one forward and backward pass.

        Args:
            samples: what an example is, see ``AutoBatchController.step``.
            batch_dim: the dimension that the batch is along.

        Returns:
            A context manager. What it yields has a method ``backward(loss)`` to call in place of
            ``accelerator.backward(loss)``: it scales the loss of a part to its share of the global batch, and for mixed
            precision.
        """
        return _AcceleratedStep(super().step(samples=samples, batch_dim=batch_dim), self._accelerator.scaler)


class _OnDevice:
    """A loader whose batches are brought to the accelerator's device.

    Accelerate's own loaders would share the batches out once more, and fetch one ahead.
    """

    def __init__(self, loader: DataLoader[Any], accelerator: Accelerator) -> None:
        self._loader = loader
        self._accelerator = accelerator

    def __iter__(self) -> Iterator[Any]:
        accelerator = self._accelerator
        for batch in self._loader:
            if accelerator.device_placement:
                yield send_to_device(batch, accelerator.device, non_blocking=accelerator.non_blocking)
            else:
                yield batch

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_loader":  # not there yet when a copy is being made
            raise AttributeError(name)
        return getattr(self._loader, name)


class _AcceleratedStep(AbstractContextManager[Step]):
    """A step whose backward pass is the accelerator's, but for its division by the number of accumulated batches."""

    def __init__(self, step: AbstractContextManager[Step], scaler: Any) -> None:
        self._step = step
        self._scaler = scaler

    def __enter__(self) -> Step:
        return _Backward(self._step.__enter__(), self._scaler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._step.__exit__(kind, error, traceback)


class _Backward(Step):
    def __init__(self, step: Step, scaler: Any) -> None:
        super().__init__()
        self._step = step
        self._scaler = scaler

    def backward(self, loss: Tensor, using: Any = None) -> None:
        if using is not None:
            raise AutoBatchError("with AcceleratedController, step.backward(loss) alone takes the accelerator's place")
        self._step.backward(loss if self._scaler is None else self._scaler.scale(loss))
