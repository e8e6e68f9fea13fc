"""One cell trained by several processes of this machine, as ``torchrun`` starts them."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from autobatch import _errors
from autobatch._errors import AutoBatchError
from autobatch.control.run import Summary, load_summary
from autobatch.training._run import RunConfig, kept_config

ASKED, SAID = "asked.json", "said.jsonl"
_AGENT = ("torch.distributed.run", "--standalone", "--max-restarts", "0", "--nproc-per-node")
_RANK = "autobatch.training.recording._rank"
_LOOK_EVERY = 0.2
_FAREWELL = 20.0
_LAST = 4000


def run_together(
    config: RunConfig, out: Path, report: Callable[[float], None], *, processes: int, resume: bool = False
) -> Summary:
    """Train as ``run`` does, by several processes of this machine which share every batch.

    They end with this process, however it ends, and where ``report`` raises; the run's checkpoint stays, and any
    number of processes goes on from it. None that dies is started again here: whoever asks for the run does.

    Args:
        config: the configuration; of its device the kind counts, and each process takes a GPU of its own.
        out: the run directory.
        report: told which share is done, where the run begins and after every epoch.
        processes: how many.
        resume: continue the run that ``out`` holds.

    Returns:
        The summary.

    Raises:
        AutoBatchError: what the training raised.
        ChildProcessError: a process died; the message has its last words.
    """
    with tempfile.TemporaryDirectory() as place:
        folder, said = Path(place), _Said(Path(place) / SAID, report)
        out = out.absolute()
        kind = config.device.partition(":")[0]
        asked = {"config": kept_config(config, out) | {"device": kind}, "out": str(out), "resume": resume}
        (folder / ASKED).write_text(json.dumps(asked), encoding="utf-8")
        with tempfile.TemporaryFile() as errors:
            with _agent([*_AGENT, str(processes), "-m", _RANK, place], errors) as agent:
                while agent.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        agent.wait(timeout=_LOOK_EVERY)
                    said.look()
            said.look()
            if error := said.error():
                raise error
            if agent.returncode:
                report(said.share)  # a worker that was asked to stop has been obeyed by its processes too
                errors.seek(0)
                words = errors.read().decode(errors="replace")[-_LAST:].strip()
                raise ChildProcessError(f"its processes ended with exit code {agent.returncode}: {words}")
        return load_summary(out)


@contextmanager
def _agent(arguments: list[str], errors: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Start what starts the processes; leaving ends them all, which they notice by their standard input."""
    agent = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
    )
    try:
        yield agent
    finally:
        assert agent.stdin is not None
        agent.stdin.close()
        try:
            agent.wait(timeout=_FAREWELL)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


class _Said:
    """What the processes have said so far: shares that are done, and why they failed."""

    def __init__(self, path: Path, report: Callable[[float], None]) -> None:
        self._path, self._report = path, report
        self._read = 0
        self._errors: list[dict[str, Any]] = []
        self.share = 0.0

    def look(self) -> None:
        """Take in what is new, and report the last share."""
        with suppress(FileNotFoundError):
            lines = self._path.read_bytes().splitlines(keepends=True)
            whole = [json.loads(line) for line in lines[self._read :] if line.endswith(b"\n")]
            self._read += len(whole)
            self._errors += [one for one in whole if "error" in one]
            for share in [one["share"] for one in whole if "share" in one][-1:]:
                self.share = share
                self._report(share)

    def error(self) -> Exception | None:
        """Return the error to raise: of several the one that says most, where the others only heard of it."""
        for one in sorted(self._errors, key=lambda one: one["error"] == AutoBatchError.__name__):
            if one["error"] == AutoBatchError.__name__:
                return ChildProcessError(one["message"])
            error: Exception = getattr(_errors, one["error"])(one["message"])
            if one["errno"] is not None:
                error.__cause__ = OSError(one["errno"], one["message"])
            return error
        return None
