"""Capture one forward and backward pass: every use of every trainable parameter, handed on as per-sample gradients.

``Following`` knows where samples lie, ``Weights`` which tensors are weights, ``Uses`` what a call owes to them, and
``Ledgers`` what they receive. Here is what the model and torch tell of: calls of modules and functions.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MethodWrapperType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autobatch._errors import MeasureError
from autobatch.fisher._registry import UNKNOWN, gram_rule_of, known
from autobatch.fisher.capture._following import Following
from autobatch.fisher.capture._hearing import Hearing
from autobatch.fisher.capture._ledgers import Ledgers
from autobatch.fisher.capture._notes import NOT_CALLED, Guarded, Notes
from autobatch.fisher.capture._uses import ALONE, Uses
from autobatch.fisher.capture._weights import Weights
from autobatch.fisher.following._layout import IN_FRONT, LostBatch
from autobatch.fisher.following._samples import Samples
from autobatch.fisher.gram._sink import Sink
from autobatch.fisher.layers._calls import Call
from autobatch.fisher.layers._functions import (
    ASSIGNING,
    PROPERTIES,
    given_to_model,
    is_composite,
    name_of,
    opened,
    tensors_of,
)
from autobatch.fisher.layers._modules import GramRule, module_contributions


class Capture(TorchFunctionMode):
    """The state of one measured step. It never raises into the training: the first problem is kept in ``notes``.

    A step may have several passes, each one call of the model and its backward pass, where the sink takes them.

    Args:
        model: the model, without wrappers, whose call inside the body tells B and where the batch comes in.
        bn: ``"rows"`` or ``"eval"``.
        sink: takes the per-sample gradients of each parameter.
        passes: how many passes the step has.
        samples: gives what a sample is in the model's input, anew for each call.
        rows: whether weights may get the sum of their per-sample gradients as their gradient.
        counted: names of the parameters that are measured; None for all.
        twice: what is wrong where the model is called more often than once a pass, where measuring's words do not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        bn: str,
        sink: Sink,
        passes: int,
        samples: Callable[[], Samples],
        *,
        rows: bool,
        counted: frozenset[str] | None,
        twice: str | None = None,
    ) -> None:
        super().__init__()
        self.notes = Notes(model)
        self._twice = twice
        self._sink = sink
        self._passes = passes
        self._samples = samples
        device = next((parameter.device.type for parameter in model.parameters()), "cpu")
        self._ledgers = Ledgers(self.notes, sink, device, rows=rows)
        self._weights = Weights(model, counted, self._ledgers.open)
        self._following = Following(self.notes, self._weights, bn)
        self._hearing = Hearing(self, self.notes, self._following)
        self._uses = Uses(self.notes, self._weights, self._following, self._ledgers)
        self._opaque = 0
        self._opening: list[Callable[..., Any]] = []
        self._handles: list[Any] = []
        if isinstance(model, torch.jit.ScriptModule):
            self.notes.problem = MeasureError(
                f"a scripted module ({type(model).__name__}) cannot be measured: give the probe the model as it was"
                " before torch.jit.script or torch.jit.trace, or measure nothing (measuring=NeverMeasure())"
            )
            return
        # The last pre-hook: it sees the input as the model's forward gets it.
        self._handles += [
            model.register_forward_pre_hook(self._model_called, with_kwargs=True),
            model.register_forward_hook(self._model_done, with_kwargs=True),
        ]
        followed = [module for module in model.modules() if gram_rule_of(module) is None]
        self._handles += self._hearing.on_modules(followed)
        for module in model.modules():
            if (rule := gram_rule_of(module)) is not None:
                self._handles.append(module.register_forward_pre_hook(self._enter_module))
                leave = partial(self._leave_module, rule)
                self._handles.append(module.register_forward_hook(leave, always_call=True))

    # -- functions --------------------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one torch function, and note what it means for measuring."""
        kwargs = kwargs or {}
        if self.notes.problem is not None or self._opaque:
            return func(*args, **kwargs)
        follow, name = self._following, name_of(func)
        call = Call(func, known(func), name, args, kwargs, [], [], follow.batch, follow.layout)
        telling = type(func) is not MethodWrapperType or name in PROPERTIES
        # Without grad mode no use can get a gradient, but samples can mix; after it, there are steps and evaluations.
        if self._hearing.listening or not torch.is_grad_enabled():
            return self._watched(call, telling=telling or self._hearing.listening)
        if not telling:
            assigned = getattr(func, "__self__", None) if name == "__set__" else None
            if assigned is Tensor.data and follow.knows(args[0]):  # x.data = ...
                follow.put(args[0], LostBatch("data.__set__"))
            return func(*args, **kwargs)
        if name == "register_hook":
            args, kwargs = (args[0], self._hearing.on_tensor(*args, **kwargs)), {}
        with self._guarded(name):
            self._uses.look_at(call)
        if self.notes.problem is not None:
            return func(*args, **kwargs)
        # Without weights, too, where only in it samples can be followed.
        opens = (call.used and call.known.rows is None) or (call.known is UNKNOWN and call.tensors)
        if opens and self._opens(func):
            return self._opened(call)
        output = func(*args, **kwargs) if call.tap is None else call.tap.run()
        with self._guarded(name):
            if call.tensors and (call.used or not follow.stays(call, output)):
                call.outputs = _returned(call, output)
                self._uses.see(call)
        return output

    def _watched(self, call: Call, *, telling: bool) -> Any:
        """Run a function without grad mode or in a hook, and follow the samples through it."""
        func, follow, listening = call.function, self._following, self._hearing.listening
        if call.known is UNKNOWN and follow.batch and not listening and self._opens(func):
            return self._opened(call)
        output = func(*call.args, **call.kwargs)
        if telling and follow.batch and (listening or not (self._ledgers.arrived or self._ledgers.pulling_back)):
            with self._guarded(call.name):
                call.tensors, call.outputs = tensors_of(call.args, call.kwargs), _returned(call, output)
                follow.watch(call)
        return output

    def _opens(self, func: Callable[..., Any]) -> bool:
        """Whether the parts of a function are to be seen; one that dispatches to others by itself comes here again."""
        return is_composite(func) and func not in self._opening

    def _opened(self, call: Call) -> Any:
        """Call a composite function such that its parts are seen."""
        self._opening.append(call.function)
        try:
            with self:
                return opened(call.function)(*call.args, **call.kwargs)
        finally:
            self._opening.pop()

    def _guarded(self, name: str) -> Guarded:
        return Guarded(self.notes, f"{name}() could not be followed")

    # -- the model --------------------------------------------------------------------------------------------------

    def _model_called(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled() or self.notes.problem is not None:
            return
        with Guarded(self.notes, "the call of the model could not be followed"), torch._C.DisableTorchFunction():
            given = given_to_model(args, kwargs)
            lists = [each for each in (*args, *kwargs.values()) if isinstance(each, (list, tuple))]
            lists = [each for each in lists if each and all(isinstance(item, Tensor) for item in each)]
            self._begin([tensor for tensor in given if self._weights.get(tensor) is None], lists)

    def _model_done(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Refuse a first argument whose leading size is not the batch's, and outputs in another order."""
        if not torch.is_grad_enabled() or not self._following.batch:
            return
        with Guarded(self.notes, "the model's output could not be followed"), torch._C.DisableTorchFunction():
            samples, outputs = self._samples(), tensors_of((output,))
            given = [tensor for tensor in given_to_model(args, kwargs) if self._weights.get(tensor) is None]
            failed = self.notes.problem is not None
            found = samples.elsewhere(given, outputs, self._following.batch, failed=failed)
            if found is not None:
                self.notes.problem = None  # this is why, whatever else it has led to
                raise MeasureError(found)
            if samples.rows is None and not failed:
                self._following.need_order(outputs)

    def _begin(self, tensors: list[Tensor], lists: Sequence[Sequence[Tensor]]) -> None:
        """Begin a pass with the tensors that the model is called with, or go on with it."""
        samples, before = self._samples(), self._following.batch
        again = samples.rows is not None and before and not self._ledgers.fired
        if not again and len(self.notes.batches) == self._passes:
            usual = (
                "the model was called twice in one measured step. The Gram matrix of a batch is not the sum of its"
                " micro-batches' matrices: measure one forward and backward pass over the whole batch, or say"
                " micro_batches=...; where one backward pass follows several calls, say samples=..., 1 for one row"
                if self._passes == 1 and samples.rows is None
                else "the model was called again after a backward pass, such as of an adversarial input or a gradient"
                " penalty: make that before the body, without the probe"
                if self._passes == 1
                else f"the model was called more than micro_batches={self._passes} times in one measured step"
            )
            raise MeasureError(self._twice or usual)
        batch, layouts, grouping = samples.of(tensors, lists)
        if again and batch != before:
            raise MeasureError(f"samples: the model was called with {before} samples, and then with {batch}")
        if not again:
            if self.notes.batches and not self._ledgers.fired:
                usual = "call backward() on each micro-batch before the next one's forward pass"
                raise MeasureError(self._twice or usual)
            if self.notes.batches:
                self._end_pass()
            self._following.batch = batch
            self._weights.begin()
            self.notes.batches.append(batch)
            self._sink.begin(batch)
        self._following.begin(tensors, layouts, grouping, again=bool(again))

    # -- modules that have a rule of their own ----------------------------------------------------------------------

    def _enter_module(self, _: nn.Module, __: Any) -> None:
        self._opaque += 1

    def _leave_module(self, rule: GramRule, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._opaque -= 1
        if self._opaque or self.notes.problem is not None or not torch.is_grad_enabled():
            return
        follow, kind, given = self._following, type(module).__name__, tensors_of(args)
        with Guarded(self.notes, f"the gram rule of {kind}"), torch._C.DisableTorchFunction():
            call = Call(type(module), UNKNOWN, "forward", args, {}, given, [output], follow.batch, follow.layout)
            call.used = {id(weight.tensor): weight for weight in self._weights.among(module.parameters())}
            for tensor in given:
                follow.need_front(tensor, kind)
            contributions = module_contributions(call, module, rule)
            follow.put(output, IN_FRONT)
            if contributions:
                self._ledgers.owe(call, contributions)

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Remove every hook; a graph that outlives the body is inert from then on."""
        self._hearing.note_late_ones()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._ledgers.close()
        self._following.end_pass()
        self._weights.end_pass()

    def finish(self) -> None:
        """End the last pass; raise MeasureError where something in the step could not be measured."""
        if self.notes.problem is not None:
            raise self.notes.problem
        passes = len(self.notes.batches)
        if not passes:
            raise MeasureError(NOT_CALLED)
        if passes != self._passes:
            raise MeasureError(f"micro_batches={self._passes}, but the model was called {passes} times inside the body")
        self._end_pass()

    def _end_pass(self) -> None:
        self._ledgers.check(self._weights.made_of(), ALONE)
        if self._following.reentrant:
            raise MeasureError(
                "some use of a parameter was not seen: a block checkpointed with use_reentrant=True runs where nothing"
                " can follow samples: use use_reentrant=False"
            )
        if not self._ledgers.fired:
            raise MeasureError(
                "no gradient arrived: run the backward pass of the loss inside the body, with a trainable parameter"
            )
        self._uses.end_pass()
        self._ledgers.end_pass()
        self._following.end_pass()
        self._weights.end_pass()


def _returned(call: Call, output: Any) -> list[Tensor]:
    """Return the tensors that a call has made, or assigned to."""
    return tensors_of((call.args[0] if call.name in ASSIGNING else output,))
