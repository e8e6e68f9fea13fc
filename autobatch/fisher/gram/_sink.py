"""Where a step's per-sample gradients go: what turns them into the Gram matrix."""

from typing import Protocol

import torch
from torch import Tensor

from autobatch.fisher.gram._gram import GramAccumulator, Jacobian, add_blocks
from autobatch.fisher.gram._jacobians import Taker, joined


class Sink(Protocol):
    """Takes the per-sample gradients of one parameter after the other."""

    def begin(self, batch_size: int) -> None:
        """Begin a pass over so many samples."""
        ...

    def add(self, name: str, uses: list[Jacobian]) -> None:
        """Take all uses of one parameter in this pass."""
        ...


class GramSink(Sink, Protocol):
    """A sink that turns them into F."""

    def result(self) -> Tensor:
        """Return F of all passes, (B, B) float64."""
        ...


class StreamingGram:
    """The sink of a step with one pass: multiplies each parameter's J as soon as it is there, and lets go of it.

    Args:
        device: where the gradients live, and F.
        max_memory: bytes for blocks of J.
        apart: whether each module's own F is kept, (B, B) each.
        taker: gets the per-sample gradients too, parameter by parameter.
    """

    def __init__(
        self, device: torch.device, max_memory: int, *, apart: bool = False, taker: Taker = lambda *_: None
    ) -> None:
        self._device = device
        self._max_memory = max_memory
        self._apart = apart
        self._taker = taker

    def begin(self, batch_size: int) -> None:
        """Begin the pass."""
        self._batch_size = batch_size
        self._grams: dict[str, GramAccumulator] = {}
        self._before: dict[str, Tensor] = {}
        self.sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._gram_of("")

    def add(self, name: str, uses: list[Jacobian], gradient: Tensor | None = None) -> None:
        """Add one parameter, all uses of it; fill ``gradient`` with the sum of J over samples of its only use.

        Afterwards ``sums[name]`` is 1ᵀF1 and the trace of F, (2,) float64, before the parameter and with it.
        """
        self._taker(name, uses)
        module = name.rpartition(".")[0] if self._apart else ""
        gram = self._gram_of(module)
        uses = joined(uses) if len(uses) > 1 else uses
        if len(uses) == 1:
            uses[0].add_to(gram, gradient)
        else:
            add_blocks(uses, gram)
        before, self._before[module] = self._before[module], gram.sums()
        self.sums[name] = (before, self._before[module])

    def _gram_of(self, module: str) -> GramAccumulator:
        if module not in self._grams:
            self._grams[module] = GramAccumulator(self._batch_size, self._device, self._max_memory)
            self._before[module] = torch.zeros(2, dtype=torch.float64, device=self._device)
        return self._grams[module]

    def result(self) -> Tensor:
        """Return F, (B, B) float64."""
        first, *others = self.by_module().values() if self._apart else (self._grams[""].result(),)
        return sum(others, first)

    def by_module(self) -> dict[str, Tensor]:
        """Return each module's own F, by the module's name."""
        used = {name.rpartition(".")[0]: None for name in self.sums}
        return {module: self._grams[module].result() for module in used}
