"""The optimizers of PyTorch and of ``autobatch.optim`` by the names that a task has for them."""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

from torch import nn
from torch.optim import Adagrad, Adam, AdamW, Optimizer, RMSprop

from autobatch._errors import AutoBatchError
from autobatch._ranges import check_kind
from autobatch.optim import KFAC, FisherOptimizer, MiniBlockFisher, NaturalGradient, Padam
from autobatch.optim._settings import check_between

OF_FISHER: Final[dict[str, Callable[[nn.Module, dict[str, Any], float], FisherOptimizer]]] = {
    "padam": lambda model, given, beta: Padam(model.named_parameters(), betas=(beta, 0.999), **given),
    "mini-block-fisher": lambda model, given, momentum: MiniBlockFisher(
        model.named_parameters(), momentum=momentum, **given
    ),
    "kfac": lambda model, given, momentum: KFAC(model.named_parameters(), model, momentum=momentum, **given),
    "natural-gradient": lambda model, given, _: NaturalGradient(model.named_parameters(), model, **given),
}
"""What makes each of a model, its arguments and the momentum."""


def _of_adam(
    kind: type[Adam] | type[AdamW], parameters: Iterable[nn.Parameter], given: dict[str, Any], beta: float
) -> Optimizer:
    others = {key: value for key, value in given.items() if key != "beta2"}
    return kind(parameters, betas=(beta, given.get("beta2", 0.999)), fused=True, **others)


OF_TORCH: Final[dict[str, Callable[[Iterable[nn.Parameter], dict[str, Any], float], Optimizer]]] = {
    "adam": partial(_of_adam, Adam),
    "adamw": partial(_of_adam, AdamW),
    "rmsprop": lambda parameters, given, momentum: RMSprop(parameters, momentum=momentum, **given),
    "adagrad": lambda parameters, given, _: Adagrad(parameters, **given),
}
"""What makes each of the parameters, its arguments and the momentum."""

_below_one = partial(check_between, low=0.0, high=1.0, below=True)
_not_negative = partial(check_between, low=0.0, high=math.inf)
_a_switch = partial(check_kind, kinds=(bool,))

_CHECKS: Final[dict[str, Callable[..., None]]] = {
    "beta2": _below_one,
    "alpha": _below_one,
    "eps": _not_negative,
    "lr_decay": _not_negative,
    "initial_accumulator_value": _not_negative,
    "amsgrad": _a_switch,
    "centered": _a_switch,
}
"""What refuses a setting of PyTorch's optimizers, which take some that they cannot use."""


def settings_problem(name: str, settings: Mapping[str, Any]) -> str | None:
    """Return what is wrong with the settings of an optimizer that is known by name; None where nothing is."""
    try:
        if name in OF_TORCH:
            for key, value in settings.items():
                _CHECKS[key](value, what=key)
        else:
            OF_FISHER[name](nn.LayerNorm(1), dict(settings), 0.0)  # any model, of one that draws no random numbers
    except (AutoBatchError, TypeError, ValueError) as error:
        return str(error)
    return None
