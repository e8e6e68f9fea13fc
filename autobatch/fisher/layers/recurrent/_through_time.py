"""One direction of a recurrent layer, taken back through time by hand: the gradients of its gates in every step.

With the states that the layer has returned every gate of every step is one matrix product, so nothing is run again step
by step but an LSTM's cell states. Names are those of PyTorch's documentation; all tensors go by steps first, and the
direction that runs backwards is given its steps in its own order: inputs x (T, N, C), the states before each step and
the ``outside`` gradients of those after it, but for what comes through later steps, (T, N, R).
"""

from collections.abc import Callable
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
    unprojected: Tensor | None = None  # (T, N, H), an LSTM's states themselves, before the projection; else None


def plain(direction: Direction, states: Tensor, outside: Tensor, *, relu: bool) -> Gradients:
    """Take h = f(W_ih x + b_ih + W_hh h' + b_hh) back, f tanh or relu; ``states`` are those after each step."""
    slopes = ((states > 0.0).to(states.dtype) if relu else 1.0 - states * states).unbind()
    total, gates = _with_first(outside), torch.empty_like(outside)
    arriving, found = total.unbind(), gates.unbind()
    for step in reversed(range(len(found))):
        torch.mul(arriving[step + 1], slopes[step], out=found[step])
        arriving[step].addmm_(found[step], direction.w_hh)
    return Gradients(gates, gates, total[1:], total[0])


def gated(direction: Direction, x: Tensor, before: Tensor, outside: Tensor) -> Gradients:
    """Take a GRU back."""
    from_input = F.linear(x, direction.w_ih, direction.b_ih).chunk(3, -1)
    from_state = F.linear(before, direction.w_hh, direction.b_hh).chunk(3, -1)
    reset = (from_input[0] + from_state[0]).sigmoid_()
    keep = (from_input[1] + from_state[1]).sigmoid_()
    new = torch.addcmul(from_input[2], reset, from_state[2]).tanh_()
    new_slope = (1.0 - keep) * (1.0 - new * new)
    of_reset = new_slope * from_state[2] * reset * (1.0 - reset)
    slopes = torch.stack([of_reset, (before - new) * keep * (1.0 - keep), new_slope * reset], dim=2)
    total, gates = _with_first(outside), torch.empty_like(slopes)
    flat = gates.flatten(2)
    arriving, found, rows = total.unbind(), gates.unbind(), flat.unbind()
    kept, by_step = keep.unbind(), slopes.unbind()
    for step in reversed(range(len(found))):
        torch.mul(arriving[step + 1].unsqueeze(1), by_step[step], out=found[step])
        arriving[step].addcmul_(arriving[step + 1], kept[step]).addmm_(rows[step], direction.w_hh)
    # The reset gate scales what the state gives to the new one, and not what the input gives.
    of_input = torch.cat([flat[..., : 2 * total.shape[2]], total[1:] * new_slope], -1)
    return Gradients(of_input, flat, total[1:], total[0])


def long_short(
    direction: Direction,
    x: Tensor,
    before: Tensor,
    outside: Tensor,
    *,
    first_cell: Tensor,
    # What ``outside`` is of the cell states, from the derivatives of the states before the projection by them, both
    # (T, N, H); None for zeros.
    outside_cells: Callable[[Tensor], Tensor] | None,
) -> Gradients:
    """Take an LSTM back, also with a projection."""
    gates = F.linear(x, direction.w_ih, direction.b_ih) + F.linear(before, direction.w_hh, direction.b_hh)
    enter, forget, new, leave = gates.chunk(4, -1)
    enter, forget, new, leave = enter.sigmoid_(), forget.sigmoid_(), new.tanh_(), leave.sigmoid_()
    cells = torch.cat([first_cell.unsqueeze(0), enter * new])
    each, kept = cells.unbind(), forget.unbind()
    for step, share in enumerate(kept):
        each[step + 1].addcmul_(share, each[step])
    squashed = cells[1:].tanh()
    cell_in_state, unprojected = leave * (1.0 - squashed * squashed), leave * squashed
    cell_slopes = torch.stack(
        [new * enter * (1.0 - enter), cells[:-1] * forget * (1.0 - forget), enter * (1.0 - new * new)], dim=2
    ).unbind()
    leave_slope, in_state = (unprojected * (1.0 - leave)).unbind(), cell_in_state.unbind()
    arriving_cells = None if outside_cells is None else outside_cells(cell_in_state)
    total = _with_first(outside)
    found = total.new_empty(*forget.shape[:2], 4, forget.shape[2])
    flat = found.flatten(2)
    arriving, rows = total.unbind(), flat.unbind()
    through_cell, through_leave = found[:, :, :3].unbind(), found[:, :, 3].unbind()
    cell = torch.zeros_like(first_cell)
    for step in reversed(range(len(rows))):
        cell = cell if arriving_cells is None else cell + arriving_cells[step]
        state = arriving[step + 1] if direction.w_hr is None else arriving[step + 1] @ direction.w_hr
        cell = torch.addcmul(cell, state, in_state[step])
        torch.mul(cell.unsqueeze(1), cell_slopes[step], out=through_cell[step])
        torch.mul(state, leave_slope[step], out=through_leave[step])
        arriving[step].addmm_(rows[step], direction.w_hh)
        cell = cell * kept[step]
    return Gradients(flat, flat, total[1:], total[0], cell, unprojected)


def _with_first(outside: Tensor) -> Tensor:
    """Return gradients of states, to which later steps' are added, with room for the state before the first step."""
    return torch.cat([torch.zeros_like(outside[:1]), outside])
