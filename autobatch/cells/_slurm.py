"""Workers as jobs of SLURM, by submitit."""

import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autobatch._errors import AutoBatchError, ConfigError
from autobatch.cells._command import WorkerCommand, ended
from autobatch.cells._engine import Gone

_COMMANDS = ("sbatch", "srun", "scancel", "scontrol")
_SHARED = frozenset({"name", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node", "stderr_to_stdout"})
_USUAL = {"name": "autobatch", "timeout_min": 60}
_TIME_OUTS = 1000
_FAREWELL = 30.0


class WorkerJob(WorkerCommand):
    """A worker that is queued again once its time is over, or where it had to make room."""

    def checkpoint(self) -> Any:
        """Give the cell back, which submitit asks for before a job is to end; returns what is queued again."""
        from submitit.helpers import DelayedSubmission

        self.give_back(signal.SIGUSR2)
        return DelayedSubmission(WorkerJob(self.arguments, self.module))


class SlurmEngine:
    """Submits jobs, several as one array.

    Args:
        command: what each of them runs.
        folder: gets submitit's files; every node must see it.
        cpus: processors of a job, unless the settings say.
        settings: submitit's parameters, without the ``slurm_`` of those that only SLURM has. ``cluster="local"`` takes
            processes of this machine instead, to try it out.

    Raises:
        ConfigError: submitit or SLURM is not there, or a setting is not known.
    """

    look_every = 2.0

    def __init__(self, command: WorkerCommand, folder: Path, cpus: int, settings: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError:
            raise ConfigError(
                "--on slurm: the package 'submitit' is not installed; install it with: pip install 'autobatch[slurm]'"
            ) from None
        given = {**_USUAL, "cpus_per_task": cpus, **settings}
        cluster = given.pop("cluster", "slurm")
        if cluster == "slurm" and (missing := [name for name in _COMMANDS if shutil.which(name) is None]):
            raise ConfigError(
                f"--on slurm: there is no '{missing[0]}' on the PATH; start it on a login node of a SLURM cluster, or "
                "leave it out for processes of this machine"
            )
        if several := sorted({"nodes", "tasks_per_node", "ntasks_per_node"} & given.keys()):
            raise ConfigError(f"--on slurm: {several[0]} cannot be set, a worker is one task; --jobs says how many")
        self._folder = folder
        self._command = WorkerJob(command.arguments, command.module)
        self._jobs: list[Any] = []
        self._accidents = False
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=cluster, slurm_max_num_timeout=_TIME_OUTS)
            self._set(given)
        except (ValueError, TypeError, AssertionError, NameError) as error:
            raise ConfigError(f"--on slurm: {error}") from None

    def start(self, count: int) -> None:
        """Submit jobs."""
        self._set({"array_parallelism": count})
        with _submitting():
            if count == 1:
                self._jobs.append(self._executor.submit(self._command))
                return
            with self._executor.batch():
                jobs = [self._executor.submit(self._command) for _ in range(count)]
            self._jobs += jobs

    def poll(self) -> Sequence[Gone]:
        """Return those that have ended; one that is queued again has not."""
        time.sleep(min(self.look_every, 0.5))
        over = [job for job in self._jobs if job.done()]
        self._jobs = [job for job in self._jobs if job not in over]
        gone = []
        for job in over:
            error = job.exception()
            if error is None:
                code, said = job.result()
            self._accidents |= error is not None or code != 0
            where = f"(SLURM job {job.job_id})"
            gone.append(Gone(f"its job {job.job_id} ended: {error}") if error else ended(code, said, where))
        return gone

    def stop(self) -> None:
        """Cancel what is left, and remove submitit's files where nothing went wrong."""
        for job in self._jobs:
            job.cancel(check=False)
        until = time.monotonic() + _FAREWELL
        while any(not job.done() for job in self._jobs) and time.monotonic() < until:
            time.sleep(0.1)
        if not self._accidents:
            shutil.rmtree(self._folder, ignore_errors=True)

    def owns(self, _owner: str) -> bool:
        """Say that any worker may be one of these: jobs of an earlier command go on too."""
        return True

    def _set(self, settings: Mapping[str, Any]) -> None:
        self._executor.update_parameters(**{
            key if key in _SHARED else f"slurm_{key}": value for key, value in settings.items()
        })


@contextmanager
def _submitting() -> Iterator[None]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    try:
        yield
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        raise AutoBatchError(f"--on slurm: nothing could be submitted: {error}") from None
