"""Why C̄ has leapt: one measured step with a huge condition number, and what its rank tells."""

import math
from collections.abc import Sequence

from autobatch.control.measuring._samples import MeasuredStep
from autobatch.policies._wording import count

LEAP = 30.0
"""Factor between two positions from which C̄ is said to have leapt; early in a training it rises tenfold an epoch."""

FEW = 5
"""Measured steps below which a C̄ is said to rest on few."""


def leap_words(before: float, after: float, samples: Sequence[MeasuredStep]) -> str | None:
    """Say what has made C̄ leap within a period with these measured steps; None where it has not."""
    usable = [sample for sample in samples if sample.usable]
    if not usable or not (math.isfinite(after) and before > 0.0 and after >= LEAP * before):
        return None
    worst = max(usable, key=lambda sample: sample.condition_number)
    missing = worst.batch_size - worst.rank
    if missing > 0:
        has = "has no direction of its own" if missing == 1 else "have no direction of their own"
        why = (
            f"{missing} of its {count(worst.batch_size, 'example')} {has} (the same example twice, or no "
            "gradient left), and the smallest eigenvalue that counts is nearly zero; that says nothing against the "
            "training"
        )
    else:
        why = "the batch is nearly singular: two examples with almost the same gradient, or one that is fitted"
    return (
        f"C̄ rose {after / before:.0f}-fold, from {before:.3g} to {after:.3g}, by step {worst.step}, whose condition "
        f"number is {worst.condition_number:.3g} at rank {worst.rank} of {worst.batch_size}: {why}"
    )
