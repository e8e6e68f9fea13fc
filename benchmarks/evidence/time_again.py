"""Time a shipped task's steps again on a quiet machine, and keep the median of several cost tables with its beacons.

    python benchmarks/evidence/time_again.py cifar5k-resnet8 --data-dir DATA

For a library whose first table was timed while other work ran. Every figure is the median over the tables; what each
table makes of the whole training at every batch size is printed, so that one sees how far they scatter.
"""

import math
import statistics
from collections.abc import Callable
from pathlib import Path

from autobatch import load_data, load_task
from autobatch._artefacts import find_artefact
from autobatch.beacons import CostTable
from autobatch.beacons.storage import compact
from autobatch.training._calibrate import calibrate
from autobatch.training._engine import resolve_device
from benchmarks.pages import parser_of


def main() -> None:
    """Time, print, and write the library."""
    parser = parser_of(__doc__)
    parser.add_argument("env")
    parser.add_argument("--tables", type=int, default=9)
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    task, device = load_task(arguments.env), resolve_device("cpu")
    data = load_data(task, arguments.data_dir, device)
    sizes, examples = task.batch_sizes, len(data.train_labels)
    tables = [calibrate(task, data, device, sizes) for _ in range(arguments.tables)]

    def median(figure: Callable[[CostTable], float]) -> float:
        return statistics.median(figure(table) for table in tables)

    middle = CostTable(
        device=tables[0].device,
        step_seconds={size: median(lambda table, size=size: table.step_seconds[size]) for size in sizes},
        measuring_seconds={size: median(lambda table, size=size: table.measuring_seconds[size]) for size in sizes},
        epoch_seconds=median(lambda table: table.epoch_seconds),
    )
    for name, table in [*((f"table {number}", table) for number, table in enumerate(tables, 1)), ("median", middle)]:
        seconds = {
            size: table.training_seconds(size, math.ceil(examples / size) * task.epochs, task.epochs) for size in sizes
        }
        print(f"{name}: " + ", ".join(f"s{size} {value:.1f} s" for size, value in seconds.items()), flush=True)
    print(compact(find_artefact("envs", arguments.env).parent, middle))


if __name__ == "__main__":
    main()
