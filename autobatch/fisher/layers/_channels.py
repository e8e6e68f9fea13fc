"""Sums over positions, by sample and channel: per-sample gradients of channels' shifts and scales."""

import torch
from torch import Tensor

# Bytes of temporaries at a time: they stay in a CPU's cache, and memory is capped.
_CACHE = 2 << 20


def channel_sums(values: Tensor, batch: int) -> Tensor:
    """Return the sums of (B * r, C, ...), r consecutive rows of one sample each, as (B, C)."""
    if values.ndim > 2:
        values = values.sum(tuple(range(2, values.ndim)))
    return _by_sample(values, batch)


def normalised_products(x: Tensor, g: Tensor, mean: Tensor, rstd: Tensor, batch: int) -> Tensor:
    """Return rstd * sum of (x - mean) * g over positions, (B, C): the gradient of a scale after a normalisation.

    The mean is subtracted before anything is summed, so a mean far from zero costs no digits.

    Args:
        x: (B * r, C, ...) input of the normalisation, r consecutive rows of one sample each, in any memory format.
        g: of the same shape, the gradient of its output.
        mean: (C,), or (B * r, C) where rows have their own, as in a group norm.
        rstd: 1 / standard deviation, of the same shape.
        batch: B.
    """
    rows, channels = x.shape[:2]
    mean, rstd = mean.expand(rows, channels), rstd.expand(rows, channels)
    if x.ndim == 2:
        return _by_sample((x - mean) * g * rstd, batch)
    if x.device.type == "cpu" and x.is_contiguous() and g.is_contiguous():
        # One pass over both: each row's channels are channels of their own in one batch norm's backward pass.
        x, g = x.view(1, rows * channels, -1), g.view(1, rows * channels, -1)
        mean, rstd = mean.reshape(-1), rstd.reshape(-1)
        products: Tensor = torch.ops.aten.native_batch_norm_backward(
            g, x, None, None, None, mean, rstd, True, 0.0, [False, True, False]
        )[1]
        return _by_sample(products.view(rows, channels), batch)
    sums = x.new_empty(rows, channels)
    mean = mean.reshape(rows, channels, *(1,) * (x.ndim - 2))
    size = max(1, min(rows, _CACHE * rows // (x.numel() * x.element_size())))
    buffer = torch.empty_like(x[:size])
    for lo in range(0, rows, size):
        some = slice(lo, min(lo + size, rows))
        part = buffer[: some.stop - lo]
        torch.sub(x[some], mean[some], out=part)
        part *= g[some]
        torch.sum(part, tuple(range(2, x.ndim)), out=sums[some])
    return _by_sample(sums * rstd, batch)


def _by_sample(values: Tensor, batch: int) -> Tensor:
    return values if len(values) == batch else values.view(batch, -1, values.shape[1]).sum(1)
