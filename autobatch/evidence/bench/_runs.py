"""Carrying out the runs of a plan: every one kept, none trained twice, safe to stop at any time."""

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from autobatch._errors import AutoBatchError, CheckpointError, ConfigError, OutputError
from autobatch._files import naming_output, seen_in, write_whole
from autobatch.beacons import CostTable
from autobatch.cells import LOCAL, Cell, Cells, Event, Tell, engine_settings, is_local, ranks_on, work_at
from autobatch.cells import Plan as CellsPlan
from autobatch.control.run import CONFIG, SUMMARY
from autobatch.evidence.bench._cells import KIND, ComparisonMaker, Job, circumstances, comparison_fingerprint
from autobatch.evidence.bench._plan import Arena, Plan, folder_name
from autobatch.policies import make_policy
from autobatch.training import RunConfig, Summary, load_data, load_run_config, load_summary, run
from autobatch.training._calibrate import cached_calibration, covers
from autobatch.training._engine import resolve_device
from autobatch.training.recording import threads_each, worker_arguments
from autobatch.training.task import fitting, run_task_info

MARK = "evaluation-runs.json"
"""What tells a directory of comparisons from any other."""

_ABOUT = "about.json"


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
class Trained:
    """What became of a plan.

    Attributes:
        facts: what is known of each task, by its name.
        done: the runs that are on disk, in the order in which they were carried out; at least one.
        failed: message by name of every run that could not be carried out.
    """

    facts: dict[str, About]
    done: list[tuple[Job, Summary]]
    failed: dict[str, str]

    @property
    def device(self) -> str:
        """Kind of device of the first run."""
        return self.done[0][1].device


@dataclass(frozen=True)
class BenchProgress:
    """Where a comparison stands.

    Attributes:
        done: runs that are finished, those found finished at the start included.
        total: all runs.
        seconds_left: estimated wall time until all are done; NaN while unknown.
    """

    done: int
    total: int
    seconds_left: float


class BenchObserver:
    """What watches a comparison. Every method does nothing by default; override those you need."""

    def note(self, message: str) -> None:
        """Called with one line that the user should know."""

    def started(self, progress: BenchProgress) -> None:
        """Called once, before the first run."""

    def run_finished(self, name: str, summary: Summary, progress: BenchProgress) -> None:
        """Called when a run's summary is on disk."""

    def run_failed(self, name: str, message: str) -> None:
        """Called when a run raised or its process died; the others go on."""


@dataclass(frozen=True)
class Machine:
    """Where runs train.

    Attributes:
        jobs: runs side by side. On this machine they share the task's threads, and one trains in this process.
        device: torch device.
        data_dir: where datasets lie.
        trust_code: whether a task may name factories to import.
        on: what starts the workers, as ``engine_settings`` reads it.
    """

    jobs: int
    device: str
    data_dir: Path | None
    trust_code: bool
    on: str = LOCAL


def train_all(plan: Plan, out: Path, machine: Machine, observer: BenchObserver) -> Trained:
    """Carry out every run of a plan that is not finished yet.

    Args:
        plan: what is trained.
        out: the directory, absolute; new, empty, or that of an earlier call.
        machine: where.
        observer: what watches.

    Returns:
        All runs of the plan, those of earlier calls included.

    Raises:
        ConfigError: a policy cannot be used on a task, or no run could be carried out.
    """
    if machine.jobs < 1:
        raise ConfigError(f"jobs: expected at least 1, got {machine.jobs}")
    engine_settings(machine.on)
    _prepare(out)
    facts = {arena.name: _about(arena, out, machine) for arena in plan.arenas}
    fits = [replace(arena, task=fitting(arena.task, facts[arena.name].train_size)) for arena in plan.arenas]
    plan = replace(plan, arenas=tuple(fits))
    for arena in plan.arenas:
        _check_policies(arena, facts[arena.name])
    for note in plan.notes:
        observer.note(note)
    todo = _list_jobs(plan, facts, out, machine)
    failed = _carry_out(todo, out, machine, observer)
    done = [(job, load_summary(job.out)) for job in todo if job.name not in failed]
    if not done:
        raise ConfigError(f"no run could be carried out; the first: {next(iter(failed.items()))}")
    return Trained(facts, done, failed)


