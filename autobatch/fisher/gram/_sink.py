"""Where a step's per-sample gradients go: sinks, and the one that multiplies them at once."""

import zlib
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor

from autobatch.fisher.gram._gram import GramAccumulator, Jacobian, Taker, add_blocks
from autobatch.fisher.gram._group import agree
from autobatch.fisher.gram._jacobians import joined


class Sink:
    """Takes the per-sample gradients of one parameter after the other; this one only hands them on.

    Attributes:
        taker: what they are handed on to, where there is one.
        batch_size: samples of the pass.
    """

    taker: Taker | None = None
    batch_size = 0

    def begin(self, batch_size: int) -> None:
        """Begin a pass over so many samples."""
        self.batch_size = batch_size

    def add(self, name: str, uses: list[Jacobian]) -> None:
        """Take all uses of one parameter in this pass."""
        if self.taker is not None:
            self.taker(name, uses)


@dataclass(eq=False)
class GramSink(Sink):
    """A sink that makes F of them."""

    device: torch.device  # where the gradients live, and F
    max_memory: int  # bytes for J and for what is needed to make, send and multiply it, but matrices of F's size
    _: KW_ONLY
    # The processes that share the batch, on a backend that serves ``device``; None for this one alone.
    group: Any = None
    mean: bool = True  # whether each one's loss is a mean over its own samples: its rows are scaled by their number
    # Of each pass, by parameter, 1ᵀF1 and the trace of F, (2,) float64, before the parameter and with it; None where
    # they are not kept apart.
    passes: list[dict[str, tuple[Tensor, Tensor]]] | None = field(default=None, init=False)

    def agree(self, problem: Exception | None) -> None:
        """Raise what was wrong with the step, before ``result``; where J is sent then, on all processes or on none."""
        told = self.told()
        if self.group is not None and told is not None:
            agree(problem, zlib.crc32(repr(told).encode()), self.device, self.group)
        elif problem is not None:
            raise problem

    def told(self) -> Any:
        """Return what must be the same on all processes before they send J; None where they have sent it."""
        return None

    def result(self) -> Tensor:
        """Return F of all passes, (B, B) float64; with a group of all its processes' samples, scaled to the sum."""
        raise NotImplementedError

    def local(self) -> Tensor | None:
        """Return the block of this process's samples, not scaled, after ``result``; None where that is F itself."""
        return None

    def by_module(self) -> dict[str, Tensor] | None:
        """Return each module's own F, by the module's name, where that was asked for."""
        return None


@dataclass(eq=False)
class StreamingGram(GramSink):
    """The sink of a step with one pass: multiplies each parameter's J as soon as it is there, and lets go of it."""

    apart: bool = False  # whether each module's own F is kept, (B, B) each

    def begin(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._grams: dict[str, GramAccumulator] = {}
        self._before: dict[str, Tensor] = {}
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self.passes = [self._sums]
        self._gram_of("")

    def add(self, name: str, uses: list[Jacobian], gradient: Tensor | None = None) -> None:
        """Add one parameter, all uses of it; fill ``gradient`` with the sum of J over samples of its only use."""
        super().add(name, uses)
        module = name.rpartition(".")[0] if self.apart else ""
        gram = self._gram_of(module)
        uses = joined(uses) if len(uses) > 1 else uses
        if len(uses) == 1:
            uses[0].add_to(gram, gradient)
        else:
            add_blocks(uses, gram)
        before, self._before[module] = self._before[module], gram.sums()
        self._sums[name] = (before, self._before[module])

    def _gram_of(self, module: str) -> GramAccumulator:
        if module not in self._grams:
            self._grams[module] = GramAccumulator(self.batch_size, self.device, self.max_memory)
            self._before[module] = torch.zeros(2, dtype=torch.float64, device=self.device)
        return self._grams[module]

    def result(self) -> Tensor:
        first, *others = (self.by_module() or {"": self._grams[""].result()}).values()
        return sum(others, first)

    def by_module(self) -> dict[str, Tensor] | None:
        used = {name.rpartition(".")[0]: None for name in self._sums}
        return {module: self._grams[module].result() for module in used} if self.apart else None
