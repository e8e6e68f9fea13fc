"""How policies put figures into words."""

import math
import re

from autobatch._plain import Epochs

_FIGURES_BEGIN = re.compile(r", (?:whose|training loss|which spares) |: [0-9.]+ % of | \((?!\d+ % sure)")
_HOW_SURE = re.compile(r"\d[\d.e+-]* % apart")
_BESIDE_IT = "as a scout"
_FALLS_BACK = ("by the rule alone, as ", "as steer: ")


def brief(reason: str) -> str:
    """Return a reason's first clause up to its figures, with how sure it is, and why what was learned is not used."""
    first, *others = [clause for clause in reason.split("; ") if clause != _BESIDE_IT] or [reason]
    short = _FIGURES_BEGIN.split(first, maxsplit=1)[0]
    apart = next((found[0] for clause in others if (found := _HOW_SURE.search(clause))), None)
    told = short if apart is None else f"{short}, {apart.removesuffix(' apart')} ahead of the next"
    return "; ".join([told, *(clause for clause in others if clause.startswith(_FALLS_BACK))])


def configuration(batch_size: int, lr: float | None) -> str:
    """Return the paper's name of a configuration, such as ``"s64 at lr 0.1"``; ``"s64"`` where ``lr`` is left open."""
    return f"s{batch_size}" if lr is None else f"s{batch_size} at lr {lr:g}"


def count(number: Epochs, noun: str) -> str:
    """Return a number with its noun, in the plural where needed, such as ``"22 epochs"`` or ``"0.286 epochs"``."""
    told = str(number) if isinstance(number, int) else figure(number)
    return f"{told} {noun}" if number == 1 else f"{told} {noun}s"


def in_epochs(number: float, periods: int) -> str:
    """Return decision periods as epochs, which have ``periods`` of them: ``"2 epochs"`` or ``"0.286 epochs"``."""
    whole, part = divmod(number, periods)
    return count(number / periods if part else int(whole), "epoch")


def duration(seconds: float) -> str:
    """Return seconds as a person reads them: ``"0.36 s"``, ``"48 s"``, ``"3 min 20 s"`` or ``"2 h 5 min"``."""
    if seconds < 0.995:
        return f"{seconds:.2g} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 120:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def estimate(value: float, uncertainty: float) -> str:
    """Return a value with its standard error to the digits that it leaves meaningful, such as ``"0.0342 ± 0.0031"``."""
    if not (math.isfinite(uncertainty) and uncertainty > 0):
        return figure(value)
    decimals = max(0, 1 - math.floor(math.log10(uncertainty)))
    return f"{value:.{decimals}f} ± {uncertainty:.{decimals}f}"


def figure(value: float) -> str:
    """Return a number to three significant digits, such as ``"0.0342"`` or ``"1520"``."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if 1000 <= abs(value) < 1e9:
        return f"{value:.0f}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """Return a share as a percentage, such as ``"5 %"`` or ``"2.5 %"``."""
    return f"{100 * share:.3g} %"
