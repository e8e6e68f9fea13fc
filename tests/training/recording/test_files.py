"""Records and checkpoints on disk: whole or as they were before."""

import math
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from autobatch._errors import CheckpointError, OutputError
from autobatch._files import write_whole
from autobatch._plain import to_json
from autobatch.control import DecisionRecord
from autobatch.control.run import EpochRow, RunFiles, load_decisions
from autobatch.control.run._files import append_lines, read_lines, write_lines
from autobatch.training._checkpoint import Checkpoint, put_back, read_checkpoint, snapshot, write_checkpoint


@pytest.fixture
def small_disk() -> Iterator[int]:
    """Let no file grow beyond 1000 bytes; a write across the limit is done in part, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield 1000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_lines_are_appended_whole_or_not_at_all(tmp_path: Path, small_disk: int) -> None:
    path = tmp_path / "epochs.jsonl"
    rows = [{"epoch": epoch, "text": "x" * 80} for epoch in range(9)]
    append_lines(path, rows)
    with pytest.raises(OutputError, match=r"epochs\.jsonl: cannot be written"):
        append_lines(path, [{"epoch": 9, "text": "x" * 80}, {"epoch": 10, "text": "x" * 80}])
    assert read_lines(path) == rows
    append_lines(path, [{"epoch": 9}])
    assert path.stat().st_size <= small_disk


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, small_disk: int) -> None:
    path = tmp_path / "summary.json"
    write_whole(path, b"old")
    with pytest.raises(OutputError, match=r"summary\.json: cannot be written: File too large"):
        write_whole(path, b"x" * (small_disk + 1))
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]
    assert path.read_bytes() == b"old"


def test_a_full_disk_ends_a_run_with_its_last_checkpoint_sound(tmp_path: Path) -> None:
    model = nn.Linear(50, 50)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = tmp_path / "checkpoint" / "latest.safetensors"
    write_checkpoint(path, Checkpoint(snapshot(model, optimizer), {"epoch": 1}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(OutputError, match=r"latest\.safetensors"):
            write_checkpoint(path, Checkpoint(snapshot(model, optimizer), {"epoch": 2}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert read_checkpoint(path).record == {"epoch": 1}
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_json_is_strict() -> None:
    row = {"a": math.nan, "b": [math.inf, 1.5, {"c": -math.inf}], "d": (1, "é"), "e": None, 3: True}
    assert to_json(row) == '{"a": null, "b": [null, 1.5, {"c": null}], "d": [1, "é"], "e": null, "3": true}'


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "epochs.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3')
    assert read_lines(path) == [{"epoch": 1}, {"epoch": 2}]
    assert read_lines(tmp_path / "missing.jsonl") == []


def row(epoch: int) -> EpochRow:
    return EpochRow(epoch, epoch / 4, 8, 0.1, 0.1, 2.0, 3.0, 10 * epoch, 2, 80 * epoch, 0.5, 0.6, 0.1, 1.0, 0.1)


def test_a_run_is_cut_to_where_it_goes_on(tmp_path: Path) -> None:
    path, nan = tmp_path / "epochs.jsonl", math.nan
    first = DecisionRecord(0, 0.0, 8, 0.1, 8, 0.1, 0.1, True, "the first", None, nan, 0.0, nan, nan, None, ())
    write_lines(path, [row(1).to_dict(), row(2).to_dict()])
    path.write_text(path.read_text() + '{"epoch": 3')
    files = RunFiles(tmp_path)
    files.load()
    assert files.epochs == [row(1), row(2)]
    files.cut(progress=0.25, examples=80, steps=10, last=first)
    assert path.read_text() == to_json(row(1).to_dict()) + "\n"
    assert load_decisions(tmp_path) == [first]


@pytest.mark.parametrize("line", ["[1]", "rubbish", "{", "\x00", '{"epoch": "one"}', "{}"])
def test_damaged_lines_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "epochs.jsonl"
    path.write_text(to_json(row(1).to_dict()) + "\n" + line + "\n")
    with pytest.raises(CheckpointError, match=r"epochs\.jsonl, line 2"):
        RunFiles(tmp_path).load()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.first(self.norm(self.conv(images)).mean((2, 3))))
        return out


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_checkpoint_restores_bit_by_bit(tmp_path: Path, kind: str) -> None:
    def make(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        model = Tied().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if kind == "sgd":
            return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, fused=True)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            model(images).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    images = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "c.safetensors"
    with torch.random.fork_rng(devices=[]):
        model, optimizer = make(1)
        train(model, optimizer, 3)
        write_checkpoint(path, Checkpoint(snapshot(model, optimizer), {"epoch": 3, "odd": [math.nan, 0.1 + 0.2]}))
        train(model, optimizer, 3)
        other, other_optimizer = make(2)
        checkpoint = read_checkpoint(path)
        put_back(checkpoint.tensors, other, other_optimizer, str(path))
        train(other, other_optimizer, 3)
    assert checkpoint.record["odd"][1] == 0.1 + 0.2
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert other.first.weight is other.second.weight  # type: ignore[union-attr]


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    one, other = nn.Linear(3, 2), nn.Linear(3, 4)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (one, other)]
    one(torch.ones(1, 3)).sum().backward()
    optimizers[0].step()
    write_checkpoint(path, Checkpoint(snapshot(one, optimizers[0]), {}))
    with pytest.raises(CheckpointError, match="another one"):
        put_back(read_checkpoint(path).tensors, other, optimizers[1], str(path))
    tensors = {**snapshot(other, optimizers[1]), "optimizer/0/momentum_buffer": torch.zeros(2, 3)}
    with pytest.raises(CheckpointError, match=r"expected shape \(4, 3\), got \(2, 3\)"):
        put_back(tensors, other, optimizers[1], str(path))
    tensors.pop("optimizer/0/momentum_buffer")
    with pytest.raises(CheckpointError, match="more parameters"):
        put_back({**tensors, "optimizer/7/x": torch.zeros(2)}, other, optimizers[1], str(path))
    with pytest.raises(CheckpointError, match="unexpected tensor 'rubbish'"):
        put_back({**tensors, "rubbish": torch.zeros(2)}, other, optimizers[1], str(path))
