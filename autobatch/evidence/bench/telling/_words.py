"""Figures of trainings as reports write them: cells of Markdown, CSV and JSON. What is not known is ``-``, or empty."""

import math
from collections.abc import Iterable
from dataclasses import astuple
from typing import Any

from autobatch.evidence._statistics import Estimate
from autobatch.evidence.bench._figures import Ratios, Spread
from autobatch.evidence.bench._noninferior import NonInferiority
from autobatch.report import count_words, loss_words, percent_words, seconds_words

UNKNOWN = "-"


def table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(heading)]
    body = [[text.replace("|", "/") for text in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [*lines, ["---"] * len(lines[0]), *body])


def score_words(value: float, score: str) -> str:
    """Return a validation figure: an error as a percentage, a loss with four decimals."""
    return percent_words(value) if score.endswith("error") else loss_words(value)


def ratio_words(value: float, digits: int = 3) -> str:
    """Return a plain figure."""
    return UNKNOWN if math.isnan(value) else f"{value:.{digits}f}"


def signed_words(value: float, figure: str = "") -> str:
    """Return a difference, of errors in points of a percentage."""
    if math.isnan(value):
        return UNKNOWN
    scale, digits, unit = _scale(figure)
    return f"{scale * value:+.{digits}f}{unit}"


def interval_words(estimate: Estimate, figure: str = "") -> str:
    """Return a figure with its interval, where it has one; with a sign where it is a difference of ``figure``."""
    scale, digits, unit = _scale(figure)
    return _with_ends(estimate, scale, f"{'+' if figure else ''}.{digits}f", unit)


def relative_words(one: NonInferiority) -> str:
    """Return a relative difference in percent, with its interval."""
    return _with_ends(one.difference, 100.0, "+.1f", " %")


def spread_words(spread: Spread, figure: str) -> str:
    """Return a mean and its standard deviation, of errors in percent."""
    if math.isnan(spread.mean):
        return UNKNOWN
    scale, digits, unit = (100.0, 2, " %") if figure.endswith("error") else (1.0, 4, "")
    std = "" if math.isnan(spread.std) else f" ± {scale * spread.std:.{digits}f}"
    return f"{scale * spread.mean:.{digits}f}{std}{unit}"


def spread_interval(spread: Spread) -> str:
    """Return the interval of a mean error in percent."""
    return UNKNOWN if math.isnan(spread.low) else f"{100 * max(spread.low, 0.0):.2f} to {100 * spread.high:.2f} %"


def range_words(ratios: Ratios) -> str:
    """Return a median with its range."""
    if math.isnan(ratios.median):
        return UNKNOWN
    return f"{ratios.median:.2f} ({ratios.least:.2f} to {ratios.greatest:.2f})"


def share_words(value: float) -> str:
    """Return a share in percent with one decimal."""
    return UNKNOWN if math.isnan(value) else f"{value:.1%}"


def signed_seconds(seconds: float) -> str:
    """Return a duration that may be below 0."""
    return f"-{seconds_words(-seconds)}" if seconds < 0.0 else seconds_words(seconds)


def trainings_words(count: float) -> str:
    """Return after how many trainings something is paid back."""
    return "never" if math.isinf(count) else count_words(count)


def p_words(value: float) -> str:
    """Return a p-value."""
    return UNKNOWN if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def cell(value: Any) -> str:
    """Return a value as a cell of CSV; empty where it is not known."""
    if isinstance(value, tuple):
        return "; ".join(value)
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return "" if value is None else str(value)


def _with_ends(estimate: Estimate, scale: float, form: str, unit: str) -> str:
    if math.isnan(estimate.value):
        return UNKNOWN
    value, low, high = (format(scale * each, form) for each in astuple(estimate))
    return (value if math.isnan(estimate.low) else f"{value} [{low}, {high}]") + unit


def _scale(figure: str) -> tuple[float, int, str]:
    if figure.endswith("error"):
        return 100.0, 2, " points"
    return 1.0, 4 if figure.endswith("loss") else 3, ""
