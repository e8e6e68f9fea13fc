"""The generators that a training draws from without asking: their states, as values that any checkpoint can hold."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def generator_states(device: torch.device) -> dict[str, Any]:
    """Return the global generators' states as ``torch.load(weights_only=True)`` reads them: Python, NumPy, PyTorch."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_generator_states(states: Mapping[str, Any], device: torch.device) -> None:
    """Restore what ``generator_states`` returned."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numbers, *rest = states["numpy"]
    np.random.set_state((name, numbers.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Have what is drawn within leave no trace: a training of its own, or a library that seeds them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    states = generator_states(device)
    try:
        yield
    finally:
        set_generator_states(states, device)
