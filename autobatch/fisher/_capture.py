"""Capture one forward and backward pass: every use of every trainable parameter, turned into the Gram matrix."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from autobatch._errors import MeasureError
from autobatch.fisher._gram import GramAccumulator
from autobatch.fisher._jacobians import Jacobian, add_blocks
from autobatch.fisher._layout import BatchLayout, Claim, Layout, LostBatch, propagate
from autobatch.fisher._rules import RULES, SUPPORTED, Contribution, Source

# Functions of a parameter alone whose result is still that parameter, as it is or transposed.
_SAME = frozenset({"contiguous", "requires_grad_"})
_TRANSPOSED = frozenset({"t", "T", "mT", "adjoint", "transpose", "swapaxes", "swapdims", "permute"})


@dataclass
class _Ledger:
    """What one trainable parameter was owed and has received."""

    name: str
    uses: int = 0
    fired: int = 0
    waiting: list[Jacobian] = field(default_factory=list)
    got_gradient: bool = False


@dataclass
class _Call:
    """One call of a torch function, as the rules see it (:class:`autobatch.fisher._rules.Call`)."""

    capture: "Capture"
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Tensor
    batch: int
    where: str

    def source(self, tensor: Any) -> Source | None:
        return self.capture.source(tensor)

    def layout(self, tensor: Tensor) -> BatchLayout:
        return self.capture.layout(tensor, self.where)


class Capture(TorchFunctionMode):
    """The state of one measured step. It never raises into the training: the first problem is kept in ``problem``.

    Args:
        model: the model, whose call inside the body tells B and where the batch comes in.
        bn: ``"rows"`` or ``"eval"``.
    """

    def __init__(self, model: nn.Module, bn: str) -> None:
        super().__init__()
        self.problem: MeasureError | None = None
        self.batch = 0
        self.bn = "none"
        self.gradient_eps = 0.0
        self.seconds = 0.0
        self._model = model
        self._wanted_bn = bn
        self._gram: GramAccumulator | None = None
        self._layouts: Any = WeakTensorKeyDictionary()
        self._claims: list[Claim] = []
        self._handles: list[RemovableHandle] = []
        self._squared_gradient: Tensor | float = 0.0
        self._ledgers: dict[int, _Ledger] = {}
        self._sources: dict[int, Source] = {}
        self._transposes: list[Tensor] = []  # kept alive, for their ids are keys
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._sources[id(parameter)] = Source(parameter, name)
                self._ledgers[id(parameter)] = _Ledger(name)
                hook = self._parameter_hook(self._ledgers[id(parameter)])
                self._handles.append(parameter.register_hook(hook))  # type: ignore[no-untyped-call]
        # The last pre-hook: it sees the input as the model's forward gets it.
        self._handles.append(model.register_forward_pre_hook(self._model_called, with_kwargs=True))

    # -- the forward pass ---------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one torch function and note what it means for measuring.

        Args:
            func: the function.
            types: types of its tensor arguments; not used.
            args: its positional arguments.
            kwargs: its keyword arguments.

        Returns:
            What the function returns.
        """
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        # Without grad mode no use can get a gradient: optimizer steps, evaluation, our own hooks.
        if self.problem is None and torch.is_grad_enabled():
            start = time.perf_counter()
            try:
                self._see(func, args, kwargs, output)
            except MeasureError as error:
                self.problem = error
            self.seconds += time.perf_counter() - start
        return output

    def _model_called(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled() or self.problem is not None:
            return
        tensors = list(_tensors((args, kwargs)))
        if self.batch:
            self.problem = MeasureError(
                "the model was called twice in one measured step. The Gram matrix of a batch is not the sum of its"
                " micro-batches' matrices: measure one forward and backward pass over the whole batch"
            )
        elif not tensors or tensors[0].ndim == 0:
            self.problem = MeasureError("the model's first tensor argument must have the batch as dimension 0")
        else:
            self.batch = tensors[0].shape[0]
            for tensor in tensors:
                if tensor.ndim and tensor.shape[0] == self.batch:
                    self._layouts[tensor] = BatchLayout(0)

    def _see(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        tensors = list(_tensors((args, kwargs)))
        if not tensors:
            return
        outputs = list(_tensors((output,)))
        used = [tensor for tensor in tensors if id(tensor) in self._sources]
        if used and any(result.requires_grad and id(result) not in self._sources for result in outputs):
            self._use(func, args, kwargs, used, outputs)
        if func is F.batch_norm:
            self._note_batch_norm(bool(kwargs.get("training", args[5] if len(args) > 5 else False)))
        if not self.batch or not outputs:
            return
        found = ((tensor, self._layouts.get(tensor)) for tensor in tensors)
        carriers = [(tensor, layout) for tensor, layout in found if layout is not None]
        if carriers:
            for result in outputs:
                layout = propagate(
                    _name(func),
                    args=args,
                    kwargs=kwargs,
                    carriers=carriers,
                    tensors=tensors,
                    output=result,
                    batch=self.batch,
                )
                if layout is not None:
                    self._layouts[result] = layout

    def _use(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        used: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        source = self._sources[id(used[0])]
        name = _name(func)
        if len(outputs) == 1 and args and args[0] is used[0] and name in _SAME | _TRANSPOSED and used[0].ndim == 2:
            swapped = name in _TRANSPOSED and outputs[0].stride() != used[0].stride()
            self._sources[id(outputs[0])] = Source(source.parameter, source.name, source.transposed != swapped)
            self._transposes.append(outputs[0])
            return
        where = self._describe(source.name) + f" in {name}()"
        if not self.batch:
            raise MeasureError(f"{where}: used before the model was called, so the batch is not known: call model(...)")
        rule = RULES.get(func)
        contributions: list[Contribution] = []
        if rule is not None:
            try:
                contributions = rule(_Call(self, args, kwargs, outputs[0], self.batch, where))
            except MeasureError as error:
                raise MeasureError(f"{where}: {error}") from error
        handled = [id(contribution.source.parameter) for contribution in contributions]
        for tensor in used:
            other = self._sources[id(tensor)]
            if handled.count(id(other.parameter)) != sum(
                self._sources[id(t)].parameter is other.parameter for t in used
            ):
                raise MeasureError(
                    f"{self._describe(other.name)} is used by {name}(), which cannot be measured. Freeze it with"
                    f" requires_grad_(False) to leave it out of F, or use what can be measured: {SUPPORTED}"
                )
        for contribution in contributions:
            self._ledgers[id(contribution.source.parameter)].uses += 1
        hook = self._output_hook(contributions, where)
        self._handles.append(outputs[0].register_hook(hook))  # type: ignore[no-untyped-call]

    def _note_batch_norm(self, training: bool) -> None:
        if training and self._wanted_bn == "eval":
            raise MeasureError('bn="eval" was asked for, but a BatchNorm layer runs in train mode: call model.eval()')
        if training or self.bn == "none":
            self.bn = "rows" if training else "eval"

    def source(self, tensor: Any) -> Source | None:
        """Return the trainable parameter that a tensor is, or is the transpose of."""
        return self._sources.get(id(tensor)) if isinstance(tensor, Tensor) else None

    def layout(self, tensor: Tensor, where: str) -> BatchLayout:
        """Return where the batch lies in a layer's input.

        Args:
            tensor: the input.
            where: parameter and function, for error messages.

        Returns:
            Its layout, which may rest on a claim.

        Raises:
            MeasureError: where the input does not carry the batch.
        """
        if self.batch == 1:
            return BatchLayout(0)
        layout: Layout | None = self._layouts.get(tensor)
        if isinstance(layout, LostBatch):
            raise MeasureError(
                f"samples could not be followed through {layout.function}() to the input of shape"
                f" {tuple(tensor.shape)}: keep the samples (B = {self.batch}) in one dimension, batch-major, in order"
            )
        if layout is None:
            layout = self._claimed(tensor, where)
            self._layouts[tensor] = layout
        return layout

    def _claimed(self, tensor: Tensor, where: str) -> BatchLayout:
        shape = tuple(tensor.shape)
        advice = (
            f"the input of shape {shape} does not descend from the model's input and"
            f" is shared by the whole batch (B = {self.batch}), so no per-sample gradient exists: give each sample its"
            " own rows (such as positions of shape (B, T)), or freeze the parameter"
        )
        if not tensor.ndim or tensor.shape[0] % self.batch or not tensor.shape[0]:
            raise MeasureError(f"{advice}. Its leading dimension is not a multiple of B")
        claim = Claim(f"{where}: {advice}")
        self._claims.append(claim)
        return BatchLayout(0, (claim,))

    def _describe(self, name: str) -> str:
        path = name.rpartition(".")[0]
        kind = type(self._model.get_submodule(path)).__name__
        return f"parameter {name!r} of " + (f"module {path!r} ({kind})" if path else f"the model itself ({kind})")

    # -- the backward pass --------------------------------------------------------------------------------------

    def _output_hook(self, contributions: list[Contribution], where: str) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if self.problem is not None:
                return
            start = time.perf_counter()
            try:
                with torch.no_grad():
                    for contribution in contributions:
                        self._receive(contribution, gradient.detach())
            except MeasureError as error:
                self.problem = MeasureError(f"{where}: {error}")
            self.seconds += time.perf_counter() - start

        return hook

    def _receive(self, contribution: Contribution, gradient: Tensor) -> None:
        ledger = self._ledgers[id(contribution.source.parameter)]
        ledger.fired += 1
        if ledger.fired > ledger.uses:
            raise MeasureError("its gradient arrived twice: measure one backward pass a step")
        if self._gram is None:
            self._gram = GramAccumulator(self.batch, gradient.device)
        self.gradient_eps = max(self.gradient_eps, torch.finfo(gradient.dtype).eps)
        jacobian = contribution.jacobian(gradient)
        if ledger.uses == 1:
            jacobian.add_to(self._gram)
            return
        ledger.waiting.append(jacobian)
        if ledger.fired == ledger.uses:
            self._settle(ledger)

    def _settle(self, ledger: _Ledger) -> None:
        """Sum J over the uses of a parameter before the Gram product."""
        if ledger.waiting and self._gram is not None:
            add_blocks(ledger.waiting, self._gram)
            ledger.waiting = []

    def _parameter_hook(self, ledger: _Ledger) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            start = time.perf_counter()
            ledger.got_gradient = True
            if gradient.layout is torch.strided:
                norm = torch.linalg.vector_norm(gradient.detach(), dtype=torch.float64)
                self._squared_gradient = self._squared_gradient + norm * norm
            self.seconds += time.perf_counter() - start

        return hook

    # -- the result ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Remove every hook; a graph that outlives the body is inert from then on."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._layouts = WeakTensorKeyDictionary()

    def finish(self) -> Tensor:
        """Return the Gram matrix of the step's gradients as they came, (B, B) float64.

        Returns:
            F, not yet scaled to the summed loss.

        Raises:
            MeasureError: where something in the step could not be measured.
        """
        if self.problem is not None:
            raise self.problem
        if not self.batch:
            raise MeasureError("the model was not called inside the body: run model(...) and backward() within it")
        for ledger in self._ledgers.values():
            if ledger.got_gradient and not ledger.fired:
                raise MeasureError(
                    f"{self._describe(ledger.name)} got a gradient, but its use was not seen. It may lie in a"
                    " compiled or scripted module, a checkpointed block or a custom autograd function: measure without"
                    " those, or freeze it"
                )
        if self._gram is None:
            raise MeasureError(
                "no gradient arrived: run the backward pass of the loss inside the body, with a trainable parameter"
            )
        for claim in self._claims:
            if not claim.confirmed:
                raise MeasureError(claim.complaint)
        for ledger in self._ledgers.values():
            self._settle(ledger)
        gram = self._gram.result()
        self._check_sum(gram)
        return gram

    def _check_sum(self, gram: Tensor) -> None:
        # Holds 1ᵀF1 = ||gradient||² against the gradients that the parameters really got: finds uses not captured.
        expected = float(self._squared_gradient)
        # 1ᵀF1 is at most B * trace; samples that cancel leave round-off of that size.
        tolerance = 1e4 * self.gradient_eps * self.batch * float(gram.trace())
        difference = abs(float(gram.sum()) - expected)
        if difference > tolerance:
            raise MeasureError(
                f"the per-sample gradients add up to a squared norm of {float(gram.sum()):.6g}, but the parameters got"
                f" {expected:.6g}: some use of a parameter was not seen, or its gradient was changed on the way"
            )


def _name(func: Callable[..., Any]) -> str:
    name: str = getattr(func, "__name__", str(func))
    # A property such as Tensor.T arrives as the getter of its descriptor.
    return str(getattr(getattr(func, "__self__", None), "__name__", name)) if name == "__get__" else name


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    # All tensors in nested tuples, lists and dictionaries, in order.
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())
