"""Models by name: the paper's, and factories of the user's own code."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from autobatch._errors import ConfigError
from autobatch.training._factory import trusted_factory
from autobatch.training.models._convnet import ConvNet
from autobatch.training.models._densenet import DenseNet
from autobatch.training.models._initialise import initialise
from autobatch.training.models._mlp import MLP
from autobatch.training.models._resnet import ResNet
from autobatch.training.models._transformer import GPT, ViT
from autobatch.training.task import article, depth_problem, is_factory, model_problem

if TYPE_CHECKING:
    from autobatch.training.data import Data
    from autobatch.training.task import TaskSpec


_USUAL: Final[dict[str, dict[str, Any]]] = {
    "mlp": {"hidden": (500, 500)},
    "convnet": {"channels": (16, 32, 64)},
    "vit": {"width": 64, "heads": 4, "patch": 4},
    "gpt": {"width": 64, "heads": 4},
}
"""The further arguments of each model, as they are where a task says nothing."""


def build_model(
    name: str,
    *,
    depth: int | None = None,
    in_channels: int = 3,
    num_classes: int = 10,
    image_size: int | tuple[int, int] = 32,
    context: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    seed: int = 0,
    trust_code: bool = False,
    **arguments: Any,
) -> nn.Module:
    """Build a model with fresh weights, on the CPU, without touching PyTorch's global random state.

    Args:
        name: ``"resnet"``, ``"densenet"``, ``"convnet"``, ``"vit"``, ``"mlp"``, ``"gpt"``, or
            ``"package.module:factory"``.
        depth: layers of a resnet or densenet, 6n + 2; blocks of a vit or gpt; None for an mlp or convnet.
        in_channels: channels of an image; features of a row, which is taken for an image of one pixel.
        num_classes: outputs.
        image_size: height and width of an image, or its side.
        context: characters of a window of text; None for other inputs.
        input_shape: shape of an example that is neither; in place of ``in_channels`` and ``image_size``.
        seed: the same seed gives the same weights.
        trust_code: whether a factory may be imported.
        arguments: further arguments: ``hidden=(500, 500)`` of an mlp, ``channels=(16, 32, 64)`` of a convnet,
            ``width=64, heads=4`` of a gpt and a vit, ``patch=4`` of a vit, whatever a factory takes. A factory is
            called with ``num_classes``, ``in_channels`` and ``image_size`` (height, width), or ``context`` or
            ``input_shape``, ``depth`` where given, and these.

    Returns:
        The model; it maps (N, in_channels, H, W) to logits (N, num_classes), and of a text (N, context) to
        (N, num_classes, context).

    Raises:
        ConfigError: an unknown name, a depth or argument that the model cannot have, or a factory that is not
            trusted, cannot be imported or fails.
    """
    if problem := model_problem(name) or depth_problem(name, depth):
        raise ConfigError(f"key 'model': {problem}")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if is_factory(name):
        shape: dict[str, Any] = {"in_channels": in_channels, "image_size": (height, width)}
        if context is not None or input_shape is not None:
            shape = {"context": context} if input_shape is None else {"input_shape": input_shape}
        given = {"num_classes": num_classes, **shape} | ({} if depth is None else {"depth": depth})
        return _call_factory(name, given | arguments, seed, trust_code=trust_code)
    if input_shape is not None:
        if name != "mlp" and len(input_shape) != 3:
            raise ConfigError(
                f"key 'model': {article(name)} takes images, (N, C, H, W); the examples are of shape {input_shape}"
            )
        in_channels, height, width = (math.prod(input_shape), 1, 1) if name == "mlp" else input_shape
    own = _check_arguments(name, arguments)
    if problem := _size_problem(name, own, height, width, context):
        raise ConfigError(f"key 'model': {problem}")
    make: Callable[[], nn.Module] = {
        "resnet": lambda: ResNet(depth or 0, in_channels, num_classes),
        "densenet": lambda: DenseNet(depth or 0, in_channels, num_classes),
        "convnet": lambda: ConvNet(own["channels"], in_channels, num_classes),
        "mlp": lambda: MLP((in_channels, height, width), own["hidden"], num_classes),
        "vit": lambda: ViT(
            depth=depth or 0, in_channels=in_channels, image_size=(height, width), num_classes=num_classes, **own
        ),
        "gpt": lambda: GPT(depth or 0, context or 0, num_classes, **own),
    }[name]
    with torch.random.fork_rng(devices=[]):  # PyTorch initialises every layer it makes from the global generator
        model = make()
    initialise(model, seed)
    return model


def build_task_model(task: "TaskSpec", data: "Data", *, seed: int = 0, trust_code: bool = False) -> nn.Module:
    """Build the model of a task for its data.

    Args:
        task: the task.
        data: its data, for the shape of inputs and outputs.
        seed: the same seed gives the same weights.
        trust_code: whether the task may name a factory to import.

    Returns:
        The model, on the CPU.

    Raises:
        ConfigError: as ``build_model``; the message names the task.
    """
    channels, *sides = data.train_inputs.shape[1:]
    shape: dict[str, Any] = {"in_channels": channels, "image_size": tuple(sides) or 1}
    if task.dataset.form == "text":
        shape = {"context": task.dataset.context}
    elif task.dataset.form == "arrays":
        shape = {"input_shape": (channels, *sides)}
        if data.train_inputs.dtype == torch.int64 and not is_factory(task.model.name):
            raise ConfigError(
                f"task {task.name!r}: key 'model': {article(task.model.name)} takes float32 numbers or uint8 images; "
                "the inputs are whole numbers of another type"
            )
    reserved = {"depth", "num_classes", "seed", "trust_code", "in_channels", "image_size", "context", "input_shape"}
    reserved &= set(task.model.arguments)
    shape |= task.model.arguments
    if reserved:
        raise ConfigError(f"task {task.name!r}: key 'model.arguments.{min(reserved)}': set by autobatch itself")
    try:
        return build_model(
            task.model.name,
            depth=task.model.depth,
            num_classes=data.outputs,
            seed=seed,
            trust_code=trust_code,
            **shape,
        )
    except ConfigError as error:
        raise ConfigError(f"task {task.name!r}: {error}") from error


def _check_arguments(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    usual = _USUAL.get(name, {})
    if unknown := set(arguments) - set(usual):
        takes = f"takes only {' and '.join(map(repr, usual))}" if usual else "takes no further arguments"
        raise ConfigError(f"key 'model.arguments.{min(unknown)}': unknown; {name} {takes}")
    for key, value in arguments.items():
        several = isinstance(usual[key], tuple)
        numbers = value if several and isinstance(value, list | tuple) else [] if several else [value]
        if not (numbers and all(type(number) is int and number > 0 for number in numbers)):
            expected = "a list of positive integers" if several else "a positive integer"
            raise ConfigError(f"key 'model.arguments.{key}': expected {expected}, got {value!r}")
    return usual | arguments


def _size_problem(name: str, own: dict[str, Any], height: int, width: int, context: int | None) -> str | None:
    side = 4 if name == "densenet" else 2 ** (len(own["channels"]) - 1) if name == "convnet" else 1
    if min(height, width) < side:
        halvings = {2: "once", 4: "twice"}.get(side, f"{side.bit_length() - 1} times")
        return f"{article(name)} halves images {halvings}, so needs {side}x{side} pixels, got {height}x{width}"
    if name == "vit" and (height % own["patch"] or width % own["patch"]):
        return f"a vit cuts images into patches of {own['patch']}x{own['patch']} pixels, got {height}x{width}"
    if "heads" in own and own["width"] % own["heads"]:
        return f"{article(name)} needs a width that its heads divide, got {own['width']} and {own['heads']}"
    if name == "gpt" and context is None:
        return "a gpt needs 'context', the characters of a window"
    return None


def _call_factory(name: str, arguments: dict[str, Any], seed: int, *, trust_code: bool) -> nn.Module:
    factory = trusted_factory("model.name", name, trust_code=trust_code)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = factory(**arguments)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"key 'model.name': {name} returned {type(model).__name__}, expected a torch.nn.Module")
    return model
