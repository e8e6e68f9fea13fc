"""When weights are kept, and when a training goes back to them."""

import logging
from collections.abc import Mapping
from typing import Any

from autobatch._errors import CheckpointError
from autobatch.control._ranks import Ranks
from autobatch.control.rewinding._weights import Stateful, Weights
from autobatch.control.steps import Passage

_LOG = logging.getLogger("autobatch")


class Rewinding:
    """Keeps the weights that each epoch begins with, and those that the policy thinks best.

    Which those are is known an epoch later, as the policy goes by means over several; so two copies of model and
    optimizer lie in host memory, each process's of what it holds itself. Nothing is kept where the policy never goes
    back.

    Args:
        passage: has model and optimizer.
        ranks: the processes.

    Attributes:
        along: what goes back with the weights.
    """

    def __init__(self, passage: Passage, ranks: Ranks) -> None:
        self._passage, self._ranks = passage, ranks
        self.along: tuple[Stateful, ...] = ()
        self._best: Weights | None = None
        self._last: Weights | None = None
        self._told_missing = False

    def begin(self, period: int, best_period: int | None) -> None:
        """Keep the weights of now, where the policy may call them the best one later.

        Args:
            period: finished decision periods.
            best_period: those after which weights are worth keeping, as the policy says; None for never.
        """
        if best_period is not None:
            self._last = Weights.of(self._passage.model, self._passage.optimizer, self.along, period)

    def goes_back(self, best_period: int | None, back_to: int | None) -> bool:
        """Go back where the policy says so and the weights are at hand; called on all ranks after a decision.

        Args:
            best_period: finished decision periods after which weights are worth keeping.
            back_to: those to whose weights the training should go back now.

        Returns:
            Whether the training stands there.
        """
        if self._last is not None and self._last.period == best_period:
            self._best = self._last
        if back_to is None:
            return False
        best, own = self._best, (self._passage.model, self._passage.optimizer, self.along)
        fits = best is not None and best.period == back_to and best.fit(*own)
        if self._ranks.most([not fits]) != [0]:
            if self._ranks.leads and not self._told_missing:
                self._told_missing = True
                _LOG.warning(
                    "the weights to go back to are not at hand, or of other parameters than those of now: the training "
                    "goes on from what it has. After a restart, controller.kept has to be given back as it was saved "
                    "with the state"
                )
            return False
        assert best is not None
        best.put_back(*own)
        return True

    def leave(self, period: int) -> None:
        """Let go of weights of later than ``period``, as the training stands before them."""
        self._best, self._last = (
            None if one is None or one.period > period else one for one in (self._best, self._last)
        )

    @property
    def kept(self) -> dict[str, Any]:
        """Both copies, of values that ``torch.load(weights_only=True)`` reads."""
        return {"best": self._best and dict(vars(self._best)), "last": self._last and dict(vars(self._last))}

    @kept.setter
    def kept(self, kept: Mapping[str, Any]) -> None:
        try:
            self._best, self._last = (
                None if kept[name] is None else Weights.from_dict(kept[name]) for name in ("best", "last")
            )
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"kept weights: expected what controller.kept was, got other ({error!r})") from None
