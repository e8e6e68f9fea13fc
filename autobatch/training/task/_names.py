"""The names a task may use for its dataset and model, with what each needs. Imports nothing heavy."""

import re
from typing import Final

from autobatch._errors import near_names

DATASETS: Final = ("digits", "mnist", "cifar10", "cifar100", "svhn")
"""Datasets known by name; any other is given as ``imagefolder:PATH``."""

IMAGEFOLDER_PREFIX: Final = "imagefolder:"

MODELS: Final = ("resnet", "densenet", "mlp")
"""Models known by name; any other is given as ``package.module:factory``."""

MAX_DEPTH: Final = 1202
"""The deepest residual network of He et al. (2016), section 4.2."""

_FACTORY: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def dataset_problem(name: str) -> str | None:
    """Say what is wrong with a dataset's name.

    Args:
        name: one of ``DATASETS``, or ``imagefolder:PATH``.

    Returns:
        A clause for an error message, or None where the name is usable.
    """
    if name in DATASETS:
        return None
    if name.startswith(IMAGEFOLDER_PREFIX):
        path = name.removeprefix(IMAGEFOLDER_PREFIX)
        if not path.strip() or "\0" in path:
            return f"expected a folder after {IMAGEFOLDER_PREFIX!r}, got {path!r}"
        return None
    return f"unknown dataset {name!r}; {near_names(name, (*DATASETS, IMAGEFOLDER_PREFIX + 'PATH'))}"


def is_factory(name: str) -> bool:
    """Say whether a model's name is a ``package.module:factory``, whose use imports code.

    Args:
        name: the model's name.

    Returns:
        True for a well-formed factory name.
    """
    return _FACTORY.fullmatch(name) is not None


def model_problem(name: str) -> str | None:
    """Say what is wrong with a model's name.

    Args:
        name: one of ``MODELS``, or ``package.module:factory``.

    Returns:
        A clause for an error message, or None where the name is usable.
    """
    if name in MODELS or is_factory(name):
        return None
    return f"unknown model {name!r}; {near_names(name, (*MODELS, 'package.module:factory'))}"


def depth_problem(name: str, depth: int | None) -> str | None:
    """Say what is wrong with a model's depth.

    Args:
        name: a usable name of a model.
        depth: number of layers; None where none is given.

    Returns:
        A clause for an error message, or None where the model can have that depth.
    """
    if is_factory(name):
        return None
    if name == "mlp":
        return None if depth is None else "an mlp has no depth; give its widths as arguments: {hidden: [500, 500]}"
    if depth is None or not 8 <= depth <= MAX_DEPTH or (depth - 2) % 6:
        return f"a {name} needs a depth of 6n + 2 (8, 14, 20, ..., 110, ..., {MAX_DEPTH}), got {depth}"
    return None
