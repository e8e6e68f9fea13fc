"""Choice of routes: the same in every process unless measured, and measured once."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from autobatch import MeasureError
from autobatch.fisher.layers import _autotune
from autobatch.fisher.layers._autotune import CANDIDATES, Route, Routes, Shape, routes, rule
from autobatch.fisher.layers._convolution import form
from autobatch.fisher.layers._unfold import Geometry

GEOMETRY = Geometry((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))


def shape(samples: int = 32, size: int = 8, channels: int = 16, *, channels_last: bool = False) -> Shape:
    x = torch.empty(samples, channels, size, size)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    return Shape.of(x, x, samples, GEOMETRY, 1)


@pytest.fixture
def _no_measured_routes() -> Iterator[None]:
    routes.load([])
    yield
    routes.load([])


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Route]:
    """Make the routes that run, each taking one second more than the one before."""
    seconds = iter(range(10_000))
    monkeypatch.setattr(_autotune.time, "perf_counter", lambda: float(next(seconds) ** 2))
    return []


def test_the_rule_goes_by_shape_and_memory_format() -> None:
    assert rule(shape(size=32)) == Route("grouped")
    assert rule(shape(size=32, channels_last=True)) == Route("shifted", channels_last=True)
    assert rule(shape(size=8, channels=64)) == Route("shifted", channels_last=True)
    assert rule(shape(channels=3)) == Route("unfolded")
    assert rule(replace(shape(), groups=16)) == Route("grouped")
    strided = replace(GEOMETRY, stride=(2, 2))
    assert rule(replace(shape(), geometry=strided)) == Route("unfolded", channels_last=True)


def test_nothing_is_measured_unasked(timed: list[Route]) -> None:
    routes = Routes()
    assert routes.of(shape(), timed.append) == rule(shape())
    assert (timed, routes.state()) == ([], [])


def test_each_shape_is_measured_once(timed: list[Route]) -> None:
    routes = Routes()
    with routes.tuning():
        assert routes.of(shape(), timed.append) == CANDIDATES[0]
        assert set(timed) == set(CANDIDATES)
        number = len(timed)
        assert routes.of(shape(samples=64), timed.append) == CANDIDATES[0]  # as 32: routes take some samples at a time
        assert len(timed) == number
        routes.of(shape(channels_last=True), timed.append)
        assert len(timed) == 2 * number
    assert routes.of(shape(size=9), timed.append) == rule(shape(size=9))
    assert len(routes.state()) == 2


def test_state_survives_json(timed: list[Route]) -> None:
    routes, others = Routes(), Routes()
    with routes.tuning():
        routes.of(shape(size=7), timed.append)
    others.load(json.loads(json.dumps(routes.state())))
    assert others.state() == routes.state()
    assert others.of(shape(size=7), timed.append) == CANDIDATES[0] != rule(shape(size=7))


@pytest.mark.parametrize("broken", [[{}], [{"route": {"kind": "fast"}}], [3], "routes"])
def test_state_of_another_kind_is_refused(broken: list[dict[str, object]], timed: list[Route]) -> None:
    routes = Routes()
    with routes.tuning():
        routes.of(shape(), timed.append)
    with pytest.raises(MeasureError, match=r"Routes\.state"):
        routes.load(broken)
    assert len(routes.state()) == 1


def test_unknown_routes_are_refused(timed: list[Route]) -> None:
    routes = Routes()
    with routes.tuning():
        routes.of(shape(), timed.append)
    state = routes.state()
    state[0]["route"]["kind"] = "fast"
    with pytest.raises(MeasureError, match=r"Routes\.state"):
        routes.load(state)


@pytest.mark.usefixtures("_no_measured_routes")
def test_a_measured_route_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    x, g = torch.randn(2, 20, 4, 5, 5, dtype=torch.float64)
    ran: list[Route] = []
    fastest = _autotune._fastest

    def watched(run: object) -> Route:
        ran.append(fastest(run))  # type: ignore[arg-type]
        return Route("unfolded", channels_last=True)

    monkeypatch.setattr(_autotune, "_fastest", watched)
    ordinary = form(x, g, 20, GEOMETRY, 1)
    with routes.tuning():
        tuned = form(x, g, 20, GEOMETRY, 1)
    assert len(ran) == 1
    assert tuned.route == Route("unfolded", channels_last=True) != ordinary.route
    torch.testing.assert_close(tuned.canonical(), ordinary.canonical())
    assert torch.equal(form(x, g, 20, GEOMETRY, 1).values, tuned.values)
