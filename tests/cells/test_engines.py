"""Engines start ``autobatch worker`` elsewhere: the same cells, the same ends, and clear words where they cannot."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from autobatch._errors import AutoBatchError, ConfigError
from autobatch.cells import Cells, engine_settings, status_of, work_at
from autobatch.cells._command import WorkerCommand
from autobatch.cells._engine import Gone, oversee
from autobatch.cells._slurm import WorkerJob
from tests.cells.slurm import one_node, said
from tests.cells.test_cells import put, worker
from tests.cells.toys import Toys, plan_of

TOYS = ("tests.cells.worker_of_toys",)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def _toy_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines start workers of toys, which need no torch."""
    monkeypatch.setattr("autobatch.cells._on.WorkerCommand", partial(WorkerCommand, module=TOYS))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def worked_on(on: str, folder: Path, count: int, jobs: int) -> dict[str, list[tuple[str, Any]]]:
    heard = defaultdict(list)
    work_at(
        Cells(folder),
        plan_of(count),
        Toys(folder),
        jobs,
        lambda cell, event, value: heard[cell.name].append((event, value)),
        on=on,
    )
    return heard


@pytest.mark.parametrize(
    ("on", "found"),
    [
        ("local", ("local", {})),
        ("local:ranks=2", ("local", {"ranks": 2})),
        ("ray:address=10.0.0.1:6379", ("ray", {"address": "10.0.0.1:6379"})),
        (
            "slurm:partition=gpu,time=240,exclusive=true",
            ("slurm", {"partition": "gpu", "time": 240, "exclusive": True}),
        ),
    ],
)
def test_an_engine_is_named_with_its_settings(on: str, found: tuple[str, dict[str, Any]]) -> None:
    assert engine_settings(on) == found


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("slrum", "there is no engine 'slrum'; did you mean 'slurm'?"),
        ("slurm:gpu", "expected settings such as slurm:KEY=VALUE,KEY=VALUE, got 'gpu'"),
        ("local:jobs=2", "have no setting 'jobs', only ranks; --jobs says how many workers"),
    ],
)
def test_what_is_no_engine_is_refused(on: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        engine_settings(on)
    assert message in str(error.value)


@pytest.mark.parametrize(("on", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_an_engine_that_is_not_installed_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"--on {on}: .*{package}.* pip install 'autobatch\[{on}\]'"):
        worked_on(on, tmp_path, 1, 1)
    assert status_of(Cells(tmp_path)).waiting == 1


def test_none_is_imported_unless_asked_for() -> None:
    code = "import sys, autobatch.cells, autobatch.cli; sys.exit(bool({'ray', 'submitit'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


class Hands:
    """An engine whose workers end as is written."""

    look_every = 0.0

    def __init__(self, *ends: Gone | None) -> None:
        self.ends, self.started, self.stopped = list(ends), 0, 0

    def start(self, count: int) -> None:
        self.started += count

    def poll(self) -> list[Gone]:
        end = self.ends.pop(0)
        return [] if end is None else [end]

    def stop(self) -> None:
        self.stopped += 1

    def owns(self, _owner: str) -> bool:
        return True


def test_a_worker_that_dies_is_replaced_and_several_that_come_to_nothing_are_the_end(tmp_path: Path) -> None:
    cells, names = put(tmp_path, plan_of(1)), frozenset({"c0"})
    hands = Hands(Gone("out of memory"), None, Gone(), Gone())
    oversee(hands, cells, names, 2, lambda *_: None)
    assert (hands.started, hands.stopped) == (3, 1)
    hands = Hands(*(Gone("out of memory") for _ in range(9)))
    with pytest.raises(AutoBatchError, match="no worker comes to train anything: out of memory"):
        oversee(hands, cells, names, 2, lambda *_: None)
    assert (hands.started, hands.stopped, len(hands.ends)) == (4, 1, 6)


def test_cells_that_a_worker_has_cleared_away_are_done(tmp_path: Path) -> None:
    heard = []

    class Thorough(Hands):
        def poll(self) -> list[Gone]:
            other = Cells(tmp_path)
            worker(tmp_path, Toys(tmp_path)).run()
            assert other.clear()
            return [Gone()]

    cells, names = put(tmp_path, plan_of(2)), frozenset({"c0", "c1"})
    oversee(Thorough(), cells, names, 1, lambda cell, event, value: heard.append((cell.name, event)))
    assert sorted(heard) == [(name, event) for name in ("c0", "c1") for event in ("done", "started")]


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def test_a_command_that_is_interrupted_has_its_worker_give_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    put(tmp_path, plan_of(1))
    (tmp_path / "c0.wait").touch()

    def interrupt() -> None:
        wait_for(tmp_path / "c0.waits")
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=interrupt).start()
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born deaf to it
    try:
        with pytest.raises(KeyboardInterrupt):
            WorkerCommand((str(tmp_path),), TOYS)()
    finally:
        signal.signal(signal.SIGINT, heard)
    status = status_of(Cells(tmp_path))
    assert (status.waiting, status.running, (tmp_path / "c0.checkpoint").read_text()) == (1, (), "1")


def test_a_job_whose_time_is_over_gives_back_and_is_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    put(tmp_path, plan_of(1))
    (tmp_path / "c0.wait").touch()
    job, codes = WorkerJob((str(tmp_path),), TOYS), []
    thread = Thread(target=lambda: codes.append(job()))
    thread.start()
    wait_for(tmp_path / "c0.waits")
    again = job.checkpoint()
    thread.join()
    assert codes == [(0, "")]
    assert status_of(Cells(tmp_path)).waiting == 1
    (tmp_path / "c0.wait").unlink()
    assert pickle.loads(pickle.dumps(again.function))() == (0, "")
    assert (tmp_path / "c0.part").exists()


@pytest.mark.usefixtures("_toy_workers")
def test_slurm_as_submitit_tries_it_out_locally_goes_on_with_what_is_there(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "c1.die").touch()
    put(tmp_path, plan_of(4))
    worker(tmp_path, Toys(tmp_path), only=frozenset({"c0"})).run()
    trained = (tmp_path / "c0.part").stat().st_mtime_ns
    heard = worked_on("slurm:cluster=local", tmp_path, 4, 2)
    assert {name: events[-1][0] for name, events in heard.items()} == dict.fromkeys(("c0", "c1", "c2", "c3"), "done")
    assert len(list(tmp_path.glob("*.part"))) == 4
    assert (tmp_path / "c0.part").stat().st_mtime_ns == trained
    assert (tmp_path / ".slurm").is_dir()  # kept, as one has died


@pytest.mark.usefixtures("_toy_workers")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("cluster=local,nodes=2", "nodes cannot be set, a worker is one task"),
        ("cluster=local,timeot_min=3", "timeot_min"),
        ("cluster=nowhere", "nowhere"),
    ],
)
def test_settings_that_submitit_does_not_know_are_refused(tmp_path: Path, settings: str, message: str) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(ConfigError, match=message):
        worked_on(f"slurm:{settings}", tmp_path, 1, 1)


