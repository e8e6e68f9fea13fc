"""A working directory with a tiny task and its beacons."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from autobatch.beacons import Beacon, BeaconLibrary, CostTable, LibraryInfo
from autobatch.evidence.bench import _bench as benching
from autobatch.training import RunConfig, device_kind, load_data, load_epochs, run
from autobatch.training._trial import BN
from tests.training.tiny import COSTS, fixed, tiny_task

SIZES, RATES = (8, 16, 32), (0.05, 0.1)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory) -> Path:
    """A working directory with the task ``tiny``, its beacons, and the task ``bare``, which has none."""
    home = tmp_path_factory.mktemp("evaluation")
    task = tiny_task()
    data = load_data(task)
    for name, changes in (("tiny", {}), ("bare", {"batch_sizes": [8, 16]})):
        (home / "envs" / name).mkdir(parents=True)
        own = tiny_task(name=name, **changes).model_dump(mode="json")
        (home / "envs" / name / "env.yaml").write_text(yaml.safe_dump(own))
    beacons = []
    for size in SIZES:
        for lr in RATES:
            config = RunConfig(task=task, policy=fixed(size, lr), device="cpu", recording=True)
            out = home / "recording" / f"{size}-{lr}"
            summary = run(config, out, data=data)
            rows = [row.to_dict() for row in load_epochs(out)]
            ends = {"test_error": summary.test_error, "test_loss": summary.test_loss, "stopped_because": "finished"}
            beacons.append(Beacon.from_records(size, lr, 0, records=rows, **ends))
    costs = CostTable(
        device_kind(torch.device("cpu"), task.threads),
        COSTS.step_seconds,
        COSTS.measuring_seconds,
        COSTS.epoch_seconds,
    )
    payload = task.fingerprint_payload(data.fingerprint, data.num_classes)
    BeaconLibrary(tuple(beacons), LibraryInfo(payload, "tiny", task.score, BN, 50, costs=costs)).save(
        home / "envs" / "tiny"
    )
    return home


@pytest.fixture
def home(recorded, tmp_path, monkeypatch) -> Path:
    """A copy of the tasks that a test may spoil; the working directory. No pictures, which take a second each."""
    shutil.copytree(recorded / "envs", tmp_path / "envs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(recorded / "cache"))
    monkeypatch.delenv("AUTOBATCH_PATH", raising=False)
    monkeypatch.setattr(benching, "save_task", lambda *arguments: None)
    monkeypatch.setattr(benching, "save_overall", lambda *arguments: None)
    return tmp_path
