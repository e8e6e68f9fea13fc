"""Models by name: the paper's, and factories of the user's own code."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autobatch._errors import ConfigError
from autobatch.training.models._densenet import DenseNet
from autobatch.training.models._initialise import initialise
from autobatch.training.models._mlp import MLP
from autobatch.training.models._resnet import ResNet
from autobatch.training.task import depth_problem, is_factory, model_problem

if TYPE_CHECKING:
    from autobatch.training.data import Data
    from autobatch.training.task import TaskSpec


def build_model(
    name: str,
    *,
    depth: int | None = None,
    in_channels: int = 3,
    num_classes: int = 10,
    image_size: int | tuple[int, int] = 32,
    seed: int = 0,
    trust_code: bool = False,
    **arguments: Any,
) -> nn.Module:
    """Build a model with fresh weights, on the CPU, without touching PyTorch's global random state.

    Args:
        name: ``"resnet"``, ``"densenet"``, ``"mlp"``, or ``"package.module:factory"``.
        depth: layers of a resnet or densenet, 6n + 2; None for an mlp.
        in_channels: channels of an image.
        num_classes: outputs.
        image_size: height and width of an image, or its side.
        seed: the same seed gives the same weights.
        trust_code: whether a factory may be imported.
        arguments: further arguments: ``hidden=(500, 500)`` of an mlp, whatever a factory takes. A factory is called
            with ``in_channels``, ``num_classes``, ``image_size`` (height, width), ``depth`` where given, and these.

    Returns:
        The model; it maps (N, in_channels, H, W) to logits (N, num_classes).

    Raises:
        ConfigError: an unknown name, a depth or argument that the model cannot have, or a factory that is not
            trusted, cannot be imported or fails.
    """
    if problem := model_problem(name) or depth_problem(name, depth):
        raise ConfigError(f"key 'model': {problem}")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if is_factory(name):
        given = {"in_channels": in_channels, "num_classes": num_classes, "image_size": (height, width)}
        given |= {} if depth is None else {"depth": depth}
        return _call_factory(name, given | arguments, seed, trust_code=trust_code)
    hidden = _check_arguments(name, arguments)
    if name == "densenet" and min(height, width) < 4:
        raise ConfigError(f"key 'model': a densenet halves images twice, so needs 4x4 pixels, got {height}x{width}")
    with torch.random.fork_rng(devices=[]):  # PyTorch initialises every layer it makes from the global generator
        model: nn.Module
        if name == "mlp":
            model = MLP((in_channels, height, width), hidden, num_classes)
        else:
            assert depth is not None
            model = {"resnet": ResNet, "densenet": DenseNet}[name](depth, in_channels, num_classes)
    initialise(model, seed)
    return model


def build_task_model(task: "TaskSpec", data: "Data", *, seed: int = 0, trust_code: bool = False) -> nn.Module:
    """Build the model of a task for its data.

    Args:
        task: the task.
        data: its data, for image shape and classes.
        seed: the same seed gives the same weights.
        trust_code: whether the task may name a factory to import.

    Returns:
        The model, on the CPU.

    Raises:
        ConfigError: as ``build_model``; the message names the task.
    """
    _, channels, height, width = data.train_images.shape
    reserved = {"depth", "in_channels", "num_classes", "image_size", "seed", "trust_code"} & set(task.model.arguments)
    if reserved:
        raise ConfigError(f"task {task.name!r}: key 'model.arguments.{min(reserved)}': set by autobatch itself")
    try:
        return build_model(
            task.model.name,
            depth=task.model.depth,
            in_channels=channels,
            num_classes=data.num_classes,
            image_size=(height, width),
            seed=seed,
            trust_code=trust_code,
            **task.model.arguments,
        )
    except ConfigError as error:
        raise ConfigError(f"task {task.name!r}: {error}") from error


def _check_arguments(name: str, arguments: dict[str, Any]) -> list[int]:
    hidden = arguments.get("hidden", (500, 500)) if name == "mlp" else ()
    unknown = set(arguments) - ({"hidden"} if name == "mlp" else set())
    if unknown:
        takes = "takes only 'hidden'" if name == "mlp" else "takes no further arguments"
        raise ConfigError(f"key 'model.arguments.{min(unknown)}': unknown; {name} {takes}")
    widths = list(hidden) if isinstance(hidden, list | tuple) else []
    if name == "mlp" and not (widths and all(type(width) is int and width > 0 for width in widths)):
        raise ConfigError(f"key 'model.arguments.hidden': expected a list of positive integers, got {hidden!r}")
    return widths


def _call_factory(name: str, arguments: dict[str, Any], seed: int, *, trust_code: bool) -> nn.Module:
    if not trust_code:
        raise ConfigError(
            f"key 'model.name': {name!r} imports and runs code; say --trust-code on the command line, or "
            f"trust_code=True in Python, if you trust it"
        )
    factory = _import_factory(name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = factory(**arguments)
        except Exception as error:  # the user's code
            raise ConfigError(f"key 'model.name': {name} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"key 'model.name': {name} returned {type(model).__name__}, expected a torch.nn.Module")
    return model


def _import_factory(name: str) -> Callable[..., Any]:
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:  # a console script does not have the working directory on its path, where users keep their models
        sys.path.insert(0, here)
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # the user's code runs on import
        raise ConfigError(f"key 'model.name': cannot import {name}: {type(error).__name__}: {error}") from error
    finally:
        if added:
            sys.path.remove(here)
    if not callable(factory):
        raise ConfigError(f"key 'model.name': {name} is {type(factory).__name__}, expected a callable")
    return factory  # type: ignore[no-any-return]
