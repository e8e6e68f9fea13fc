"""Checkpoints: one safetensors file with model, optimizer and, as JSON in its header, everything else.

Nothing in it is ever executed. No generator state is stored because every random number of a run follows from (seed,
purpose, epoch).
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

from autobatch._errors import CheckpointError
from autobatch._files import naming_output, write_whole
from autobatch.control.run._files import read_whole
from autobatch.optim import FisherOptimizer

FORMAT_VERSION = 1
"""Version of the stored format; a reader refuses any other."""

_KEY = "autobatch"
_MODEL = "model/"
_OPTIMIZER = "optimizer/"
_WHOLE_OPTIMIZER = "optimizer"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two epochs.

    Attributes:
        tensors: model and optimizer tensors by prefixed name, on the CPU.
        record: everything else, as JSON-able values: ``epoch``, ``config``, ``controller``, ``seconds``, ...
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any]


def snapshot(model: nn.Module, optimizer: Optimizer, *, whole: bool = False) -> dict[str, Tensor]:
    """Return contiguous copies, on the CPU, of the tensors of a model and its optimizer by prefixed name.

    Args:
        model: the network.
        optimizer: its optimizer.
        whole: whether the optimizer's state may hold other than tensors in the shape of the parameters, as one of the
            user's own: all of it is then kept in one tensor of bytes.

    Returns:
        The copies.

    Raises:
        CheckpointError: the state of such an optimizer cannot be saved.
    """
    tensors = {_MODEL + name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    if whole:
        tensors[_WHOLE_OPTIMIZER] = _bytes_of(optimizer)
    else:
        for index, state in optimizer.state_dict()["state"].items():
            tensors.update(
                (f"{_OPTIMIZER}{index}/{name}", value) for name, value in state.items() if isinstance(value, Tensor)
            )
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }


def put_back(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: Optimizer, source: str) -> None:
    """Put back what ``snapshot`` has copied; ``source`` names it in the CheckpointError where it does not fit."""
    model_state, optimizer_state = _split(tensors, source)
    try:
        model.load_state_dict(model_state)
    except RuntimeError as error:
        raise CheckpointError(f"{source}: the model in it is another one: {error}") from None
    if _WHOLE_OPTIMIZER in tensors:
        _load_bytes(optimizer, tensors[_WHOLE_OPTIMIZER], source)
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own_shapes = optimizer.own_shapes if isinstance(optimizer, FisherOptimizer) else frozenset()
    for index, state in optimizer_state.items():
        if index >= len(parameters):
            raise CheckpointError(f"{source}: its optimizer has more parameters than this one")
        for name, value in state.items():
            if value.dim() and name not in own_shapes:
                state[name] = _laid_out_like(parameters[index], value, f"{source}: '{name}' of parameter {index}")
    groups = optimizer.state_dict()["param_groups"]  # settings are not kept: the caller made the optimizer anew
    optimizer.load_state_dict({"state": optimizer_state, "param_groups": groups})


def _bytes_of(optimizer: Optimizer) -> Tensor:
    content = io.BytesIO()
    try:
        torch.save(optimizer.state_dict(), content)
    except Exception as error:  # the user's code
        raise CheckpointError(f"it cannot be saved: {type(error).__name__}: {error}") from error
    return torch.frombuffer(bytearray(content.getvalue()), dtype=torch.uint8)


def _load_bytes(optimizer: Optimizer, content: Tensor, source: str) -> None:
    try:
        state = torch.load(io.BytesIO(content.numpy().tobytes()), map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, UnpicklingError):
        raise CheckpointError(
            f"{source}: the optimizer in it is damaged, or holds other than tensors, numbers, texts, and lists and "
            "mappings of them"
        ) from None
    try:
        optimizer.load_state_dict(state)
    except Exception as error:  # the user's code
        raise CheckpointError(
            f"{source}: the optimizer in it cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint at once or not at all; its folder is made where it is missing."""
    header = json.dumps({"version": FORMAT_VERSION, **checkpoint.record})
    with naming_output(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(checkpoint.tensors, metadata={_KEY: header}))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; a CheckpointError where it is missing, truncated, foreign or of another version."""
    content = read_whole(path, "checkpoint")
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        record = json.loads(header["__metadata__"][_KEY])
        version = record.pop("version")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{path}: truncated, damaged, or no checkpoint of autobatch") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: the checkpoint has format version {version!r} and this autobatch reads version {FORMAT_VERSION}"
        )
    return Checkpoint(tensors, record)


def _laid_out_like(parameter: Tensor, value: Tensor, what: str) -> Tensor:
    # Fused optimizers walk through parameter and state side by side, so both must lie in memory alike.
    if value.shape != parameter.shape:
        raise CheckpointError(f"{what}: expected shape {tuple(parameter.shape)}, got {tuple(value.shape)}")
    return torch.empty_like(parameter, requires_grad=False).copy_(value)


def _split(tensors: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], dict[int, dict[str, Tensor]]]:
    model_state: dict[str, Tensor] = {}
    optimizer_state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(_MODEL):
            model_state[key.removeprefix(_MODEL)] = value
            continue
        if key == _WHOLE_OPTIMIZER:
            continue
        index, _, name = key.removeprefix(_OPTIMIZER).partition("/")
        if not key.startswith(_OPTIMIZER) or not index.isdecimal():
            raise CheckpointError(f"{source}: unexpected tensor '{key}'")
        optimizer_state.setdefault(int(index), {})[name] = value
    return model_state, optimizer_state
