"""Loggers by name, for the command line and for YAML files."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from autobatch._errors import ConfigError, UnknownNameError, near_names
from autobatch.tracking._files import CSVLogger, JSONLinesLogger
from autobatch.tracking._mlflow import MLflowLogger
from autobatch.tracking._protocol import Logger
from autobatch.tracking._tensorboard import TensorBoardLogger
from autobatch.tracking._wandb import WandbLogger


@dataclass(frozen=True)
class _Kind:
    """A logger that has a name.

    Attributes:
        build: makes the logger from what follows the colon; None where nothing does.
        argument: what follows the colon.
        required: whether something must follow.
    """

    build: Callable[[str | None], Logger]
    argument: str
    required: bool


_KINDS: Final = {
    "csv": _Kind(lambda path: CSVLogger(path or ""), "PATH", required=True),
    "jsonl": _Kind(lambda path: JSONLinesLogger(path or ""), "PATH", required=True),
    "tensorboard": _Kind(lambda folder: TensorBoardLogger(folder or ""), "DIR", required=True),
    "wandb": _Kind(
        lambda project: WandbLogger() if project is None else WandbLogger(project=project), "PROJECT", required=False
    ),
    "mlflow": _Kind(lambda experiment: MLflowLogger(experiment=experiment), "EXPERIMENT", required=False),
}


def logger_names() -> list[str]:
    """Return what ``make_logger`` takes, such as ``csv:PATH`` and ``wandb[:PROJECT]``."""
    return [
        f"{name}:{kind.argument}" if kind.required else f"{name}[:{kind.argument}]" for name, kind in _KINDS.items()
    ]


def make_logger(spec: str) -> Logger:
    """Make a logger from its name.

    Args:
        spec: ``csv:PATH``, ``jsonl:PATH``, ``tensorboard:DIR``, ``wandb``, ``wandb:PROJECT``, ``mlflow`` or
            ``mlflow:EXPERIMENT``.

    Returns:
        The logger.

    Raises:
        ConfigError: the path is missing, or the tracker is not installed.
        OutputError: the path cannot be written.
        UnknownNameError: there is no such logger.
    """
    name, colon, argument = spec.partition(":")
    kind = _KINDS.get(name)
    if kind is None:
        raise UnknownNameError(
            f"unknown logger {name!r}; {near_names(name, _KINDS)} (expected one of {', '.join(logger_names())})"
        )
    if not argument and (colon or kind.required):
        raise ConfigError(f"logger {spec!r}: expected {name}:{kind.argument}")
    return kind.build(argument or None)
