"""The best fixed beacon as a summary states it."""

import math
from collections.abc import Mapping
from typing import Any

from autobatch._errors import LibraryError
from autobatch.beacons import BeaconLibrary


def best_beacon(library: BeaconLibrary) -> tuple[dict[str, Any] | None, str | None]:
    """Return the best fixed beacon's figures and spread, named as in a summary; or None, and why there is none."""
    try:
        best = library.best_fixed()
    except LibraryError as error:
        return None, str(error)
    return {
        "batch_size": best.batch_size,
        "lr": best.lr,
        "seeds": list(best.seeds),
        **_summary_names(best.mean),
        "spread": _summary_names(best.std),
    }, None


def _summary_names(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {
        "optimizer_steps" if name == "steps" else name: value if math.isfinite(value) else None
        for name, value in figures.items()
    }
