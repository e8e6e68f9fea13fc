"""What a comparison came to, as data."""

from dataclasses import dataclass
from pathlib import Path

from autobatch.beacons import CostTable
from autobatch.evidence.bench._compared import ComparedRun
from autobatch.evidence.bench._courses import Recording, Target
from autobatch.evidence.bench._figures import PolicyFigures
from autobatch.evidence.bench._noninferior import NonInferiority
from autobatch.evidence.bench._overall import AgainstBaseline, Aggregate
from autobatch.evidence.bench._tests import PolicyTest


@dataclass(frozen=True)
class TaskComparison:
    """What a comparison came to on one task.

    Attributes:
        env: the task's name.
        score: the figure that the task ranks runs by.
        epochs: length of a whole training, in passes over the training examples; a policy may end one before.
        seeds: the seeds of every policy.
        device: kind of device of the runs.
        measure_all: whether runs measure whose policy cannot look at what is measured.
        costs: the cost table that modelled times are counted by.
        target: the best fixed beacon, which all are compared with; without beacons, the best fixed run in hindsight.
            None where no fixed configuration trains.
        recording: what the beacons have cost; None where there are none.
        scale: in words, what quality 1 stands for.
        hindsight: the fixed configuration with the lowest mean score on these very seeds, among those that finished all
            of them; None where there is none.
        hindsight_score: its mean score.
        policies: what each policy came to; the one that all are compared with first.
        tests: every policy against it.
        non_inferiority: every policy beside it, by final test figures.
        runs: the runs, by policy and seed.
        failed: message by name of every run that could not be carried out.
    """

    env: str
    score: str
    epochs: int
    seeds: tuple[int, ...]
    device: str
    measure_all: bool
    costs: CostTable
    target: Target | None
    recording: Recording | None
    scale: str
    hindsight: str | None
    hindsight_score: float
    policies: tuple[PolicyFigures, ...]
    tests: tuple[PolicyTest, ...]
    non_inferiority: tuple[NonInferiority, ...]
    runs: tuple[ComparedRun, ...]
    failed: dict[str, str]


@dataclass(frozen=True)
class PolicyComparison:
    """What a comparison came to.

    Attributes:
        out: its directory.
        seeds: the seeds of every policy on every task.
        margin: the relative difference of final test figures that is put up with.
        tasks: what it came to on each task.
        aggregates: every policy and baseline over all tasks, with intervals.
        against: every policy against every baseline.
        non_inferiority: every policy over all tasks, by final test figures.
        notes: what was left out, and why.
        failed: message by name of every run that could not be carried out.
    """

    out: Path
    seeds: tuple[int, ...]
    margin: float
    tasks: tuple[TaskComparison, ...]
    aggregates: tuple[Aggregate, ...]
    against: tuple[AgainstBaseline, ...]
    non_inferiority: tuple[NonInferiority, ...]
    notes: tuple[str, ...]
    failed: dict[str, str]
