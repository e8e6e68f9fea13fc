"""A SLURM cluster of one node for as long as a test takes, where its packages are installed."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

_DAEMONS = ("munged", "slurmctld", "slurmd")
_SECONDS = 30
_CONFIGURATION = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldParameters=preempt_send_user_signal
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=all Nodes={host} Default=YES State=UP
"""


@contextmanager
def one_node(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start munge and SLURM on this machine, skip the test where that cannot be, and end them.

    A test that takes longer than two minutes is ended.
    """
    if missing := [name for name in _DAEMONS if shutil.which(name) is None]:
        pytest.skip(f"{missing[0]} is not installed (Debian: slurmctld, slurmd, slurm-client, munge)")
    if os.geteuid():
        pytest.skip("SLURM's daemons need root")
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    configuration = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    configuration.write_text(
        _CONFIGURATION.format(folder=folder, host=host, ports=[_free_port(), _free_port()], cpus=os.cpu_count())
    )
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("log", "pid", "seed")]
    munged = [
        "munged",
        "--force",
        "--foreground",
        f"--socket={folder}/munge.socket",
        f"--key-file={folder}/key",
        *files,
    ]
    daemons = []
    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (folder / f"{command[0]}.txt").open("wb") as words:
                daemons.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words))
            _wait(lambda: (folder / "munge.socket").exists())
        if not _wait(lambda: "idle" in said("sinfo", "--noheader", "--format=%T")):
            told = {path.name: path.read_text()[-500:] for path in folder.glob("*.txt")}
            pytest.skip(f"SLURM does not start here: {told}")
        signal.alarm(120)
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        said("scancel", "--name=autobatch")
        _wait(lambda: not said("squeue", "--noheader"))
        for daemon in reversed(daemons):
            daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
            daemon.wait()


def said(*command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _wait(until: Callable[[], bool]) -> bool:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        if until():
            return True
        time.sleep(0.1)
    return False


def _too_long(*_: object) -> None:
    raise TimeoutError("SLURM took longer than two minutes")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
