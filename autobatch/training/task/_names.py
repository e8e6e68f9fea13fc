"""The names a task may use for dataset, model and optimizer, with what each needs. Imports nothing heavy."""

import re
from typing import Final, Literal

from autobatch._errors import near_names

Form = Literal["images", "table", "text", "arrays"]
"""What the examples of a dataset are: images, rows of a table, windows of a text, or whatever an array holds."""

FORMS: Final[dict[Form, str]] = {"images": "images", "table": "a table", "text": "a text", "arrays": "arrays"}
"""The forms, as they are spoken."""

DATASETS: Final = ("digits", "mnist", "cifar10", "cifar100", "svhn")
"""Datasets of images known by name; any other dataset is a user's own, ``PREFIX:PATH``."""

IMAGEFOLDER_PREFIX: Final = "imagefolder:"
CSV_PREFIX: Final = "csv:"
TEXT_PREFIX: Final = "text:"
NPZ_PREFIX: Final = "npz:"

OWN_DATASETS: Final[dict[str, tuple[str, Form]]] = {
    IMAGEFOLDER_PREFIX: ("folder", "images"),
    CSV_PREFIX: ("file", "table"),
    TEXT_PREFIX: ("file", "text"),
    NPZ_PREFIX: ("file", "arrays"),
}
"""What the path after a prefix names, and the form of its examples."""

MODELS: Final[dict[str, tuple[Form, ...]]] = {
    "resnet": ("images", "arrays"),
    "densenet": ("images", "arrays"),
    "convnet": ("images", "arrays"),
    "vit": ("images", "arrays"),
    "mlp": ("images", "table", "arrays"),
    "gpt": ("text",),
}
"""Models known by name, with what they take; any other is given as ``package.module:factory``."""

TRANSFORMERS: Final = ("vit", "gpt")
"""Models whose depth counts blocks."""

WIDTHS: Final = {"mlp": "{hidden: [500, 500]}", "convnet": "{channels: [16, 32, 64]}"}
"""Models without a depth, with the argument that has their widths instead."""

MAX_DEPTH: Final = 1202
"""The deepest residual network of He et al. (2016), section 4.2."""

OPTIMIZERS: Final = (
    "sgd",
    "adamw",
    "adam",
    "rmsprop",
    "adagrad",
    "prodigy",
    "padam",
    "mini-block-fisher",
    "kfac",
    "natural-gradient",
)
"""Optimizers known by name; any other is given as ``package.module:factory``."""

FACTORY: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""The name of a factory in the user's own code."""


def dataset_problem(name: str) -> str | None:
    """Say in a clause what is wrong with a dataset's name; None where it is usable."""
    if name in DATASETS:
        return None
    prefix = own_prefix(name)
    if prefix is None:
        known = (*DATASETS, *(own + "PATH" for own in OWN_DATASETS))
        meant = name.partition(":")[0] + ":PATH" if ":" in name else name
        return f"unknown dataset {name!r}; {near_names(meant, known)}"
    path = name.removeprefix(prefix)
    if not path.strip() or "\0" in path:
        return f"expected a {OWN_DATASETS[prefix][0]} after {prefix!r}, got {path!r}"
    return None


def own_prefix(name: str) -> str | None:
    """Return the prefix of a user's own dataset, such as ``"csv:"``; None for a dataset known by name."""
    return next((prefix for prefix in OWN_DATASETS if name.startswith(prefix)), None)


def form_of(dataset: str) -> Form:
    """Return what the examples of a usable dataset are."""
    prefix = own_prefix(dataset)
    return "images" if prefix is None else OWN_DATASETS[prefix][1]


def form_problem(model: str, dataset: str) -> str | None:
    """Say in a clause why a model cannot take a dataset; None where it can, or is a factory."""
    form = form_of(dataset)
    if is_factory(model) or form in MODELS[model]:
        return None
    fitting = [name for name, forms in MODELS.items() if form in forms]
    *others, last = (FORMS[own] for own in MODELS[model])
    takes = f"{', '.join(others)} or {last}" if others else last
    return f"{article(model)} takes {takes}; {dataset} is {FORMS[form]}, which {' and '.join(fitting)} can take"


def is_factory(name: str) -> bool:
    """Say whether the name of a model or optimizer is a ``package.module:factory``, whose use imports code."""
    return FACTORY.fullmatch(name) is not None


def model_problem(name: str) -> str | None:
    """Say in a clause what is wrong with a model's name; None where it is usable."""
    if name in MODELS or is_factory(name):
        return None
    return f"unknown model {name!r}; {near_names(name, (*MODELS, 'package.module:factory'))}"


def optimizer_problem(name: str) -> str | None:
    """Say in a clause what is wrong with an optimizer's name; None where it is usable."""
    if name in OPTIMIZERS or is_factory(name):
        return None
    known = (*OPTIMIZERS, "package.module:factory")
    return f"expected one of {', '.join(map(repr, known))}, got {name!r}; {near_names(name, known)}"


def depth_problem(name: str, depth: int | None) -> str | None:
    """Say in a clause what is wrong with a usable model's depth; None where the model can have it."""
    if is_factory(name):
        return None
    if name in WIDTHS:
        return None if depth is None else f"{article(name)} has no depth; give its widths as arguments: {WIDTHS[name]}"
    if name in TRANSFORMERS:
        within = depth is not None and 1 <= depth <= MAX_DEPTH
        return None if within else f"{article(name)} needs a depth of 1 to {MAX_DEPTH} blocks, got {depth}"
    if depth is None or not 8 <= depth <= MAX_DEPTH or (depth - 2) % 6:
        return f"a {name} needs a depth of 6n + 2 (8, 14, 20, ..., 110, ..., {MAX_DEPTH}), got {depth}"
    return None


def article(model: str) -> str:
    """Return a model's name with its article, as it is spoken."""
    return f"an {model}" if model == "mlp" else f"a {model}"
