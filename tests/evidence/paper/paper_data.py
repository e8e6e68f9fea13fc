"""A comparison with planted figures: runs of a law under the paper's dynamic sampling."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from autobatch.policies.baselines._stages import segment_bounds, spread_sizes, stage_at
from tests.beacons.synthetic import Law

SEEDS = (100, 101, 102, 103)


def sizes_of(policy: str, law: Law) -> list[int]:
    """Batch size of each epoch of ``sA-to-B``, ``sA-to-B-ms`` or ``sA-lrR``."""
    if "-to-" not in policy:
        return [int(policy[1:].split("-", maxsplit=1)[0])] * law.epochs
    first, last = (int(part) for part in policy[1:].removesuffix("-ms").split("-to-"))
    stages = spread_sizes(first, last)
    bounds = segment_bounds(law.epochs, (0.5, 0.75)) if policy.endswith("-ms") else [(0, law.epochs)]
    return [stages[stage_at(epoch, start, stop, len(stages))] for start, stop in bounds for epoch in range(start, stop)]


def comparison(
    errors: Mapping[str, float],
    *,
    sizes: Mapping[str, Sequence[int]] | None = None,
    noise: float = 0.02,
    positions: bool = True,
) -> tuple[pa.Table, pa.Table]:
    """Tables of runs and of epochs of policies with these test errors, at rate 0.1; ``sizes`` replaces theirs."""
    law = Law()
    runs: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []
    for policy, error in errors.items():
        own = list((sizes or {}).get(policy, sizes_of(policy, law)))
        for seed in SEEDS:
            drawn = np.random.default_rng(seed).standard_normal(4)
            factor = np.exp(noise * drawn)
            place = law.journey([(size, 0.1) for size in own])
            for epoch, (size, here) in enumerate(zip(own, place, strict=True), start=1):
                epochs.append({
                    "env": "synthetic",
                    "policy": policy,
                    "seed": seed,
                    "epoch": epoch,
                    "progress": epoch / law.epochs,
                    "batch_size": size,
                    "lr": 0.1,
                    "lr_effective": 0.1,
                    "c_bar": here.c_bar * factor[0] if positions else float("nan"),
                    "l_cum": here.l_cum * factor[1] if positions else float("nan"),
                    "steps": int(here.steps),
                    "samples": 4 * epoch,
                    "examples": law.train_size * epoch,
                    "train_loss": 2.0 / epoch,
                    "validation_loss": 1.0 / epoch,
                    "validation_error": 0.3 / epoch,
                    "seconds": 0.011 * here.steps,
                    "measuring_seconds": 0.0,
                })
            runs.append({
                "env": "synthetic",
                "policy": policy,
                "seed": seed,
                "stopped_because": "finished",
                "validation_loss": error * factor[2],
                "validation_error": error * factor[2],
                "test_error": error * factor[3],
                "seconds": 0.011 * place[-1].steps,
                "measuring_seconds": 0.0,
                "side_by_side": 1,
            })
    return pa.Table.from_pylist(runs), pa.Table.from_pylist(epochs)
