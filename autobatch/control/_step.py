"""What a loop's step gets in its hands."""

from torch import Tensor

from autobatch.fisher import FisherProbe


class Step:
    """One step of the loop: its backward pass.

    Args:
        probe: what measures the step; None where it is not measured.
    """

    def __init__(self, probe: FisherProbe | None = None) -> None:
        self._probe = probe

    def backward(self, loss: Tensor) -> None:
        """Do what ``loss.backward()`` does, and on a measured step measure in the same pass.

        Args:
            loss: the loss of the batch, scaled where a GradScaler is in use; a scalar.
        """
        if self._probe is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._probe.backward(loss)
