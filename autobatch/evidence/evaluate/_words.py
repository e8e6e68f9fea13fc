"""Figures of trainings as reports write them: cells of Markdown, CSV and JSON."""

import math
from collections.abc import Iterable
from typing import Any

from autobatch.report import loss_words, percent_words

UNKNOWN = "-"


def table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    lines = [list(heading)]
    body = [[text.replace("|", "/") for text in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [*lines, ["---"] * len(lines[0]), *body])


def score_words(value: float, score: str) -> str:
    """Return a validation figure: an error as a percentage, a loss with four decimals."""
    return percent_words(value) if score.endswith("_error") else loss_words(value)


def signed_score(value: float, score: str) -> str:
    """Return a difference of validation figures, in points of a percentage where they are errors."""
    return f"{100 * value:+.2f} points" if score.endswith("_error") else f"{value:+.4f}"


def ratio_words(value: float) -> str:
    """Return a plain figure with three decimals."""
    return UNKNOWN if math.isnan(value) else f"{value:.3f}"


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


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it; null stands for what is not finite."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
