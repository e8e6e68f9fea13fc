"""Why a network chose as it did, in the words of the view's entries."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NAMED = 3
"""Entries of the view that a reason names."""


def influences(
    entries: NDArray[np.float32], weights: NDArray[np.float32], names: Sequence[str], unnamed: Sequence[int]
) -> str:
    """Say which entries of the view counted most.

    Args:
        entries: the view, shape (size,).
        weights: what each entry did for the choice, as ``Network.weigh`` has it, shape (size,).
        names: names of the entries.
        unnamed: places of entries that are not named.

    Returns:
        The words.
    """
    size = np.abs(weights)
    size[list(unnamed)] = 0.0
    order = np.argsort(-size, kind="stable")[:NAMED]
    told = [
        f"{names[index]} {entries[index]:.2f}{'' if weights[index] > 0 else ' (against it)'}"
        for index in order
        if size[index] > 0.0
    ]
    return f"what counted most: {', '.join(told)}" if told else "nothing that is known yet counted"
