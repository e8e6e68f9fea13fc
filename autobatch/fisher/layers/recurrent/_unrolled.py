"""One call of a recurrent layer or cell: what it takes to take a gradient of its outputs back through all its steps."""

import contextlib
import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher._arithmetic import exact_arithmetic
from autobatch.fisher.following._layout import BatchLayout
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.gram._jacobians import OuterJacobian
from autobatch.fisher.layers._calls import KeptTensor, NoRuleError, dense, precise
from autobatch.fisher.layers.recurrent._sequences import Sequences
from autobatch.fisher.layers.recurrent._through_time import Direction, Gradients, gated, long_short, plain

_GATES = {"gru": 3, "lstm": 4, "rnn_tanh": 1, "rnn_relu": 1}

Key = tuple[int, str]
"""A direction's place and a weight's name in ``Direction``; (0, "first") and (1, "first") are the states, and the cell
states, before the first step."""
Arriving = Literal["states", "last", "last_cell"]
"""What a gradient is of: (T, N, directions * R) states of the last layer; (layers * directions, N, R) last states, or
(layers * directions, N, H) last cell states, of all layers."""


class Unrolled:
    """One call, by steps first: T steps of N sequences; R states are H units, or what they were projected to.

    Where sequences are packed, (T, N, ...) of the input, the output and its gradient are (rows, ...).

    Args:
        kind: ``"gru"``, ``"lstm"``, ``"rnn_tanh"`` or ``"rnn_relu"``.
        sequences: how they lie.
        x: (T, N, C), the input.
        states: those before the first step, (layers * directions, N, R), and an LSTM's cell states, of as many H.
        params: the weights of each direction of each layer by their names in ``Direction``, in its order.
        output: (T, N, directions * R), the last layer's states.
        directions: 2 where the layers run backwards, too.
        layout: where samples lie in (T, N, ...); None where there is one alone.
        batch: B.

    Raises:
        NoRuleError: where shapes do not fit.
    """

    def __init__(
        self,
        kind: str,
        sequences: Sequences,
        *,
        x: Tensor,
        states: Sequence[Tensor],
        params: Sequence[Mapping[str, Tensor]],
        output: Tensor,
        directions: int,
        layout: BatchLayout | None,
        batch: int,
    ) -> None:
        self.kind, self.sequences, self.directions, self.layout, self.batch = kind, sequences, directions, layout, batch
        self.x, self.output, self.states = KeptTensor(x), KeptTensor(output), [KeptTensor(state) for state in states]
        self.params = [{name: KeptTensor(tensor) for name, tensor in own.items()} for own in params]
        if not self._fits(sequences.shape(x), sequences.shape(output), states):
            raise NoRuleError
        weights = (tensor for own in params for tensor in own.values())
        self._dtype = precise(x, *states, output, *weights)[0].dtype
        self.layers = len(params) // directions
        self._lower: list[Tensor] = []  # states of all layers but the last
        self._masks: list[Tensor] = []  # of the dropout after each

    def _fits(self, given: tuple[int, ...], returned: tuple[int, ...], states: Sequence[Tensor]) -> bool:
        """Whether the shapes of input, output, states and weights are those of the library's documentation."""
        params = self.params
        if not math.prod(given) or len(given) != 3 or len(params) % self.directions:
            return False
        steps, sequences, width = given
        reach, units, gates = states[0].shape[-1], states[-1].shape[-1], _GATES[self.kind]
        if len(states) != 1 + (self.kind == "lstm") or returned != (steps, sequences, self.directions * reach):
            return False
        if any(tuple(state.shape[:-1]) != (len(params), sequences) for state in states):
            return False
        for place, own in enumerate(params):
            shapes = {
                "w_ih": (gates * units, width if place < self.directions else self.directions * reach),
                "w_hh": (gates * units, reach),
                "b_ih": (gates * units,),
                "b_hh": (gates * units,),
                "w_hr": (reach, units),
            }
            if any(tuple(kept().shape) != shapes[name] for name, kept in own.items()):
                return False
            if ("b_ih" in own) != ("b_hh" in own) or ("w_hr" not in own and reach != units):
                return False
        return True

    # -- forwards ---------------------------------------------------------------------------------------------------

    def run_lower_layers(self, dropout: float, random_state: Tensor | None) -> None:
        """Run the layers below the last again, whose states the call has not returned; right after the call.

        The next layer did not get the share ``dropout`` of a layer's states, as ``random_state``, before the call,
        says.

        Raises:
            NoRuleError: where a dropout's masks cannot be drawn again.
        """
        if self.layers == 1:
            return
        x, output, after = self.x(), self.output(), torch.get_rng_state()
        if dropout and not (x.device.type == "cpu" and x.dtype == output.dtype == self._dtype):
            raise NoRuleError
        with exact_arithmetic(x.device.type), torch.random.fork_rng(devices=[], enabled=dropout > 0.0):
            if dropout and random_state is not None:
                torch.set_rng_state(random_state)
            for layer in range(self.layers - 1):
                self._lower.append(self._run(layer, self._into(layer)))
                if dropout:
                    self._masks.append(F.dropout(torch.ones_like(self._lower[-1]), dropout))
            if not dropout:
                return
            again, drawn = self._run(self.layers - 1, self._into(self.layers - 1)), torch.get_rng_state()
        near = torch.finfo(x.dtype).eps ** 0.5 * output.abs().max()
        if not torch.equal(drawn, after) or not bool((again - output).abs().max() <= near):
            raise NoRuleError

    def _run(self, layer: int, x: Tensor) -> Tensor:
        """Return the states of one layer, (T, N, directions * R) as they lie, by the library."""
        places = slice(layer * self.directions, (layer + 1) * self.directions)
        first = [state()[places].to(self._dtype).contiguous() for state in self.states]
        weights = [kept().to(self._dtype) for own in self.params[places] for kept in own.values()]
        function: Callable[..., Any] = getattr(torch, self.kind)
        sizes, begun = self.sequences.sizes, first if len(first) > 1 else first[0]
        rest = (weights, "b_ih" in self.params[0], 1, 0.0, False, self.directions == 2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "RNN module weights")  # that they do not lie in one piece
            found = function(x, begun, *rest, False) if sizes is None else function(x, sizes, begun, *rest)
        states: Tensor = found[0]
        return states

    def _into(self, layer: int) -> Tensor:
        """Return the input of a layer."""
        if layer == 0:
            return self.x().to(self._dtype)
        below = self._lower[layer - 1]
        return below * self._masks[layer - 1] if self._masks else below

    def _out_of(self, layer: int) -> Tensor:
        """Return the states of a layer."""
        if layer < len(self._lower):
            return self._lower[layer]
        with contextlib.suppress(MeasureError):
            return self.output().to(self._dtype)
        return self._run(layer, self._into(layer))  # the output was changed in place

    # -- backwards --------------------------------------------------------------------------------------------------

    def back(
        self, of: Arriving, arrived: Tensor, wanted: Collection[Key], *, through: Tensor | None = None
    ) -> dict[Key, Jacobian]:
        """Return the per-sample gradients that the gradient of an output leaves: those wanted, among others.

        ``through`` is (N, R), of the only step's state, where the gradient of its cell state has come through that too.
        """
        rows: dict[Key, Jacobian] = {}
        first: dict[int, list[Tensor]] = {}
        arrived = arrived.to(self._dtype)
        gradient = self.sequences.padded(arrived) if of == "states" else None
        for layer in reversed(range(self.layers)):
            x, reached = (self.sequences.padded(tensor) for tensor in (self._into(layer), self._out_of(layer)))
            gradient = torch.zeros_like(reached) if gradient is None else gradient
            below: Tensor | None = None
            for place, turn, part in self._parts(layer, reached.shape[2] // self.directions):
                weights = Direction(**{name: kept().to(self._dtype) for name, kept in self.params[place].items()})
                begun = [state()[place].to(self._dtype) for state in self.states]
                inputs, states, outside = turn(x), turn(reached[..., part]), turn(gradient[..., part])
                before = torch.cat([begun[0].unsqueeze(0), states[:-1]])
                if of == "last":
                    outside = self.sequences.with_last(outside, arrived[place])
                if self.kind == "lstm":
                    ending = partial(self._of_cells, arrived[place], through) if of == "last_cell" else None
                    found = long_short(weights, inputs, before, outside, first_cell=begun[1], outside_cells=ending)
                elif self.kind == "gru":
                    found = gated(weights, inputs, before, outside)
                else:
                    found = plain(weights, states, outside, relu="relu" in self.kind)
                for name, jacobian in self._rows(found, inputs, before).items():
                    rows[place, name] = jacobian
                first[place] = [end for end in (found.first, found.first_cell) if end is not None]
                if layer:
                    into = turn(found.from_input @ weights.w_ih)
                    below = into if below is None else below + into
            gradient = below
            if self._masks and below is not None:
                gradient = below * self.sequences.padded(self._masks[layer - 1])
        for index in range(len(self.states)):
            if (index, "first") in wanted:
                rows[index, "first"] = self._alone(torch.stack([first[place][index] for place in sorted(first)]))
        return rows

    def _parts(self, layer: int, reach: int) -> Iterator[tuple[int, Callable[[Tensor], Tensor], slice]]:
        """Yield each direction's place, what puts steps in its order and back, and where its states lie."""
        yield layer * self.directions, lambda steps: steps, slice(reach)
        if self.directions == 2:
            yield layer * self.directions + 1, self.sequences.backwards, slice(reach, None)

    def _of_cells(self, last: Tensor, through: Tensor | None, cell_in_state: Tensor) -> Tensor:
        """Return the gradients of a direction's cell states, but for what comes through later steps."""
        last = last if through is None else last - through * cell_in_state[0]
        return self.sequences.with_last(torch.zeros_like(cell_in_state), last)

    def _rows(self, found: Gradients, x: Tensor, before: Tensor) -> dict[str, Jacobian]:
        """Return the per-sample gradients of one direction's weights."""
        from_input, from_state = self._by_sample(found.from_input), self._by_sample(found.from_state)
        rows: dict[str, Jacobian] = {
            "w_ih": OuterJacobian(from_input, self._by_sample(x)),
            "w_hh": OuterJacobian(from_state, self._by_sample(before)),
            "b_ih": self._sums(found.from_input),
        }
        rows["b_hh"] = rows["b_ih"] if found.from_state is found.from_input else self._sums(found.from_state)
        if found.unprojected is not None:
            rows["w_hr"] = OuterJacobian(self._by_sample(found.states), self._by_sample(found.unprojected))
        return rows

    def _sums(self, steps: Tensor) -> Jacobian:
        """Return the sums of (T, N, n) over each sample's positions."""
        return dense(self._by_sample(steps.sum(0, keepdim=True)).sum(1))

    def _by_sample(self, steps: Tensor) -> Tensor:
        """Return (T, N, n) as (B, positions, n)."""
        if self.layout is None:
            return steps.reshape(1, -1, steps.shape[2])
        return self.layout.samples_first(steps, self.batch).reshape(self.batch, -1, steps.shape[2])

    def _alone(self, states: Tensor) -> Jacobian:
        """Return (places, N, n) as (B, places, N, n): to each sample its own, and zeros."""
        if self.layout is None:
            return dense(states.unsqueeze(0))
        own = [self.layout.only(states, sample, self.batch) for sample in range(self.batch)]
        return dense(torch.stack(own))
