"""How fast natural gradients fit, in theory: one number for each approximation of F."""

import torch
from torch import Tensor

from autobatch._errors import ConfigError, UnknownNameError, near_names
from autobatch._ranges import check_whole
from autobatch.optim._settings import check_between

APPROXIMATIONS = ("exact", "layer", "tridiagonal", "kfac", "unit")


def couplings(layers: int) -> Tensor:
    """Return T of the block tri-diagonal approximation: ones on the diagonal and beside it, (L, L) float64."""
    ones = torch.ones(layers, layers, dtype=torch.float64)
    return ones.tril(1).triu(-1)


def isotropy(
    approximation: str, layers: int, *, samples: int | None = None, width: int | None = None, active: float = 0.5
) -> float:
    """Return α of a wide network of one output, trained by natural gradient on the mean of squares over 2.

    Outputs on the training data then go as f_t = f_0 + (1 - (1 - α lr)ᵗ) (y - f_0), for any approximation of F
    (Karakida and Osawa 2020, arXiv 2010.00879): lr = 1 / α fits in one step, and lr in (0, 2 / α) converges. With F in
    blocks of layers α is their number L; of blocks beside each other s for L = 3 s and s + 1 for L = 3 s + 1.

    For Kronecker factors, which need as many independent inputs as samples in every layer, the authors' program has
    N L, for units γ (L - 1) M. The last layer of one output has a single unit, which adds 1: N (L - 1) + 1 and
    γ (L - 1) M + 1 are what outputs follow, and what this function returns.

    Args:
        approximation: "exact", "layer", "tridiagonal", "kfac" or "unit".
        layers: L, layers with weights.
        samples: N, for "kfac".
        width: M, units of a hidden layer, for "unit".
        active: γ, the share of units that pass a gradient: 1/2 of ReLUs, 1 of smooth ones; for "unit".

    Returns:
        α.

    Raises:
        UnknownNameError: there is no such approximation.
        ConfigError: tri-diagonal blocks of 2, 5, 8, ... layers are singular; ``samples`` or ``width`` is missing; or a
            number is out of its range.
    """
    check_whole(layers, "layers")
    check_between(active, "active", 0.0, 1.0, above=True)
    if approximation not in APPROXIMATIONS:
        raise UnknownNameError(f"approximation: {approximation!r}: {near_names(approximation, APPROXIMATIONS)}")
    if approximation == "exact":
        return 1.0
    if approximation == "layer":
        return float(layers)
    if approximation == "tridiagonal":
        if layers % 3 == 2:
            raise ConfigError(f"layers: blocks beside each other of {layers} layers (2, 5, 8, ...) are singular")
        return float(layers // 3 + layers % 3)
    if approximation == "kfac":
        return check_whole(samples, 'samples, which "kfac" needs') * (layers - 1) + 1.0
    return active * check_whole(width, 'width, which "unit" needs') * (layers - 1) + 1.0
