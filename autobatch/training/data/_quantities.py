"""Quantities that are predicted, in their standard deviations."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from autobatch._errors import DataError


def standardise(values: np.ndarray, parts: Mapping[str, Tensor], what: str) -> tuple[Tensor, Tensor]:
    """Measure quantities from the mean of the training part, in standard deviations of it.

    Args:
        values: float64, (N, quantities), finite.
        parts: which examples are in ``"train"``, ``"validation"`` and ``"test"``.
        what: the file and where in it they stand, for messages.

    Returns:
        float32, (N, quantities), and the standard deviations, float64, (quantities,).

    Raises:
        DataError: a quantity is the same throughout the training part, or all are throughout another, so that no share
            can be explained; or one is too far from the others for float32.
    """
    train = values[parts["train"].numpy()]
    deviations = np.where(train.min(axis=0) < train.max(axis=0), train.std(axis=0), 0.0)
    if not (deviations > 0.0).all():
        place = f" column {int(np.argmin(deviations > 0.0))}" if values.shape[1] > 1 else ""
        raise DataError(f"{what}: expected a quantity that differs, found{place} the same throughout the training part")
    scaled = (values - train.mean(axis=0)) / deviations
    for part, rows in parts.items():
        own = scaled[rows.numpy()]
        if (own.min(axis=0) == own.max(axis=0)).all():
            raise DataError(f"{what}: expected a quantity that differs, found the same throughout the {part} part")
    far = np.abs(scaled) > 1e15  # its square would be beyond float32
    if far.any():
        raise DataError(
            f"{what}: expected numbers of one size, found {values[far][0]:g} among others like {train[0, 0]:g}"
        )
    return torch.from_numpy(scaled).float(), torch.from_numpy(deviations)
