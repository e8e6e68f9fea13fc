"""Quantities that are predicted, in their standard deviations."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autobatch._errors import DataError


def standardise(values: np.ndarray, parts: Mapping[str, Tensor], path: Path) -> tuple[Tensor, Tensor]:
    """Measure quantities from the mean of the training part, in standard deviations of it.

    Args:
        values: float64, (N, quantities), finite.
        parts: which examples are in ``"train"``, ``"validation"`` and ``"test"``.
        path: the file, for messages.

    Returns:
        float32, (N, quantities), and the standard deviations, float64, (quantities,).

    Raises:
        DataError: a part has a quantity that is the same everywhere, of which no share can be explained.
    """
    for part, rows in parts.items():
        own = values[rows.numpy()]
        if (own.min(axis=0) == own.max(axis=0)).any():
            raise DataError(
                f"{path}: expected a quantity that differs within each part, found the same in all {len(own)} examples "
                f"of the {part} part"
            )
    train = values[parts["train"].numpy()]
    deviations = train.std(axis=0)
    scaled = (values - train.mean(axis=0)) / deviations
    return torch.from_numpy(scaled).float(), torch.from_numpy(deviations)
