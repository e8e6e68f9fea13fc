"""What each trainable parameter is owed and receives in one pass: the hooks that meet the gradients."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from autobatch._errors import MeasureError
from autobatch.fisher._arithmetic import exact_arithmetic, reduced_eps
from autobatch.fisher._sums import Arrived, norm_of, slack_of_positions
from autobatch.fisher.capture._anchor import anchor
from autobatch.fisher.capture._notes import Guarded, Notes
from autobatch.fisher.following._layout import Claim, stand
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.gram._sink import Sink, StreamingGram
from autobatch.fisher.layers._calls import Call, Contribution, Root, dense
from autobatch.fisher.layers._functions import without_hooks
from autobatch.fisher.layers._generic import one_by_one

_TWICE = (
    "its gradient arrived twice: measure one backward pass a step. A step with a gradient penalty, or another"
    " torch.autograd.grad() inside, cannot be measured (measuring=NeverMeasure())"
)


class Ledgers:
    """The ledgers of one step; with ``rows`` weights may get the sum of their per-sample gradients as their gradient.

    Attributes:
        tapping: whether calls are to be tapped, so that weights get that sum.
        arrived: whether a gradient has arrived in this pass.
        pulling_back: whether J of a computed weight is being taken back to its roots.
    """

    def __init__(self, notes: Notes, sink: Sink, device: str, *, rows: bool) -> None:
        self._notes = notes
        self._sink = sink
        self._rows = sink if rows and isinstance(sink, StreamingGram) else None
        self._float32_eps = reduced_eps(device)
        self.tapping = self._rows is not None
        self.arrived = self.pulling_back = self._closed = False
        self._roots: list[Root] = []
        self._tapped: list[list[Contribution]] = []
        self._handles: list[RemovableHandle] = []
        self._pass_handles: list[RemovableHandle] = []

    @property
    def fired(self) -> bool:
        """Whether any use's gradient has arrived in this pass."""
        return any(root.fired for root in self._roots)

    def open(self, root: Root) -> None:
        """Open a parameter's ledger."""
        self._roots.append(root)

        def hook(gradient: Tensor) -> None:
            # One that was frozen after its use gets none.
            if not self.pulling_back and self._notes.batches and root.tensor.requires_grad:
                with Guarded(self._notes, root.name, ""):
                    root.norms.append(norm_of(gradient.detach()))

        self._handles.append(root.tensor.register_hook(hook))  # type: ignore[no-untyped-call]

    def owe(self, call: Call, contributions: list[Contribution], claims: tuple[Claim, ...] = ()) -> None:
        """Register what a call owes to its weights, resting on claims, and wait for the gradients of its outputs."""
        for contribution in contributions:
            for root in contribution.weight.roots:
                root.uses.append(claims)
        if call.tap is not None:
            call.tap.take = partial(self._take, contributions, call.site)
            self._tapped.append(contributions)
            return
        by_output: dict[int, list[tuple[Contribution, GradientEdge | None]]] = {}
        for contribution in contributions:
            weight, edge = contribution.weight, None
            if weight.made:
                replaced = call.was.edge is not None and weight.tensor is call.outputs[0]
                edge = call.was.edge if replaced else get_gradient_edge(weight.tensor)
            by_output.setdefault(contribution.output, []).append((contribution, edge))
        for index, group in by_output.items():
            hooked, part = anchor(call.outputs[index], call.tensors)
            hook = partial(self._arrive, group, claims, call.site, part)
            self._pass_handles.append(hooked.register_hook(hook))  # type: ignore[no-untyped-call]

    # -- through a tap ----------------------------------------------------------------------------------------------

    def _take(self, owed: list[Contribution], site: tuple[str, str], gradient: Tensor) -> dict[int, Tensor] | None:
        """Take the per-sample gradients of a tapped call, and return their sums by the id of the weight."""
        self.arrived = True
        if self._notes.problem is not None or self._closed:
            return None
        sums: dict[int, Tensor] = {}
        with Guarded(self._notes, *site):
            if not owed or torch.is_grad_enabled():
                raise MeasureError(_TWICE)
            with exact_arithmetic(gradient.device.type):
                for each in owed:
                    key, own = id(each.weight.tensor), self._summed(each, gradient)
                    sums[key] = sums[key] + own if key in sums else own
        owed.clear()  # and with them the inputs they keep
        return sums if self._notes.problem is None else None

    def _summed(self, contribution: Contribution, gradient: Tensor) -> Tensor:
        """Take what one weight of a tapped call is owed, and return the sum over samples in the weight's own order."""
        weight, root = contribution.weight, contribution.weight.roots[0]
        jacobian = self._made(contribution, gradient)
        dtype = torch.promote_types(gradient.dtype, torch.float32)
        total = torch.empty(weight.target.shape, dtype=dtype, device=gradient.device)
        if root.owed == 1 and self._rows is not None:
            root.fired += 1
            self._rows.add(root.name, [jacobian], total)
        else:
            jacobian.total(total)
            self._credit(root, jacobian)
        total = total.to(weight.tensor.dtype)
        return total.mT if weight.transposed else total

    # -- through hooks on outputs -----------------------------------------------------------------------------------

    def _arrive(
        self,
        owed: list[tuple[Contribution, GradientEdge | None]],
        claims: tuple[Claim, ...],
        site: tuple[str, str],
        part: Callable[[Tensor], Tensor],
        gradient: Tensor,
    ) -> None:
        """Take the per-sample gradients of a call from the gradient of what ``anchor`` found for its output."""
        self.arrived = True
        if self._notes.problem is not None or self.pulling_back:
            return
        with Guarded(self._notes, *site):
            if not owed:
                raise MeasureError(_TWICE)
            if stand(claims):
                with exact_arithmetic(gradient.device.type):
                    gradient = part(gradient.detach())
                    for contribution, edge in owed:
                        self._receive(contribution, edge, gradient)
        owed.clear()

    def _receive(self, contribution: Contribution, edge: GradientEdge | None, gradient: Tensor) -> None:
        jacobian = self._made(contribution, gradient)
        roots = contribution.weight.roots
        if edge is None:
            if roots[0].tensor.ndim == 1:
                roots[0].slack += slack_of_positions(gradient, self._notes.batches[-1], roots[0].tensor.numel())
            roots[0].terms = max(roots[0].terms, jacobian.terms)
            self._credit(roots[0], jacobian)
            return
        made = contribution.weight.tensor
        values, batch = jacobian.block(0, jacobian.rows), self._notes.batches[-1]
        if made.is_complex():
            values = torch.view_as_complex(values.view(batch, *made.shape, 2))
        alike = values.stride(0) == 0  # one row for all samples is pulled back once
        values = values[:1] if alike else values
        values = values.view(len(values), *made.shape).to(made.dtype)
        self.pulling_back = True
        try:
            parameters = [root.tensor for root in roots]
            with without_hooks(parameters):
                pulled = one_by_one(edge, parameters, values)
        finally:
            self.pulling_back = False
        for root, rows in zip(roots, pulled, strict=True):
            every = rows.expand(batch, *rows.shape[1:]) if alike else rows
            self._credit(root, dense(every))

    # -- either way -------------------------------------------------------------------------------------------------

    def _made(self, contribution: Contribution, gradient: Tensor) -> Jacobian:
        """Return the per-sample gradients that an output's gradient gives a weight, and note its arithmetic."""
        eps = self._float32_eps if gradient.dtype is torch.float32 else torch.finfo(gradient.dtype).eps
        eps = max(eps, contribution.weight.eps)
        self._notes.gradient_eps = max(self._notes.gradient_eps, eps)
        for root in contribution.weight.roots:
            root.eps = max(root.eps, eps, torch.finfo(root.tensor.dtype).eps)  # its gradient is rounded to that
        return contribution.jacobian(gradient)

    def _credit(self, root: Root, jacobian: Jacobian) -> None:
        root.fired += 1
        root.received.append(jacobian)
        if root.fired == root.owed:
            self._settle(root)

    def _settle(self, root: Root) -> None:
        """Hand on J of a parameter; over several uses it is summed before the Gram product."""
        received, root.received = root.received, []
        if received:
            self._sink.add(root.name, received)

    # -- the end ----------------------------------------------------------------------------------------------------

    def check(self, alone: set[Root], why: str) -> None:
        """Raise MeasureError where a parameter got a gradient that no use accounts for: for ``why`` if it is alone."""
        for root in self._roots:
            if root.norms and not root.owed:
                where = self._notes.describe(root.name)
                if root in alone:
                    raise MeasureError(f"{where}: {why}")
                raise MeasureError(
                    f"{where} got a gradient, but its use was not seen. It may lie in torch.vmap, a"
                    " scripted module, a block checkpointed with use_reentrant=True or a custom autograd function:"
                    " use use_reentrant=False, give the module a rule with register_gram_rule, freeze it, or measure"
                    " nothing (measuring=NeverMeasure())"
                )

    def end_pass(self) -> None:
        """Hand on what is left, note what the gradients were, and begin afresh."""
        with torch.no_grad():
            for root in self._roots:
                self._settle(root)
        known = [root for root in self._roots if root.norms or root.fired]
        self._notes.checks.append({root.name: Arrived(root.norms, root.eps, root.slack, root.terms) for root in known})
        for root in self._roots:
            root.end_pass()
        for handle in self._pass_handles:
            handle.remove()
        self._pass_handles = []
        self.arrived = False

    def close(self) -> None:
        """Remove every hook; a graph that outlives the body is inert from then on."""
        for handle in self._handles + self._pass_handles:
            handle.remove()
        self._handles, self._pass_handles = [], []
        self._closed = True
        for owed in self._tapped:
            owed.clear()
        self._tapped = []
        for root in self._roots:
            root.uses = []
