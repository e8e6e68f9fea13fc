"""When the rate falls and when training ends, where both are the policy's to say."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """A constant rate, then one that falls linearly to nothing, then the end.

    Linear decay to zero is what theory and practice agree on where the end is known (Defazio et al. 2023,
    arXiv 2310.07831; Hägele et al. 2024, arXiv 2405.18392, section 3).

    Attributes:
        decay_from: finished periods from which the rate falls.
        end: finished periods after which training ends; more than ``decay_from``.
    """

    decay_from: int
    end: int

    @classmethod
    def of(cls, periods: int, length: float, decay: float) -> "Plan":
        """Lay a plan over a training.

        Args:
            periods: length of the task's whole training, in decision periods.
            length: share of it after which training ends, in (0, 1].
            decay: share of what is trained over which the rate falls, in (0, 1].

        Returns:
            The plan; at least one period falls.
        """
        end = min(periods, max(1, round(length * periods)))
        return cls(end - max(1, round(decay * end)), end)

    def factor(self, period: int) -> float:
        """Return what the base learning rate is multiplied by in a period.

        Args:
            period: finished periods.

        Returns:
            The mean of the line over the period, in (0, 1].
        """
        if period < self.decay_from:
            return 1.0
        return (self.end - min(period, self.end - 1) - 0.5) / (self.end - self.decay_from)
