"""Sums over positions, by sample and channel."""

from torch import Tensor


def channel_sums(values: Tensor, batch: int) -> Tensor:
    """Return the sums of (B * r, C, ...) as (B, C)."""
    return values.reshape(len(values), values.shape[1], -1).sum(2).view(batch, -1, values.shape[1]).sum(1)


def normalised_products(x: Tensor, g: Tensor, mean: Tensor, rstd: Tensor, batch: int) -> Tensor:
    """Return rstd * sum of (x - mean) * g by sample and channel, (B, C)."""
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return channel_sums((x - mean.view(shape)) * g, batch) * rstd
