"""Megatron-LM's notation of a batch-size schedule: ``0:768 250B:1536``, from how many examples on which size.

Megatron counts with the suffixes K, M, B and T (powers of 1000). Here ``e`` counts epochs, as in ``0:32 5e:64``.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_START = re.compile(r"(\d+(?:\.\d+)?)([kmbt]?|e)", flags=re.IGNORECASE)
_ENTRY = re.compile(rf"{_START.pattern}:(\d{{1,9}})", flags=re.IGNORECASE)

Start = tuple[float, bool]
"""Where an entry begins, and whether that counts epochs; examples otherwise."""


def parse_start(text: str) -> Start:
    """Read where an entry, such as ``"0"``, ``"250K"``, ``"1.5M"`` or ``"5e"``, begins; and whether in epochs."""
    found = _START.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"expected examples or epochs such as 0, 250K, 1.5M or 5e, got {text!r}")
    number, suffix = float(found[1]), found[2].lower()
    return (number, True) if suffix == "e" else (number * _SUFFIXES[suffix], False)


def told_start(text: str) -> str:
    """Return where an entry begins, in words."""
    number, epochs = parse_start(text)
    return f"epoch {number + 1:g} on" if epochs else f"example {number:,.0f} on"


def split_notation(text: str) -> tuple[list[str], list[int]] | None:
    """Split a schedule such as ``"0:32 5e:64"`` into its starts and batch sizes; None for other text."""
    entries = [_ENTRY.fullmatch(entry) for entry in text.split()]
    if not entries:
        return None
    starts, sizes = [], []
    for entry in entries:
        if entry is None:
            return None
        starts.append(f"{entry[1]}{entry[2]}")
        sizes.append(int(entry[3]))
    return starts, sizes


def notation(values: Sequence[float], ends: Sequence[float], suffix: str = "") -> str:
    """Write down a schedule.

    Args:
        values: what was in use, stretch by stretch, such as the batch size of each epoch.
        ends: where each stretch ended, in examples or epochs.
        suffix: ``"e"`` for epochs.

    Returns:
        Such as ``"0:32 4912:64"``; stretches with one value are one.
    """
    entries = [(0.0, values[0])] if values else []
    entries += [(end, after) for (before, after), end in zip(pairwise(values), ends, strict=False) if after != before]
    told = "{:.4g}" if suffix else "{:.10g}"
    return " ".join(f"{told.format(start)}{suffix if start else ''}:{value:g}" for start, value in entries)


def problem_of(starts: Iterable[str], sizes: Sequence[int]) -> str | None:
    """Say what is wrong with a schedule, by the starts and batch sizes of its entries; None where nothing is."""
    try:
        read = [parse_start(start) for start in starts]
    except ValueError as error:
        return str(error)
    if len(read) != len(sizes):
        return f"expected one start a batch size, got {len(read)} and {len(sizes)}"
    if read[0][0] != 0.0:
        return "expected the first entry to start at 0"
    for kind in (True, False):
        own = [number for number, epochs in read[1:] if epochs is kind]
        if any(later <= earlier for earlier, later in pairwise([0.0, *own])):
            return "expected ascending starts, each once"
    return None
