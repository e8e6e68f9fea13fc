"""Uses of weights: what each call owes to the weights among its arguments."""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import get_gradient_edge

from autobatch._errors import MeasureError
from autobatch.fisher.capture._following import Following, only_claims
from autobatch.fisher.capture._ledgers import Ledgers
from autobatch.fisher.capture._notes import Notes
from autobatch.fisher.capture._tap import Tap, tappable
from autobatch.fisher.capture._weights import Weights
from autobatch.fisher.following._layout import JOINED, BatchLayout, Claim, Layout
from autobatch.fisher.gram._jacobians import products_are_cheaper
from autobatch.fisher.layers._calls import NOTHING, Before, Call, Contribution, NoRuleError, Weight
from autobatch.fisher.layers._functions import tensors_of
from autobatch.fisher.layers._generic import adds_to_the_loss, generic, in_equal_parts

ALONE = (
    "its result does not descend from the model's input and never meets what does, so no per-sample gradient exists:"
    " give each sample its own rows, or freeze the parameter"
)
_DIFFERENTIATED = (
    "a gradient that is differentiated again, torch.autograd.grad(..., create_graph=True), cannot be measured: leave it"
    " out of measured steps, or measure nothing (measuring=NeverMeasure())"
)


class Uses:
    """Sees the calls of one pass, and registers with the ledgers what each owes."""

    def __init__(self, notes: Notes, weights: Weights, following: Following, ledgers: Ledgers) -> None:
        self._notes = notes
        self._weights = weights
        self._following = following
        self._ledgers = ledgers
        self._claims: list[Claim] = []

    # -- before a call ----------------------------------------------------------------------------------------------

    def look_at(self, call: Call) -> None:
        """Note a call's tensors, the weights among them, what it may change, and how weights get their gradients."""
        call.tensors = tensors_of(call.args, call.kwargs)
        if self._following.batch and (changed := call.changed) is not None:
            self._following.standing(changed)  # afterwards it is at another place in the graph
        call.used = {id(tensor): weight for tensor in call.tensors if (weight := self._weight(tensor)) is not None}
        if call.used:
            call.was = self._snapshot(call)
            if call.known.tapped and self._ledgers.tapping and self._can_be_tapped(call):
                call.tap = Tap(call.function, call.args, call.kwargs, set(call.used))

    def _weight(self, tensor: Tensor) -> Weight | None:
        """Return the weight that a tensor is, unless it carries the batch."""
        weight = self._weights.get(tensor)
        if weight is None and isinstance(tensor.grad_fn, BackwardCFunction):
            self._following.standing(tensor)  # looks whether a custom function made it of weights alone
            weight = self._weights.get(tensor)
        return weight

    def _snapshot(self, call: Call) -> Before:
        if (changed := call.changed) is not None:
            edge = get_gradient_edge(changed) if changed in self._weights else None
            return Before(changed.detach().clone(), edge)
        states = {}
        if call.known.rows is None:
            states = {
                id(tensor): (tensor._version, tensor.detach().clone())
                for tensor in call.tensors
                if not tensor.requires_grad and not self._following.knows(tensor)
            }
        if states or call.known.random:
            return Before(random_state=torch.get_rng_state() if call.known.random else None, states=states)
        return NOTHING

    def _can_be_tapped(self, call: Call) -> bool:
        """Whether a call's weights can get the sum of their per-sample gradients, and should."""
        if not tappable(call.tensors):
            return False
        layouts = [layout for tensor in call.tensors if (layout := self._following.standing(tensor)) is not None]
        followed = all(isinstance(layout, BatchLayout) and not layout.claims for layout in layouts)
        if not layouts or not followed or any(weight.made for weight in call.used.values()):
            return False
        if call.function is not F.linear or len(call.args) < 2 or not call.args[0].numel() or call.args[1].ndim != 2:
            return True
        x, weight = call.args[:2]
        positions = x.numel() // (call.batch * x.shape[-1])
        # Else J is not formed, and the library sums as fast.
        return not products_are_cheaper(call.batch, positions, *weight.shape, summed=True)

    # -- after it ---------------------------------------------------------------------------------------------------

    def see(self, call: Call) -> None:
        """Follow the samples through a call, and register what it owes to the weights among its arguments."""
        if call.function is torch.autograd.grad and any(output.requires_grad for output in call.outputs):
            raise MeasureError(_DIFFERENTIATED)
        found = self._following.follow(call)
        if weights := call.used:
            carrying = {id(tensor) for tensor, _ in found}
            heeded = [key for tensor in call.heeded if (key := id(tensor)) in weights and key not in carrying]
            call.used = {key: weights[key] for key in heeded}
        if not found and not call.used:
            for output in call.outputs:
                if output.grad_fn is not None:
                    self._following.leave_out(output)
        if not (call.used or self._following.claimed) or not any(output.requires_grad for output in call.outputs):
            return
        claims = only_claims(found)
        if found and not claims:
            if call.used:
                self._meet(call, [layout for _, layout in found])
        elif parents := self._weights.among(call.heeded):
            self._derive(call, claims, parents)

    def _meet(self, call: Call, layouts: list[Layout]) -> None:
        """Note a use of weights together with the batch."""
        contributions: list[Contribution] = []
        try:
            if call.name == "embedding_bag" and True in (call.kwargs.get("sparse"), *call.args[5:6]):
                raise MeasureError("with sparse=True it has no plain per-sample gradients: leave it off")
            if any(weight.tensor.layout is not torch.strided for weight in call.weights()):
                raise MeasureError("a sparse weight has no plain per-sample gradients: use weight.to_dense() there")
            if adds_to_the_loss(call, layouts):
                contributions = in_equal_parts(call)
                self._following.put(call.outputs[0], JOINED)
            elif (rule := call.known.rows) and not call.is_complex:
                with contextlib.suppress(NoRuleError):
                    contributions = rule(call)
            if not _covers(contributions, call):
                self._notes.by_sample = True
                contributions = generic(call, self._notes.describe(*call.site))
        except MeasureError as error:
            raise MeasureError(f"{self._notes.describe(*call.site)}: {error}") from error
        if call.was.edge is not None:
            self._weights.forget(call.args[0])
        self._ledgers.owe(call, contributions)

    def _derive(self, call: Call, claims: tuple[Claim, ...], parents: list[Weight]) -> None:
        """Note a function of weights without the batch: its result is a weight too, or has a row for each sample."""
        first, output = parents[0], call.outputs[0]
        if any(result in self._weights and result is not call.args[0] for result in call.outputs):
            return
        if output is first.tensor and not first.made:
            return
        if call.known.transposes and first.tensor.ndim == 2 and not first.made:
            swapped = (output.shape, output.stride()) != (first.tensor.shape, first.tensor.stride())
            self._weights.add(Weight(output, first.roots, first.transposed != swapped))
            return
        if call.used:
            self._assume(call, claims)
        for result in call.outputs:
            if result.requires_grad:
                self._weights.make(result, parents)

    def _assume(self, call: Call, claims: tuple[Claim, ...]) -> None:
        """Note a use of weights on what may have a row for each sample."""
        rule = call.known.rows if claims or call.known.claims else None
        contributions: list[Contribution] = []
        if rule is not None and not call.is_complex and call.batch > 1:
            claims = claims or self._claim(call, self._notes.describe(*call.site))
            if claims:
                with contextlib.suppress(NoRuleError, MeasureError):
                    contributions = rule(call)
        if _covers(contributions, call):
            self._claims += [claim for claim in claims if claim not in self._claims]
            self._ledgers.owe(call, contributions, claims)
        else:
            for claim in claims:
                claim.settle(confirmed=False)

    def _claim(self, call: Call, where: str) -> tuple[Claim, ...]:
        # Dimension 0 of what the weight is used on, or expanded to, is taken for the batch.
        output = call.outputs[0]
        leading = next((tensor for tensor in call.tensors if id(tensor) not in call.used), output)
        for tensor in (leading, output):
            if not tensor.ndim or not tensor.shape[0] or tensor.shape[0] % call.batch:
                return ()
        claim = Claim(where)
        self._following.claimed = True
        layout = BatchLayout(0, 1, (claim,))
        call.assumed[id(leading)] = call.assumed[id(output)] = layout
        self._following.put(output, layout)
        return (claim,)

    def end_pass(self) -> None:
        """End the pass; raise MeasureError where a weight met no sample."""
        claims, self._claims = self._claims, []
        for claim in claims:
            if claim.confirmed is None:
                raise MeasureError(f"{claim.where}: {ALONE}")


def _covers(contributions: list[Contribution], call: Call) -> bool:
    return {id(contribution.weight) for contribution in contributions} == {id(weight) for weight in call.weights()}
