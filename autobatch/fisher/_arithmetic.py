"""Plain IEEE arithmetic for measuring, whatever the training around it uses."""

import contextlib
import functools
import logging
from typing import Any

import torch

_logger = logging.getLogger("autobatch")


@functools.cache
def _settings(device_type: str) -> tuple[Any, ...]:
    backends: Any = torch.backends
    if device_type == "cuda":
        return backends.cuda.matmul, backends.cudnn.conv
    return backends.mkldnn.matmul, backends.mkldnn.conv


def reduced_eps(device_type: str) -> float:
    """Return the machine epsilon of float32 products in the model's own arithmetic on a type of device.

    That is TF32's (2^-10) or bfloat16's (2^-7) where such a product may be rounded to them, as cuDNN's convolutions are
    by default; float32's otherwise.
    """
    eps = {"tf32": 2.0**-10, "bf16": 2.0**-7}
    plain = torch.finfo(torch.float32).eps
    return max(eps.get(getattr(setting, "fp32_precision", "none"), plain) for setting in _settings(device_type))


@functools.cache
def note_low_precision(eps: float, device_type: str) -> None:
    """Log, once for each arithmetic and type of device, that the gradients' own rounding shows in the measure.

    The figures are those of ``benchmarks/fisher/precision.py``; float16's are within 5 % and not logged.
    """
    if eps == torch.finfo(torch.bfloat16).eps:
        _logger.warning(
            "gradients are rounded to bfloat16: the condition number is off by up to 10 %, the root of the trace"
            " by up to 4 %; do not compare them with those of float32"
        )
    elif eps == reduced_eps(device_type) > torch.finfo(torch.float32).eps:
        _logger.warning("the training rounds float32 products to TF32; the measure's own products are not rounded")


def exact_arithmetic(device_type: str) -> contextlib.AbstractContextManager[object]:
    """Return a context that computes on a type of device in the tensors' own precision, without gradients."""
    rounded = [setting for setting in _settings(device_type) if setting.fp32_precision in {"tf32", "bf16"}]
    if not rounded and not torch.is_autocast_enabled(device_type):
        return torch.no_grad() if torch.is_grad_enabled() else contextlib.nullcontext()
    stack = contextlib.ExitStack()
    stack.enter_context(torch.no_grad())
    stack.enter_context(torch.autocast(device_type, enabled=False))
    for setting in rounded:
        stack.callback(setattr, setting, "fp32_precision", setting.fp32_precision)
        setting.fp32_precision = "ieee"
    return stack
