"""One direction of a recurrent layer, taken back through time by hand: the gradients of its gates in every step.

With the states that the layer has returned every gate of every step is one matrix product, so nothing is run again step
by step but an LSTM's cell states. Names are those of PyTorch's documentation; all tensors go by steps first, and the
direction that runs backwards is given its steps in its own order.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Direction:
    """The weights of one direction of one layer; H units, and R of them after a projection, else H."""

    w_ih: Tensor  # (gates * H, C)
    w_hh: Tensor  # (gates * H, R)
    b_ih: Tensor | None = None  # (gates * H,), or None
    b_hh: Tensor | None = None  # (gates * H,), or None
    w_hr: Tensor | None = None  # (R, H), or None without a projection


@dataclass(frozen=True)
class Gradients:
    """Gradients of what the weights' products with their inputs are, in every step."""

    from_input: Tensor  # (T, N, gates * H), of the product of ``w_ih`` and the sum with ``b_ih``
    from_state: Tensor  # (T, N, gates * H), of the product of ``w_hh`` and the sum with ``b_hh``
    states: Tensor  # (T, N, R), of the states, through all later steps too
    first: Tensor  # (N, R), of the state before the first step
    first_cell: Tensor | None = None  # (N, H), of an LSTM's cell state before it; else None


class Plain:
    """Steps of h = f(W_ih x + b_ih + W_hh h' + b_hh), f tanh or relu; ``states`` are those after each, (T, N, H)."""

    def __init__(self, direction: Direction, states: Tensor, *, relu: bool) -> None:
        self._w_hh = direction.w_hh
        self._slopes = (states > 0.0).to(states.dtype) if relu else 1.0 - states * states

    def back(self, outside: Tensor, cells: Tensor | None) -> Gradients:
        """Return the gradients of every step, taken back through time.

        Args:
            outside: (T, N, R), of each step's state, but for what comes through later steps.
            cells: (T, N, H), of each step's cell state, likewise; None for zeros, and where there are none.
        """
        total, gates = _with_first(outside), torch.empty_like(outside)
        states, found, slopes = total.unbind(), gates.unbind(), self._slopes.unbind()
        for step in reversed(range(len(found))):
            torch.mul(states[step + 1], slopes[step], out=found[step])
            states[step].addmm_(found[step], self._w_hh)
        return Gradients(gates, gates, total[1:], total[0])


class Gated:
    """Steps of a GRU, of inputs x (T, N, C) and the states before each, (T, N, H)."""

    def __init__(self, direction: Direction, x: Tensor, before: Tensor) -> None:
        self._w_hh = direction.w_hh
        from_input = F.linear(x, direction.w_ih, direction.b_ih).chunk(3, -1)
        from_state = F.linear(before, direction.w_hh, direction.b_hh).chunk(3, -1)
        reset = (from_input[0] + from_state[0]).sigmoid_()
        keep = (from_input[1] + from_state[1]).sigmoid_()
        new = torch.addcmul(from_input[2], reset, from_state[2]).tanh_()
        self._keep = keep
        self._new = (1.0 - keep) * (1.0 - new * new)
        self._slopes = torch.stack(
            [
                self._new * from_state[2] * reset * (1.0 - reset),
                (before - new) * keep * (1.0 - keep),
                self._new * reset,
            ],
            dim=2,
        )

    def back(self, outside: Tensor, cells: Tensor | None) -> Gradients:
        """Return the gradients of every step, as ``Plain.back`` does."""
        total, gates = _with_first(outside), torch.empty_like(self._slopes)
        from_state = gates.flatten(2)
        states, found, rows = total.unbind(), gates.unbind(), from_state.unbind()
        keep, slopes = self._keep.unbind(), self._slopes.unbind()
        for step in reversed(range(len(found))):
            torch.mul(states[step + 1].unsqueeze(1), slopes[step], out=found[step])
            states[step].addcmul_(states[step + 1], keep[step]).addmm_(rows[step], self._w_hh)
        # The reset gate scales what the state gives to the new one, and not what the input gives.
        from_input = torch.cat([from_state[..., : 2 * total.shape[2]], total[1:] * self._new], -1)
        return Gradients(from_input, from_state, total[1:], total[0])


class LongShort:
    """Steps of an LSTM, also with a projection, of x (T, N, C), the states before each (T, N, R), first_cell (N, H).

    Attributes:
        unprojected: (T, N, H), each step's state before the projection.
        cell_in_state: (T, N, H), the derivative of that by the cell state.
    """

    def __init__(self, direction: Direction, x: Tensor, before: Tensor, first_cell: Tensor) -> None:
        self._w_hh, self._w_hr = direction.w_hh, direction.w_hr
        gates = F.linear(x, direction.w_ih, direction.b_ih) + F.linear(before, direction.w_hh, direction.b_hh)
        enter, forget, new, leave = gates.chunk(4, -1)
        enter, forget, new, leave = enter.sigmoid_(), forget.sigmoid_(), new.tanh_(), leave.sigmoid_()
        cells = torch.cat([first_cell.unsqueeze(0), enter * new])
        each, kept = cells.unbind(), forget.unbind()
        for step, share in enumerate(kept):
            each[step + 1].addcmul_(share, each[step])
        squashed = cells[1:].tanh()
        self._forget = forget
        self.cell_in_state = leave * (1.0 - squashed * squashed)
        self.unprojected = leave * squashed
        self._cell_slopes = torch.stack(
            [new * enter * (1.0 - enter), cells[:-1] * forget * (1.0 - forget), enter * (1.0 - new * new)], dim=2
        )
        self._leave_slope = self.unprojected * (1.0 - leave)

    def back(self, outside: Tensor, cells: Tensor | None) -> Gradients:
        """Return the gradients of every step, as ``Plain.back`` does."""
        total = _with_first(outside)
        steps, batch, units = self._forget.shape
        gates = total.new_empty(steps, batch, 4, units)
        flat = gates.flatten(2)
        states, rows = total.unbind(), flat.unbind()
        through_cell, through_leave = gates[:, :, :3].unbind(), gates[:, :, 3].unbind()
        forget, in_state = self._forget.unbind(), self.cell_in_state.unbind()
        cell_slopes, leave_slope = self._cell_slopes.unbind(), self._leave_slope.unbind()
        cell = total.new_zeros(batch, units)
        for step in reversed(range(steps)):
            cell = cell if cells is None else cell + cells[step]
            state = states[step + 1] if self._w_hr is None else states[step + 1] @ self._w_hr
            cell = torch.addcmul(cell, state, in_state[step])
            torch.mul(cell.unsqueeze(1), cell_slopes[step], out=through_cell[step])
            torch.mul(state, leave_slope[step], out=through_leave[step])
            states[step].addmm_(rows[step], self._w_hh)
            cell = cell * forget[step]
        return Gradients(flat, flat, total[1:], total[0], cell)


Steps = Plain | Gated | LongShort


def _with_first(outside: Tensor) -> Tensor:
    """Return gradients of states, to which later steps' are added, with room for the state before the first step."""
    return torch.cat([torch.zeros_like(outside[:1]), outside])
