"""Numbers as a person reads them in tables: shares, learning rates, configurations, batch-size paths."""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

from autobatch._plain import Epochs

C_AXIS = "C̄, running mean of the condition number"
L_AXIS = "L, cumulative energy weighted by the learning rate"
"""What the axes of the plane are called wherever it is drawn."""


def seconds_words(seconds: float | None) -> str:
    """Return a duration such as ``4.2 s``, ``37 s``, ``2 min 05 s`` or ``3 h 12 min``; ``-`` where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def percent_words(share: float | None) -> str:
    """Return a share in [0, 1] as ``1.84 %``; ``-`` where it is not known."""
    return f"{100 * share:.2f} %" if share is not None and math.isfinite(share) else "-"


def loss_words(loss: float | None) -> str:
    """Return a loss with four decimals, one beyond 10,000 as ``4.3e+31``; ``-`` where it is not known."""
    if loss is None or not math.isfinite(loss):
        return "-"
    return f"{loss:.4f}" if abs(loss) < 1e4 else f"{loss:.2g}"


def count_words(count: float | None) -> str:
    """Return a count with thousands apart, such as ``48,000``; ``-`` where it is not known."""
    return f"{count:,.0f}" if count is not None and math.isfinite(count) else "-"


def position_words(value: float | None) -> str:
    """Return C̄ or L to three significant digits, one beyond a billion as ``1.39e+35``; ``-`` where it is not known."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 1e9:
        return f"{value:.3g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def place_words(c_bar: float | None, l_cum: float | None) -> str:
    """Return a position in the plane, such as ``C̄ 41.2, L 3.10``."""
    return f"C̄ {position_words(c_bar)}, L {position_words(l_cum)}"


def configuration_words(batch_size: int, lr: float | None) -> str:
    """Return a fixed configuration in the paper's form, such as ``s32-lr0.05``; ``s32`` where the rate is left open."""
    return f"s{batch_size}" if lr is None else f"s{batch_size}-lr{lr:g}"


def path_words(values: Iterable[float], parts: int = 1) -> str:
    """Return values as a path with the epochs at each, such as ``16 ×4 → 64 ×10``.

    Args:
        values: one of each epoch, or of each part of one.
        parts: parts of an epoch.

    Returns:
        The path.
    """
    stretches = ((value, sum(1 for _ in epochs) / parts) for value, epochs in groupby(values))
    return " → ".join(f"{value:g} ×{count:.3g}" for value, count in stretches)


def parts_of(ends: Sequence[Epochs]) -> int:
    """Return in how many parts an epoch is told, by where each part ended."""
    return 1 if not ends or isinstance(ends[0], int) else round(1 / ends[0])


def applied_words(base: Sequence[float], applied: Sequence[float], *, raised: bool = False) -> str:
    """Return how the rate that steps use went, beside the base rate that the policy chooses.

    Args:
        base: base learning rate of each epoch.
        applied: learning rate of each epoch as its steps use it.
        raised: whether the schedule's factor is higher for batches that have grown.

    Returns:
        Such as ``0.05 at first, 0.00476 at the end``, with the highest where that is neither; that it is the base rate
        where it was all along.
    """
    if not applied:
        return "no epoch yet"
    if all(abs(one - other) <= 1e-9 * other for one, other in zip(applied, base, strict=True)):
        return "the base rate, all along"
    first, highest, last = applied[0], max(applied), applied[-1]
    between = f", {highest:.3g} at the highest" if f"{highest:.3g}" not in {f"{first:.3g}", f"{last:.3g}"} else ""
    factor = "the schedule's factor, which larger batches raise" if raised else "the schedule's factor"
    return f"{first:.3g} at first{between}, {last:.3g} at the end: the base rate times {factor}"


def epoch_words(epoch: Epochs) -> str:
    """Return finished epochs as ``3``, or as ``0.29`` where a part of one is among them."""
    return str(epoch) if isinstance(epoch, int) else f"{epoch:.2f}"


def epochs_words(first: Epochs, last: Epochs) -> str:
    """Return ``epoch 3``, ``epochs 3 to 7`` or ``epochs 0.14 to 2``."""
    return f"epoch {epoch_words(first)}" if first == last else f"epochs {epoch_words(first)} to {epoch_words(last)}"
