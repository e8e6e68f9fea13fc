"""Why a network chose as it did, in the words of the view's entries."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NAMED = 3
"""Entries of the view that a reason names."""


def influences(values: NDArray[np.float32], weights: NDArray[np.float32], entries: Sequence[tuple[str, str]]) -> str:
    """Say which entries of the view counted most.

    Args:
        values: the view, shape (size,).
        weights: what each entry did for the choice, as ``Network.weigh`` has it, shape (size,).
        entries: (name, meaning) of each entry; one that is a mask, whose meaning begins with "1", is never named.

    Returns:
        The words.
    """
    size = np.abs(weights)
    size[[meaning.startswith("1 ") for _, meaning in entries]] = 0.0  # masks say what is known, not what it is
    order = np.argsort(-size, kind="stable")[:NAMED]
    told = [
        f"{entries[index][0]} {values[index]:.2f}{'' if weights[index] > 0 else ' (against it)'}"
        for index in order
        if size[index] > 0.0
    ]
    return f"what counted most: {', '.join(told)}" if told else "nothing that is known yet counted"
