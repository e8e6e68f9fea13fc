"""What an analysis came to: a table of layers."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from autobatch._errors import UnknownNameError, near_names
from autobatch._show import Shown, drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LayerInformation:
    """One module's own block of the Fisher matrix, F of (P, P) for its P parameters.

    Attributes:
        layer: the module's dotted name, "" for the model's own parameters.
        kind: its class.
        parameters: P, those that are trained.
        trace: of F, the mean squared norm of a sample's gradient; exact.
        share: of all layers' traces, in [0, 1].
        sensitivity: trace / P, the mean of F's diagonal: how much a step in any of its parameters changes.
        removal: half the sum of θ² times F's diagonal, what setting its parameters to zero one at a time adds to the
            loss, summed (Theis et al. 2018, arXiv 1801.05787, eq. 6, in which F stands for the Hessian); exact.
        largest: the largest eigenvalue of F.
        effective_rank: trace² / ‖F‖², in how many directions F is spread, from 1 to P; NaN where F is zero.
        off: ‖K - F‖ / ‖F‖ of the approximation K, in Frobenius norms, on the first batch; 0 where nothing is
            approximated. Where a layer has no such approximation, this and what describes its spectrum is NaN.
        leading: its largest eigenvalues, at most 32, descending.
    """

    layer: str
    kind: str
    parameters: int
    trace: float
    share: float
    sensitivity: float
    removal: float
    largest: float
    effective_rank: float
    off: float
    leading: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class FisherInformation(Shown):
    """The Fisher matrix of a network, layer by layer; printed, it is a table.

    Attributes:
        layers: in the order of the model's parameters.
        samples: N, over which F is a mean.
        approximation: ``"none"``, or ``"kfac"`` where spectra are those of Kronecker products.
    """

    layers: tuple[LayerInformation, ...]
    samples: int
    approximation: str

    @property
    def trace(self) -> float:
        """Trace of the whole Fisher matrix."""
        return math.fsum(layer.trace for layer in self.layers)

    def __iter__(self) -> Iterator[LayerInformation]:
        return iter(self.layers)

    def __getitem__(self, name: str) -> LayerInformation:
        """Return a layer.

        Args:
            name: of the module.

        Returns:
            The layer.

        Raises:
            UnknownNameError: the model has no such layer with parameters that are trained.
        """
        by_name = {layer.layer: layer for layer in self.layers}
        if name not in by_name:
            raise UnknownNameError(f"layer {name!r}: {near_names(name, by_name)}")
        return by_name[name]

    def rows(self) -> list[dict[str, Any]]:
        """Return the table, one dictionary a layer: ``pandas.DataFrame(information.rows())``."""
        return [{key: value for key, value in asdict(layer).items() if key != "leading"} for layer in self.layers]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as a dictionary of plain values."""
        return asdict(self)

    def __repr__(self) -> str:
        shown = [column for column in _COLUMNS.items() if column[0] != "off" or self._approximated]
        lines = [[title for title, _ in shown], *([words(each) for _, words in shown] for each in self.layers)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = [
            "  ".join(
                cell.ljust(width) if place < 2 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        how = "spectra of Kronecker factors" if self._approximated else "exact"
        return "\n".join([f"Fisher information of {self.samples:,} samples, {how}", *(text.rstrip() for text in texts)])

    @property
    def _approximated(self) -> bool:
        return self.approximation != "none"

    def plot(self) -> "Figure":
        """Draw each layer's trace, its effective rank, what its removal costs, and its leading eigenvalues.

        Returns:
            A matplotlib figure; its ``savefig`` writes it, notebooks show it.
        """
        figure: Figure = drawn("figure", self)
        return figure


def _words(number: str) -> str:
    return "-" if "nan" in number else number


_COLUMNS: dict[str, Callable[[LayerInformation], str]] = {
    "layer": lambda each: each.layer or "(model)",
    "kind": lambda each: each.kind,
    "parameters": lambda each: f"{each.parameters:,}",
    "trace": lambda each: _words(f"{each.trace:.3g}"),
    "share": lambda each: f"{100 * each.share:.1f} %",
    "sensitivity": lambda each: _words(f"{each.sensitivity:.3g}"),
    "removal": lambda each: _words(f"{each.removal:.3g}"),
    "largest": lambda each: _words(f"{each.largest:.3g}"),
    "effective rank": lambda each: _words(f"{each.effective_rank:.1f}"),
    "off": lambda each: _words(f"{100 * each.off:.0f} %"),
}
"""Titles of the table, and what a layer has below each."""
