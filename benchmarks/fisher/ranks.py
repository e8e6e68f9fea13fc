"""What a measured step costs as the number of processes grows: bytes, seconds, and the arithmetic for large models.

    python benchmarks/fisher/ranks.py                   # a few minutes on two cores
    python benchmarks/fisher/ranks.py --ranks 2 4 --share 8
    python benchmarks/fisher/ranks.py --parameters 1e9 --processes 64   # the arithmetic alone

Processes of this machine, joined by gloo, train a convolutional network under DistributedDataParallel, each with its
share of the batch; one step is plain, one measured by exact exchange, one by a sketch. Counted is what a process
receives from others: of exact rows, b P (n - 1) / n numbers, of a sketch b k (n - 1), of F 8 B^2 bytes twice. Seconds
are those of n processes on this machine's cores, so only their ratios tell anything.

The arithmetic is for one measured step at the given number of parameters, processes and samples a process, over a
network of so many bytes a second, beside the gradients' own all-reduce.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from autobatch.fisher import FisherProbe
from autobatch.fisher.gram import _group
from benchmarks.pages import parser_of

MEASURES: dict[str, dict[str, Any]] = {"plain": {}, "exact": {"measure": "exact"}, "sketched": {"measure": "sketched"}}


def network() -> nn.Module:
    """Convolutions whose J is formed, not multiplied by factors: as in most layers of large networks."""
    channels = ((3, 32, 1), (32, 64, 2), (64, 128, 2))
    layers: list[nn.Module] = []
    for inputs, outputs, stride in channels:
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 10))


class Counted:
    """Counts the bytes that a process receives from others."""

    def __init__(self, ranks: int) -> None:
        self.received = 0
        self._others = (ranks - 1) / ranks
        self._gather, self._exchange, self._reduce = _group._all_gather, dist.all_to_all_single, dist.all_reduce

    def all_gather(self, received: Tensor, own: Tensor, **given: Any) -> Any:
        """Gather, and count."""
        self.received += int(received.nbytes * self._others)
        return self._gather(received, own, **given)

    def all_to_all(self, received: Tensor, *given: Any, **more: Any) -> Any:
        """Exchange, and count."""
        self.received += int(received.nbytes * self._others)
        return self._exchange(received, *given, **more)

    def all_reduce(self, tensor: Tensor, *given: Any, **more: Any) -> Any:
        """Add up, and count what a ring receives."""
        self.received += int(2 * tensor.nbytes * self._others)
        return self._reduce(tensor, *given, **more)


def process(rank: int, ranks: int, share: int, rows: int, folder: str) -> None:
    """Take the steps on one process; the first prints a line for each."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/init", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    model = DistributedDataParallel(network())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(share, 3, 16, 16, generator=generator)
    y = torch.randint(10, (share,), generator=generator)
    group = dist.new_group()
    plain = 0.0
    for name, options in MEASURES.items():
        counted = Counted(ranks)
        probe = FisherProbe(model, process_group=group, sketch_rows=rows, **options) if options else None
        best = float("inf")
        for _ in range(3):
            counted.received = 0
            dist.barrier()
            start = time.perf_counter()
            with (
                mock.patch.object(_group, "_all_gather", counted.all_gather),
                mock.patch.object(dist, "all_to_all_single", counted.all_to_all),
                mock.patch.object(dist, "all_reduce", counted.all_reduce),
            ):
                model.zero_grad()
                if probe is None:
                    F.cross_entropy(model(x), y).backward()
                else:
                    with probe:
                        F.cross_entropy(model(x), y).backward()
            dist.barrier()
            best = min(best, time.perf_counter() - start)
        plain = plain or best
        if rank == 0:
            c = "" if probe is None else f"{probe.spectrum().condition_number:.4g}"
            print(
                f"| {ranks} | {ranks * share} | {name} | {counted.received / 1e6:.2f} |"
                f" {counted.received / 4 / share / parameters:.3f} P | {best / plain:.1f} | {c} |",
                flush=True,
            )
    dist.barrier()
    dist.destroy_process_group()


def simulate(ranks: Sequence[int], share: int, rows: int) -> None:
    """Print the table of the simulation."""
    parameters = sum(parameter.numel() for parameter in network().parameters())
    print(f"{parameters} parameters, {share} samples a process, sketch of {rows} rows\n")
    print("| processes | B | measured | MB received | numbers a sample | time of a plain step | c |")
    print("|---|---|---|---|---|---|---|")
    for number in ranks:
        with tempfile.TemporaryDirectory() as folder:
            mp.start_processes(process, (number, share, rows, folder), nprocs=number, start_method="spawn")


def arithmetic(parameters: float, processes: int, share: int, bandwidth: float, step: float) -> None:
    """Print what one measured step sends at the size of large models."""
    batch = processes * share
    others = (processes - 1) / processes
    rows = 16 * batch
    gram = 2 * 8 * batch**2 * others
    kinds: dict[str, Callable[[], float]] = {
        "gradients' all-reduce, float32": lambda: 2 * 4 * parameters * others,
        "exact, float32 rows": lambda: 4 * share * parameters * others + gram,
        "exact, bfloat16 rows": lambda: 2 * share * parameters * others + gram,
        f"sketched, k = {rows}": lambda: 4 * share * rows * (processes - 1),
        "sketched, k = 4 B": lambda: 4 * share * 4 * batch * (processes - 1),
    }
    print(
        f"\n{parameters:.3g} parameters, {processes} processes, B {batch}, {bandwidth / 1e9:g} GB/s, {step:g} s a step"
        "\n"
    )
    print("| what | received by a process | seconds | 2 % of the time allow one measured step in |")
    print("|---|---|---|---|")
    for name, received in kinds.items():
        seconds = received() / bandwidth
        often = "" if name.startswith("grad") else f"{max(1.0, seconds / (0.02 * step)):.0f}"
        print(f"| {name} | {received() / 1e9:.3g} GB | {seconds:.3g} | {often} |")
    print(
        f"\nrows kept until after the step: {4 * share * parameters / 1e9:.3g} GB;"
        f" a sketch: {8 * share * rows / 1e6:.3g} MB"
    )


def main() -> None:
    """Simulate and reckon."""
    parser = parser_of(__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--share", type=int, default=8, help="samples a process")
    parser.add_argument("--rows", type=int, default=1024, help="of the sketch")
    parser.add_argument("--parameters", type=float, default=0.0, help="reckon only, for so many")
    parser.add_argument("--processes", type=int, default=64)
    parser.add_argument("--samples", type=int, default=16, help="samples a process, reckoned with")
    parser.add_argument("--bandwidth", type=float, default=50e9, help="bytes a second that a process receives")
    parser.add_argument("--step", type=float, default=1.0, help="seconds of a plain step")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not given.parameters:
        simulate(given.ranks, given.share, given.rows)
    arithmetic(given.parameters or 1e9, given.processes, given.samples, given.bandwidth, given.step)


if __name__ == "__main__":
    main()