def test_a_machine_without_slurm_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no 'sbatch' on the PATH; start it on a login node"):
        worked_on("slurm", tmp_path, 1, 1)


def test_a_slurm_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "srun", "scancel", "scontrol"):
        command = tmp_path / "bin" / name
        command.write_text("#!/bin/sh\necho 'sbatch: error: Unable to contact slurm controller' >&2\nexit 1\n")
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(AutoBatchError, match=r"--on slurm: nothing could be submitted: .*Unable to contact"):
        worked_on("slurm", tmp_path, 1, 1)
    assert status_of(Cells(tmp_path)).waiting == 1


@pytest.mark.usefixtures("_toy_workers")
def test_what_a_worker_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "refuse").touch()
    with pytest.raises(AutoBatchError, match=r"a worker \(SLURM job \d+\) ended: cells of another task"):
        worked_on("slurm:cluster=local", tmp_path, 1, 1)


@pytest.fixture
def _slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("submitit")
    with one_node(tmp_path_factory.mktemp("slurm"), monkeypatch):
        yield


@pytest.mark.usefixtures("_toy_workers", "_slurm")
def test_slurm_itself(tmp_path: Path) -> None:
    (tmp_path / "c0.wait").touch()

    queued_again = []

    def preempt() -> None:
        wait_for(tmp_path / "c0.waits")
        # A job that starts only now would take what is given back before anything could be seen to be queued again; on
        # one processor there is none beside the first, so that the others are not waited for without end.
        ends = time.monotonic() + 60
        while time.monotonic() < ends and not all((tmp_path / f"c{place}.part").exists() for place in (1, 2, 3)):
            time.sleep(0.1)
        (tmp_path / "c0.wait").unlink()
        jobs = said("squeue", "--noheader", "--array", "--name=autobatch", "--states=RUNNING", "--format=%i").split()
        for job in jobs:
            said("scancel", "--signal=USR2", job)
        while not (tmp_path / "c0.part").exists():
            for job in jobs:
                if "PENDING" in said("squeue", "--noheader", "--format=%T", f"--jobs={job}"):
                    queued_again.append(job)
                    said("scontrol", "update", f"JobId={job}", "StartTime=now")  # it would wait for two minutes
            time.sleep(0.5)

    thread = Thread(target=preempt)
    thread.start()
    heard = worked_on("slurm", tmp_path, 4, 2)
    thread.join()
    assert {name: events[-1][0] for name, events in heard.items()} == dict.fromkeys(("c0", "c1", "c2", "c3"), "done")
    assert queued_again


@pytest.fixture
def _two_nodes() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = None
    try:
        try:
            cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
            cluster.add_node(num_cpus=1)
            ray.init(address=cluster.address, log_to_driver=False)
        except Exception as error:  # a node that takes too long to come up
            pytest.skip(f"Ray does not start here: {error}")
        yield
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()


@pytest.mark.usefixtures("_toy_workers", "_two_nodes")
def test_ray_on_two_nodes(tmp_path: Path) -> None:
    (tmp_path / "c1.die").touch()
    heard = worked_on("ray", tmp_path, 6, 2)
    assert {events[-1][0] for events in heard.values()} == {"done"}
    assert len(heard) == 6
    assert len(list(tmp_path.glob("*.part"))) == 6
    with pytest.raises(ConfigError, match=r"--on ray: .*num_cpu"):
        worked_on("ray:num_cpu=1", tmp_path, 1, 1)


def test_a_ray_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(address: str | None = None, **_: Any) -> None:
        raise ConnectionError("none") if address else Exception("The current node timed out during startup")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(ConfigError, match="--on ray: Ray does not start on this machine: The current node timed out"):
        worked_on("ray", tmp_path, 1, 1)
    assert status_of(Cells(tmp_path)).waiting == 1


def test_a_ray_that_is_not_reachable_is_told(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=r"--on ray: no cluster is reachable at 127\.0\.0\.1:1"):
        worked_on("ray:address=127.0.0.1:1", tmp_path, 1, 1)
