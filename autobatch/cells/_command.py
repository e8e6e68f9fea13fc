"""``autobatch worker`` as a call that an engine can send to another machine."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from autobatch._errors import AutoBatchError
from autobatch.cells._engine import Gone

_REFUSED = 2
_PATIENCE = 60.0
_LAST = 2000


@dataclass
class WorkerCommand:
    """Runs a worker in a process of its own to its end, and asks it to give its cell back where it is interrupted.

    Attributes:
        arguments: what follows ``autobatch worker``.
        module: what is run.
    """

    arguments: Sequence[str]
    module: Sequence[str] = ("autobatch", "worker")
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False, repr=False)

    def __call__(self) -> tuple[int, str]:
        """Return the exit code of the worker, and the last that it wrote to its standard error."""
        with tempfile.TemporaryFile() as errors:
            command = [sys.executable, "-m", *self.module, *self.arguments]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)
            try:
                while self._process.poll() is None:
                    try:
                        # Not for ever: what an engine raises here arrives between two waits.
                        self._process.wait(timeout=0.2)
                    except subprocess.TimeoutExpired:
                        continue
            finally:
                self.give_back(signal.SIGTERM)
            errors.seek(0)
            said = errors.read().decode(errors="replace")
        sys.stderr.write(said)
        return self._process.returncode, said[-_LAST:].strip()

    def give_back(self, number: int) -> None:
        """Ask the worker to give its cell back, and wait for its end."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the process, which is of this machine."""
        return {**self.__dict__, "_process": None}


def ended(code: int, said: str, where: str) -> Gone:
    """Return how a worker's command ended.

    Args:
        code: its exit code.
        said: the last that it wrote to its standard error.
        where: where it ran, in words.

    Returns:
        How.

    Raises:
        AutoBatchError: it could not go on at all, as its own message says.
    """
    if code == _REFUSED:
        raise AutoBatchError(f"a worker {where} ended: {said.removeprefix('autobatch: error: ') or 'without a word'}")
    return Gone(f"its process {where} died with exit code {code}: {said}" if code else "")
