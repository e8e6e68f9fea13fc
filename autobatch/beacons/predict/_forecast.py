"""Where a run would go: its own past, and the rates that beacons had from the same progress on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Protocol

from autobatch._errors import ConfigError, LibraryError
from autobatch.beacons._journey import Standing
from autobatch.beacons._library import BeaconLibrary

_NEIGHBOURS = 4


class Place(Protocol):
    """Where a run stands: what ``forecast`` needs of an observation, or of a ``Standing``."""

    @property
    def progress(self) -> float:
        """Examples seen / examples of the whole training, in [0, 1]."""
        ...

    @property
    def c_bar(self) -> float:
        """C̄_K so far; NaN before the first step."""
        ...

    @property
    def l_cum(self) -> float:
        """L_K so far."""
        ...

    @property
    def steps(self) -> float:
        """Optimizer steps so far, K."""
        ...


@dataclass(frozen=True)
class Forecast(Standing):
    """Where a run would stand at ``progress`` if it went on at one configuration.

    ``c_bar`` and ``l_cum`` are NaN where all beacons of the configuration diverged before a position was measured, or
    where the run itself has taken steps without a known position.

    Attributes:
        steps_left: optimizer steps from now to then.
    """

    steps_left: float


@dataclass(frozen=True)
class _Travel:
    """What a configuration adds to K, S = C̄ K and L between two values of progress."""

    steps: float
    c_sum: float
    l_sum: float


ORIGIN = Standing(progress=0.0, c_bar=float("nan"), l_cum=0.0, steps=0.0)
"""Where every run stands before its first step."""


def forecast(library: BeaconLibrary, now: Place, batch_size: int, lr: float, until: float = 1.0) -> Forecast:
    """Predict where a run would stand later if it used one configuration from now on.

    C̄ is a mean over steps and L a sum, so K, S = C̄ K and L add up: each grows by what it grew by in the configuration's
    beacons between the same two values of progress. From progress 0 this gives the beacons themselves.

    Args:
        library: the beacons.
        now: where the run stands.
        batch_size: global batch size from now on.
        lr: base learning rate from now on; one that was not recorded takes its rates from the four nearest
            configurations in (log B, log lr), weighted by inverse distance, geometrically.
        until: progress to predict for, in [now.progress, 1].

    Returns:
        The predicted standing and the steps left until then.

    Raises:
        ConfigError: batch size or learning rate is not positive, or ``until`` lies outside [now.progress, 1].
    """
    if batch_size < 1 or not 0.0 < lr < math.inf:
        raise ConfigError(f"a forecast needs a positive batch size and learning rate, got {batch_size} and {lr}")
    if not 0.0 <= now.progress <= until <= 1.0:
        raise ConfigError(f"a forecast from progress {now.progress} needs 'until' between it and 1, got {until}")
    travel = _travel(library, batch_size, lr, now.progress, until)
    steps = now.steps + travel.steps
    c_sum = (now.c_bar * now.steps if now.steps > 0 else 0.0) + travel.c_sum
    return Forecast(
        progress=until,
        c_bar=c_sum / steps if steps > 0.0 else now.c_bar,
        l_cum=now.l_cum + travel.l_sum,
        steps=steps,
        steps_left=travel.steps,
    )


def forecast_stages(library: BeaconLibrary, stages: Sequence[tuple[float, int, float]]) -> tuple[Forecast, ...]:
    """Predict where a run stands after each stage of a plan, such as one of dynamic sampling.

    Args:
        library: the beacons.
        stages: (progress at its end, batch size, base learning rate) of each stage, in order.

    Returns:
        One forecast a stage.
    """
    places: list[Forecast] = []
    now: Place = ORIGIN
    for until, batch_size, lr in stages:
        now = forecast(library, now, batch_size, lr, until)
        places.append(now)
    return tuple(places)


def _travel(library: BeaconLibrary, batch_size: int, lr: float, start: float, end: float) -> _Travel:
    if end == start:
        return _Travel(0.0, 0.0, 0.0)
    if library.beacons_at(batch_size, lr):
        return _recorded_travel(library, batch_size, lr, start, end)
    return _neighbourly_travel(library, batch_size, lr, start, end)


def _recorded_travel(library: BeaconLibrary, batch_size: int, lr: float, start: float, end: float) -> _Travel:
    try:
        first, last = library.at(batch_size, lr, start), library.at(batch_size, lr, end)
    except LibraryError:
        # All its beacons diverged at once: a place to stay away from, but no reason to stop the run that asks.
        return _Travel(_steps_between(library, batch_size, start, end), math.nan, math.nan)
    return _Travel(last.steps - first.steps, last.c_sum - first.c_sum, last.l_cum - first.l_cum)


def _neighbourly_travel(library: BeaconLibrary, batch_size: int, lr: float, start: float, end: float) -> _Travel:
    # Steps follow from the batch size; the mean condition number and the gain of L are the neighbours'.
    steps = _steps_between(library, batch_size, start, end)
    weights, log_c, log_l = [], [], []
    for distance, configuration in _nearest_configurations(library, batch_size, lr):
        own = _recorded_travel(library, *configuration, start, end)
        if own.c_sum > 0.0 and own.l_sum > 0.0:
            weights.append(1.0 / distance)
            log_c.append(math.log(own.c_sum / own.steps))
            log_l.append(math.log(own.l_sum))
    if not weights:
        return _Travel(steps, math.nan, math.nan)
    c_mean, l_sum = (math.exp(sum(map(mul, weights, logs)) / sum(weights)) for logs in (log_c, log_l))
    return _Travel(steps, c_mean * steps, l_sum)


def _nearest_configurations(
    library: BeaconLibrary, batch_size: int, lr: float
) -> list[tuple[float, tuple[int, float]]]:
    distances = [
        (math.hypot(math.log(batch_size / own_size), math.log(lr / own_lr)), (own_size, own_lr))
        for own_size, own_lr in library.configurations
    ]
    return sorted(distances)[:_NEIGHBOURS]


def _steps_between(library: BeaconLibrary, batch_size: int, start: float, end: float) -> float:
    whole = max(float(own.rows["examples"][-1] / own.rows["progress"][-1]) for own in library.beacons)
    return whole * (end - start) / batch_size
