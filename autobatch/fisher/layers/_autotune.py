"""Which route makes the per-sample gradients of a convolution's weight: a rule by shape, or a measurement."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from autobatch._errors import MeasureError
from autobatch.fisher.layers._unfold import Geometry

Kind = Literal["grouped", "native", "shifted", "unfolded"]
# Samples that a candidate is timed with, and times it runs; the fastest run counts.
_TRIAL_SAMPLES = 16
_TRIALS = 3


@dataclass(frozen=True)
class Route:
    """A way to make J.

    Attributes:
        kind: ``"grouped"`` (one grouped convolution for several samples), ``"unfolded"`` (unfold, then a matrix product
            for each sample), ``"shifted"`` (unfold all spatial dimensions but the first, then a matrix product for
            each sample and row of the kernel), or ``"native"`` (in compiled code, wherever that can be had: no
            candidate).
        channels_last: whether the unfolded input ends with the channels.
    """

    kind: Kind
    channels_last: bool = False


CANDIDATES = (
    Route("grouped"),
    Route("shifted", channels_last=True),
    Route("shifted"),
    Route("unfolded", channels_last=True),
    Route("unfolded"),
)


@dataclass(frozen=True)
class Shape:
    """Everything that the speed of a route depends on."""

    samples: int  # B, at most the number that a route is timed with: routes work on a few samples at a time
    repeats: int  # rows of the input for one sample
    channels: tuple[int, int]  # of input and output
    groups: int  # number of groups
    spatial: tuple[int, ...]  # of the input
    positions: tuple[int, ...]  # of the output
    geometry: Geometry  # the convolution's
    channels_last: tuple[bool, bool]  # whether the memory of input and output gradient ends with the channels
    dtype: str  # of both
    device: str  # its name
    threads: int  # of the CPU

    @classmethod
    def of(cls, x: Tensor, g: Tensor, batch: int, geometry: Geometry, groups: int) -> "Shape":
        """Return the shape of a convolution with this input and output gradient."""
        return cls(
            min(batch, _TRIAL_SAMPLES),
            len(x) // batch,
            (x.shape[1], g.shape[1]),
            groups,
            tuple(x.shape[2:]),
            tuple(g.shape[2:]),
            geometry,
            (_ends_with_channels(x), _ends_with_channels(g)),
            str(x.dtype),
            _device_name(x.device),
            torch.get_num_threads(),
        )

    def sample_bytes(self, route: Route) -> int:
        """Return the bytes that a route needs for each sample, J not counted."""
        if route.kind == "grouped":
            elements = self.channels[0] * prod(self.spatial) + self.channels[1] * prod(self.positions)
            elements += self.channels[0] * self.channels[1] // self.groups * prod(self.geometry.kernel)
        else:
            kernel, places = self.geometry.kernel, self.positions
            if route.kind == "shifted":
                kernel, places = kernel[1:], (places[0] + kernel[0] * self.geometry.dilation[0], *places[1:])
            elements = self.channels[0] * prod(kernel) * prod(places)
        return self.repeats * elements * (8 if self.dtype == "torch.float64" else 4)


class Routes:
    """Chooses routes: by a rule of the shape alone, or by measurement where that was asked for.

    The rule is the default because routes differ in the last digits of J: whatever is chosen by a noisy timing may
    differ between two processes, and a run that was interrupted and resumed would then not repeat the uninterrupted one
    bit by bit. It was calibrated on a CPU, where it is within a tenth of the best route on the layers of CIFAR ResNets
    and within a sixth on 20 other kinds of layers.
    Measured routes are better on other hardware and shapes; who uses them keeps ``state`` with the run and gives it
    to ``load`` before the run is resumed.
    """

    def __init__(self) -> None:
        self._measured: dict[Shape, Route] = {}
        self._tuning = False

    def of(self, shape: Shape, run: Callable[[Route], object]) -> Route:
        """Return the route for a shape; ``run`` makes J of ``shape.samples`` samples, if it is to be measured now."""
        if shape not in self._measured:
            if not self._tuning:
                return rule(shape)
            self._measured[shape] = _fastest(run)
        return self._measured[shape]

    @contextmanager
    def tuning(self) -> Iterator[None]:
        """Measure each shape that is met for the first time within the context, once: a probed step, for example.

        Each candidate runs three times on 16 samples, so all of it costs about as much as that step's J at B = 128.
        """
        before, self._tuning = self._tuning, True
        try:
            yield
        finally:
            self._tuning = before

    def state(self) -> list[dict[str, Any]]:
        """Return all measured routes as plain values that JSON takes."""
        return [asdict(shape) | {"route": asdict(route)} for shape, route in self._measured.items()]

    def load(self, state: Iterable[dict[str, Any]]) -> None:
        """Replace all measured routes by those of ``state``, from before or read from JSON.

        Raises:
            MeasureError: where that is not what ``state`` returned.
        """
        measured = {}
        try:
            for entry in state:
                fields = {name: _tuples(value) for name, value in entry.items()}
                route, geometry = Route(**fields.pop("route")), Geometry(**fields.pop("geometry"))
                measured[Shape(geometry=geometry, **fields)] = CANDIDATES[CANDIDATES.index(route)]
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise MeasureError(f"expected the measured routes that Routes.state() returns: {error}") from error
        self._measured = measured


routes = Routes()


@lru_cache(maxsize=4096)
def rule(shape: Shape) -> Route:
    """Return the route that is best for a shape on a CPU with two cores, or close to it."""
    channels = shape.channels[0] // shape.groups
    channels_last = shape.channels_last[0]
    geometry = shape.geometry
    if prod(geometry.kernel) == 1:
        return Route("unfolded", channels_last=channels_last)
    if shape.groups > 1:
        return Route("grouped") if max(geometry.kernel) <= 3 else Route("shifted")
    if channels <= 4:
        return Route("unfolded")
    if not channels_last and channels <= 64 and prod(shape.positions) >= 256 and shape.positions[-1] >= 16:
        return Route("grouped")
    return Route("unfolded" if max(geometry.stride) > 1 else "shifted", channels_last=True)


def _fastest(run: Callable[[Route], object]) -> Route:
    seconds = {}
    for route in CANDIDATES:
        trials = []
        for _ in range(_TRIALS):
            start = time.perf_counter()
            run(route)
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
            trials.append(time.perf_counter() - start)
        seconds[route] = min(trials)
    return min(seconds, key=seconds.__getitem__)


def _ends_with_channels(tensor: Tensor) -> bool:
    return tensor.stride(1) == 1 and tensor.shape[1] > 1


@lru_cache
def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _tuples(value: Any) -> Any:
    """Return what JSON makes of tuples as tuples again."""
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value
