"""Any csv file as a dataset: standardised numbers and one-hot categories, both by the training part alone."""

import math
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from autobatch._errors import DataError, near_names
from autobatch.beacons import QUANTITY
from autobatch.training.data._csv import Column, parse_csv
from autobatch.training.data._files import read_own_file
from autobatch.training.data._parts import Prepared
from autobatch.training.data._quantities import standardise
from autobatch.training.data._splits import parts_of
from autobatch.training.task import DatasetSpec

MAX_CATEGORIES: Final = 1000
"""A column of more different texts is a key or free text, not a category."""

MAX_WHOLE_CLASSES: Final = 100
"""A target of more different whole numbers is a quantity, not a class."""


def prepare_table(spec: DatasetSpec, data_dir: Path) -> Prepared:
    """Turn a csv file into network inputs.

    A column is numeric where at least half of its known values are numbers, unless ``categorical`` names it. A number
    becomes its distance from the training part's mean in standard deviations, a missing one 0, with a further column
    that says 1 where it was missing, if the training part lacks any. A category becomes one of as many columns as the
    training part has categories, missing being one; one that the training part does not know becomes zeros.

    Args:
        spec: its ``target`` column holds the classes, or the quantity.
        data_dir: where the file is looked for beside the working directory.

    Returns:
        The parts: inputs float32, (rows, features), labels int64, (rows,), or of a quantity float32, (rows, 1).

    Raises:
        DataError: the file cannot be read, is damaged, lacks a column, or is too small for its splits.
    """
    path, text = read_own_file(spec.name, data_dir)
    columns = parse_csv(path, text)
    for key, names in (("target", (spec.target,)), ("categorical", spec.categorical or ())):
        for name in names:
            if name not in columns:
                raise DataError(f"{path}: key 'dataset.{key}': no column {name!r}; {near_names(str(name), columns)}")
    target = columns.pop(str(spec.target))
    quantity, deviations = _quantity(target) if spec.quantity else None, None
    if quantity is None:
        labels, num_classes = _classes(target)
        predicted, parts = labels, parts_of(labels, spec)
    else:
        predicted, num_classes = torch.from_numpy(quantity), QUANTITY
        parts = parts_of(torch.zeros(len(quantity), dtype=torch.int64), spec)
        labels, deviations = standardise(quantity, parts, f"{path}: column {target.name!r}")
    features: list[np.ndarray] = []
    said: list[np.ndarray] = []  # a standard deviation may differ in its last bit between machines; this does not
    for column in columns.values():
        categorical = column.name in (spec.categorical or ())
        values = None if categorical else _numbers(column)
        if values is None:
            features.append(_one_hot(column, parts["train"]))
            said.append(features[-1])
        else:
            features.append(_standardised(column, values, parts["train"]))
            said.append(values[:, None])
    inputs = torch.from_numpy(np.concatenate(features, axis=1)).float()
    content = torch.from_numpy(np.concatenate(said, axis=1))
    tensors: dict[str, Tensor] = {}
    hashed: dict[str, Tensor] = {}
    for part, rows in parts.items():
        tensors |= {f"{part}_inputs": inputs[rows], f"{part}_labels": labels[rows]}
        hashed |= {f"{part}_content": content[rows], f"{part}_labels": predicted[rows]}
    return Prepared(tensors, num_classes=num_classes, hashed=hashed, deviations=deviations)


def _quantity(target: Column) -> np.ndarray:
    values = []
    for row, cell in enumerate(target.cells):
        value = None if cell is None else _number(cell)
        if value is None or not abs(value) < 1e100:
            found = "a missing value" if cell is None else repr(cell)
            raise target.error(row, f"expected a number within 1e100, found {found}")
        values.append([value])
    return np.array(values)


def _classes(target: Column) -> tuple[Tensor, int]:
    for row, cell in enumerate(target.cells):
        if cell is None:
            raise target.error(row, "expected a class, found a missing value")
    cells = [cell for cell in target.cells if cell is not None]
    values = {cell: _number(cell) for cell in cells}
    known = [value for value in values.values() if value is not None]
    fractions = any(value != math.floor(value) for value in known)
    if len(known) == len(values) and (fractions or len(known) > MAX_WHOLE_CLASSES):
        raise DataError(
            f"{target.path}: column {target.name!r}: expected classes, found {len(values)} different numbers; "
            "to predict a quantity, say 'predict: quantity' under 'dataset'"
        )
    if not 2 <= len(values) <= MAX_CATEGORIES:
        raise DataError(
            f"{target.path}: column {target.name!r}: expected 2 to {MAX_CATEGORIES} classes, found {len(values)}"
        )
    in_order = sorted(values, key=lambda cell: (values[cell] if len(known) == len(values) else 0, cell))
    number = {cell: label for label, cell in enumerate(in_order)}
    return torch.tensor([number[cell] for cell in cells]), len(number)


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)  # Python's own way to set digits apart
    except ValueError:
        return None


def _numbers(column: Column) -> np.ndarray | None:
    """Return a column's values, NaN where missing; None where its values are categories."""
    values = [None if cell is None else _number(cell) for cell in column.cells]
    texts = [row for row, (cell, value) in enumerate(zip(column.cells, values, strict=True)) if cell and value is None]
    known = sum(value is not None for value in values)
    if len(texts) > known:
        return None
    if texts:
        raise column.error(
            texts[0],
            f"expected a number as in {known} other rows, got {column.cells[texts[0]]!r}; "
            "key 'dataset.categorical' may name columns of categories that look like numbers",
        )
    for row, value in enumerate(values):
        if value is not None and not abs(value) < 1e100:
            raise column.error(row, f"expected a number within 1e100, got {column.cells[row]!r}")
    return np.array([math.nan if value is None else value for value in values])


def _standardised(column: Column, values: np.ndarray, train: Tensor) -> np.ndarray:
    missing = np.isnan(values)
    lacking = missing[train.numpy()]
    known = values[train.numpy()][~lacking]
    if not len(known):
        raise DataError(f"{column.path}: column {column.name!r}: expected values, found none in the training part")
    deviation = known.std() if known.min() < known.max() else 1.0
    scaled = np.where(missing, 0.0, (values - known.mean()) / deviation)
    return np.stack([scaled, missing], axis=1) if lacking.any() else scaled[:, None]


def _one_hot(column: Column, train: Tensor) -> np.ndarray:
    known = sorted({column.cells[row] or "" for row in train.tolist()})
    if len(known) > MAX_CATEGORIES:
        raise DataError(
            f"{column.path}: column {column.name!r}: expected at most {MAX_CATEGORIES} categories, found {len(known)}; "
            "leave a column of names or keys out of the file"
        )
    number = {cell: place for place, cell in enumerate(known)}
    hot = np.zeros((len(column.cells), len(known)), dtype=np.float64)
    for row, cell in enumerate(column.cells):
        if (place := number.get(cell or "")) is not None:
            hot[row, place] = 1
    return hot
