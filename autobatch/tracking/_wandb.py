"""Records as the history of a Weights & Biases run."""

from collections.abc import Mapping
from typing import Any

from autobatch._errors import ConfigError, OutputError
from autobatch.tracking._packages import import_tracker
from autobatch.tracking._protocol import Scalar
from autobatch.tracking._records import PREFIX, as_metrics, as_texts

_EXAMPLES = f"{PREFIX}examples"


class WandbLogger:
    """Logs into a Weights & Biases run, under ``autobatch/``, over the examples seen.

    The examples are a step metric of these figures alone (``autobatch/examples``): the run's own step is left to the
    loop. A run's history cannot be cut; a resumed training (``id=..., resume="allow"``) whose last records are lost to
    its checkpoint logs them again, at the same place of the axis.

    Args:
        run: the run to log into; by default the one that is active, else a new one.
        init: arguments of ``wandb.init`` for a new run, such as ``project="digits"`` or ``mode="offline"``.

    Raises:
        ConfigError: both a run and arguments for a new one are given, or wandb is not installed.
        OutputError: no run could be started.
    """

    def __init__(self, run: Any = None, **init: Any) -> None:
        if run is not None and init:
            raise ConfigError(
                f"WandbLogger: expected a run or arguments for a new one, got both (run, {', '.join(init)})"
            )
        self._owned = False
        if run is None:
            wandb = import_tracker("wandb", "wandb", type(self).__name__)
            active = wandb.run
            run = active if active is not None and not init else _started(wandb, init)
            self._owned = run is not active
        self.run = run
        run.define_metric(_EXAMPLES, hidden=True)
        run.define_metric(f"{PREFIX}*", step_metric=_EXAMPLES)

    def log(self, record: Mapping[str, Scalar], step: int) -> None:
        """Log a record.

        Args:
            record: the figures by name.
            step: training examples seen.
        """
        self.run.log({**as_metrics(record), **as_texts(record), _EXAMPLES: step})

    def close(self) -> None:
        """Finish the run if this logger started it."""
        if self._owned:
            self._owned = False
            self.run.finish()


def _started(wandb: Any, init: dict[str, Any]) -> Any:
    try:
        return wandb.init(**init)
    except Exception as error:
        raise OutputError(f"wandb: no run could be started: {error}") from error
