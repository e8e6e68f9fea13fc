"""Where a training stands in the plane of C̄ and L (paper, eqs. 7 and 8)."""

import math
from collections.abc import Mapping
from typing import Any

from autobatch._errors import CheckpointError

_VERSION = 1
_FLOATS = ("weighted_condition", "l_cum", "last_condition", "last_energy")
_INTEGERS = ("steps", "samples", "last_batch_size")


class SpectralPosition:
    """Running C̄_K and L_K over sampled steps, each weighted by the optimizer steps that it stands for.

    C̄ = sum(w c) / sum(w) and L = sum(w lr / B sqrt(trace)), where w is the number of steps that a sample stands for.
    With one batch size and sampling rate this is the paper's plain mean (eq. 7) and its sum over the sampled fraction
    (eq. 8); with changing ones it still estimates the mean and the sum over *all* iterations.

    Steps between samples (``carry``) are counted at the last sample's values until the next sample is there. Then,
    at an unchanged batch size, they are counted anew on the geometric line between the two: c and sqrt(trace) change by
    factors over a training, and holding the older value would count too much of an energy that has long decayed.
    """

    def __init__(self) -> None:
        self._weighted_condition = 0.0
        self._l_cum = 0.0
        self._steps = 0
        self._samples = 0
        self._last_condition = math.nan
        self._last_energy = math.nan
        self._last_batch_size = 0
        self._held: list[tuple[int, float]] = []

    @property
    def c_bar(self) -> float:
        """C̄_K, the mean truncated condition number over the steps so far (eq. 7); NaN before the first sample."""
        return self._weighted_condition / self._steps if self._steps else math.nan

    @property
    def l_cum(self) -> float:
        """L_K, the learning-rate-weighted energy summed over the steps so far (eq. 8); 0 before the first sample."""
        return self._l_cum

    @property
    def steps(self) -> int:
        """K, the optimizer steps that the samples so far stand for."""
        return self._steps

    @property
    def samples(self) -> int:
        """How many steps were measured."""
        return self._samples

    def add(self, condition_number: float, trace: float, batch_size: int, lr: float, steps: int) -> None:
        """Add one sampled step.

        Args:
            condition_number: c_k of the step, finite and >= 1.
            trace: trace of the step's Gram matrix, finite and >= 0.
            batch_size: B of the step.
            lr: learning rate of the step (with the schedule's factor applied).
            steps: how many optimizer steps this sample stands for, >= 1: the steps of its epoch over the samples taken
                in it, or the steps until the next sample.

        Raises:
            ValueError: where an argument is out of its range; nothing is added then.
        """
        if not (math.isfinite(condition_number) and condition_number >= 1.0):
            raise ValueError(f"condition_number={condition_number!r}: expected a finite number >= 1")
        if not (math.isfinite(trace) and trace >= 0.0):
            raise ValueError(f"trace={trace!r}: expected a finite number >= 0")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}: expected at least 1")
        _check_steps(steps, lr)
        energy = 1.0 / batch_size * math.sqrt(trace)
        if batch_size == self._last_batch_size:
            self._interpolate(condition_number, energy)
        self._held.clear()
        self._last_condition, self._last_energy, self._last_batch_size = condition_number, energy, batch_size
        self._samples += 1
        self._count(steps, lr, condition_number, energy)

    def carry(self, steps: int, lr: float) -> None:
        """Count steps in which nothing was sampled: the last c and sqrt(trace) / B are held until the next sample.

        Before the first sample there is nothing to hold, and the steps are not counted.

        Args:
            steps: optimizer steps to count, >= 1.
            lr: learning rate of those steps, finite and >= 0. An argument out of its range is a ``ValueError``.
        """
        _check_steps(steps, lr)
        if self._samples:
            self._held.append((steps, lr))
            self._count(steps, lr, self._last_condition, self._last_energy)

    def _count(self, steps: int, lr: float, condition_number: float, energy: float) -> None:
        self._weighted_condition += steps * condition_number
        self._l_cum += steps * lr * energy
        self._steps += steps

    def _interpolate(self, condition_number: float, energy: float) -> None:
        """Count the held steps anew, each stretch at the value that the geometric line has in its middle."""
        total = sum(steps for steps, _ in self._held)
        passed = 0
        for steps, lr in self._held:
            share = (passed + steps / 2) / total
            passed += steps
            self._count(-steps, lr, self._last_condition, self._last_energy)
            self._count(
                steps,
                lr,
                _between(self._last_condition, condition_number, share),
                _between(self._last_energy, energy, share),
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state as plain numbers (floats may be NaN before the first sample)."""
        state: dict[str, Any] = {name: getattr(self, f"_{name}") for name in _FLOATS + _INTEGERS}
        return {"version": _VERSION, "held": [list(stretch) for stretch in self._held], **state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the state by a stored one.

        Args:
            state: what ``state_dict`` returned.

        Raises:
            CheckpointError: where the state is of another version, lacks a key, or holds an impossible value; the
                position is unchanged then.
        """
        if state.get("version") != _VERSION:
            raise CheckpointError(f"position: version {state.get('version')!r}, expected {_VERSION}")
        checked = {name: _checked(state, name, float) for name in _FLOATS}
        checked |= {name: _checked(state, name, int) for name in _INTEGERS}
        held = _checked_stretches(state.get("held"))
        sampled = checked["samples"] > 0
        if (checked["steps"] > 0) != sampled or checked["steps"] < checked["samples"]:
            raise CheckpointError(
                f"position: steps={checked['steps']} does not fit samples={checked['samples']}:"
                " every sample stands for at least one step"
            )
        if any(math.isfinite(checked[name]) != sampled for name in ("last_condition", "last_energy")):
            raise CheckpointError("position: last_condition and last_energy must be finite exactly when samples > 0")
        if sum(steps for steps, _ in held) > checked["steps"] - checked["samples"]:
            raise CheckpointError("position: key 'held': more steps than there are without a sample")
        for name, value in checked.items():
            setattr(self, f"_{name}", value)
        self._held = held


def _between(one: float, other: float, share: float) -> float:
    """Return the value at a share of the geometric line between two; an energy of 0 has none, the first is held."""
    return one ** (1.0 - share) * other**share if one > 0.0 and other > 0.0 else one


def _check_steps(steps: int, lr: float) -> None:
    if steps < 1:
        raise ValueError(f"steps={steps!r}: expected at least 1")
    if not (math.isfinite(lr) and lr >= 0.0):
        raise ValueError(f"lr={lr!r}: expected a finite number >= 0")


def _checked(state: Mapping[str, Any], name: str, kind: type[float] | type[int]) -> Any:
    value = state.get(name)
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        raise CheckpointError(f"position: key {name!r}: expected a number of type {kind.__name__}, got {value!r}")
    held = name.startswith("last_")
    if value < 0 or (not held and not math.isfinite(value)):
        raise CheckpointError(f"position: key {name!r}: expected a finite number >= 0, got {value!r}")
    return kind(value)


def _checked_stretches(stretches: Any) -> list[tuple[int, float]]:
    try:
        checked = [(int(steps), float(lr)) for steps, lr in stretches]
        for steps, lr in checked:
            _check_steps(steps, lr)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"position: key 'held': expected pairs of steps and rate: {error}") from None
    return checked
