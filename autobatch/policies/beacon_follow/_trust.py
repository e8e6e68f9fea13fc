"""Whether the beacons are of this training: what it trains to, beside what they trained to at the same place."""

import math
from collections.abc import Mapping

import numpy as np

from autobatch.beacons import BeaconLibrary
from autobatch.policies._wording import configuration, count, figure

ALIKE = 5.0
"""Factor between a run's training loss and its beacons' from which they are not of the same training.

Of 677 recorded trainings the loss of none lay further than a factor of 4.5 from that of the other seeds of its
configuration, over any three epochs (``benchmarks/evidence/landscape.py --seeds``)."""

PERIODS = 3
"""Decision periods that are compared."""


def told_mismatch(library: BeaconLibrary, used: tuple[int, float], losses: Mapping[int, float]) -> str:
    """Say that a run does not do as its beacons did.

    Args:
        library: the beacons.
        used: batch size and base learning rate of the run, from its start on.
        losses: its training loss by finished decision periods, where it is known.

    Returns:
        One clause; empty where it does, and where too little is known to say so.
    """
    curves = [beacon.rows["train_loss"] for beacon in library.beacons_at(*used)]
    pairs = []
    for period, own in sorted(losses.items()):
        there = [float(curve[period - 1]) for curve in curves if len(curve) >= period]
        if there and all(0.0 < loss < math.inf for loss in (own, *there)):
            pairs.append((own, math.exp(np.mean(np.log(there)))))
    pairs = pairs[-PERIODS:]
    if len(pairs) < PERIODS:
        return ""
    apart = sum(math.log(own / theirs) for own, theirs in pairs) / PERIODS
    if abs(apart) < math.log(ALIKE):
        return ""
    own, theirs = pairs[-1]
    which = "above" if apart > 0 else "below"
    return (
        f"its training loss over {count(PERIODS, 'epoch')} is {math.exp(abs(apart)):.1f} times {which} that of the "
        f"beacons at {configuration(*used)} ({figure(own)} against {figure(theirs)}), so they are of another training "
        "and are followed no longer"
    )
