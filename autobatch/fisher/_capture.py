"""Capture one forward and backward pass: every use of every trainable parameter, handed on as per-sample gradients."""

import contextlib
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MethodWrapperType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction
from torch.utils.hooks import RemovableHandle

from autobatch._errors import MeasureError
from autobatch.fisher._anchor import anchor
from autobatch.fisher._arithmetic import exact_arithmetic, reduced_eps
from autobatch.fisher._measurement import caused
from autobatch.fisher._tap import Tap, tappable
from autobatch.fisher.following._grouping import Grouping
from autobatch.fisher.following._keeping import HANDING_ON, KEEPING
from autobatch.fisher.following._layout import (
    IN_FRONT,
    STAYING,
    BatchLayout,
    Claim,
    Layout,
    Layouts,
    LostBatch,
    layer_keeps,
    overwritten_in,
    propagate,
    settle_claims,
    written_into,
)
from autobatch.fisher.following._samples import Samples
from autobatch.fisher.gram._jacobians import Jacobian, products_are_cheaper
from autobatch.fisher.gram._sink import GramSink, StreamingGram
from autobatch.fisher.layers._calls import Contribution, NoRuleError, Root, Weight, dense
from autobatch.fisher.layers._functions import (
    ASSIGNING,
    PROPERTIES,
    changes_in_place,
    is_composite,
    name_of,
    opened,
    tensors_of,
    without_hooks,
)
from autobatch.fisher.layers._generic import generic, one_by_one
from autobatch.fisher.layers._modules import MODULE_RULES, module_contributions
from autobatch.fisher.layers._rules import CLAIMABLE, rule_for

# Functions of a matrix alone whose result is the matrix transposed.
_TRANSPOSED = frozenset({"t", "T", "mT", "adjoint", "transpose", "swapaxes", "swapdims", "permute"})
_ALONE = (
    "its result does not descend from the model's input and never meets what does, so no per-sample gradient exists:"
    " give each sample its own rows, or freeze the parameter"
)
_TWICE = (
    "its gradient arrived twice: measure one backward pass a step. A step with a gradient penalty, or another"
    " torch.autograd.grad() inside, cannot be measured (measuring=NeverMeasure())"
)
# Functions with parameters that draw random numbers.
_RANDOM = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu", "scaled_dot_product_attention"})
# Numbers that a CPU adds up in float32 to better than 1e-6.
_LONG_SUM = 1 << 16
# Functions that take no more than the shape of their other arguments, or of any.
_SHAPE_OF_OTHERS = frozenset({"expand_as", "view_as", "reshape_as", "type_as", "to"})


@dataclass(frozen=True)
class _Use:
    """One use of a trainable parameter, and what it rests on."""

    claims: tuple[Claim, ...]

    @property
    def counts(self) -> bool:
        """Whether no claim that it rests on was wrong."""
        return all(claim.confirmed is not False for claim in self.claims)


@dataclass
class _Ledger:
    """What one trainable parameter is owed and has received in one backward pass."""

    root: Root
    uses: list[_Use] = field(default_factory=list)
    fired: int = 0
    received: list[Jacobian] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    eps: float = 0.0

    @property
    def owed(self) -> int:
        """Uses that count."""
        return sum(use.counts for use in self.uses)

    @property
    def got_gradient(self) -> bool:
        """Whether a gradient has arrived."""
        return bool(self.norms)


@dataclass(frozen=True)
class _Before:
    """What a function is about to change: its first argument and where that was in the graph, what it keeps besides.

    Attributes:
        tensor: the first argument of a function that changes it in place.
        edge: where that was in the graph.
        random_state: the generator's state.
        states: (version, copy) of other tensors that it might change, such as running statistics, by id.
    """

    tensor: Tensor | None = None
    edge: GradientEdge | None = None
    random_state: Tensor | None = None
    states: dict[int, tuple[int, Tensor]] = field(default_factory=dict)


_NOTHING = _Before()


@dataclass
class _Call:
    """One call of a torch function, as the rules see it (``autobatch.fisher.layers._calls.Call``)."""

    capture: "Capture"
    function: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: list[Tensor]
    outputs: list[Tensor]
    was: _Before
    tap: Tap | None = None
    used: dict[int, Weight] = field(default_factory=dict)
    assumed: dict[int, BatchLayout] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return self.capture.batch

    @property
    def node(self) -> Any:
        return self.outputs[0].grad_fn if self.tap is None else self.tap.node

    @property
    def before(self) -> Tensor | None:
        return self.was.tensor

    @property
    def states(self) -> dict[int, Tensor]:
        versions = {id(tensor): tensor._version for tensor in self.tensors}
        return {key: kept for key, (version, kept) in self.was.states.items() if versions[key] != version}

    def weight(self, tensor: Any) -> Weight | None:
        return self.used.get(id(tensor)) if isinstance(tensor, Tensor) else None

    def weights(self) -> list[Weight]:
        return list(self.used.values())

    def layout(self, tensor: Tensor) -> BatchLayout:
        return self.assumed.get(id(tensor)) or self.capture.layout(tensor, "the input")

    def output_layout(self, index: int) -> BatchLayout:
        output = self.outputs[index]
        return self.assumed.get(id(output)) or self.capture.layout(output, "the output")


