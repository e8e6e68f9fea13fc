"""Several gloo processes on one machine, started once for all the bodies that a test file has for them."""

import datetime
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.processes import FORKED

# Called on every process of a group, with that group and another one of the same processes.
Body = Callable[[dist.ProcessGroup, dist.ProcessGroup], None]
_TIMEOUT = datetime.timedelta(seconds=60)


def run_in_processes(bodies: Sequence[tuple[str, int, Body]], directory: Path) -> dict[str, str]:
    """Run each (name, number of processes, body) in turn; return the tracebacks of each, "" where it passed."""
    world = max(world for _, world, _ in bodies)
    mp.start_processes(_process, (bodies, str(directory)), nprocs=world, start_method=FORKED.get_start_method())
    return {name: "\n".join(file.read_text() for file in sorted(directory.glob(f"{name}.*"))) for name, _, _ in bodies}


def _process(rank: int, bodies: Sequence[tuple[str, int, Body]], directory: str) -> None:
    torch.set_num_threads(1)
    sizes = sorted({world for _, world, _ in bodies})
    dist.init_process_group("gloo", f"file://{directory}/init", rank=rank, world_size=sizes[-1], timeout=_TIMEOUT)
    groups = {size: [dist.new_group(list(range(size)), timeout=_TIMEOUT) for _ in range(2)] for size in sizes}
    for name, world, body in bodies:
        torch.manual_seed(7)
        try:
            if rank < world:
                body(*groups[world])
        except Exception:
            Path(directory, f"{name}.{rank}").write_text(f"process {rank}:\n{traceback.format_exc()}")
        dist.barrier()
    dist.destroy_process_group()
