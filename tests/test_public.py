"""The public interface: every name resolves and says what it is."""

import importlib
import inspect
import subprocess
import sys

import pytest

import autobatch


@pytest.mark.parametrize("name", [name for name in autobatch.__all__ if not name.startswith("__")])
def test_every_public_name_resolves_and_is_documented(name):
    thing = getattr(autobatch, name)
    assert name in dir(autobatch)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert inspect.getdoc(thing)
        assert thing.__module__.startswith("autobatch")


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'FisherProb'"):
        _ = autobatch.FisherProb


def test_importing_the_package_imports_neither_torch_nor_torchvision():
    code = "import sys, autobatch; sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_build_model_is_public_as_documented():
    model = autobatch.build_model("resnet", depth=20, in_channels=3, num_classes=10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722


@pytest.mark.parametrize("room", ["control", "optim", "policies", "integrations"])
def test_a_room_is_there_without_an_import_of_its_own(room: str) -> None:
    assert autobatch.__getattr__(room) is importlib.import_module(f"autobatch.{room}")  # as `autobatch.optim.KFAC` asks


@pytest.mark.parametrize("name", ["optimm", "_files", "__pycache__", "no such/name"])
def test_what_is_no_room_is_no_attribute(name: str) -> None:
    with pytest.raises(AttributeError, match="has no attribute"):
        autobatch.__getattr__(name)
