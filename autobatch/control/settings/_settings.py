"""All that a controller is told besides the loop itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from autobatch._errors import ConfigError
from autobatch._ranges import check_kind, check_path, check_several, check_whole
from autobatch.beacons import BeaconLibrary
from autobatch.control.measuring import MeasuringPlan
from autobatch.control.settings._measuring import Measuring
from autobatch.control.settings._processes import Processes
from autobatch.control.settings._rates import Rates
from autobatch.control.settings._task import TaskFacts
from autobatch.control.steps import BatchPlan
from autobatch.policies import Policy, PolicySpec, ScoutingPolicy, ScoutReport, load_policy_spec, make_policy
from autobatch.policies.steer import PacingPolicy

if TYPE_CHECKING:
    from autobatch.tracking import Logger


@dataclass(frozen=True)
class Settings:
    """What an ``AutoBatchController`` was made with, names resolved.

    Attributes:
        policy: the policy.
        batch_sizes: the ladder; empty until the training's length is known, where that says it.
        library: the task's beacons.
        scouts: what scouts came to.
        rates: how the learning rate is ruled.
        measuring: what is measured.
        plan: how batches are made.
        processes: who else trains.
        task: what is known of the task.
        advise: the loop's own batch size where it is only advised; else 0.
        loggers: what gets the records.
        seed: seeds permutations and random policies.
        out: the run directory that is written; None writes none.
        named: what the policy was made from; None where it was given as an object.
        library_path: where the library lies; None where it was given as an object.

    Raises:
        ConfigError: two do not go together.
    """

    policy: Policy
    batch_sizes: tuple[int, ...]
    library: BeaconLibrary | None = None
    scouts: ScoutReport | None = None
    rates: Rates = field(default_factory=Rates)
    measuring: Measuring = field(default_factory=Measuring)
    plan: BatchPlan = field(default_factory=BatchPlan)
    processes: Processes = field(default_factory=Processes)
    task: TaskFacts = field(default_factory=TaskFacts)
    advise: int = 0
    loggers: tuple["Logger | str", ...] = ()
    seed: int = 0
    out: Path | None = None
    named: PolicySpec | None = None
    library_path: Path | None = None

    def __post_init__(self) -> None:
        """Check what goes together."""
        scouting = isinstance(self.policy, ScoutingPolicy)
        if self.scouts is not None and (self.library is not None or not scouting):
            raise ConfigError(
                "scouts: they are for the policies 'beacon-follow' and 'steer', where there are no beacons: leave out "
                "either scouts or " + ("library" if self.library is not None else "this policy")
            )

    @classmethod
    def of(
        cls,
        policy: Policy | str,
        batch_sizes: Sequence[int] | None,
        *,
        library: BeaconLibrary | str | Path | None,
        scouts: ScoutReport | None,
        rates: Rates | str | None,
        measuring: Measuring | MeasuringPlan | None,
        plan: BatchPlan | None,
        processes: Processes | None,
        task: TaskFacts | None,
        advise: int | None,
        loggers: Sequence["Logger | str"],
        seed: int,
        out: str | Path | None,
    ) -> "Settings":
        """Return what an ``AutoBatchController``'s arguments stand for; a ConfigError where one cannot be used."""
        if advise is not None and (isinstance(advise, bool) or not isinstance(advise, int) or advise < 1):
            raise ConfigError(f"advise: expected the batch size that your loop really uses, got {advise!r}")
        for value, kinds, what in (
            (library, (BeaconLibrary, str, Path), "library"),
            (scouts, (ScoutReport,), "scouts"),
            (plan, (BatchPlan,), "plan"),
            (processes, (Processes,), "processes"),
            (task, (TaskFacts,), "task"),
        ):
            check_kind(value, kinds, what)
        check_several(batch_sizes, "batch_sizes")
        check_several(loggers, "loggers")
        ruled = Rates.of(rates)
        if scouts is not None:
            batch_sizes = scouts.batch_sizes if batch_sizes is None else batch_sizes
            if ruled.learning_rates is None:
                ruled = replace(ruled, learning_rates=scouts.learning_rates)
        named = load_policy_spec(policy) if isinstance(policy, str) else None
        made = policy if named is None else make_policy(named)
        if not isinstance(made, Policy) or isinstance(made, type):
            raise ConfigError(f"policy: expected the name or file of a policy, or an object that is one, got {made!r}")
        if batch_sizes is None and (library is not None or not finds_sizes(made)):
            raise ConfigError(
                "batch_sizes: the ladder to choose from is missing, such as batch_sizes=(32, 64, 128), or scouts=, the "
                "report of autobatch.scout"
            )
        ladder = [] if batch_sizes is None else [check_whole(size, "batch_sizes") for size in batch_sizes]
        if batch_sizes is not None and not ladder:
            raise ConfigError("batch_sizes: expected ascending positive integers, got []")
        return cls(
            policy=made,
            batch_sizes=tuple(ladder),
            library=library if isinstance(library, BeaconLibrary | None) else BeaconLibrary.load(library),
            scouts=scouts,
            rates=ruled,
            measuring=Measuring.of(measuring),
            plan=plan or BatchPlan(),
            processes=processes or Processes(),
            task=task or TaskFacts(),
            advise=advise or 0,
            loggers=tuple(loggers),
            seed=check_whole(seed, "seed", least=0),
            out=None if out is None else check_path(out, "out"),
            named=named,
            library_path=None if isinstance(library, BeaconLibrary | None) else Path(library),
        )

    @property
    def score(self) -> str:
        """The figure that ranks runs."""
        if self.task.score is not None:
            return self.task.score
        return self.library.score if self.library is not None else "validation_loss"


def finds_sizes(policy: Policy | str) -> bool:
    """Say whether a policy does without a ladder that somebody names: one that needs no beacons does.

    Args:
        policy: a policy, or the name or YAML file of one.

    Returns:
        Whether it does.

    Raises:
        ConfigError: there is no such policy.
    """
    return isinstance(make_policy(load_policy_spec(policy)) if isinstance(policy, str) else policy, PacingPolicy)
