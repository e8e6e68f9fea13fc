"""Training everything that a plan names, from its directory to the summaries of all runs."""

from dataclasses import dataclass
from pathlib import Path

from autobatch._errors import ConfigError
from autobatch.evidence.evaluate._plan import Plan
from autobatch.evidence.evaluate._runs import (
    About,
    EvaluationObserver,
    Job,
    RunClock,
    about,
    carry_out,
    check_policies,
    finished,
    list_jobs,
    prepare,
)
from autobatch.training import Summary, load_summary


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


def train_all(
    plan: Plan,
    out: Path,
    *,
    jobs: int,
    device: str,
    data_dir: Path | None,
    trust_code: bool,
    observer: EvaluationObserver,
) -> Trained:
    """Carry out every run of a plan that is not finished yet.

    Args:
        plan: what is trained.
        out: the directory, absolute; new, empty, or that of an earlier call.
        jobs: runs side by side.
        device: torch device.
        data_dir: where datasets lie.
        trust_code: allow a task to name a model factory to import.
        observer: what watches.

    Returns:
        All runs of the plan, those of earlier calls included.

    Raises:
        ConfigError: a policy cannot be used on a task, or no run could be carried out.
        OutputError: ``out`` holds something else, or cannot be written.
        CheckpointError: a run in ``out`` has another configuration than now, or is damaged.
        DataError: data are missing or damaged.
    """
    if jobs < 1:
        raise ConfigError(f"jobs: expected at least 1, got {jobs}")
    data_dir = data_dir.absolute() if data_dir is not None else None
    prepare(out)
    facts = {
        arena.name: about(arena, out, device=device, data_dir=data_dir, trust_code=trust_code) for arena in plan.arenas
    }
    for arena in plan.arenas:
        check_policies(arena, facts[arena.name])
    for note in plan.notes:
        observer.note(note)
    todo = list_jobs(plan, facts, out, jobs=jobs, device=device, data_dir=data_dir, trust_code=trust_code)
    clock, waiting = RunClock(todo, jobs), []
    for job in todo:
        summary = finished(job)
        if summary is None:
            waiting.append(job)
        else:
            clock.found(job, summary)
    observer.started(clock.progress())
    failed = carry_out(waiting, clock, jobs=jobs, observer=observer)
    done = [(job, load_summary(job.out)) for job in todo if job.name not in failed]
    if not done:
        raise ConfigError(f"no run could be carried out; the first: {next(iter(failed.items()))}")
    return Trained(facts, done, failed)
