"""What networks are trained and judged by: cross entropy of classes, squared error of quantities."""

import torch.nn.functional as F
from torch import Tensor

from autobatch._errors import ConfigError


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of a batch, which is trained.

    Args:
        outputs: of the network: of classes logits, (N, classes) or (N, classes, places); of quantities, (N, quantities)
            or, of a single one, (N,).
        targets: classes, int64, (N,) or (N, places), or quantities, float32, (N, quantities).

    Returns:
        The mean over examples and their places or quantities: cross entropy, in nats, or the squared error.

    Raises:
        ConfigError: the network does not give as many quantities as there are.
    """
    if targets.is_floating_point():
        return F.mse_loss(_shaped(outputs, targets), targets)
    return F.cross_entropy(outputs, targets)


def each_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each example, (N,), as ``mean_loss`` has their mean."""
    if targets.is_floating_point():
        return F.mse_loss(_shaped(outputs, targets), targets, reduction="none").mean(dim=1)
    return F.cross_entropy(outputs, targets, reduction="none").reshape(len(targets), -1).mean(dim=1)


def summed(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a batch adds to loss and error: sums of the loss, and of wrong predictions or of squared errors."""
    if targets.is_floating_point():
        squares = F.mse_loss(_shaped(outputs, targets), targets, reduction="sum")
        return squares, squares
    loss = F.cross_entropy(outputs, targets, reduction="sum")
    return loss, (outputs.argmax(dim=1) != targets).sum().to(loss.dtype)


def error_of(wrong: float, targets: Tensor) -> float:
    """Return the error of a part by the sum of ``summed``.

    Args:
        wrong: wrong predictions, or the sum of squared errors.
        targets: of the whole part.

    Returns:
        The share of wrong predictions; of quantities the share of their variance that is left, 1 - R², and 1 where it
        is more.
    """
    if not targets.is_floating_point():
        return wrong / targets.numel()
    about_the_mean = float((targets.double() - targets.double().mean(dim=0)).square().sum())
    return wrong / about_the_mean if wrong < about_the_mean else 1.0


def _shaped(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape == targets.shape:
        return outputs
    if targets.shape[1] == 1 and outputs.ndim < 2 and outputs.numel() == len(targets):  # (), too, of one example
        return outputs.reshape(targets.shape)
    raise ConfigError(
        f"key 'model': expected outputs of shape {tuple(targets.shape)}, one a quantity, got {tuple(outputs.shape)}"
    )
