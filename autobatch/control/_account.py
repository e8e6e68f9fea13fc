"""What is known of a training at the end of each decision period: its position, figures and counters, and its clock."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from autobatch.control._decision_record import DecisionRecord
from autobatch.control.measuring import MeasuredStep, Period, gradient_moments
from autobatch.fisher import GradientMoments, SpectralPosition
from autobatch.policies import Observation

UNKNOWN = {"train_loss": math.nan, "validation_loss": math.nan, "validation_error": math.nan}
"""Figures of a loop that has given none."""


class Account:
    """Takes in one period after another, and says what a policy sees.

    Attributes:
        position: C̄ and L.
        steps: optimizer steps.
        periods: decision periods.
        measuring_seconds: wall time that measuring has added, eigenvalues included.
        figures: the losses and the error that the loop gave last.
        gradients: moments of the last period's per-sample gradients; None where nothing was measured.
    """

    def __init__(self) -> None:
        self.position = SpectralPosition()
        self.steps = 0
        self.periods = 0
        self.measuring_seconds = 0.0
        self.figures = dict(UNKNOWN)
        self.gradients: GradientMoments | None = None
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, over restarts; 0 until it is set for the first time."""
        return 0.0 if self._started is None else time.perf_counter() - self._started

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        self._started = time.perf_counter() - seconds

    def take(self, period: Period, figures: Mapping[str, float] | None, lr: float) -> None:
        """Take in a period, decomposed, which is over with that; ``figures`` are the loop's at the end of an epoch."""
        samples: Sequence[MeasuredStep] = period.samples.measurements
        if figures is not None:
            self.figures = {key: or_nan(figures[key]) for key in UNKNOWN}
        self.measuring_seconds += sum(sample.seconds for sample in samples)
        self.gradients = gradient_moments(samples)
        self.steps += period.steps
        period.close(self.position, lr)

    def observation(self, progress: float, decision: DecisionRecord | None) -> Observation:
        """Return what a policy sees.

        Args:
            progress: examples seen / examples of the whole training, in [0, 1].
            decision: the decision in force so far; None before the first period has ended.

        Returns:
            The observation.
        """
        return Observation(
            epoch=self.periods,
            progress=progress,
            batch_size=decision.batch_size if decision is not None else 0,
            lr=decision.lr if decision is not None else math.nan,
            c_bar=self.position.c_bar,
            l_cum=self.position.l_cum,
            steps=self.steps,
            gradients=self.gradients,
            train_loss=self.figures["train_loss"],
            validation_loss=self.figures["validation_loss"],
            validation_error=self.figures["validation_error"],
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that is known, as JSON-able values."""
        return {
            "steps": self.steps,
            "closed_periods": self.periods,
            "measuring_seconds": self.measuring_seconds,
            "seconds": self.seconds,
            "figures": dict(self.figures),
            "gradients": None if self.gradients is None else self.gradients.to_dict(),
            "position": self.position.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        figures = {key: or_nan(state["figures"][key]) for key in UNKNOWN}
        moments = state.get("gradients")  # states of older versions have none
        gradients = None if moments is None else GradientMoments.from_dict(moments)
        steps, periods = int(state["steps"]), int(state["closed_periods"])
        measuring, seconds = float(state["measuring_seconds"]), float(state["seconds"])
        self.position.load_state_dict(state["position"])
        self.steps, self.periods, self.measuring_seconds, self.seconds = steps, periods, measuring, seconds
        self.figures, self.gradients = figures, gradients


def or_nan(value: float | None) -> float:
    """Return a figure that a loop, or JSON, leaves out as NaN."""
    return math.nan if value is None else float(value)
