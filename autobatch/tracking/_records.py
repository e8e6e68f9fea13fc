"""What a record holds for trackers that tell numbers from text."""

from collections.abc import Mapping

from autobatch.tracking._protocol import Scalar

PREFIX = "autobatch/"

MAIN = ("batch_size", "lr_effective", "c_bar", "l_cum", "examples")
"""The figures that matter most: what is used, where that stands, and when."""


def main_figures(record: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return what a record holds of the figures that matter most, and its texts.

    Args:
        record: the record.

    Returns:
        Those of its entries.
    """
    return {name: value for name, value in record.items() if name in MAIN or isinstance(value, str)}


def as_metrics(record: Mapping[str, Scalar], prefix: str = PREFIX) -> dict[str, float]:
    """Return the numbers of a record; what is true or false becomes 1 or 0, text and what is not known is left out.

    Args:
        record: the record.
        prefix: goes before each name.

    Returns:
        The numbers by name. NaN and infinity are figures too (of a training that diverged) and stay.
    """
    return {
        prefix + name: float(value)
        for name, value in record.items()
        if value is not None and not isinstance(value, str)
    }


def as_texts(record: Mapping[str, Scalar], prefix: str = PREFIX) -> dict[str, str]:
    """Return the texts of a record.

    Args:
        record: the record.
        prefix: goes before each name.

    Returns:
        The texts by name.
    """
    return {prefix + name: value for name, value in record.items() if isinstance(value, str)}


class ChangedTexts:
    """Tells which texts of a record differ from those of the record before."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def of(self, record: Mapping[str, Scalar]) -> dict[str, str]:
        """Return the texts that are new by name, with the prefix; ``"none"`` where a text is gone."""
        texts = as_texts(record)
        gone = {name: "none" for name in self._last if name not in texts}
        changed = {name: text for name, text in (texts | gone).items() if self._last.get(name) != text}
        self._last = texts
        return changed
