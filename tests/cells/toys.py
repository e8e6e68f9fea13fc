"""Cells that train in no time: a checkpoint that counts epochs, and a part that is written once."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from autobatch.cells import Cell, CellEnd, Plan, Report

EPOCHS = 3


def plan_of(count: int, **fingerprint: object) -> Plan:
    """Return cells, the first the longest."""
    cells = tuple(Cell(f"c{number}", float(count - number)) for number in range(count))
    return Plan("toys", {"task": {"epochs": EPOCHS}, **fingerprint}, {}, cells)


def nothing(_name: str, _epoch: int) -> None:
    """Leave the training as it is."""


@dataclass
class Toys:
    """Trains toys; may be told what to do before an epoch."""

    folder: Path
    before: Callable[[str, int], None] = nothing
    epochs: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    def __call__(self, plan: Plan) -> "Toys":
        """Return what trains the cells of a plan."""
        return self._train  # type: ignore[return-value]

    def _train(self, cell: Cell, report: Report) -> CellEnd:
        part, place = self.folder / f"{cell.name}.part", self.folder / f"{cell.name}.checkpoint"
        if part.exists():
            return CellEnd("was there")
        epoch = json.loads(place.read_bytes()) if place.exists() else 0
        while epoch < EPOCHS:
            self.before(cell.name, epoch)
            epoch += 1
            self.epochs.append(cell.name)
            whole(place, json.dumps(epoch).encode())
            report(epoch / EPOCHS)
        report(1.0)
        self.parts.append(cell.name)
        whole(part, b"trained")
        return CellEnd("finished")


def whole(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.replace(path)
