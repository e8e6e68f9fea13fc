"""NumPy's arrays as a dataset: whatever a network takes, with classes or quantities."""

import zipfile
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from autobatch._errors import DataError, near_names
from autobatch.beacons import QUANTITY
from autobatch.training.data._files import find_own_file
from autobatch.training.data._parts import Prepared
from autobatch.training.data._quantities import standardise
from autobatch.training.data._splits import parts_of
from autobatch.training.task import DatasetSpec

_NEEDED: Final = ("inputs", "targets")
_TESTS: Final = ("test_inputs", "test_targets")


def prepare_arrays(spec: DatasetSpec, data_dir: Path) -> Prepared:
    """Turn a file of ``numpy.savez`` into network inputs.

    ``inputs`` are (N, ...), one example a row: numbers, which become float32 as they are; uint8 images (N, C, H, W),
    which are normalised as those of other datasets; or whole numbers of another type, which stay such, as an embedding
    takes them. ``targets`` are classes from 0, (N,) or (N, places), or quantities, (N,) or (N, quantities). Both may
    come with ``test_inputs`` and ``test_targets``.

    Args:
        spec: the dataset.
        data_dir: where the file is looked for beside the working directory.

    Returns:
        The parts.

    Raises:
        DataError: the file cannot be read, lacks an array, or holds what cannot be used; or it is too small for its
            splits.
    """
    path = find_own_file(spec.name, data_dir)
    arrays = _read(path, spec)
    for part in ("", "test_"):
        counts = [len(arrays[part + name]) for name in _NEEDED if part + name in arrays]
        if len(set(counts)) > 1:
            raise DataError(
                f"{path}: expected as many {part}inputs as {part}targets, found {counts[0]} and {counts[1]}"
            )
    inputs = _as_inputs(_joined(arrays, "inputs", path), path)
    if inputs.dtype != torch.uint8 and (spec.augmentation, spec.evaluation) != ("none", "plain"):
        raise DataError(f"{path}: 'augmentation' and 'evaluation' are for uint8 images, and its inputs are others")
    targets, own = _joined(arrays, "targets", path), len(arrays["inputs"])
    own_test, alike = own if "test_inputs" in arrays else None, torch.zeros(len(targets), dtype=torch.int64)
    deviations = None
    if spec.quantity:
        quantities = _as_quantities(targets, path)
        predicted, num_classes, parts = torch.from_numpy(quantities), QUANTITY, parts_of(alike, spec, own_test)
        labels, deviations = standardise(quantities, parts, f"{path}: array 'targets'")
    else:
        labels, num_classes = _as_classes(targets, path)
        predicted, parts = labels, parts_of(labels if labels.ndim == 1 else alike, spec, own_test)
    tensors: dict[str, Tensor] = {}
    hashed: dict[str, Tensor] = {}
    for part, rows in parts.items():
        tensors |= {f"{part}_inputs": inputs[rows], f"{part}_labels": labels[rows]}
        hashed |= {f"{part}_inputs": inputs[rows], f"{part}_labels": predicted[rows]}
    return Prepared(tensors, num_classes=num_classes, hashed=hashed, deviations=deviations)


def _read(path: Path, spec: DatasetSpec) -> dict[str, np.ndarray]:
    try:
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path}: expected a file of numpy.savez with 'inputs' and 'targets', found another")
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            for name in found.files:
                if name not in (*_NEEDED, *_TESTS):
                    raise DataError(f"{path}: unknown array {name!r}; {near_names(name, (*_NEEDED, *_TESTS))}")
            arrays = {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as a file of numpy.savez: {error}") from error
    wanted = (*_NEEDED, *_TESTS) if any(name in arrays for name in _TESTS) else _NEEDED
    for name in wanted:
        if name not in arrays:
            raise DataError(f"{path}: expected an array {name!r}, found {', '.join(arrays) or 'none'}")
        if arrays[name].ndim == 0 or not len(arrays[name]):
            raise DataError(f"{path}: array {name!r}: expected at least one example, got shape {arrays[name].shape}")
    if spec.test is not None and "test_inputs" in arrays:
        raise DataError(f"key 'dataset.test': {path} has a test part of its own")
    return arrays


def _joined(arrays: dict[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    """Return an array with that of the test part after it, where there is one."""
    own, test = arrays[name], arrays.get(f"test_{name}")
    if own.dtype.kind not in "biuf":
        raise DataError(f"{path}: array {name!r}: expected numbers, got {own.dtype}")
    if test is None:
        return own
    if own.shape[1:] != test.shape[1:] or own.dtype != test.dtype:
        raise DataError(
            f"{path}: expected 'test_{name}' as '{name}', {own.dtype} of shape (N, ...) = {own.shape}, "
            f"got {test.dtype} {test.shape}"
        )
    return np.concatenate([own, test])


def _as_inputs(inputs: np.ndarray, path: Path) -> Tensor:
    if inputs.ndim < 2 or not inputs.size:
        raise DataError(f"{path}: array 'inputs': expected shape (N, ...), got {inputs.shape}")
    if inputs.dtype == np.uint8:
        if inputs.ndim == 3:
            inputs = inputs[:, None]
        if inputs.ndim != 4 or (inputs.shape[3] in (1, 3) and inputs.shape[1] not in (1, 3)):
            raise DataError(
                f"{path}: array 'inputs': expected uint8 images (N, C, H, W) or (N, H, W), got {inputs.shape}; "
                "other numbers may be float32 or int64"
            )
        return torch.from_numpy(np.ascontiguousarray(inputs))
    if inputs.dtype.kind in "iu":
        return torch.from_numpy(inputs.astype(np.int64))
    with np.errstate(over="ignore"):
        numbers = inputs.astype(np.float32)
    if not np.isfinite(numbers).all():
        row = int(np.argwhere(~np.isfinite(numbers))[0, 0])
        raise DataError(f"{path}: array 'inputs': expected finite float32 numbers, found another in example {row}")
    return torch.from_numpy(numbers)


def _as_classes(targets: np.ndarray, path: Path) -> tuple[Tensor, int]:
    if targets.dtype.kind not in "iu" or targets.ndim > 2:
        raise DataError(
            f"{path}: array 'targets': expected whole numbers of shape (N,) or (N, places) as classes, got "
            f"{targets.dtype} {targets.shape}; for quantities say 'predict: quantity'"
        )
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    lowest, highest = int(targets.min()), int(targets.max())
    if targets.ndim == 2 and (lowest, highest) == (0, 1) and (targets.sum(axis=1) == 1).all():
        raise DataError(f"{path}: array 'targets': expected classes, found a 1 in each row: give 'targets.argmax(1)'")
    if lowest != 0 or highest < 1:
        raise DataError(f"{path}: array 'targets': expected classes from 0 on, at least two, got {lowest} to {highest}")
    if highest >= targets.size:
        raise DataError(
            f"{path}: array 'targets': expected classes 0 to K - 1, got {highest} among {targets.size} targets; for "
            "quantities say 'predict: quantity'"
        )
    return torch.from_numpy(targets.astype(np.int64)), highest + 1


def _as_quantities(targets: np.ndarray, path: Path) -> np.ndarray:
    values = targets.astype(np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise DataError(f"{path}: array 'targets': expected shape (N,) or (N, quantities), got {targets.shape}")
    if not (np.abs(values) < 1e100).all():
        row = int(np.argwhere(~(np.abs(values) < 1e100))[0, 0])
        raise DataError(f"{path}: array 'targets': expected numbers within 1e100, found another in example {row}")
    return values
