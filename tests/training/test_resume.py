"""A run that was killed anywhere continues bit by bit as if it had not been."""

import json
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from autobatch._errors import CheckpointError
from autobatch.control.run import CHECKPOINT
from autobatch.training import EpochRow, RunConfig, RunObserver, load_run_config, run
from tests.processes import FORKED
from tests.training.kills import Killer, assert_same_run, kill_and_resume
from tests.training.tiny import dropout_task, fixed, stages, tiny_config, tiny_task


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_a_run_killed_at_any_write_continues_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    config = tiny_config(stages(8, 32, 16), task=dropout_task(epochs=3), trust_code=True)
    run(config, tmp_path / "whole")
    struck = 0
    while kill_and_resume(config, tmp_path / str(struck), Killer(struck + 1, share), monkeypatch):
        assert_same_run(tmp_path / "whole", tmp_path / str(struck))
        struck += 1
    # config, first decision, three epochs of three appends (after the last one, nothing is decided) and a checkpoint,
    # summary
    assert struck == 2 + 3 * 4 - 1 + 1


class Bomb(RunObserver):
    def __init__(self, fuse: int) -> None:
        self.fuse = fuse

    def step(self, step: int, steps: int) -> None:
        self.fuse -= 1
        if self.fuse == 0:
            raise KeyboardInterrupt


def test_a_run_killed_between_steps_continues_bit_by_bit(tmp_path: Path) -> None:
    config = tiny_config(task=tiny_task(optimizer={"name": "adamw"}))
    run(config, tmp_path / "whole")
    out = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        run(config, out, Bomb(5))
    for fuse in (11 + 2, 6, 9):
        with pytest.raises(KeyboardInterrupt):
            run(load_run_config(out), out, Bomb(fuse), resume=True)
    run(load_run_config(out), out, resume=True)
    assert_same_run(tmp_path / "whole", out)


def begin_or_go_on(out: Path) -> None:
    if (out / "config.yaml").exists():
        run(load_run_config(out), out, resume=True)
    else:
        run(tiny_config(task=tiny_task(epochs=150)), out)


def start(out: Path) -> BaseProcess:
    process = FORKED.Process(target=begin_or_go_on, args=(out,))
    process.start()
    return process


def exit_code(process: BaseProcess) -> int | None:
    process.join(60)
    return process.exitcode


def wait_for_epochs(out: Path, count: int) -> None:
    path = out / "epochs.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not path.exists() or path.read_bytes().count(b"\n") < count):
        time.sleep(0.002)


def test_kill_minus_nine_at_random_moments(tmp_path: Path) -> None:
    run(tiny_config(task=tiny_task(epochs=150)), tmp_path / "whole")
    out = tmp_path / "run"
    moments = random.Random(0)
    for count in (5, 50):
        process = start(out)
        wait_for_epochs(out, count)
        time.sleep(moments.uniform(0.0, 0.1))
        process.kill()
        assert exit_code(process) == -signal.SIGKILL
    assert not (out / "summary.json").exists()
    assert exit_code(start(out)) == 0
    assert_same_run(tmp_path / "whole", out)


class StopAfter(RunObserver):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def epoch_finished(self, row: EpochRow) -> None:
        if row.epoch == self.epochs:
            raise KeyboardInterrupt


def finished_epochs(tmp_path: Path) -> tuple[RunConfig, Path]:
    """Return a run of four epochs that was interrupted after two."""
    config = tiny_config()
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run", StopAfter(2))
    return config, tmp_path / "run"


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"seed": 9}, ["'seed' was 1 and is 9"]),
        ({"policy": fixed(8)}, ["'policy.kind'", "'policy.name'"]),
        ({"task": tiny_task(epochs=5)}, ["'task.epochs' was 4 and is 5"]),
        ({"measure": False}, ["'measure'"]),
    ],
)
def test_a_changed_configuration_is_refused(tmp_path: Path, changes: dict[str, Any], keys: list[str]) -> None:
    config, out = finished_epochs(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        run(config.model_copy(update=changes), out, resume=True)
    assert all(key in str(caught.value) for key in keys)
    run(config, out, resume=True)


def test_an_edited_configuration_file_is_refused(tmp_path: Path) -> None:
    _, out = finished_epochs(tmp_path)
    path = out / "config.yaml"
    path.write_text(path.read_text().replace("epochs: 4", "epochs: 5"))
    with pytest.raises(CheckpointError, match=r"latest\.safetensors.*'task\.epochs' was 4 and is 5"):
        run(load_run_config(out), out, resume=True)


def test_where_things_lie_may_change(tmp_path: Path) -> None:
    config, out = finished_epochs(tmp_path)
    moved = out.rename(tmp_path / "moved")
    run(config.model_copy(update={"data_dir": tmp_path, "costs": None}), moved, resume=True)
    run(tiny_config(), tmp_path / "whole")
    assert_same_run(tmp_path / "whole", moved)


def test_a_finished_run_is_only_read(tmp_path: Path) -> None:
    summary = run(tiny_config(), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert run(load_run_config(tmp_path / "run"), tmp_path / "run", resume=True) == summary
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_foreign(path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, path)


def damage_version(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b'\\"version\\": 1, \\"epoch\\"', b'\\"version\\": 7, \\"epoch\\"'))
    assert path.read_bytes() != content


def damage_other_tensors(path: Path) -> None:
    from safetensors.torch import load, save_file

    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors = {**load(content), "model/layers.9.weight": torch.zeros(2)}
    save_file(tensors, path, metadata=header["__metadata__"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, "truncated, damaged"),
        (damage_empty, "truncated, damaged"),
        (damage_foreign, "truncated, damaged"),
        (damage_version, "format version 7"),
        (damage_other_tensors, "layers.9.weight"),
    ],
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    config, out = finished_epochs(tmp_path)
    damage(out / CHECKPOINT)
    before = (out / CHECKPOINT).read_bytes()
    with pytest.raises(CheckpointError, match=message):
        run(config, out, resume=True)
    assert (out / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize("seed", range(20))
def test_a_mutated_checkpoint_is_refused_or_harmless(tmp_path: Path, seed: int) -> None:
    config, out = finished_epochs(tmp_path)
    path = out / CHECKPOINT
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    generator = random.Random(seed)
    for _ in range(3):
        content[generator.randrange(header)] = generator.randrange(256)
    path.write_bytes(content)
    message = str(out)
    try:
        run(config, out, resume=True)
    except CheckpointError as error:
        message = str(error)
    assert str(out) in message


def test_records_that_do_not_fit_the_checkpoint_are_refused(tmp_path: Path) -> None:
    config, out = finished_epochs(tmp_path)
    lines = (out / "epochs.jsonl").read_text().splitlines(keepends=True)
    (out / "epochs.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(CheckpointError, match=r"expected the 2 epochs"):
        run(config, out, resume=True)
    (out / "epochs.jsonl").write_text(lines[0] + "rubbish\n" + lines[1])
    with pytest.raises(CheckpointError, match=r"epochs\.jsonl, line 2: expected a JSON object"):
        run(config, out, resume=True)


def test_nothing_to_resume_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no run"):
        run(tiny_config(), tmp_path, resume=True)
