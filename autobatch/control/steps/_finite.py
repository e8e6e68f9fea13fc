"""Whether parameters are still numbers: what tells a training that has diverged from a figure that is missing."""

from collections.abc import Iterable

import torch
from torch import Tensor


def all_finite(parameters: Iterable[Tensor]) -> bool:
    """Say whether all values are finite, on all processes where a parameter is spread over them."""
    checks = [_whole(torch.isfinite(parameter.detach()).all()) for parameter in parameters]
    return not checks or bool(torch.stack([check.to(checks[0].device) for check in checks]).all())


def _whole(check: Tensor) -> Tensor:
    """Return what all processes say of a parameter that is spread over them."""
    whole: Tensor = check.full_tensor() if hasattr(check, "full_tensor") else check
    return whole
