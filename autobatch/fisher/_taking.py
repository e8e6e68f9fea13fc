"""Per-sample gradients of a step for others than the Gram matrix: what ``autobatch.optim`` goes by."""

from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from autobatch.fisher.capture import Capture
from autobatch.fisher.following import Samples
from autobatch.fisher.gram import Jacobian, Sink, Taker
from autobatch.fisher.gram._jacobians import OuterJacobian
from autobatch.fisher.layers._convolution import ConvolutionJacobian


class TakenGradients(Sink):
    """The context of one or more passes whose per-sample gradients are handed on, with the hooks of ``FisherProbe``.

    Args:
        model: the model, unmodified.
        taker: called in the backward pass with each parameter's name and the Jacobians of all its uses.
        passes: calls of the model in the body, each followed by its backward pass.
        twice: what the error says where a pass calls the model more than once; None for measuring's own words.

    Attributes:
        batch_size: B of the last pass.
    """

    def __init__(self, model: nn.Module, taker: Taker, *, passes: int = 1, twice: str | None = None) -> None:
        self.taker = taker
        self._capture = Capture(model, "rows", self, passes, Samples, rows=False, counted=None, twice=twice)

    def __enter__(self) -> Self:
        self._capture.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the passes.

        Raises:
            MeasureError: the gradients of some sample could not be told apart; nothing else was disturbed.
        """
        self._capture.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        try:
            if error is None:
                self._capture.finish()
        finally:
            self._capture.close()


@torch.no_grad()
def factors_of(jacobian: Jacobian) -> tuple[Tensor, Tensor] | None:
    """Return what the per-sample gradients of a matrix product or a convolution are made of.

    Args:
        jacobian: of one use of a weight.

    Returns:
        Output gradients (B, T, rows) and inputs (B, T, width), whose outer products, summed over the T positions, are
        the samples' gradients in the weight's own order; None where they are not made like that. Where ``is_turned``
        says so the first are inputs and the second output gradients.
    """
    return jacobian.factors() if isinstance(jacobian, OuterJacobian | ConvolutionJacobian) else None


def is_turned(jacobian: Jacobian) -> bool:
    """Return whether a weight's rows are inputs, as of ``x @ weight``, so that its factors are the other way round.

    Args:
        jacobian: of one use of a weight.
    """
    return isinstance(jacobian, OuterJacobian | ConvolutionJacobian) and jacobian.turned
