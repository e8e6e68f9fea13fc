"""Any text as a dataset: windows of characters, in which each next one is predicted."""

from pathlib import Path

import numpy as np
import torch

from autobatch._errors import DataError
from autobatch.training.data._files import read_own_file
from autobatch.training.data._parts import Prepared
from autobatch.training.task import TEST_SHARE, DatasetSpec


def prepare_text(spec: DatasetSpec, data_dir: Path) -> Prepared:
    """Cut a text into windows, the first for training, then those for validation, the last for testing.

    A window has ``context`` + 1 characters: all but the last are its inputs, all but the first its labels. Windows
    share no characters, so nothing of one part is in another. Classes are the characters of the training part in the
    order of their code points, and one more for all others.

    Args:
        spec: its ``context`` and shares; ``subset`` keeps that many windows from the start.
        data_dir: where the file is looked for beside the working directory.

    Returns:
        The parts: inputs and labels int64, (windows, context).

    Raises:
        DataError: the file cannot be read, or is too short.
    """
    assert spec.context is not None
    path, text = read_own_file(spec.name, data_dir)
    length = spec.context + 1
    characters = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    windows = characters[: len(characters) // length * length].reshape(-1, length)
    windows, test = _cut(windows, TEST_SHARE if spec.test is None else spec.test, "test", path)
    if spec.subset is not None:
        if spec.subset > len(windows):
            raise DataError(
                f"key 'dataset.subset': expected at most {len(windows)}, the training windows of {path}, "
                f"got {spec.subset}"
            )
        windows = windows[: spec.subset]
    train, validation = _cut(windows, spec.validation, "validation", path)
    known = np.unique(train)
    tensors = {}
    for part, own in (("train", train), ("validation", validation), ("test", test)):
        place = np.searchsorted(known, own).clip(max=len(known) - 1)
        numbers = torch.from_numpy(np.where(known[place] == own, place, len(known)))
        tensors[f"{part}_inputs"] = numbers[:, :-1].contiguous()
        tensors[f"{part}_labels"] = numbers[:, 1:].contiguous()
    return Prepared(tensors, num_classes=len(known) + 1, hashed=tensors)


def _cut(windows: np.ndarray, share: float, part: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    count = round(share * len(windows))
    if not 0 < count < len(windows):
        raise DataError(
            f"{path}: a share of {share:g} of {len(windows)} windows of {windows.shape[1]} characters gives {count} of "
            f"them to {part}; expected some for both sides: a longer text, or a smaller 'context'"
        )
    return windows[:-count], windows[-count:]
