"""One run of a comparison, as its tables and its report have it."""

import math
from dataclasses import dataclass

from autobatch._plain import Epochs


@dataclass(frozen=True)
class ComparedRun:
    """One run: a policy with a seed. Figures that are not known are NaN.

    Each field is a column of ``runs.parquet`` and ``runs.csv``. A new one has a default: older files are read without.

    Attributes:
        env: the task's name.
        policy: the policy's name.
        seed: the run's seed.
        batch_sizes: the batch sizes of successive epochs, in words.
        stopped_because: ``"finished"``, or why it ended before the task's last epoch.
        validation_loss: final validation loss.
        validation_error: final validation error, in [0, 1].
        test_error: final test error, in [0, 1], for reports only.
        test_loss: final test loss.
        seconds: time by the clock, measuring included.
        measuring_seconds: the part of it that measuring took.
        modelled_seconds: time by the cost table, measuring included.
        examples: training examples seen.
        optimizer_steps: steps taken.
        samples: measured steps.
        side_by_side: runs that trained at the same time, this one included.
        to_target_seconds: time by the clock up to the first epoch that ends with the best fixed beacon's validation
            error or less. None where the run does not get there, or does not finish.
        to_target_modelled_seconds: the same by the cost table.
        to_target_examples: training examples seen until then.
        epochs: epochs trained.
        judged: whether the policy is one of those that are asked about, not only a baseline.
        labels: the names under which the run counts over all tasks.
        split: ``"train"`` or ``"unseen"`` for a learned policy, else empty.
        quality: the task's score on the scale on which 0 is guessing and 1 the best fixed beacon; -1 where it diverged.
        modelled_ratio: modelled time over the best fixed beacon's; NaN where it diverged.
        measured_ratio: time by the clock over that of the best fixed beacon's run with the same seed.
        run: the run directory, within the comparison's.
    """

    env: str
    policy: str
    seed: int
    batch_sizes: str
    stopped_because: str
    validation_loss: float
    validation_error: float
    test_error: float
    test_loss: float
    seconds: float
    measuring_seconds: float
    modelled_seconds: float
    examples: int
    optimizer_steps: int
    samples: int
    side_by_side: int
    to_target_seconds: float | None
    to_target_modelled_seconds: float | None
    to_target_examples: int | None
    epochs: Epochs = 0
    judged: bool = True
    labels: tuple[str, ...] = ()
    split: str = ""
    quality: float = math.nan
    modelled_ratio: float = math.nan
    measured_ratio: float = math.nan
    run: str = ""

    @property
    def finished(self) -> bool:
        """Whether the run came to an end of its own, be it the task's last epoch or where its policy stopped it."""
        return not self.stopped_because.startswith("diverged")
