"""Lists on the command line: names, whole numbers with ranges, and numbers."""

import typer

_MOST = 10_000
"""Numbers that a range may stand for."""


def names(text: str) -> list[str]:
    """Return the parts of a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def whole_numbers(text: str, option: str, such: str) -> list[int]:
    """Read a list of whole numbers.

    Args:
        text: numbers and ranges with commas, such as ``100-104,110``.
        option: the option that it was given for.
        such: an example for whoever gave another.

    Returns:
        The numbers, as they come.

    Raises:
        BadParameter: it is something else.
    """
    found: list[int] = []
    for part in names(text):
        first, dash, last = part.partition("-")
        try:
            low, high = int(first), int(last) if dash else int(first)
        except ValueError:
            low, high = 1, 0
        if not 0 <= low <= high < 2**63 or high - low >= _MOST:
            raise typer.BadParameter(
                f"expected whole numbers and ranges such as {such}, got {part!r}", param_hint=option
            )
        found += range(low, high + 1)
    if not found:
        raise typer.BadParameter(f"expected at least one number, such as {such}", param_hint=option)
    return found


def numbers(text: str | None, option: str) -> list[float] | None:
    """Return the numbers of a list; None where there is none."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise typer.BadParameter(f"expected numbers separated by commas, got {text!r}", param_hint=option) from None


def integers(text: str | None, option: str, such: str) -> list[int] | None:
    """Read a list of whole numbers, as ``whole_numbers`` does, with commas or spaces; None where there is none."""
    return None if text is None else whole_numbers(text.replace(" ", ","), option, such)
