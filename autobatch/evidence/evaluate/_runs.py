"""Carrying out the runs of an evaluation: every one kept, none trained twice, safe to stop at any time."""

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from autobatch._errors import AutoBatchError, CheckpointError, ConfigError, OutputError
from autobatch._files import naming_output, write_whole
from autobatch.beacons import CostTable
from autobatch.evidence.evaluate._plan import Arena, Plan, folder_name
from autobatch.policies import make_policy
from autobatch.training import Data, RunConfig, Summary, check_ladder, load_data, load_run_config, run
from autobatch.training._calibrate import cached_calibration, covers
from autobatch.training._crew import Crew, Report
from autobatch.training._engine import resolve_device
from autobatch.training._run import CONFIG, SUMMARY
from autobatch.training.recording import threads_each
from autobatch.training.task import run_task_info

MARK = "evaluation-runs.json"
"""What tells a directory of evaluations from any other."""

_ABOUT = "about.json"
_CIRCUMSTANCES = "circumstances.json"


@dataclass(frozen=True)
class About:
    """What reports need of a task besides its runs; kept beside them, so that a report loads no data.

    Attributes:
        num_classes: classes of its data.
        train_size: training examples.
        costs: the cost table that all of its runs are charged by.
    """

    num_classes: int
    train_size: int
    costs: CostTable


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        env: the task's name.
        policy: the policy's name.
        seed: the run's seed.
        config: its configuration.
        out: its directory.
        weights: SHA-256 of a learned policy's weights.
        side_by_side: runs at the same time, this one included.
    """

    env: str
    policy: str
    seed: int
    config: RunConfig
    out: Path
    weights: str | None
    side_by_side: int

    @property
    def name(self) -> str:
        """Task, policy and seed in words."""
        return f"{self.env} {self.policy} seed {self.seed}"


@dataclass(frozen=True)
class EvaluationProgress:
    """Where an evaluation stands.

    Attributes:
        done: runs that are finished, those found finished at the start included.
        total: all runs.
        seconds_left: estimated wall time until all are done; NaN while unknown.
    """

    done: int
    total: int
    seconds_left: float


class EvaluationObserver:
    """What watches an evaluation. Every method does nothing by default; override those you need."""

    def note(self, message: str) -> None:
        """Called with one line that the user should know."""

    def started(self, progress: EvaluationProgress) -> None:
        """Called once, before the first run."""

    def run_finished(self, name: str, summary: Summary, progress: EvaluationProgress) -> None:
        """Called when a run's summary is on disk."""

    def run_failed(self, name: str, message: str) -> None:
        """Called when a run raised or its process died; the others go on."""


