"""The optimizers of ``autobatch.optim`` by the names that a task has for them."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import nn

from autobatch._errors import AutoBatchError
from autobatch.optim import KFAC, FisherOptimizer, MiniBlockFisher, NaturalGradient, Padam

OF_FISHER: Final[dict[str, Callable[[nn.Module, dict[str, Any], float], FisherOptimizer]]] = {
    "padam": lambda model, given, beta: Padam(model.named_parameters(), betas=(beta, 0.999), **given),
    "mini-block-fisher": lambda model, given, momentum: MiniBlockFisher(
        model.named_parameters(), momentum=momentum, **given
    ),
    "kfac": lambda model, given, momentum: KFAC(model.named_parameters(), model, momentum=momentum, **given),
    "natural-gradient": lambda model, given, _: NaturalGradient(model.named_parameters(), model, **given),
}
"""What makes each of a model, its arguments and the momentum."""


def settings_problem(name: str, settings: Mapping[str, Any]) -> str | None:
    """Return what is wrong with an optimizer's settings; None where nothing is."""
    try:
        OF_FISHER[name](nn.LayerNorm(1), dict(settings), 0.0)  # any model, of one that draws no random numbers
    except (AutoBatchError, TypeError, ValueError) as error:
        return str(error)
    return None
