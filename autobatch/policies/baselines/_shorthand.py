"""Names that are policies by themselves: ``s32``, ``s32-lr0.05``, ``s32-to-128``, ``s32-to-128-ms``, ``0:32 5e:64``."""

import re
from typing import Any

from autobatch.policies.baselines._notation import split_notation
from autobatch.policies.baselines._stages import spread_sizes

SHORTHANDS = ("s32", "s32-lr0.1", "s32-to-128", "s32-to-128-ms", "0:32 5e:64")
"""One example of each name that needs no YAML."""

_FIXED = re.compile(r"s(?P<size>\d{1,9})(-lr(?P<lr>\d*\.?\d+(e-?\d+)?))?")
_STAGES = re.compile(r"s(?P<first>\d{1,9})-to-(?P<last>\d{1,9})(?P<within>-ms)?")


def expand_shorthand(name: str) -> dict[str, Any] | None:
    """Return the policy that a name in the paper's notation stands for.

    Args:
        name: for example ``"s32-lr0.1"`` (a fixed configuration), ``"s32-to-128-ms"`` (dynamic sampling), or
            ``"0:32 5e:64"`` (Megatron-LM's notation of a schedule).

    Returns:
        What a YAML of this policy would hold; None for a name that is not in this notation.
    """
    if match := _FIXED.fullmatch(name):
        parameters: dict[str, Any] = {"batch_size": int(match["size"])}
        if match["lr"]:
            parameters["lr"] = float(match["lr"])
        return {"name": name, "kind": "fixed", "parameters": parameters, "description": f"{name} throughout."}
    if match := _STAGES.fullmatch(name):
        within_rates = match["within"] is not None
        sizes = spread_sizes(int(match["first"]), int(match["last"]))
        span = "within each learning-rate value" if within_rates else "over the whole training"
        return {
            "name": name,
            "kind": "stages",
            "parameters": {"batch_sizes": list(sizes), "within_rates": within_rates},
            "description": f"Dynamic sampling of the paper: {', '.join(map(str, sizes))} in equal stages {span}.",
        }
    if (schedule := split_notation(name)) is not None:
        starts, batch_sizes = schedule
        return {
            "name": "_".join(f"{start}-{size}" for start, size in zip(starts, batch_sizes, strict=True)),
            "kind": "stages",
            "parameters": {"batch_sizes": batch_sizes, "starts": starts},
            "description": f"Batch sizes by schedule: {' '.join(name.split())}.",
        }
    return None
