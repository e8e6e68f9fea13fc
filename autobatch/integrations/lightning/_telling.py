"""Lightning itself, and what it and its user are told in a fit."""

import logging
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from autobatch._errors import ConfigError, near_names
from autobatch.control._decision_record import DecisionRecord
from autobatch.policies._wording import brief
from autobatch.tracking import as_metrics, main_figures

_LOG = logging.getLogger("autobatch")


def _lightning() -> tuple[Any, Any]:
    """Return Lightning, by the name that is in use already if any, and its module for messages of the first rank."""
    problem = None
    for name in sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules):
        try:
            return import_module(name), import_module(f"{name}.utilities.rank_zero")
        except ImportError as error:
            problem = problem or error
    raise ConfigError(
        f"AutoBatchCallback needs Lightning, which cannot be imported ({problem}); install it with: "
        "pip install 'autobatch[lightning]'"
    ) from problem


LIGHTNING, _RANK_ZERO = _lightning()


def _heard() -> bool:
    """Return whether what the controller logs is seen: somebody has set logging up, from INFO on."""
    return _LOG.hasHandlers() and _LOG.isEnabledFor(logging.INFO)


class Said:
    """What was said in one fit, each thing once."""

    def __init__(self, *, advising: bool) -> None:
        self._advising = advising
        self._warned: set[str] = set()
        self._announced: DecisionRecord | None = None

    def warn(self, text: str) -> None:
        """Warn once."""
        if text not in self._warned:
            self._warned.add(text)
            _RANK_ZERO.rank_zero_warn(f"AutoBatchCallback: {text}")

    def say(self, text: str) -> None:
        """Say something on the console, once: by Lightning's log, or by the controller's where that is heard."""
        if _heard():
            _RANK_ZERO.rank_zero_only(_LOG.info)(text)
            return
        _RANK_ZERO.rank_zero_info(f"autobatch{' (advice)' if self._advising else ''}: {text}")

    def announce(self, decision: DecisionRecord) -> bool:
        """Say what was decided since the last time, if anything; return whether there was."""
        if decision is self._announced:
            return False
        self._announced = decision
        if (decision.turn or decision.limit) and not _heard():  # else the controller has told it
            limit = f" ({decision.limit})" if decision.limit else ""
            self.say(
                f"from example {decision.example}: batch size {decision.batch_size}, applied rate "
                f"{decision.lr_effective:.4g}: {brief(decision.reason)}{limit}"
            )
        return True

    def metric(self, trainer: Any, name: str) -> float | None:
        """Return a figure that the module has logged, or warn that it has not."""
        if name in trainer.callback_metrics:
            return float(trainer.callback_metrics[name])
        self.warn(
            f"the module logs no '{name}', so the policy does without; {near_names(name, trainer.callback_metrics)}"
        )
        return None


class TrainerLog:
    """Passes the numbers of the controller's records on to the Trainer's loggers, at its own step."""

    def __init__(self, trainer: Any, *, everything: bool) -> None:
        self._trainer = trainer
        self._everything = everything

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Log a record; ``step`` counts training examples."""
        metrics = as_metrics({**(record if self._everything else main_figures(record)), "examples": step})
        for logger in self._trainer.loggers:
            logger.log_metrics(metrics, step=self._trainer.global_step if step else 0)

    def close(self) -> None:
        """Do nothing: the Trainer closes its loggers."""