def prepare(out: Path) -> None:
    """Make the directory of an evaluation.

    Args:
        out: the directory; new, empty, or that of an earlier evaluation.

    Raises:
        OutputError: it holds something else, or cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: expected a directory, found a file")
    with naming_output(out):
        if out.is_dir() and not (out / MARK).exists() and (found := sorted(path.name for path in out.iterdir())):
            raise OutputError(
                f"{out}: expected an empty directory or that of an earlier evaluation, found {found[0]!r} in it; "
                "choose another directory"
            )
        out.mkdir(parents=True, exist_ok=True)
    write_whole(out / MARK, b'{"format_version": 1}\n')


def about(arena: Arena, out: Path, *, device: str, data_dir: Path | None, trust_code: bool) -> About:
    """Return what reports need of a task, from the evaluation's directory or from the data.

    Args:
        arena: the task.
        out: the evaluation's directory.
        device: torch device of the runs.
        data_dir: where datasets lie.
        trust_code: allow the task to name a model factory to import.

    Returns:
        The facts; the cost table is the library's where that was made on this kind of device, and timed here elsewhere.

    Raises:
        ConfigError: the ladder does not fit the data.
        DataError: the data are missing or damaged.
        OutputError: the facts cannot be kept.
    """
    path = out / arena.name / _ABOUT
    place = resolve_device(device)
    kept = _kept_about(path)
    if kept is not None and covers(kept.costs, arena.task, place):
        return kept
    data = load_data(arena.task, data_dir, place)
    check_ladder(arena.task, len(data.train_labels))
    costs = arena.library.costs if arena.library is not None else None
    if costs is None or not covers(costs, arena.task, place):
        payload = arena.task.fingerprint_payload(data.fingerprint, data.num_classes)
        costs, _ = cached_calibration(arena.task, data, place, payload, fresh=False, trust_code=trust_code)
    found = About(data.num_classes, len(data.train_labels), costs)
    with naming_output(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    record = {"num_classes": found.num_classes, "train_size": found.train_size, "costs": costs.to_dict()}
    write_whole(path, (json.dumps(record, indent=1) + "\n").encode())
    return found


def check_policies(arena: Arena, facts: About) -> None:
    """Try every judged policy on a task before anything is trained.

    Args:
        arena: the task.
        facts: what is known of it.

    Raises:
        ConfigError: a policy cannot be used on the task, for instance because its ladder is another.
    """
    task = arena.task
    for contestant in arena.contestants:
        if contestant.judged:
            info = run_task_info(task, train_size=facts.train_size, costs=facts.costs, seed=0)
            try:
                make_policy(contestant.spec).reset(info, arena.library)
            except AutoBatchError as error:
                raise ConfigError(f"policy '{contestant.name}' on task '{task.name}': {error}") from None


def list_jobs(
    plan: Plan,
    facts: dict[str, About],
    out: Path,
    *,
    jobs: int,
    device: str,
    data_dir: Path | None,
    trust_code: bool,
) -> list[Job]:
    """List all runs in the order in which they are carried out.

    Runs of one seed follow each other, and each seed starts with another contestant, so that a machine whose speed
    drifts favours none of them.

    Args:
        plan: what is evaluated.
        facts: what is known of each task, by its name.
        out: the evaluation's directory.
        jobs: runs side by side; they share the task's threads.
        device: torch device of the runs.
        data_dir: where datasets lie.
        trust_code: allow a task to name a model factory to import.

    Returns:
        The runs, finished ones included.

    Raises:
        CheckpointError: a run that is there was made by a learned policy with other weights, or does not measure as
            it is to.
    """
    found = []
    for turn, seed in enumerate(plan.seeds):
        for arena in plan.arenas:
            first = turn % len(arena.contestants)
            for contestant in arena.contestants[first:] + arena.contestants[:first]:
                place = out / arena.name / f"{folder_name(contestant.name)}-s{seed}"
                threads = arena.task.threads if jobs == 1 else threads_each(arena.task.threads, jobs)
                config = RunConfig(
                    task=arena.task.model_copy(update={"threads": threads}),
                    task_path=arena.folder,
                    policy=contestant.spec,
                    seed=seed,
                    device=str(resolve_device(device)),
                    data_dir=data_dir,
                    measure=contestant.measures,
                    trust_code=trust_code,
                    costs=facts[arena.name].costs,
                )
                found.append(_as_begun(Job(arena.name, contestant.name, seed, config, place, contestant.weights, jobs)))
    return found


def finished(job: Job) -> Summary | None:
    """Return the summary of a run that is finished.

    Args:
        job: the run.

    Returns:
        Its summary; None where it is not finished.

    Raises:
        CheckpointError: the run that is there has another configuration, or is damaged.
    """
    return run(job.config, job.out, resume=True) if (job.out / SUMMARY).exists() else None


def side_by_side(job: Job) -> int:
    """Return how many runs trained at the same time as a run, itself included; the most where it was cut and went on.

    Args:
        job: a run that has begun.

    Returns:
        The number.
    """
    return int(_circumstances(job.out).get("side_by_side", job.side_by_side))


def carry_out(waiting: Sequence[Job], clock: "RunClock", *, jobs: int, observer: EvaluationObserver) -> dict[str, str]:
    """Train what is not finished yet.

    Args:
        waiting: the runs.
        clock: estimates the time left.
        jobs: processes that train side by side; one trains in this process.
        observer: what watches.

    Returns:
        Message by name of every run that failed.
    """
    failed: dict[str, str] = {}
    for job, summary, message in _outcomes(waiting, jobs):
        if summary is None:
            failed[job.name] = message
            clock.dropped(job)
            observer.run_failed(job.name, message)
        else:
            clock.finished(job, summary)
            observer.run_finished(job.name, summary, clock.progress())
    return failed


class RunClock:
    """Estimates how long the rest will take, from what each policy has taken on each task so far.

    Args:
        jobs: all runs.
        size: processes that train side by side.
    """

    def __init__(self, jobs: Sequence[Job], size: int) -> None:
        self._total = len(jobs)
        self._size = size
        self._waiting = {job.name: job for job in jobs}
        self._seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._trained = 0.0
        self._started = time.monotonic()

    def found(self, job: Job, summary: Summary) -> None:
        """Take down a run that was finished before this evaluation started."""
        del self._waiting[job.name]
        self._seconds[job.env, job.policy].append(summary.seconds)

    def finished(self, job: Job, summary: Summary) -> None:
        """Take down a run that has just finished."""
        self.found(job, summary)
        self._trained += summary.seconds

    def dropped(self, job: Job) -> None:
        """Take down a run that failed."""
        del self._waiting[job.name]
        self._total -= 1

    def progress(self) -> EvaluationProgress:
        """Return where the evaluation stands."""
        done = self._total - len(self._waiting)
        left = sum(self._expected(job) for job in self._waiting.values()) if self._seconds else math.nan
        return EvaluationProgress(done, self._total, left / min(self._size, max(len(self._waiting), 1)))

    def _expected(self, job: Job) -> float:
        own = self._seconds.get((job.env, job.policy))
        task = [value for (env, _), values in self._seconds.items() if env == job.env for value in values]
        return fmean(own or task or [value for values in self._seconds.values() for value in values])


def _outcomes(waiting: Sequence[Job], jobs: int) -> Iterator[tuple[Job, Summary | None, str]]:
    trainer = _Trainer()
    if jobs == 1:
        for job in waiting:
            try:
                yield job, trainer(job), ""
            except AutoBatchError as error:
                yield job, None, str(error)
        return
    with Crew(trainer, list(waiting), min(jobs, max(len(waiting), 1))) as crew:
        for job, event, value in crew.events():
            if event == "done":
                yield job, value, ""
            elif event == "failed":
                yield job, None, str(value)


class _Trainer:
    """Trains one run after another; the data of the last task are kept."""

    def __init__(self) -> None:
        self._env = ""
        self._data: Data | None = None

    def __call__(self, job: Job, report: Report | None = None) -> Summary:
        """Return the summary of a run, once it is on disk."""
        config = job.config
        if self._env != job.env or self._data is None:
            self._data = load_data(config.task, config.data_dir, config.device)
            self._env = job.env
        before = _circumstances(job.out)
        most = max(job.side_by_side, int(before.get("side_by_side", 1)))
        with naming_output(job.out):
            job.out.mkdir(parents=True, exist_ok=True)
        record = {"side_by_side": most, "weights": job.weights}
        write_whole(job.out / _CIRCUMSTANCES, (json.dumps(record) + "\n").encode())
        return run(config, job.out, resume=(job.out / CONFIG).exists(), data=self._data)


def _as_begun(job: Job) -> Job:
    """Return a run with the threads that it was begun with, whose number is part of its result."""
    if not (job.out / CONFIG).exists():
        return job
    weights = _circumstances(job.out).get("weights")
    if weights != job.weights:
        raise CheckpointError(
            f"{job.out}: was made by policy '{job.policy}' with other weights than it has now; remove it, or choose "
            "another directory"
        )
    begun = load_run_config(job.out)
    if begun.measure != job.config.measure:
        words = {True: "with measuring", False: "without measuring"}
        raise CheckpointError(
            f"{job.out}: was trained {words[begun.measure]} and is asked for {words[job.config.measure]}; choose "
            "another directory"
        )
    threads = begun.task.threads
    config = job.config.model_copy(update={"task": job.config.task.model_copy(update={"threads": threads})})
    return Job(job.env, job.policy, job.seed, config, job.out, job.weights, job.side_by_side)


def _circumstances(out: Path) -> dict[str, Any]:
    try:
        record = json.loads((out / _CIRCUMSTANCES).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _kept_about(path: Path) -> About | None:
    try:
        record = json.loads(path.read_bytes())
        return About(int(record["num_classes"]), int(record["train_size"]), CostTable.from_dict(record["costs"]))
    except (OSError, ValueError, KeyError, TypeError, AutoBatchError):
        return None
