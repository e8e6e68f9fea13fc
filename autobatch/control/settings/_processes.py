"""Who else trains."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from autobatch._errors import ConfigError, near_names
from autobatch._ranges import names_arguments


@names_arguments
@dataclass(frozen=True)
class Processes:
    """The processes that train together, and where.

    Attributes:
        group: of ``torch.distributed``; None for all of it where it is initialised. The first of them decides.
        measured: of several processes, ``"global"`` measures the whole batch, ``"local"`` the first one's share.
        device: where this process trains, and ``batches`` puts its indices; None for the device of the model's
            parameters.

    Raises:
        ConfigError: a value cannot be used.
    """

    group: Any = None
    measured: Literal["global", "local"] = "global"
    device: torch.device | str | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if self.measured not in {"global", "local"}:
            raise ConfigError(
                f"Processes: measured={self.measured!r}: {near_names(str(self.measured), ('global', 'local'))}"
            )
