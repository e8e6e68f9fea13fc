"""Any folder of images as a dataset: decoded once, then read from a cache of uint8 tensors.

The cache is found by the names, sizes and modification times of all files, so it is rebuilt whenever one changes.
"""

import contextlib
import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autobatch._artefacts import expand_home
from autobatch._errors import DataError
from autobatch.training.data._parts import ImageParts

_SUFFIXES: Final = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_GREY_MODES: Final = {"1", "L"}
_COLOUR_MODES: Final = {"P", "PA", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
_CACHE_VERSION: Final = "1"

_log = logging.getLogger(__name__)


def load_imagefolder(folder: str, data_dir: Path) -> ImageParts:
    """Load ``FOLDER/train/<class>/*`` and ``FOLDER/test/<class>/*``.

    All images have one size. Images are grey (one channel) where all files are, else RGB. Classes are numbered in
    the order of their folders' names.

    Args:
        folder: the folder; where it is relative, in the working directory or else in ``data_dir``.
        data_dir: ``.cache/`` in it holds the decoded images.

    Returns:
        Both parts.

    Raises:
        DataError: a folder is missing or empty, an image is damaged or of another size or kind, or the test part has
            a class that the training part lacks.
    """
    root = _find(folder, data_dir)
    files = {part: _list_images_by_class(root / part) for part in ("train", "test")}
    classes = sorted(files["train"])
    _check_classes(root, classes, sorted(files["test"]))
    listing = _fingerprint(root, files)
    cache = data_dir / ".cache" / f"imagefolder-{listing[:32]}.safetensors"
    tensors = _read_cache(cache, listing)
    if tensors is None:
        tensors = _decode_all(files, classes)
        _write_cache(cache, tensors, listing)
    return ImageParts(**tensors, num_classes=len(classes))


def _find(folder: str, data_dir: Path) -> Path:
    path = expand_home(folder)
    for candidate in (path, data_dir / path):
        if os.path.isdir(candidate / "train") and os.path.isdir(candidate / "test"):
            return candidate
    places = dict.fromkeys(str(place.absolute()) for place in (path, data_dir / path))
    raise DataError(f"dataset 'imagefolder:{folder}': expected folders train/ and test/ in {' or '.join(places)}")


def _list_images_by_class(part: Path) -> dict[str, list[Path]]:
    by_class: dict[str, list[Path]] = {}
    try:
        for folder in sorted(entry for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
            files = [file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES and file.name[0] != "."]
            if not files:
                raise DataError(f"{folder}: expected images ({', '.join(sorted(_SUFFIXES))}), found none")
            by_class[folder.name] = sorted(files)
    except OSError as error:
        raise DataError(f"{part}: cannot be listed: {error.strerror}") from error
    return by_class


def _check_classes(root: Path, train: list[str], test: list[str]) -> None:
    if len(train) < 2:
        raise DataError(f"{root / 'train'}: expected a folder for each of at least two classes, found {len(train)}")
    if not test:
        raise DataError(f"{root / 'test'}: expected a folder for each class, found none")
    if unknown := sorted(set(test) - set(train)):
        raise DataError(f"{root / 'test'}: class {unknown[0]!r} is not in {root / 'train'}")


def _fingerprint(root: Path, files: dict[str, dict[str, list[Path]]]) -> str:
    digest = hashlib.sha256(_CACHE_VERSION.encode())
    for by_class in files.values():
        for file in (file for members in by_class.values() for file in members):
            try:
                status = file.stat()
            except OSError as error:
                raise DataError(f"{file}: cannot be read: {error.strerror}") from error
            line = f"{file.relative_to(root).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _decode_all(files: dict[str, dict[str, list[Path]]], classes: list[str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    paths = [path for by_class in files.values() for members in by_class.values() for path in members]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        arrays = list(pool.map(_decode, paths, chunksize=64))
    for path, array in zip(paths, arrays, strict=True):
        if array.shape[:2] != arrays[0].shape[:2]:
            raise DataError(
                f"{path}: is {array.shape[1]}x{array.shape[0]} pixels, but {paths[0]} is "
                f"{arrays[0].shape[1]}x{arrays[0].shape[0]}; expected one size for all images"
            )
    if any(array.ndim == 3 for array in arrays):
        arrays = [array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2) for array in arrays]
    images = torch.from_numpy(np.stack(arrays))
    images = images.permute(0, 3, 1, 2).contiguous() if images.ndim == 4 else images.unsqueeze(1)
    start = 0
    for part, by_class in files.items():
        labels = [classes.index(name) for name, members in by_class.items() for _ in members]
        tensors[f"{part}_images"] = images[start : start + len(labels)]
        tensors[f"{part}_labels"] = torch.tensor(labels)
        start += len(labels)
    return tensors


def _decode(path: Path) -> np.ndarray:
    # To uint8: (H, W) where the file is grey, else (H, W, 3).
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode = image.mode
            if mode in _GREY_MODES:
                return np.asarray(image.convert("L"))
            if mode in _COLOUR_MODES:
                return np.asarray(image.convert("RGB"))
    except Exception as error:  # PIL raises whatever a damaged file leads to
        raise DataError(f"{path}: is not an image that can be read: {error}") from error
    raise DataError(f"{path}: has pixels of mode {mode!r}; expected 8 bits a channel")


def _read_cache(cache: Path, listing: str) -> dict[str, Tensor] | None:
    """Return the cached tensors, or None where there are none, or damaged ones."""
    names = [f"{part}_{what}" for part in ("train", "test") for what in ("images", "labels")]
    try:
        with safe_open(cache, framework="pt") as file:
            if (file.metadata() or {}).get("listing") != listing:
                return None
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError):
        return None


def _write_cache(cache: Path, tensors: dict[str, Tensor], listing: str) -> None:
    part = cache.with_name(f"{cache.name}.{os.getpid()}.part")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, {"listing": listing})
        part.replace(cache)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            part.unlink()
        _log.warning("decoded images are not cached, so will be decoded again: %s", error)
