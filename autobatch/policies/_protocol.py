"""What a policy sees and says: the plug-in contract of every rule-based or learned policy.

A policy is asked once before the first epoch and once after every epoch. It sees one
``Observation`` (never a test figure) and answers with one ``Decision``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from autobatch._plain import Plain
from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.policies._wording import in_epochs

if TYPE_CHECKING:
    from autobatch.fisher import GradientMoments


@dataclass(frozen=True)
class TaskInfo:
    """What a policy may know of the task before training starts.

    Attributes:
        name: the task's name.
        batch_sizes: the ladder, ascending; a policy chooses from these only.
        learning_rates: the base learning rates a policy chooses from, ascending.
        epochs: length of the whole training, in decision periods: epochs, unless decisions are taken within them.
        train_size: examples in one such period.
        score: the figure that ranks runs, ``"validation_loss"`` or ``"validation_error"``; lower is better.
        milestones: progress values in (0, 1) at which the learning-rate schedule decays, ascending.
        seed: the run's seed, for policies that draw at random.
        costs: seconds by batch size, recorded or calibrated once; None where nothing was calibrated.
        measuring_budget: share of training time that measuring may take, in [0, 1].
        steered: whether the learning-rate schedule is the policy's: its decisions may then set ``factor``.
        milestone_factor: what the schedule multiplies the rate by at each milestone, in (0, 1]; None where there is
            none or nobody says.
        schedule: the schedule's factor on the base learning rate, by progress; None where it is not known.
        dataset: name of the data set, such as ``"mnist"``; empty where it is not known.
        adaptive: whether the optimizer scales its steps by the gradients' own size, as Adam does.
        guessing: training loss of one who guesses, log K for K classes, or of a network before its first step; None
            where it is not known.
        shares_loss: training loss of one who guesses by the classes' shares; None where it is not known.
        periods: decision periods of an epoch; in a loop of somebody's own validation figures are new after the last.
        scouts_go_on: whether a scout that ends within an epoch can be gone on with.
        around: whether the learning rates lie around the optimizer's own, further than is mostly needed.
        example_seconds: seconds of an example by batch size, where somebody's own loop was timed; of a few sizes only.
    """

    name: str
    batch_sizes: tuple[int, ...]
    learning_rates: tuple[float, ...]
    epochs: int
    train_size: int
    score: str
    milestones: tuple[float, ...]
    seed: int
    costs: CostTable | None
    measuring_budget: float
    steered: bool = False
    milestone_factor: float | None = None
    schedule: Callable[[float], float] | None = field(default=None, repr=False, compare=False)
    dataset: str = ""
    adaptive: bool = False
    guessing: float | None = None
    shares_loss: float | None = None
    periods: int = 1
    scouts_go_on: bool = False
    around: bool = False
    example_seconds: Mapping[int, float] = field(default_factory=dict)

    def told(self, number: float) -> str:
        """Return decision periods as a person reads them: ``"2 epochs"`` or ``"0.286 epochs"``."""
        return in_epochs(number, self.periods)


@dataclass(frozen=True)
class Observation:
    """Where the run stands before epoch ``epoch + 1``; NaN marks a figure that is not known yet.

    Attributes:
        epoch: finished epochs, 0 before the first.
        progress: examples seen / examples of the whole training, in [0, 1].
        batch_size: global batch size in use; 0 before the first decision.
        lr: base learning rate in use (before the schedule's factor); NaN before the first decision.
        c_bar: C̄_K, running mean of the truncated condition number (paper, eq. 7).
        l_cum: L_K, cumulative learning-rate-weighted energy (paper, eq. 8).
        steps: optimizer steps taken so far (the K that C̄ averages over).
        train_loss: mean training loss of the last epoch.
        validation_loss: mean validation loss after the last epoch.
        validation_error: share of validation examples classified wrongly after the last epoch, in [0, 1].
        gradients: what the measured steps of the last period tell of the gradients; None where none was measured.
        fits: the largest batch size that fits into memory, as far as is known; None where nothing says that one does
            not.
    """

    epoch: int
    progress: float
    batch_size: int
    lr: float
    c_bar: float
    l_cum: float
    steps: int
    train_loss: float
    validation_loss: float
    validation_error: float
    gradients: "GradientMoments | None" = None
    fits: int | None = None


NOTHING_SEEN = Observation(0, 0.0, 0, math.nan, math.nan, 0.0, 0, math.nan, math.nan, math.nan)
"""What there is to see before the first decision."""


@dataclass(frozen=True)
class Candidate(Plain):
    """One configuration that a policy weighed, with what it predicted for it.

    Attributes:
        batch_size: global batch size.
        lr: base learning rate.
        c_bar: predicted C̄ at the end of training.
        l_cum: predicted L at the end of training.
        score: predicted final score (the task's scored figure; lower is better).
        uncertainty: one standard error of ``score``.
        seconds: predicted time for the rest of the training, measuring included.
        known: whether the landscape has beacons near the predicted position.
    """

    batch_size: int
    lr: float
    c_bar: float
    l_cum: float
    score: float
    uncertainty: float
    seconds: float
    known: bool


@dataclass(frozen=True)
class Decision:
    """The batch size and base learning rate of the next epoch, with the reason in plain words.

    Attributes:
        batch_size: global batch size, one of the task's ladder.
        lr: base learning rate; the controller multiplies it by the schedule's factor. None leaves the rate to the
            controller's learning-rate rule.
        reason: why, in words a person reads.
        target: the (C̄, L) position that the policy steers to, where it has one.
        alternatives: the candidates it weighed.
        factor: what ``lr`` is multiplied by, above 0, where the schedule is the policy's (``TaskInfo.steered``). None
            leaves it to the schedule.
        stop: whether the training ends here.
    """

    batch_size: int
    lr: float | None
    reason: str
    target: tuple[float, float] | None = None
    alternatives: tuple[Candidate, ...] = ()
    factor: float | None = None
    stop: bool = False


def planned_epochs(policy: "Policy", task: TaskInfo) -> int:
    """Return after how many decision periods a policy plans to end a training.

    Args:
        policy: the policy, reset for the task; one that plans an end before the task's says so as ``planned_epochs``.
        task: the task.

    Returns:
        Periods; those of the task where the policy plans no other end.
    """
    planned: int | None = getattr(policy, "planned_epochs", None)
    return planned or task.epochs


@runtime_checkable
class Policy(Protocol):
    """The contract of a policy. Subclassing is not needed; matching methods are."""

    needs_library: bool
    """Whether ``reset`` requires a beacon library."""

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Start a new run of ``task``; called once before the first decision."""
        ...

    def decide(self, observation: Observation) -> Decision:
        """Return what the next epoch should use."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return what must survive a restart, as JSON-able values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned, after ``reset``."""
        ...
