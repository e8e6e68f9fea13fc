"""A worker of toys as a command, as ``autobatch worker`` is one of trainings."""

import os
import signal
import sys
from pathlib import Path

from autobatch.cells import Cells, Identity, Pace, Worker
from tests.cells.toys import Toys


def main(folder: Path) -> int:
    if (folder / "refuse").exists():
        print("autobatch: error: cells of another task", file=sys.stderr)
        return 2

    def before(name: str, _epoch: int) -> None:
        if (folder / f"{name}.die").exists():
            (folder / f"{name}.die").unlink()
            os._exit(3)
        if (folder / f"{name}.wait").exists():
            (folder / f"{name}.waits").touch()
            signal.pause()

    cells = Cells(folder, Pace(beat=0.1, patience=1.0, grace=5.0))
    worker = Worker(cells, Toys(folder, before=before), Identity(cells.workers))
    with worker.signals():
        worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
