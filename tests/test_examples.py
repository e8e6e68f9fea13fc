"""The programs in examples/ run as they are, and show few lines of ours; those of frameworks in tests/integrations/."""

import contextlib
import difflib
import logging
import os
import runpy
import socket
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import FORKED

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture(autouse=True)
def _left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run in an empty directory, and undo the logging that an example sets up."""
    monkeypatch.chdir(tmp_path)
    handlers, level = list(logging.root.handlers), logging.root.level
    with torch.random.fork_rng():
        yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    assert not list(tmp_path.iterdir()), "an example left files behind"


def run(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def decisions(caplog: pytest.LogCaptureFixture) -> list[tuple[Any, ...]]:
    """Return (epoch, progress in %, batch size, rate, ...) of every decision that was logged."""
    return [record.args for record in caplog.records if record.msg.startswith("epoch %d (")]  # type: ignore[misc]


def test_plain_loop(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "autobatch")
    lines = run("plain_loop.py", capsys).splitlines()
    assert "batch size 128, 286 steps" in lines[-1]
    assert float(lines[-1].partition("error ")[2].split()[0]) < 8
    assert [size for _, _, size, *_ in decisions(caplog)] == [32, 64, 128]


def test_streaming(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "autobatch")
    assert "over 16000 examples" in run("streaming.py", capsys)
    assert [size for _, _, size, *_ in decisions(caplog)] == [32, 64, 128, 256]
    assert [round(progress) for _, progress, *_ in decisions(caplog)] == [0, 40, 60, 80]


def test_advise(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "autobatch")
    assert len(run("advise.py", capsys).splitlines()) == 5
    assert caplog.records[-1].getMessage().endswith("(advice: 128 at 0.1; nothing is changed)")


def test_scout(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "autobatch")
    said = run("scout.py", capsys)
    assert "* s16 at lr 0.1" in said
    assert "20 of 20 epochs: error " in said.splitlines()[-1]
    assert float(said.rpartition("error ")[2].split()[0]) < 10
    # Three scouts, one with half the batch, and the training, whose rate falls before the batch grows.
    assert [size for _, _, size, *_ in decisions(caplog)] == [32] * 3 + [16] * 3 + [32, 64, 128]


def test_a_plain_loop_needs_seven_lines_at_most() -> None:
    ours = (EXAMPLES / "plain_loop.py").read_text().splitlines()
    plain = without_autobatch(ours)
    compile("\n".join(plain), "plain", "exec")
    diff = list(difflib.ndiff(plain, ours))
    added = [line for line in diff if line.startswith("+ ")]
    removed = [line for line in diff if line.startswith("- ")]
    indented = sum(line[2:].strip() in {own[2:].strip() for own in removed} for line in added)
    assert len(added) - len(removed) <= 7
    assert len(added) - indented <= 8  # those that are changed included


def without_autobatch(lines: list[str]) -> list[str]:
    """Return the loop as it was before."""
    source = "\n".join(lines)
    start = source.index("    controller = autobatch")
    stop = source.index("    train_loader =")
    source = source[:start] + source[stop:]
    plain, inside = [], False
    for line in source.splitlines():
        if "with controller.step()" in line:
            inside = True
            continue
        if "import autobatch" in line or "controller.end_epoch" in line:
            continue
        changed = line.replace("step.backward(loss)  # autobatch", "loss.backward()")
        changed = changed.replace("batch_sampler=controller.batch_sampler", "batch_size=32, shuffle=True")
        plain.append(changed[4:] if inside and line.startswith(" " * 16) else changed)
        inside = inside and line.startswith(" " * 16)
    return plain


@pytest.mark.parametrize("name", [path.name for path in sorted(EXAMPLES.glob("*.py"))])
def test_every_example_says_how_to_run_it(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    assert f"examples/{name}" in text.split('"""')[1]
    assert "# autobatch" in text


def rank(number: int, folder: str) -> None:
    """Be one of two processes of an example, as torchrun starts them."""
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    with Path(folder, f"{number}.txt").open("w") as file, redirect_stdout(file), redirect_stderr(file):
        runpy.run_path(str(EXAMPLES / "ddp_digits.py"), run_name="__main__")
    os._exit(0)  # gloo's threads may outlive the interpreter (pytorch#179291)


def test_ddp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(probe.getsockname()[1]))
    folder = tmp_path_factory.mktemp("ddp")
    both = [FORKED.Process(target=rank, args=(number, str(folder))) for number in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        process.kill()
    said = [(folder / f"{number}.txt").read_text() for number in range(2)]
    assert [process.exitcode for process in both] == [0, 0], said
    assert "batch size" in said[0]
    assert not said[1]