def _prepare(out: Path) -> None:
    """Make the directory of a comparison; one that holds something else is refused."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: expected a directory, found a file")
    with naming_output(out):
        if out.is_dir() and not (out / MARK).exists() and (found := seen_in(out, "*")):
            raise OutputError(
                f"{out}: expected an empty directory or that of an earlier comparison, found {found[0].name!r} in it; "
                "choose another directory"
            )
        out.mkdir(parents=True, exist_ok=True)
    write_whole(out / MARK, b'{"format_version": 1}\n')


def _about(arena: Arena, out: Path, machine: Machine) -> About:
    """Return what reports need of a task, from the comparison's directory or from the data.

    The cost table is the plan's where that was asked for or made on this kind of device, and timed here elsewhere.
    """
    path = out / arena.name / _ABOUT
    place = resolve_device(machine.device)
    kept = _kept_about(path)
    if kept is not None and (
        covers(kept.costs, fitting(arena.task, kept.train_size), place)
        if arena.costs is None
        else kept.costs == arena.costs
    ):
        return kept
    data = load_data(arena.task, machine.data_dir, place)
    task = fitting(arena.task, len(data.train_labels))
    costs = arena.costs or (arena.recorded.costs if arena.recorded is not None else None)
    if costs is None or (arena.costs is None and not covers(costs, task, place)):
        payload = task.fingerprint_payload(data.fingerprint, data.num_classes)
        costs, _ = cached_calibration(task, data, place, payload, fresh=False, trust_code=machine.trust_code)
    found = About(data.num_classes, len(data.train_labels), costs)
    with naming_output(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    record = {"num_classes": found.num_classes, "train_size": found.train_size, "costs": costs.to_dict()}
    write_whole(path, (json.dumps(record, indent=1) + "\n").encode())
    return found


def _check_policies(arena: Arena, facts: About) -> None:
    """Try every policy on a task before anything is trained."""
    task = arena.task
    info = run_task_info(task, train_size=facts.train_size, costs=facts.costs, seed=0)
    for contestant in arena.contestants:
        try:
            make_policy(contestant.spec).reset(info, arena.library)
        except AutoBatchError as error:
            raise ConfigError(f"policy '{contestant.name}' on task '{task.name}': {error}") from None


def _list_jobs(plan: Plan, facts: dict[str, About], out: Path, machine: Machine) -> list[Job]:
    """List all runs in the order in which they are carried out, finished ones included."""
    # Runs of one seed follow each other, and each seed starts with another contestant, so that a machine whose speed
    # drifts favours none of them.
    found = []
    device = str(resolve_device(machine.device))
    for turn, seed in enumerate(plan.seeds):
        for arena in plan.arenas:
            first = turn % len(arena.contestants)
            threads = arena.task.threads
            trained_at_once = machine.jobs * ranks_on(machine.on)
            if trained_at_once > 1 and is_local(machine.on):
                threads = threads_each(threads, trained_at_once)
            for one in arena.contestants[first:] + arena.contestants[:first]:
                config = RunConfig(
                    task=arena.task.model_copy(update={"threads": threads}),
                    task_path=arena.folder,
                    policy=one.spec,
                    seed=seed,
                    device=device,
                    data_dir=machine.data_dir,
                    measure=one.measures,
                    trust_code=machine.trust_code,
                    costs=facts[arena.name].costs,
                )
                place = out / arena.name / f"{folder_name(one.name)}-s{seed}"
                found.append(_as_begun(Job(arena.name, one.name, seed, config, place, one.weights, machine.jobs)))
    return found


def _carry_out(todo: Sequence[Job], out: Path, machine: Machine, observer: BenchObserver) -> dict[str, str]:
    """Train what is not finished yet; returns message by name of every run that failed."""
    failed: dict[str, str] = {}
    waiting: dict[str, Job] = {}
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)

    def progress() -> BenchProgress:
        total = len(todo) - len(failed)
        return BenchProgress(total - len(waiting), total, _seconds_left(list(waiting.values()), seconds, machine.jobs))

    for job in todo:
        # A finished run is read back and checked against its configuration, not trained.
        if (job.out / SUMMARY).exists():
            seconds[job.env, job.policy].append(run(job.config, job.out, resume=True).seconds)
        else:
            waiting[job.name] = job
    observer.started(progress())

    def take(cell: Cell, event: Event, value: object) -> None:
        job = cells[cell.name]
        if event == "failed":
            del waiting[job.name]
            failed[job.name] = str(value)
            observer.run_failed(job.name, str(value))
        elif event == "done":
            del waiting[job.name]
            summary = load_summary(job.out)
            seconds[job.env, job.policy].append(summary.seconds)
            observer.run_finished(job.name, summary, progress())

    cells = {job.cell: job for job in waiting.values()}
    if cells:
        _work_off(out, list(cells.values()), machine, take)
    for name in waiting:
        failed[name] = "another process is training this run"
        observer.run_failed(name, failed[name])
    return failed


def _work_off(out: Path, jobs: Sequence[Job], machine: Machine, tell: Tell) -> None:
    """Train runs as cells of a comparison's directory, in their order; one alone in this process."""
    cells, make = Cells(out), ComparisonMaker(out, trust_code=machine.trust_code, ranks=ranks_on(machine.on))
    planned = tuple(Cell(job.cell, float(len(jobs) - n), job.to_dict(out)) for n, job in enumerate(jobs))
    work_at(
        cells,
        CellsPlan(KIND, comparison_fingerprint(), {}, planned),
        make,
        machine.jobs,
        tell,
        on=machine.on,
        arguments=worker_arguments("auto", machine.data_dir, trust_code=machine.trust_code),
        cpus=max(job.config.task.threads for job in jobs),
    )
    cells.clear()


def _seconds_left(waiting: Sequence[Job], seconds: dict[tuple[str, str], list[float]], jobs: int) -> float:
    """Estimate how long the rest will take, from what each policy, else each task, else any run has taken so far."""
    any_run = [value for values in seconds.values() for value in values] or [math.nan]
    by_task: dict[str, list[float]] = defaultdict(list)
    for (env, _), values in seconds.items():
        by_task[env] += values
    left = [fmean(seconds.get((job.env, job.policy)) or by_task[job.env] or any_run) for job in waiting]
    return sum(left) / min(jobs, max(len(waiting), 1))


def _as_begun(job: Job) -> Job:
    """Return a run with the threads that it was begun with, whose number is part of its result."""
    if not (job.out / CONFIG).exists():
        return job
    weights = circumstances(job.out).get("weights")
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
    task = job.config.task.model_copy(update={"threads": begun.task.threads})
    return replace(job, config=job.config.model_copy(update={"task": task}))


def _kept_about(path: Path) -> About | None:
    try:
        record = json.loads(path.read_bytes())
        return About(int(record["num_classes"]), int(record["train_size"]), CostTable.from_dict(record["costs"]))
    except (OSError, ValueError, KeyError, TypeError, AutoBatchError):
        return None