class _Guarded:
    """Times what measuring does within the training; what goes wrong in it is the step's problem, and nobody else's.

    Args:
        capture: of the step.
        what: what is measured; or the name of a parameter.
        function: of a parameter, the function that uses it, or "".
    """

    def __init__(self, capture: "Capture", what: str, function: str | None = None) -> None:
        self._capture = capture
        self._what = what
        self._function = function

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> bool:
        capture = self._capture
        capture.seconds += time.perf_counter() - self._start
        if not isinstance(error, Exception):
            return False
        what = self._what if self._function is None else capture._describe(self._what, self._function)
        if not isinstance(error, MeasureError):
            error = caused(what, error)
        elif self._function is not None:
            error = MeasureError(f"{what}: {error}")
        capture.problem = capture.problem or error
        return True


class Capture(TorchFunctionMode):
    """The state of one measured step. It never raises into the training: the first problem is kept in ``problem``.

    A step may have several passes, each one call of the model and its backward pass, where the sink takes them.

    Args:
        model: the model, without wrappers, whose call inside the body tells B and where the batch comes in.
        bn: ``"rows"`` or ``"eval"``.
        sink: takes the per-sample gradients of each parameter.
        passes: how many passes the step has.
        samples: gives what a sample is in the model's input, anew for each call.
        rows: whether weights may get the sum of their per-sample gradients as their gradient.
        counted: names of the parameters that are measured; None for all.
    """

    def __init__(
        self,
        model: nn.Module,
        bn: str,
        sink: GramSink,
        passes: int,
        samples: Callable[[], Samples],
        *,
        rows: bool,
        counted: frozenset[str] | None,
    ) -> None:
        super().__init__()
        self.problem: MeasureError | None = None
        self.bn = "none"
        self.gradient_eps = 0.0
        self.seconds = 0.0
        self.batches: list[int] = []
        self.checks: list[dict[str, tuple[list[Tensor], float]]] = []
        self.batch = 0
        self._model = model
        self._wanted_bn = bn
        self._sink = sink
        self._passes = passes
        self._samples = samples
        self._counted = counted
        self._rows = sink if rows and isinstance(sink, StreamingGram) else None
        self._taps: list[Tap] = []
        self._grouping: Grouping | None = None
        self._sharded = False
        self._opaque = 0
        self._reentrant = False
        self._inside: set[int] = set()
        self._arrived = False
        self._opening: list[Callable[..., Any]] = []
        self._outside: dict[int, weakref.ref[Tensor]] = {}
        self._written: dict[int, torch.UntypedStorage] = {}
        self._pulling_back = self._closed = False
        self._layouts = Layouts()
        self._claimed = False
        self._weights: dict[int, Weight] = {}
        self._ledgers: dict[int, _Ledger] = {}
        self._claims: list[Claim] = []
        self._handles: list[RemovableHandle] = []
        self._pass_handles: list[RemovableHandle] = []
        self._find_parameters()
        device = next((parameter.device.type for parameter in model.parameters()), "cpu")
        self._float32_eps = reduced_eps(device)
        # The last pre-hook: it sees the input as the model's forward gets it.
        self._handles.append(model.register_forward_pre_hook(self._model_called, with_kwargs=True))
        self._handles.append(model.register_forward_hook(self._model_done, with_kwargs=True))
        for module in model.modules():
            if type(module) in MODULE_RULES:
                self._handles.append(module.register_forward_pre_hook(self._enter_module))
                self._handles.append(module.register_forward_hook(self._leave_module, always_call=True))

    def _find_parameters(self) -> None:
        for name, parameter in self._model.named_parameters():
            if hasattr(parameter, "device_mesh"):
                # FSDP shows the whole parameter, another object, while the module runs.
                self._sharded = True
            elif self._counted is not None and name not in self._counted:
                continue
            elif parameter.requires_grad and id(parameter) not in self._ledgers:
                root = Root(name, parameter)
                self._weights[id(parameter)] = Weight(parameter, (root,))
                self._ledgers[id(parameter)] = ledger = _Ledger(root)
                hook = self._parameter_hook(ledger)
                self._handles.append(parameter.register_hook(hook))  # type: ignore[no-untyped-call]

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
        if self.problem is not None or self._opaque:
            return func(*args, **kwargs)
        name = name_of(func)
        # Without grad mode no use can get a gradient, but samples can mix; after it, there are steps and evaluations.
        if not torch.is_grad_enabled():
            output = func(*args, **kwargs)
            if self.batch and not self._arrived and not self._pulling_back:
                self._watch(func, name, args, kwargs, output)
            return output
        if type(func) is MethodWrapperType and name not in PROPERTIES:
            if name == "__set__" and self._layouts.get(args[0]) is not None:  # x.data = ...
                self._layouts[args[0]] = LostBatch("data.__set__")
            return func(*args, **kwargs)
        tap = None
        with _Guarded(self, f"{name}() could not be followed"):
            tensors, weighted, before = self._look_at(func, name, args, kwargs)
            if weighted and self._rows is not None:
                tap = self._tap(func, args, kwargs, tensors)
        if self.problem is not None:
            return func(*args, **kwargs)
        if weighted and is_composite(func) and func not in self._opening and rule_for(func, name) is None:
            self._opening.append(func)  # one that dispatches to others by itself comes back here
            try:
                with self:
                    return opened(func)(*args, **kwargs)
            finally:
                self._opening.pop()
        output = func(*args, **kwargs) if tap is None else tap.run()
        with _Guarded(self, f"{name}() could not be followed"):
            if tensors and (weighted or not self._stays(name, tensors, output)):
                outputs = tensors_of((args[0] if name in ASSIGNING else output,))
                self._see(_Call(self, func, name, args, kwargs, tensors, outputs, before, tap))
        return output

    def _watch(
        self, function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> None:
        """Follow samples through a function that is called without grad mode."""
        if type(function) is MethodWrapperType and name not in PROPERTIES:
            return
        with _Guarded(self, f"{name}() could not be followed"):
            tensors = tensors_of(args, kwargs)
            first = tensors[:1] if name in _SHAPE_OF_OTHERS else tensors
            found = [(tensor, layout) for tensor in first if (layout := self._layouts.get(tensor)) is not None]
            found = [(tensor, layout) for tensor, layout in found if not _open_or_refuted(layout)]
            if found:
                outputs = tensors_of((args[0] if name in ASSIGNING else output,))
                self._follow(_Call(self, function, name, args, kwargs, tensors, outputs, _NOTHING), found)
                self._inside |= {id(tensor) for tensor in outputs}

    def _look_at(
        self, function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[list[Tensor], bool, "_Before"]:
        """Return a call's tensors, whether weights are among them, and what the call may change."""
        tensors = tensors_of(args, kwargs)
        if self.batch and changes_in_place(name) and isinstance(args[0], Tensor):
            self._standing(args[0])  # afterwards it is at another place in the graph
        weighted = any(self._weight(tensor) is not None for tensor in tensors)
        return tensors, weighted, self._snapshot(function, name, args, tensors) if weighted else _NOTHING

    def _tap(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], tensors: list[Tensor]
    ) -> Tap | None:
        """Return the tap of a call whose weights are to get the sum of their per-sample gradients."""
        if not tappable(function, tensors):
            return None
        weights = [weight for tensor in tensors if (weight := self._weight(tensor)) is not None]
        layouts = [layout for tensor in tensors if (layout := self._standing(tensor)) is not None]
        followed = all(isinstance(layout, BatchLayout) and not layout.claims for layout in layouts)
        if not layouts or not followed or any(weight.made for weight in weights):
            return None
        if function is F.linear and self._in_pairs(*args[:2]):
            return None  # J is not formed, and the library sums as fast
        tap = Tap(function, args, kwargs, {id(weight.tensor) for weight in weights})
        tap.take = partial(self._take, tap)
        self._taps.append(tap)
        return tap

    def _in_pairs(self, x: Tensor, weight: Tensor | None = None) -> bool:
        """Whether a linear layer's part of F is made without J."""
        if weight is None or not x.numel():
            return False
        positions = x.numel() // (self.batch * x.shape[-1])
        return products_are_cheaper(self.batch, positions, *weight.shape, summed=True)

    def _stays(self, name: str, tensors: list[Tensor], output: Any) -> bool:
        """Note the layout of a function's output in the most frequent case: nothing moves."""
        if self._claimed or name not in STAYING or not isinstance(output, Tensor):
            return False
        if self._inside and any(id(tensor) in self._inside for tensor in tensors):
            return False
        first = self._layouts.get(tensors[0])
        if not isinstance(first, BatchLayout) or output.shape != tensors[0].shape:
            return False
        for tensor in tensors[1:]:
            if self._layouts.get(tensor) is not first or tensor.ndim != output.ndim:
                return False
        self._layouts[output] = first
        return True

    def _snapshot(
        self, function: Callable[..., Any], name: str, args: tuple[Any, ...], tensors: list[Tensor]
    ) -> "_Before":
        if changes_in_place(name) and isinstance(args[0], Tensor):
            edge = get_gradient_edge(args[0]) if id(args[0]) in self._weights else None
            return _Before(args[0].detach().clone(), edge)
        states = {}
        if rule_for(function, name) is None:
            states = {
                id(tensor): (tensor._version, tensor.detach().clone())
                for tensor in tensors
                if not tensor.requires_grad and self._layouts.get(tensor) is None
            }
        if states or name in _RANDOM:
            return _Before(random_state=torch.get_rng_state() if name in _RANDOM else None, states=states)
        return _NOTHING

    def _model_called(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled() or self.problem is not None:
            return
        with _Guarded(self, "the call of the model could not be followed"), torch._C.DisableTorchFunction():
            self._begin(tensors_of(args, kwargs))

    def _model_done(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Refuse a first argument whose leading size is not the batch's, as another argument and the output show."""
        if not torch.is_grad_enabled() or self.problem is not None:
            return
        with _Guarded(self, "the model's output could not be followed"), torch._C.DisableTorchFunction():
            sizes = {tensor.shape[0] for tensor in tensors_of(args, kwargs) if tensor.ndim}
            results = [tensor.shape[0] for tensor in tensors_of((output,)) if tensor.ndim]
            if results and results[0] != self.batch and results[0] in sizes and not self._samples().said:
                raise MeasureError(
                    f"the model's first tensor has {self.batch} rows, but another argument and the output have"
                    f" {results[0]}, so what a sample is cannot be told: give the batch as the first argument, or say"
                    " samples=..."
                )

    def _begin(self, tensors: list[Tensor]) -> None:
        """Begin a pass with the tensors that the model is called with, or go on with it."""
        samples = self._samples()
        again = samples.rows is not None and self.batch and not any(ledger.fired for ledger in self._ledgers.values())
        if not again and len(self.batches) == self._passes:
            raise MeasureError(
                "the model was called twice in one measured step. The Gram matrix of a batch is not the sum of its"
                " micro-batches' matrices: measure one forward and backward pass over the whole batch, or say"
                " micro_batches=...; where one backward pass follows several calls, say samples=..., 1 for one row"
                if self._passes == 1
                else f"the model was called more than micro_batches={self._passes} times in one measured step"
            )
        batch, layouts, self._grouping = samples.of(tensors)
        if not again:
            self._next_pass(batch)
        elif batch != self.batch:
            raise MeasureError(f"samples: the model was called with {self.batch} samples, and then with {batch}")
        for tensor in tensors:
            if (layout := layouts.get(id(tensor))) is not None:
                self._layouts[tensor] = layout
            elif id(tensor) not in self._weights:
                self._outside[id(tensor)] = weakref.ref(tensor)

    def _next_pass(self, batch: int) -> None:
        if self.batches:
            if not any(ledger.fired for ledger in self._ledgers.values()):
                raise MeasureError("call backward() on each micro-batch before the next one's forward pass")
            self._end_pass()
        self.batch = batch
        self._arrived = False
        self.batches.append(batch)
        self._sink.begin(batch)

    def _see(self, call: _Call) -> None:
        tensors = call.tensors[:1] if call.name in _SHAPE_OF_OTHERS else call.tensors
        changed = call.args[0] if changes_in_place(call.name) and isinstance(call.args[0], Tensor) else None
        found = [
            (tensor, layout) for tensor in tensors if (layout := self._standing(tensor, tensor is changed)) is not None
        ]
        if found and self._claimed:
            self._settle_claims(call, found)
            found = [(tensor, layout) for tensor, layout in found if not _refuted(layout)]
        if found:
            self._follow(call, found)
            found = [(tensor, layout) for tensor, layout in found if not _refuted(layout)]
            if call.name == "batch_norm":
                self._note_batch_norm(call)
        carrying = {id(tensor) for tensor, _ in found}
        for tensor in tensors:
            if id(tensor) not in carrying and (weight := self._weight(tensor)) is not None:
                call.used[id(tensor)] = weight
        if not found and not call.used:
            outside = [output for output in call.outputs if output.grad_fn is not None]
            self._outside |= {id(output): weakref.ref(output) for output in outside}
        if not (call.used or self._claimed) or not any(output.requires_grad for output in call.outputs):
            return
        if any(isinstance(layout, LostBatch) or not layout.open_claims for _, layout in found):
            if call.used:
                self._meet(call)
        elif any(id(tensor) in self._weights for tensor in tensors):
            self._derive(call, found)

    def _settle_claims(self, call: _Call, found: list[tuple[Tensor, Layout]]) -> None:
        settle_claims(
            call.function,
            call.name,
            args=call.args,
            kwargs=call.kwargs,
            carriers=found,
            tensors=call.tensors,
            outputs=call.outputs,
            batch=self.batch,
        )

    def _follow(self, call: _Call, found: list[tuple[Tensor, Layout]]) -> None:
        """Note where the batch lies in the outputs."""
        if call.name in ASSIGNING:
            before = self._layouts.get(call.args[0])
            self._follow_assignment(*call.args)
            self._spread(call.args[0], before)
            return
        source, first = found[0]
        output = call.outputs[0] if call.outputs else source
        if len(found) == 1 and first is IN_FRONT and source is call.args[0] and layer_keeps(call.name, source, output):
            self._layouts[output] = IN_FRONT
            return
        claims = _only_claims(found)
        for index, output in enumerate(call.outputs):
            before = self._layouts.get(output)
            layout, coupled = propagate(
                call.function,
                call.name,
                args=call.args,
                kwargs=call.kwargs,
                carriers=found,
                tensors=call.tensors,
                output=output,
                index=index,
                batch=self.batch,
                samples=self._grouping,
            )
            if isinstance(layout, LostBatch) and claims:
                # Nothing will settle them: the weight's rows are then shared by all samples, which is right anyway.
                for claim in claims:
                    claim.settle(confirmed=False)
                return
            if layout is not None:
                self._layouts[output] = layout
                if coupled:
                    self.bn = "rows"
                if changes_in_place(call.name) or call.kwargs.get("out") is not None:
                    self._spread(output, before)

    def _spread(self, changed: Tensor, before: Layout | None) -> None:
        """Note what a change in place means for other tensors of the same memory: their samples are not known."""
        after = self._layouts.get(changed)
        if after is None or after == before or changed.layout is not torch.strided:
            return
        for other in self._layouts.sharing(changed):
            self._layouts[other] = LostBatch("a change in place of memory that it shares")
        storage = changed.untyped_storage()
        self._written[storage._cdata] = storage

    def _follow_assignment(self, base: Tensor, index: Any, value: Any) -> None:
        if not isinstance(value, Tensor):
            return
        before, layout = self._standing(base, changed=True), self._standing(value)
        if isinstance(before, BatchLayout):
            if not overwritten_in(base, index, value, layout=before, value_layout=layout, batch=self.batch):
                self._layouts[base] = LostBatch("__setitem__")
        elif before is None and layout is not None:
            taken = written_into(base, index, value, layout, self.batch) if isinstance(layout, BatchLayout) else None
            self._layouts[base] = taken or LostBatch("__setitem__")
        if isinstance(layout, LostBatch) and base.is_floating_point():
            self.bn = "rows"

    def _meet(self, call: _Call) -> None:
        """Note a use of weights together with the batch."""
        site = (call.weights()[0].name, call.name)
        contributions: list[Contribution] = []
        try:
            if call.name == "embedding_bag" and True in (call.kwargs.get("sparse"), *call.args[5:6]):
                raise MeasureError("with sparse=True it has no plain per-sample gradients: leave it off")
            if (rule := rule_for(call.function, call.name)) and not _is_complex(call):
                with contextlib.suppress(NoRuleError):
                    contributions = rule(call)
            if not _covers(contributions, call):
                contributions = generic(call, call.was.random_state, self._describe(*site))
        except MeasureError as error:
            raise MeasureError(f"{self._describe(*site)}: {error}") from error
        if call.was.edge is not None:
            self._weights.pop(id(call.args[0]))
        if call.tap is not None:
            self._owe_tapped(call.tap, contributions, site)
        else:
            self._owe(call.outputs, contributions, call.tensors, site, overwritten=call.was.edge)

    def _derive(self, call: _Call, found: list[tuple[Tensor, Layout]]) -> None:
        """Note a function of weights without the batch: its result is a weight too, or has a row for each sample."""
        parents = [weight for tensor in call.tensors if (weight := self._weights.get(id(tensor))) is not None]
        first, output = parents[0], call.outputs[0]
        if any(id(result) in self._weights and result is not call.args[0] for result in call.outputs):
            return
        if output is first.tensor and not first.made:
            return
        if call.name in _TRANSPOSED and first.tensor.ndim == 2 and not first.made:
            swapped = (output.shape, output.stride()) != (first.tensor.shape, first.tensor.stride())
            self._weights[id(output)] = Weight(output, first.roots, first.transposed != swapped)
            return
        claims = tuple({
            claim for _, layout in found if isinstance(layout, BatchLayout) for claim in layout.open_claims
        })
        if call.used:
            self._assume(call, claims)
        roots = {id(root.tensor): root for weight in parents for root in weight.roots}
        for result in call.outputs:
            if result.requires_grad:
                eps = max(torch.finfo(result.dtype).eps, *(weight.eps for weight in parents))
                self._weights[id(result)] = Weight(result, tuple(roots.values()), made=True, eps=eps)

    def _assume(self, call: _Call, claims: tuple[Claim, ...]) -> None:
        """Note a use of weights on what may have a row for each sample."""
        site = (call.weights()[0].name, call.name)
        rule = rule_for(call.function, call.name) if claims else CLAIMABLE.get(call.function)
        if _is_complex(call):
            rule = None
        contributions: list[Contribution] = []
        if rule is not None and self.batch > 1:
            claims = claims or self._claim(call, self._describe(*site))
            if claims:
                with contextlib.suppress(NoRuleError, MeasureError):
                    contributions = rule(call)
        if _covers(contributions, call):
            self._claims += [claim for claim in claims if claim not in self._claims]
            self._owe(call.outputs, contributions, call.tensors, site, claims=claims)
        else:
            for claim in claims:
                claim.settle(confirmed=False)

    def _claim(self, call: _Call, where: str) -> tuple[Claim, ...]:
        # Dimension 0 of what the weight is used on, or expanded to, is taken for the batch.
        output = call.outputs[0]
        leading = next((tensor for tensor in call.tensors if id(tensor) not in call.used), output)
        for tensor in (leading, output):
            if not tensor.ndim or not tensor.shape[0] or tensor.shape[0] % self.batch:
                return ()
        claim = Claim(where)
        self._claimed = True
        layout = BatchLayout(0, 1, (claim,))
        call.assumed[id(leading)] = call.assumed[id(output)] = layout
        self._layouts[output] = layout
        return (claim,)

    def _owe(
        self,
        outputs: list[Tensor],
        contributions: list[Contribution],
        tensors: Iterable[Tensor],
        site: tuple[str, str],
        *,
        claims: tuple[Claim, ...] = (),
        overwritten: GradientEdge | None = None,
    ) -> None:
        """Register what a call owes to its weights, and wait for the gradients of its outputs."""
        tensors = list(tensors)
        anchors = {index: anchor(outputs[index], tensors) for index in {each.output for each in contributions}}
        by_output: dict[int, list[tuple[Contribution, GradientEdge | None]]] = {}
        for contribution in contributions:
            weight = contribution.weight
            edge = None
            if weight.made:
                replaced = overwritten is not None and weight.tensor is outputs[0]
                edge = overwritten if replaced else get_gradient_edge(weight.tensor)
            by_output.setdefault(contribution.output, []).append((contribution, edge))
            for root in weight.roots:
                ledger = self._ledgers[id(root.tensor)]
                ledger.uses.append(_Use(claims))
        for index, group in by_output.items():
            hooked, part = anchors[index]
            hook = self._output_hook(group, claims, site, part)
            self._pass_handles.append(hooked.register_hook(hook))  # type: ignore[no-untyped-call]

    def _note_batch_norm(self, call: _Call) -> None:
        training = bool(call.kwargs.get("training", call.args[5] if len(call.args) > 5 else False))
        if training and self._wanted_bn == "eval":
            raise MeasureError('bn="eval" was asked for, but a BatchNorm layer runs in train mode: call model.eval()')
        if training or self.bn == "none":
            self.bn = "rows" if training else "eval"

    def _weight(self, tensor: Tensor) -> Weight | None:
        """Return the weight that a tensor is, unless it carries the batch."""
        weight = self._weights.get(id(tensor))
        if weight is None and self._sharded and type(tensor) is nn.Parameter and tensor.requires_grad:
            self._find_parameters()
            weight = self._weights.get(id(tensor))
        if weight is None and isinstance(tensor.grad_fn, BackwardCFunction) and self._standing(tensor) is None:
            weight = self._weights.get(id(tensor))
        return weight

    def _standing(self, tensor: Tensor, changed: bool = False) -> Layout | None:
        """Return the layout of a tensor, unless it is unknown or rests on a refuted claim.

        Args:
            tensor: the tensor.
            changed: whether the call has changed it in place, and it is as unknown as it was before.

        Returns:
            The layout, or None.
        """
        layout = self._layouts.get(tensor)
        if layout is not None and id(tensor) in self._inside and isinstance(tensor.grad_fn, BackwardCFunction):
            layout = None  # seen in the body of a custom function, whose backward pass may do something else
            self._inside.discard(id(tensor))
        if layout is None and not changed and self.batch and id(tensor) not in self._weights:
            layout = self._unseen(tensor)
        return None if layout is None or (self._claimed and _refuted(layout)) else layout

    def _unseen(self, tensor: Tensor) -> Layout | None:
        """Return the layout of a tensor that no function was seen to return; None where it is none of the batch's."""
        outside = self._outside.get(id(tensor))
        if outside is not None and outside() is tensor:
            return None
        layout: Layout | None = None
        if self._written and tensor.layout is torch.strided and tensor.untyped_storage()._cdata in self._written:
            layout = LostBatch("a change in place of memory that it shares")
        elif isinstance(tensor.grad_fn, BackwardCFunction):
            layout = self._through_custom_function(tensor, tensor.grad_fn)
        elif tensor.grad_fn is not None:
            layout = LostBatch(
                f"{tensor.grad_fn.name()}, which was not seen (torch.vmap, scripts and extensions hide functions),"
            )
        if layout is not None:
            self._layouts[tensor] = layout
        return layout

    def _through_custom_function(self, tensor: Tensor, node: Any) -> Layout | None:
        """Return the layout of what a custom autograd function returned, which runs unseen."""
        kind = getattr(type(node), "_forward_cls", type(node))
        parents = [parent for parent, _ in node.next_functions]
        made = {weight.tensor.grad_fn: weight for weight in self._weights.values() if weight.made}
        weights = [made.get(p) or self._weights.get(id(getattr(p, "variable", None))) for p in parents]
        if parents and all(weight is not None for weight in weights):
            # Of weights alone, such as a straight-through estimator: a weight itself.
            roots = {id(root.tensor): root for weight in weights if weight is not None for root in weight.roots}
            eps = max(torch.finfo(tensor.dtype).eps, *(weight.eps for weight in weights if weight is not None))
            self._weights[id(tensor)] = Weight(tensor, tuple(roots.values()), made=True, eps=eps)
            return None
        name = f"{kind.__name__}.apply"
        self._reentrant |= kind is CheckpointFunction
        own = kind.__module__.startswith("torch.") and kind.__name__ in HANDING_ON
        if kind not in KEEPING and not own:
            return LostBatch(name)
        found = {
            known
            for other, known in self._layouts.items()
            if other.grad_fn in parents and other.grad_fn is not None and other.shape == tensor.shape
        }
        if len(found) == 1:
            return found.pop()
        return IN_FRONT if not found and tensor.ndim and tensor.shape[0] == self.batch else LostBatch(name)

    def layout(self, tensor: Tensor, role: str) -> BatchLayout:
        """Return where the batch lies in a tensor.

        Args:
            tensor: an input or output of a call.
            role: what it is there, for error messages.

        Returns:
            Its layout, which may rest on a claim.

        Raises:
            MeasureError: where it does not carry the batch, or its samples could not be followed.
        """
        layout = self._standing(tensor)
        if self.batch == 1 and tensor.ndim:
            return BatchLayout(0, tensor.shape[0])
        if isinstance(layout, BatchLayout):
            return layout
        through = ""
        if isinstance(layout, LostBatch):
            through = f"through {layout.function}{'' if ' ' in layout.function else '()'} "
        custom = through.removeprefix("through ").removesuffix(".apply() ")
        declared = f"; if {custom} leaves them in place, say so with register_keeping({custom})"
        raise MeasureError(
            f"samples could not be followed {through}to {role} of shape {tuple(tensor.shape)}: keep the samples"
            f" (B = {self.batch}) in one dimension, in order{declared if through.endswith('.apply() ') else ''}; say"
            " what a sample is with samples=...; or freeze the parameter with requires_grad_(False) to leave it out"
            " of F"
        )

    def _describe(self, name: str, function: str = "") -> str:
        path = name.rpartition(".")[0]
        kind = type(self._model.get_submodule(path)).__name__
        owner = f"module {path!r} ({kind})" if path else f"the model itself ({kind})"
        return f"parameter {name!r} of {owner}" + (f" in {function}()" if function else "")

    # -- modules that have a rule of their own ----------------------------------------------------------------------

    def _enter_module(self, _: nn.Module, __: Any) -> None:
        self._opaque += 1

    def _leave_module(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._opaque -= 1
        if self._opaque or self.problem is not None or not torch.is_grad_enabled():
            return
        with _Guarded(self, f"the gram rule of {type(module).__name__}"), torch._C.DisableTorchFunction():
            found = [self._weights[id(p)] for p in module.parameters() if id(p) in self._weights]
            contributions = module_contributions(module, args, output, found, self.batch)
            self._layouts[output] = IN_FRONT
            if contributions:
                self._owe([output], contributions, tensors_of(args), (found[0].name, "forward"))

    # -- the backward pass --------------------------------------------------------------------------------------

    def _owe_tapped(self, tap: Tap, contributions: list[Contribution], site: tuple[str, str]) -> None:
        """Register what a tapped call owes to its weights."""
        tap.owed, tap.site = contributions, site
        for contribution in contributions:
            for root in contribution.weight.roots:
                self._ledgers[id(root.tensor)].uses.append(_Use(()))

    def _take(self, tap: Tap, gradient: Tensor) -> dict[int, Tensor] | None:
        """Take the per-sample gradients of a tapped call, and return their sums by the id of the weight."""
        self._arrived = True
        if self.problem is not None or self._closed:
            return None
        owed, tap.owed = tap.owed, []
        sums: dict[int, Tensor] = {}
        with _Guarded(self, *tap.site):
            if not owed or torch.is_grad_enabled():
                raise MeasureError(_TWICE)
            with exact_arithmetic(gradient.device.type):
                for each in owed:
                    key, own = id(each.weight.tensor), self._received(each, gradient)
                    sums[key] = sums[key] + own if key in sums else own
        return sums if self.problem is None else None

    def _received(self, contribution: Contribution, gradient: Tensor) -> Tensor:
        """Take what one weight of a tapped call is owed, and return the sum over samples in the weight's own order."""
        weight = contribution.weight
        ledger = self._ledgers[id(weight.roots[0].tensor)]
        self._note_eps(weight, gradient)
        jacobian = contribution.jacobian(gradient)
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        total = torch.empty(weight.target.shape, dtype=dtype, device=gradient.device)
        if ledger.owed == 1 and self._rows is not None:
            ledger.fired += 1
            self._rows.add(ledger.root.name, [jacobian], total)
        else:
            jacobian.total(total)
            self._credit(ledger, jacobian)
        total = total.to(weight.tensor.dtype)
        return total.mT if weight.transposed else total

    def _output_hook(
        self,
        owed: list[tuple[Contribution, GradientEdge | None]],
        claims: tuple[Claim, ...],
        site: tuple[str, str],
        part: Callable[[Tensor], Tensor],
    ) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            self._arrived = True
            if self.problem is not None or self._pulling_back:
                return
            with _Guarded(self, *site):
                if not owed:
                    raise MeasureError(_TWICE)
                if all(claim.confirmed is not False for claim in claims):
                    with exact_arithmetic(gradient.device.type):
                        gradient = part(gradient.detach())
                        for contribution, edge in owed:
                            self._receive(contribution, edge, gradient)
            owed.clear()  # and with them the inputs they keep

        return hook

    def _receive(self, contribution: Contribution, edge: GradientEdge | None, gradient: Tensor) -> None:
        self._note_eps(contribution.weight, gradient)
        jacobian = contribution.jacobian(gradient)
        if edge is None:
            self._credit(self._ledgers[id(contribution.weight.roots[0].tensor)], jacobian)
            return
        made = contribution.weight.tensor
        values = jacobian.block(0, jacobian.rows)
        if made.is_complex():
            values = torch.view_as_complex(values.view(self.batch, *made.shape, 2))
        values = values.view(self.batch, *made.shape).to(made.dtype)
        roots = [root.tensor for root in contribution.weight.roots]
        self._pulling_back = True
        try:
            with without_hooks(roots):
                pulled = one_by_one(edge, roots, values)
        finally:
            self._pulling_back = False
        for tensor, rows in zip(roots, pulled, strict=True):
            self._credit(self._ledgers[id(tensor)], dense(rows))

    def _note_eps(self, weight: Weight, gradient: Tensor) -> None:
        eps = self._float32_eps if gradient.dtype is torch.float32 else torch.finfo(gradient.dtype).eps
        eps = max(eps, weight.eps)
        self.gradient_eps = max(self.gradient_eps, eps)
        for root in weight.roots:
            ledger = self._ledgers[id(root.tensor)]
            ledger.eps = max(ledger.eps, eps)

    def _credit(self, ledger: _Ledger, jacobian: Jacobian) -> None:
        ledger.fired += 1
        ledger.received.append(jacobian)
        if ledger.fired == ledger.owed:
            self._settle(ledger)

    def _settle(self, ledger: _Ledger) -> None:
        """Hand on J of a parameter; over several uses it is summed before the Gram product."""
        received, ledger.received = ledger.received, []
        if received:
            self._sink.add(ledger.root.name, received)

    def _parameter_hook(self, ledger: _Ledger) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if not self._pulling_back and self.batches:
                with _Guarded(self, ledger.root.name, ""), torch.no_grad():
                    ledger.norms.append(_norm(gradient))

        return hook

    # -- the result ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Remove every hook; a graph that outlives the body is inert from then on."""
        for handle in self._handles + self._pass_handles:
            handle.remove()
        self._handles = []
        self._pass_handles = []
        self._layouts = Layouts()
        self._outside, self._written, self._inside = {}, {}, set()
        self._closed = True
        for tap in self._taps:
            tap.owed = []
        self._taps = []
        self._grouping = None
        self._weights = {}
        for ledger in self._ledgers.values():
            ledger.uses = []

    def finish(self) -> None:
        """End the last pass; raise MeasureError where something in the step could not be measured."""
        if self.problem is not None:
            raise self.problem
        if not self.batches:
            raise MeasureError("the model was not called inside the body: run model(...) and backward() within it")
        if len(self.batches) != self._passes:
            raise MeasureError(
                f"micro_batches={self._passes}, but the model was called {len(self.batches)} times inside the body"
            )
        self._end_pass()

    def _end_pass(self) -> None:
        made = {id(root.tensor) for weight in self._weights.values() if weight.made for root in weight.roots}
        for key, ledger in self._ledgers.items():
            if ledger.got_gradient and not ledger.owed:
                if key in made:
                    raise MeasureError(f"{self._describe(ledger.root.name)}: {_ALONE}")
                raise MeasureError(
                    f"{self._describe(ledger.root.name)} got a gradient, but its use was not seen. It may lie in a"
                    " scripted module, a block checkpointed with use_reentrant=True or a custom autograd function:"
                    " use use_reentrant=False, give the module a rule with register_gram_rule, or freeze it"
                )
        if self._reentrant:
            raise MeasureError(
                "some use of a parameter was not seen: a block checkpointed with use_reentrant=True runs where nothing"
                " can follow samples: use use_reentrant=False"
            )
        if not any(ledger.fired for ledger in self._ledgers.values()):
            raise MeasureError(
                "no gradient arrived: run the backward pass of the loss inside the body, with a trainable parameter"
            )
        for claim in self._claims:
            if claim.confirmed is None:
                raise MeasureError(f"{claim.where}: {_ALONE}")
        for ledger in self._ledgers.values():
            with torch.no_grad():
                self._settle(ledger)
        self.checks.append({
            ledger.root.name: (ledger.norms, ledger.eps) for ledger in self._ledgers.values() if ledger.norms
        })
        for ledger in self._ledgers.values():
            ledger.uses, ledger.fired, ledger.norms, ledger.eps = [], 0, [], 0.0
        for handle in self._pass_handles:
            handle.remove()
        self._pass_handles = []
        self._claims = []
        self._claimed = False
        self._layouts = Layouts()
        self._outside, self._written, self._inside = {}, {}, set()
        self._weights = {key: weight for key, weight in self._weights.items() if not weight.made}


def _norm(gradient: Tensor) -> Tensor:
    """Return the norm of a gradient, NaN for one that is not held in full.

    In two stages, the second in float64: in one, the CPU's float32 sum over a million entries is off by 1e-5, which is
    more than the check of the sums allows for, and float64 throughout takes thirty times as long.
    """
    if gradient.layout is not torch.strided:
        return torch.full((), torch.nan, dtype=torch.float32, device=gradient.device)
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient.resolve_conj())
    dtype = gradient.dtype if gradient.dtype in {torch.float32, torch.float64} else torch.float32
    if gradient.ndim > 1:
        kept = 0  # what follows lies together in memory, across which a sum takes ten times as long
        if gradient.numel() > _LONG_SUM * gradient.shape[0]:
            kept = max(range(gradient.ndim), key=lambda dim: gradient.shape[dim])
        others = tuple(dim for dim in range(gradient.ndim) if dim != kept)
        gradient = torch.linalg.vector_norm(gradient, dim=others, dtype=dtype)
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=torch.float64)
    return norm


def _is_complex(call: _Call) -> bool:
    return any(tensor.is_complex() for tensor in call.tensors + call.outputs)


def _only_claims(found: list[tuple[Tensor, Layout]]) -> list[Claim]:
    """Return the open claims that layouts rest on, if all of them do."""
    layouts = [layout for _, layout in found if isinstance(layout, BatchLayout) and layout.open_claims]
    return [claim for layout in layouts for claim in layout.open_claims] if len(layouts) == len(found) else []


def _covers(contributions: list[Contribution], call: _Call) -> bool:
    return {id(contribution.weight) for contribution in contributions} == {id(weight) for weight in call.weights()}


def _open_or_refuted(layout: Layout) -> bool:
    return isinstance(layout, BatchLayout) and bool(layout.claims)


def _refuted(layout: Layout) -> bool:
    return isinstance(layout, BatchLayout) and layout.refuted
