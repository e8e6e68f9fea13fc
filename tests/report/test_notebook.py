"""What notebooks show: controllers, runs, libraries, measurements; and that their repr says where they stand."""

import math
from dataclasses import replace

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from autobatch._errors import AutoBatchError, MeasureError
from autobatch.control import AutoBatchController
from autobatch.fisher import FisherProbe, Measurement
from tests.beacons.synthetic import make_library
from tests.control.run.test_run_directory import Loop
from tests.report.reported import make_record


def shown(thing) -> str:
    html = thing._repr_html_()
    assert html.startswith("<pre")
    return html


def test_a_controller_says_where_it_stands_and_draws_its_journey():
    loop = Loop(None)
    assert repr(loop.controller).startswith("<AutoBatchController Scripted: epoch 1 of 3, batch size 4, base rate 0.05")
    assert "no epoch is finished yet" in shown(loop.controller)
    loop.train(2)
    assert "epoch 3 of 3, batch size 8" in repr(loop.controller)
    assert f"C̄ {loop.controller.c_bar:.4g}" in repr(loop.controller)
    html = shown(loop.controller)
    assert "data:image/png;base64," in html
    assert "Ctrl-C" not in html
    figure = loop.controller.plot()
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(figure.axes) == 4
    loop.train(1)
    assert repr(loop.controller) == "<AutoBatchController Scripted: finished after 3 of 3 epochs>"
    assert "autobatch explain" not in shown(loop.controller)  # there are no files


def test_a_controller_without_a_model_says_so():
    controller = AutoBatchController(policy="s4", batch_sizes=(4,))
    assert "attach()" in repr(controller)
    assert "attach()" in shown(controller)
    with pytest.raises(AutoBatchError, match="attach"):
        controller.plot()


def test_a_run_and_a_library():
    beacons = make_library()
    record = make_record(beacons)
    assert repr(record) == "<RunRecord digits-resnet8, beacon-follow, seed 0: epoch 6 of 40, finished>"
    assert "best fixed beacon" in shown(record)
    assert "data:image/png" in shown(replace(record, summary=None))
    assert f"{len(beacons.beacons)} beacons" in repr(beacons)
    assert "mean ± standard deviation" in shown(beacons)


def test_a_measurement():
    model, x = nn.Linear(3, 2), torch.randn(5, 3)
    probe = FisherProbe(model)
    with probe:
        nn.functional.cross_entropy(model(x), torch.tensor([0, 1, 0, 1, 1])).backward()
    measurement = probe.measurement()
    assert repr(measurement) == "<Measurement: 5 samples>"
    assert "condition number" in shown(measurement)
    assert "of 5" in shown(measurement)
    failed = Measurement("none", math.ulp(1.0), MeasureError("a layer without a rule"))
    assert "a layer without a rule" in shown(failed)
