"""What native kernels gain: a measured step by PyTorch's products and by compiled ones, and the kernels alone.

Steps are timed in turns in one process, as medians of ratios to plain ones; the kernels beside ``torch.compile`` of the
same, which is compiled here and now. One thread's CPU time by default, the time of day on more threads.

    python benchmarks/fisher/native.py steps
    python benchmarks/fisher/native.py kernels
"""

import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from autobatch.fisher.gram import _native
from autobatch.fisher.gram._gram import GramAccumulator
from autobatch.fisher.layers._autotune import Shape, rule
from autobatch.fisher.layers._convolution import form
from autobatch.fisher.layers._unfold import Geometry
from benchmarks.fisher.methods import ours, plain_step
from benchmarks.fisher.models import CASES
from benchmarks.fisher.timing import in_turn, seconds
from benchmarks.pages import heading, parser_of

LOADED = _native.loaded
SHORTEST = 0.05  # seconds that are timed at a time


def in_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time some calls, after one of each, another one first in each round."""
    for run in runs.values():
        run()
    repeats = {name: max(1, round(SHORTEST / seconds(run))) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds):
        for name in in_turn(runs, index):
            times[name].append(seconds(runs[name], repeats=repeats[name]))
    return times


def switched(run: Callable[[], object], native: bool) -> Callable[[], object]:
    """Return a call with native kernels or without."""

    def switch() -> object:
        _native.loaded = LOADED if native else lambda: None
        return run()

    return switch


def steps(name: str, size: int, rounds: int) -> None:
    """Print the ratios of one case."""
    case = CASES[name]
    model = case.build()
    inputs, targets = case.batch(size)
    plain = plain_step(case, model)
    runs: dict[str, Callable[[], object]] = {"plain": lambda: plain(inputs, targets)}
    for gradients in ("library", "rows"):
        step = ours(case, copy.deepcopy(model), gradients)
        for native in (False, True):
            how = f"{gradients}, {'native' if native else 'PyTorch'}"
            runs[how] = switched(lambda step=step: step(inputs, targets), native)
    times = in_turns(runs, rounds)
    plains = times.pop("plain")
    ratios = [statistics.median(a / b for a, b in zip(ours_, plains, strict=True)) for ours_ in times.values()]
    cells = [f"{ratio:.2f}" for ratio in ratios]
    print("| " + " | ".join([name, str(size), *cells, f"{1e3 * statistics.median(plains):.1f}"]) + " |", flush=True)


def unfolded_rows(x: Tensor, g: Tensor) -> Tensor:
    """Rows of J as torch.compile gets them, of a 3x3 convolution with padding 1."""
    return torch.bmm(g.flatten(2), F.unfold(x, 3, padding=1).mT)


def shifted_rows(x: Tensor, g: Tensor) -> Tensor:
    """The same by shifts, which it can fuse into one copy."""
    high, across = g.shape[2:]
    whole = F.pad(x, (1, 1, 1, 1))
    columns = torch.stack([whole[:, :, i : i + high, j : j + across] for i in range(3) for j in range(3)], 2)
    return torch.bmm(g.flatten(2), columns.flatten(1, 2).flatten(2).mT)


def product(rows: Tensor, gram: Tensor) -> Tensor:
    """The Gram matrix of rows, 1152 columns at a time."""
    parts = rows.unflatten(1, (-1, 1152)).transpose(0, 1)
    return gram + torch.bmm(parts, parts.mT).sum(0, dtype=torch.float64)


@torch.no_grad()
def kernels(size: int, rounds: int) -> None:
    """Print the time of rows and products of two layers of ResNet-20."""
    geometry = Geometry((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    for channels, side in ((16, 32), (64, 8)):
        x, g = torch.randn(2, size, channels, side, side).unbind()
        rows = torch.randn(size, channels * channels * 9)
        accumulator = GramAccumulator(size, torch.device("cpu"))
        accumulator.add(rows)  # which finds that no samples are alike
        before = torch.zeros(size, size, dtype=torch.float64)
        route = rule(Shape.of(x, g, size, geometry, 1))
        compiled: dict[str, Callable[[], object]] = {}
        for what, arguments in ((unfolded_rows, (x, g)), (shifted_rows, (x, g)), (product, (rows, before))):
            start = time.perf_counter()
            run = torch.compile(what, dynamic=False)
            run(*arguments)
            print(f"torch.compile of {what.__name__}: {time.perf_counter() - start:.1f} s", flush=True)
            compiled[f"{what.__name__}, compiled"] = lambda run=run, arguments=arguments: run(*arguments)
        runs = {
            "rows, PyTorch": lambda x=x, g=g, route=route: form(x, g, size, geometry, 1, route=route),
            "rows, native": switched(lambda x=x, g=g: form(x, g, size, geometry, 1), True),
            "Gram matrix, PyTorch": switched(lambda a=accumulator, rows=rows: a.add(rows), False),
            "Gram matrix, native": switched(lambda a=accumulator, rows=rows: a.add(rows), True),
            **compiled,
        }
        for name, times in in_turns(runs, rounds).items():
            print(f"{channels} channels, {side}x{side}, B = {size}: {name}: {1e3 * statistics.median(times):.2f} ms")


def main() -> None:
    """Print one of the two."""
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=["steps", "kernels"])
    parser.add_argument("--cases", nargs="+", default=["mlp", "resnet20", "vit-tiny", "gpt"], choices=list(CASES))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if LOADED() is None:
        raise SystemExit("no native kernels here: gcc is needed, and AUTOBATCH_NATIVE must not be 0")
    if arguments.what == "kernels":
        for size in arguments.batch_sizes:
            kernels(size, arguments.rounds)
        return
    head = [f"{gradients}, {how}" for gradients in ("library", "rows") for how in ("PyTorch", "native")]
    print(heading(" | ".join(["network", "B", *head, "plain, ms"])))
    for case in arguments.cases:
        for size in arguments.batch_sizes:
            steps(case, size, arguments.rounds)


if __name__ == "__main__":
    main()
