"""Workers as tasks of Ray."""

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from autobatch._errors import ConfigError
from autobatch.cells._command import WorkerCommand, ended
from autobatch.cells._engine import Gone

_STORE_BYTES = 80_000_000
_FAREWELL = 30.0
_ANSWER = 10.0


class RayEngine:
    """Starts a task for each worker: on the cluster that is named or there, else on one of this machine's own.

    Args:
        command: what each of them runs.
        cpus: processors of a task, unless the settings say.
        settings: options of Ray's tasks, and the cluster's ``address``.

    Raises:
        ConfigError: Ray is not installed, the cluster not reachable, or a setting not known.
    """

    look_every = 1.0

    def __init__(self, command: WorkerCommand, cpus: int, settings: Mapping[str, Any]) -> None:
        try:
            import ray
        except ImportError:
            raise ConfigError(
                "--on ray: the package 'ray' is not installed; install it with: pip install 'autobatch[ray]'"
            ) from None
        self._ray = ray
        self._tasks: list[Any] = []
        options = {"num_cpus": cpus, **settings}
        address = options.pop("address", None)
        self._own = not ray.is_initialized()
        if self._own:
            _connect(ray, address)
        try:
            # Whoever oversees them starts another for one that dies.
            self._task = ray.remote(max_retries=0, **options)(_run)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"--on ray: {error}") from None
        self._command = command

    def start(self, count: int) -> None:
        """Start tasks."""
        self._tasks += [self._task.remote(self._command) for _ in range(count)]

    def poll(self) -> Sequence[Gone]:
        """Return those that have ended."""
        over, self._tasks = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=min(self.look_every, 0.5))
        gone = []
        for task in over:
            try:
                code, said = self._ray.get(task)
                gone.append(ended(code, said, "(a task of Ray)"))
            except self._ray.exceptions.RayError as error:
                gone.append(Gone(f"its task ended: {error}"))
        return gone

    def stop(self) -> None:
        """Cancel what is left."""
        for task in self._tasks:
            self._ray.cancel(task, force=False)
        if self._tasks:
            self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=_FAREWELL)
        if self._own:
            self._ray.shutdown()

    def owns(self, _owner: str) -> bool:
        """Say that any worker may be one of these."""
        return True


def _run(command: WorkerCommand) -> tuple[int, str]:
    return command()


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    wanted = address or os.environ.get("RAY_ADDRESS")
    if wanted and wanted != "auto":
        _knock(wanted)
    quiet = {"log_to_driver": False, "configure_logging": False}
    try:
        ray.init(address=wanted or "auto", **quiet)
    except (ConnectionError, RuntimeError) as error:
        if wanted:
            raise ConfigError(f"--on ray: no cluster is reachable at {wanted}: {error}") from None
        try:
            # Nothing but files passes between workers, and Ray would take a third of the memory for objects.
            ray.init(include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
        except Exception as failure:  # of many kinds, where a node takes too long to come up
            raise ConfigError(f"--on ray: Ray does not start on this machine: {failure}") from None


def _knock(address: str) -> None:
    """Refuse an address where nobody answers; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER).close()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--on ray: no cluster is reachable at {address}: {error}") from None
