"""Capture one forward and backward pass: every use of every trainable parameter, handed on as per-sample gradients."""

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MethodWrapperType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from autobatch._errors import MeasureError
from autobatch.fisher._anchor import anchor
from autobatch.fisher._arithmetic import exact_arithmetic, reduced_eps
from autobatch.fisher._measurement import caused
from autobatch.fisher.gram._jacobians import Jacobian
from autobatch.fisher.gram._sink import GramSink
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
from autobatch.fisher.layers._layout import (
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
from autobatch.fisher.layers._modules import MODULE_RULES, module_contributions
from autobatch.fisher.layers._rules import CLAIMABLE, rule_for

# Functions of a matrix alone whose result is the matrix transposed.
_TRANSPOSED = frozenset({"t", "T", "mT", "adjoint", "transpose", "swapaxes", "swapdims", "permute"})
_ALONE = (
    "its result does not descend from the model's input and never meets what does, so no per-sample gradient exists:"
    " give each sample its own rows, or freeze the parameter"
)
# Functions with parameters that draw random numbers.
_RANDOM = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu", "scaled_dot_product_attention"})
# Functions that take no more than the shape of their other arguments, or of any.
_SHAPE_OF_OTHERS = frozenset({"expand_as", "view_as", "reshape_as", "type_as", "to"})


@dataclass(frozen=True)
class _Use:
    """One use of a trainable parameter: what it rests on, and the node at which the gradient of its output arrives."""

    claims: tuple[Claim, ...]
    node: Node

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
    got_gradient: bool = False
    forms_gradient: bool = True
    reused: bool = False

    @property
    def owed(self) -> int:
        """Uses that count."""
        return sum(use.counts for use in self.uses)


@dataclass(frozen=True)
class _Before:
    """What a function is about to change: its first argument and where that was in the graph, the generator's state."""

    tensor: Tensor | None = None
    edge: GradientEdge | None = None
    random_state: Tensor | None = None


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
    used: dict[int, Weight] = field(default_factory=dict)
    assumed: dict[int, BatchLayout] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return self.capture.batch

    @property
    def before(self) -> Tensor | None:
        return self.was.tensor

    def weight(self, tensor: Any) -> Weight | None:
        return self.used.get(id(tensor)) if isinstance(tensor, Tensor) else None

    def weights(self) -> list[Weight]:
        return list(self.used.values())

    def layout(self, tensor: Tensor) -> BatchLayout:
        return self.assumed.get(id(tensor)) or self.capture.layout(tensor, "the input")

    def output_layout(self, index: int) -> BatchLayout:
        output = self.outputs[index]
        return self.assumed.get(id(output)) or self.capture.layout(output, "the output")


class Capture(TorchFunctionMode):
    """The state of one measured step. It never raises into the training: the first problem is kept in ``problem``.

    A step may have several passes, each one call of the model and its backward pass, where the sink takes them.

    Args:
        model: the model, without wrappers, whose call inside the body tells B and where the batch comes in.
        bn: ``"rows"`` or ``"eval"``.
        sink: takes the per-sample gradients of each parameter.
        passes: how many passes the step has.
    """

    def __init__(self, model: nn.Module, bn: str, sink: GramSink, passes: int) -> None:
        super().__init__()
        self.problem: MeasureError | None = None
        self.bn = "none"
        self.gradient_eps = 0.0
        self.seconds = 0.0
        self.batches: list[int] = []
        self.squared_gradients: list[Tensor] = []
        self.batch = 0
        self._model = model
        self._wanted_bn = bn
        self._sink = sink
        self._passes = passes
        self._sharded = False
        self._opaque = 0
        self._pulling_back = False
        self._layouts = Layouts()
        self._claimed = False
        self._weights: dict[int, Weight] = {}
        self._ledgers: dict[int, _Ledger] = {}
        self._claims: list[Claim] = []
        self._frontier: list[Any] = []
        self._norms: list[Tensor] = []
        self._formed: list[Tensor] = []
        self._handles: list[RemovableHandle] = []
        self._pass_handles: list[RemovableHandle] = []
        self._find_parameters()
        device = next((parameter.device.type for parameter in model.parameters()), "cpu")
        self._float32_eps = reduced_eps(device)
        # The last pre-hook: it sees the input as the model's forward gets it.
        self._handles.append(model.register_forward_pre_hook(self._model_called, with_kwargs=True))
        for module in model.modules():
            if type(module) in MODULE_RULES:
                self._handles.append(module.register_forward_pre_hook(self._enter_module))
                self._handles.append(module.register_forward_hook(self._leave_module, always_call=True))

    def _find_parameters(self) -> None:
        for name, parameter in self._model.named_parameters():
            if hasattr(parameter, "device_mesh"):
                # FSDP shows the whole parameter, another object, while the module runs.
                self._sharded = True
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
        # Without grad mode no use can get a gradient: optimizer steps, evaluation. A backward pass recomputes.
        if self.problem is not None or self._opaque or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        name = name_of(func)
        if type(func) is MethodWrapperType and name not in PROPERTIES:
            return func(*args, **kwargs)
        start = time.perf_counter()
        tensors = tensors_of(args, kwargs)
        before = _NOTHING
        if weighted := any(self._weight(tensor) is not None for tensor in tensors):
            if is_composite(func) and rule_for(func, name) is None:
                with self:
                    return opened(func)(*args, **kwargs)
            before = self._snapshot(name, args)
        self.seconds += time.perf_counter() - start
        output = func(*args, **kwargs)
        start = time.perf_counter()
        try:
            if tensors and (weighted or not self._stays(name, tensors, output)):
                outputs = tensors_of((args[0] if name in ASSIGNING else output,))
                self._see(_Call(self, func, name, args, kwargs, tensors, outputs, before))
        except MeasureError as error:
            self.problem = error
        except Exception as error:
            # Whatever goes wrong here, the training goes on.
            self.problem = caused(f"{name}() could not be followed", error)
        self.seconds += time.perf_counter() - start
        return output

    def _stays(self, name: str, tensors: list[Tensor], output: Any) -> bool:
        """Note the layout of a function's output in the most frequent case: nothing moves."""
        if self._claimed or name not in STAYING or not isinstance(output, Tensor):
            return False
        first = self._layouts.get(tensors[0])
        if not isinstance(first, BatchLayout) or output.shape != tensors[0].shape:
            return False
        for tensor in tensors[1:]:
            if self._layouts.get(tensor) is not first:
                return False
        self._layouts[output] = first
        return True

    def _snapshot(self, name: str, args: tuple[Any, ...]) -> "_Before":
        if changes_in_place(name) and isinstance(args[0], Tensor):
            edge = get_gradient_edge(args[0]) if id(args[0]) in self._weights else None
            return _Before(args[0].detach().clone(), edge)
        if name in _RANDOM:
            return _Before(random_state=torch.get_rng_state())
        return _NOTHING

    def _model_called(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled() or self.problem is not None:
            return
        try:
            with torch._C.DisableTorchFunction():
                self._begin(tensors_of(args, kwargs))
        except MeasureError as error:
            self.problem = error

    def _begin(self, tensors: list[Tensor]) -> None:
        """Begin a pass with the tensors that the model is called with."""
        if len(self.batches) == self._passes:
            raise MeasureError(
                "the model was called twice in one measured step. The Gram matrix of a batch is not the sum of its"
                " micro-batches' matrices: measure one forward and backward pass over the whole batch, or say"
                " micro_batches=..."
                if self._passes == 1
                else f"the model was called more than micro_batches={self._passes} times in one measured step"
            )
        if not tensors or tensors[0].ndim == 0:
            raise MeasureError("the model's first tensor argument must have the batch as dimension 0")
        self._next_pass(tensors[0].shape[0])
        for tensor in tensors:
            if tensor.ndim and tensor.shape[0] == self.batch:
                self._layouts[tensor] = IN_FRONT

    def _next_pass(self, batch: int) -> None:
        if self.batches:
            if not any(ledger.fired for ledger in self._ledgers.values()):
                raise MeasureError("call backward() on each micro-batch before the next one's forward pass")
            self._end_pass()
        self.batch = batch
        self.batches.append(batch)
        self._sink.begin(batch)

    def _see(self, call: _Call) -> None:
        tensors = call.tensors[:1] if call.name in _SHAPE_OF_OTHERS else call.tensors
        found = [(tensor, layout) for tensor in tensors if (layout := self._standing(tensor)) is not None]
        if found:
            if self._claimed:
                settle_claims(call.name, call.args, found)
                found = [(tensor, layout) for tensor, layout in found if not _refuted(layout)]
            self._follow(call, found)
            if self._claimed:
                found = [(tensor, layout) for tensor, layout in found if not _refuted(layout)]
            if call.function is F.batch_norm:
                self._note_batch_norm(call)
        carrying = {id(tensor) for tensor, _ in found}
        for tensor in tensors:
            if id(tensor) not in carrying and (weight := self._weight(tensor)) is not None:
                call.used[id(tensor)] = weight
        if not (call.used or self._claimed) or not any(output.requires_grad for output in call.outputs):
            return
        if any(isinstance(layout, LostBatch) or not layout.open_claims for _, layout in found):
            if call.used:
                self._meet(call)
        elif any(id(tensor) in self._weights for tensor in tensors):
            self._derive(call, found)

    def _follow(self, call: _Call, found: list[tuple[Tensor, Layout]]) -> None:
        """Note where the batch lies in the outputs."""
        if call.name in ASSIGNING:
            self._follow_assignment(*call.args)
            return
        source, first = found[0]
        output = call.outputs[0] if call.outputs else source
        if len(found) == 1 and first is IN_FRONT and source is call.args[0] and layer_keeps(call.name, source, output):
            self._layouts[output] = IN_FRONT
            return
        for index, output in enumerate(call.outputs):
            layout = propagate(
                call.name,
                args=call.args,
                kwargs=call.kwargs,
                carriers=found,
                tensors=call.tensors,
                output=output,
                index=index,
                batch=self.batch,
            )
            if isinstance(layout, LostBatch) and (claims := _only_claims(found)):
                # Nothing will settle them: the weight's rows are then shared by all samples, which is right anyway.
                for claim in claims:
                    claim.settle(confirmed=False)
            elif layout is not None:
                self._layouts[output] = layout

    def _follow_assignment(self, base: Tensor, index: Any, value: Any) -> None:
        if not isinstance(value, Tensor):
            return
        before, layout = self._standing(base), self._standing(value)
        if isinstance(before, BatchLayout):
            if not overwritten_in(base, index, value, layout=before, value_layout=layout, batch=self.batch):
                self._layouts[base] = LostBatch("__setitem__")
        elif before is None and layout is not None:
            taken = written_into(base, index, value, layout, self.batch) if isinstance(layout, BatchLayout) else None
            self._layouts[base] = taken or LostBatch("__setitem__")

    def _meet(self, call: _Call) -> None:
        """Note a use of weights together with the batch."""
        site = (call.weights()[0].name, call.name)
        contributions: list[Contribution] = []
        try:
            if rule := rule_for(call.function, call.name):
                with contextlib.suppress(NoRuleError):
                    contributions = rule(call)
            if not _covers(contributions, call):
                contributions = generic(call, call.was.random_state, self._describe(*site))
        except MeasureError as error:
            raise MeasureError(f"{self._describe(*site)}: {error}") from error
        if call.was.edge is not None:
            self._weights.pop(id(call.args[0]))
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
            swapped = output.stride() != first.tensor.stride()
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
                ledger.uses.append(_Use(claims, get_gradient_edge(anchors[contribution.output][0]).node))
                ledger.forms_gradient &= contribution.forms_gradient and not weight.made
        plain = {id(root.tensor) for contribution in contributions for root in contribution.weight.roots}
        leads_on = any(tensor.requires_grad and id(tensor) not in plain for tensor in tensors)
        for index, group in by_output.items():
            hooked, part = anchors[index]
            if not leads_on:
                self._frontier.append(get_gradient_edge(hooked))
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
        return weight

    def _standing(self, tensor: Tensor) -> Layout | None:
        """Return the layout of a tensor, unless it is unknown or rests on a refuted claim."""
        layout = self._layouts.get(tensor)
        if layout is None and tensor.grad_fn is not None and id(tensor) not in self._weights and self.batch:
            layout = self._through_custom_function(tensor)
        return None if layout is None or (self._claimed and _refuted(layout)) else layout

    def _through_custom_function(self, tensor: Tensor) -> Layout | None:
        # Custom autograd functions run unseen: their outputs lie as an input of the same shape does, or batch first.
        node = tensor.grad_fn
        if not isinstance(node, torch.autograd.function.BackwardCFunction):
            return None
        parents = {parent for parent, _ in node.next_functions}
        layout: Layout | None = None
        for other, known in self._layouts.items():
            if other.grad_fn in parents and other.shape == tensor.shape:
                layout = known
        if layout is None and tensor.ndim and tensor.shape[0] == self.batch:
            layout = IN_FRONT
        if layout is not None:
            self._layouts[tensor] = layout
        return layout

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
        through = f"through {layout.function}() " if isinstance(layout, LostBatch) else ""
        raise MeasureError(
            f"samples could not be followed {through}to {role} of shape {tuple(tensor.shape)}: keep the samples"
            f" (B = {self.batch}) in one dimension, in order; or freeze the parameter with requires_grad_(False) to"
            " leave it out of F"
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
        start = time.perf_counter()
        try:
            with torch._C.DisableTorchFunction():
                found = [self._weights[id(p)] for p in module.parameters() if id(p) in self._weights]
                contributions = module_contributions(module, args, output, found, self.batch)
                self._layouts[output] = IN_FRONT
                if contributions:
                    self._owe([output], contributions, tensors_of(args), (found[0].name, "forward"))
        except MeasureError as error:
            self.problem = error
        self.seconds += time.perf_counter() - start

    # -- the backward pass --------------------------------------------------------------------------------------

    def reuse(self, reached: set[Node]) -> tuple[list[Tensor], list[Any]]:
        """Choose the parameters whose gradient is the sum of J, once the forward pass is done.

        A use from which no gradient is to come may be one whose output the loss does not need, or whose hook has left
        the graph: the parameter then gets its gradient as ever, and the check of the sums finds what is missing.

        Args:
            reached: every node of the loss's graph.

        Returns:
            Those parameters, and edges of the autograd graph that a backward pass must still reach for all gradients
            of outputs to arrive.
        """
        chosen = []
        for ledger in self._ledgers.values():
            expected = ledger.owed and all(use.node in reached for use in ledger.uses if use.counts)
            ledger.reused = bool(expected) and ledger.forms_gradient and self.problem is None
            if ledger.reused:
                chosen.append(ledger.root.tensor)
        return chosen, self._frontier

    def _output_hook(
        self,
        owed: list[tuple[Contribution, GradientEdge | None]],
        claims: tuple[Claim, ...],
        site: tuple[str, str],
        part: Callable[[Tensor], Tensor],
    ) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if self.problem is not None or self._pulling_back:
                return
            start = time.perf_counter()
            try:
                if not owed:
                    raise MeasureError("its gradient arrived twice: measure one backward pass a step")
                if all(claim.confirmed is not False for claim in claims):
                    with exact_arithmetic(gradient.device.type):
                        gradient = part(gradient.detach())
                        for contribution, edge in owed:
                            self._receive(contribution, edge, gradient)
            except MeasureError as error:
                self.problem = MeasureError(f"{self._describe(*site)}: {error}")
            except Exception as error:
                self.problem = caused(self._describe(*site), error)
            owed.clear()  # and with them the inputs they keep
            self.seconds += time.perf_counter() - start

        return hook

    def _receive(self, contribution: Contribution, edge: GradientEdge | None, gradient: Tensor) -> None:
        eps = self._float32_eps if gradient.dtype is torch.float32 else torch.finfo(gradient.dtype).eps
        self.gradient_eps = max(self.gradient_eps, eps, contribution.weight.eps)
        jacobian = contribution.jacobian(gradient)
        if edge is None:
            self._credit(self._ledgers[id(contribution.weight.roots[0].tensor)], jacobian)
            return
        shape = contribution.weight.tensor.shape
        values = jacobian.block(0, jacobian.rows).view(self.batch, *shape).to(contribution.weight.tensor.dtype)
        roots = [root.tensor for root in contribution.weight.roots]
        self._pulling_back = True
        try:
            with without_hooks(roots):
                pulled = one_by_one(edge, roots, values)
        finally:
            self._pulling_back = False
        for root, rows in zip(roots, pulled, strict=True):
            self._credit(self._ledgers[id(root)], dense(rows))

    def _credit(self, ledger: _Ledger, jacobian: Jacobian) -> None:
        ledger.fired += 1
        ledger.received.append(jacobian)
        if ledger.fired == ledger.owed:
            self._settle(ledger)

    def _settle(self, ledger: _Ledger) -> None:
        """Hand on J of a parameter; over several uses it is summed before the Gram product."""
        if not ledger.received:
            return
        parameter = ledger.root.tensor
        gradient = None
        if ledger.reused:
            gradient = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        self._sink.add(ledger.root.name, ledger.received, gradient)
        ledger.received = []
        if gradient is not None:
            ledger.got_gradient = True
            self._formed.append(gradient)
            if parameter.grad is not None:
                parameter.grad += gradient
            elif parameter.is_contiguous():
                parameter.grad = gradient
            else:
                parameter.grad = torch.empty_like(parameter).copy_(gradient)

    def _parameter_hook(self, ledger: _Ledger) -> Callable[[Tensor], None]:
        def hook(gradient: Tensor) -> None:
            if self._pulling_back or not self.batches:
                return
            start = time.perf_counter()
            ledger.got_gradient = True
            if gradient.layout is torch.strided:
                with torch.no_grad():
                    self._norms.append(torch.linalg.vector_norm(gradient, dtype=_at_least_float32(gradient.dtype)))
            self.seconds += time.perf_counter() - start

        return hook

    def _square(self) -> Tensor:
        """Return the squared norm of the gradient that the parameters got in this pass, float64."""
        norms = self._norms + (list(torch._foreach_norm(self._formed)) if self._formed else [])
        self._norms, self._formed = [], []
        if not norms:
            return torch.zeros((), dtype=torch.float64)
        return torch.stack([norm.to(norms[0].device, torch.float64) for norm in norms]).square().sum()

    # -- the result ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Remove every hook; a graph that outlives the body is inert from then on."""
        for handle in self._handles + self._pass_handles:
            handle.remove()
        self._handles = []
        self._pass_handles = []
        self._layouts = Layouts()
        self._weights = {}
        self._frontier = []
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
            ledger.uses, ledger.fired, ledger.got_gradient, ledger.forms_gradient = [], 0, False, True
        with torch.no_grad():
            self.squared_gradients.append(self._square())
        for handle in self._pass_handles:
            handle.remove()
        self._pass_handles = []
        self._claims = []
        self._claimed = False
        self._frontier = []
        self._layouts = Layouts()
        self._weights = {key: weight for key, weight in self._weights.items() if not weight.made}


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype in {torch.float32, torch.float64} else torch.float32


def _only_claims(found: list[tuple[Tensor, Layout]]) -> list[Claim]:
    """Return the open claims that layouts rest on, if all of them do."""
    layouts = [layout for _, layout in found if isinstance(layout, BatchLayout) and layout.open_claims]
    return [claim for layout in layouts for claim in layout.open_claims] if len(layouts) == len(found) else []


def _covers(contributions: list[Contribution], call: _Call) -> bool:
    return {id(contribution.weight) for contribution in contributions} == {id(weight) for weight in call.weights()}


def _refuted(layout: Layout) -> bool:
    return isinstance(layout, BatchLayout) and layout.refuted
