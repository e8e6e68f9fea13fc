"""``bn="exact"``: the derivative of each sample's loss through the batch statistics, one backward pass a sample."""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autobatch._errors import MeasureError
from autobatch.fisher._sums import Arrived, norm_of
from autobatch.fisher.capture._notes import NOT_CALLED, Guarded, Notes
from autobatch.fisher.following._samples import Samples
from autobatch.fisher.gram._sink import Sink
from autobatch.fisher.layers._calls import dense
from autobatch.fisher.layers._functions import given_to_model, tensors_of


class ExactCapture(contextlib.nullcontext[None]):
    """Column i of J is d loss_i / d theta, where loss_i reaches other samples through the batch statistics.

    The loss must be a sum (or mean) of terms that each depend on one row of the model's outputs: the gradient at the
    outputs is masked to one row at a time and taken back through the whole model, B times. The ``sink`` takes one
    sample's gradients after the other's; the rest is as in ``Capture``.
    """

    def __init__(self, model: nn.Module, sink: Sink, counted: frozenset[str] | None) -> None:
        super().__init__()
        self.notes = Notes(model)
        self._model = model
        self._sink = sink
        self._counted = counted
        self._outputs: list[Tensor] = []
        self._handle = model.register_forward_hook(self._called, with_kwargs=True)

    def _called(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        with Guarded(self.notes, "the call of the model could not be followed"):
            self._begin(given_to_model(args, kwargs), output)

    def _begin(self, given: list[Tensor], output: Any) -> None:
        if self.notes.batches:
            raise MeasureError('the model was called twice in one measured step, with bn="exact"')
        batch, _, _ = Samples().of(given)
        self.notes.batches.append(batch)
        self._outputs = [tensor for tensor in tensors_of((output,)) if tensor.requires_grad]
        if any(tensor.ndim == 0 or tensor.shape[0] != batch for tensor in self._outputs):
            raise MeasureError(f'bn="exact" needs outputs with the batch (B = {batch}) as dimension 0')
        for module in self._model.modules():
            if isinstance(module, _BatchNorm):
                self.notes.bn = "exact" if module.training or self.notes.bn == "exact" else "eval"

    def backward(self, loss: Tensor) -> None:
        """Take B backward passes for J of a scalar loss, and then its own."""
        if self.notes.problem is None and self._outputs:
            self.notes.by_sample = True
            with Guarded(self.notes, 'bn="exact"'):
                self._measure(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    def _measure(self, loss: Tensor) -> None:
        parameters = [
            (name, p)
            for name, p in self._model.named_parameters()
            if p.requires_grad and (self._counted is None or name in self._counted)
        ]
        inputs = [parameter for _, parameter in parameters]
        arriving = torch.autograd.grad(loss, self._outputs, retain_graph=True, allow_unused=True)
        pairs = [(out, g) for out, g in zip(self._outputs, arriving, strict=True) if g is not None]
        outputs = [output for output, _ in pairs]
        for sample in range(self.notes.batches[0]):
            masked = [torch.zeros_like(gradient) for _, gradient in pairs]
            for mask, (_, gradient) in zip(masked, pairs, strict=True):
                mask[sample] = gradient[sample]
            rows = torch.autograd.grad(outputs, inputs, masked, retain_graph=True, allow_unused=True)
            self._sink.begin(1)
            for (name, _), row in zip(parameters, rows, strict=True):
                if row is not None:
                    if row.layout is not torch.strided:
                        where = self.notes.describe(name)
                        raise MeasureError(
                            f"{where}: with sparse=True it has no plain per-sample gradients: leave it off"
                        )
                    self._sink.add(name, [dense(row.unsqueeze(0))])
                    self.notes.gradient_eps = max(self.notes.gradient_eps, torch.finfo(row.dtype).eps)
        whole = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
        got = [(name, g) for (name, _), g in zip(parameters, whole, strict=True) if g is not None]
        self.notes.checks = [{name: Arrived([norm_of(g)], torch.finfo(g.dtype).eps) for name, g in got}]

    def close(self) -> None:
        """Remove the hook."""
        self._handle.remove()
        self._outputs = []

    def finish(self) -> None:
        """Raise MeasureError where something in the step could not be measured."""
        if self.notes.problem is not None:
            raise self.notes.problem
        if not self.notes.batches:
            raise MeasureError(NOT_CALLED)
        if not self.notes.checks:
            raise MeasureError('bn="exact" needs probe.backward(loss) instead of loss.backward()')
