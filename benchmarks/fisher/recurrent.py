"""What a measured step of a recurrent network costs, with the fast rule and by one backward pass for each sample.

Steps are timed in turns in one process, as medians of ratios to plain ones: one thread's CPU time by default, the time
of day on more threads.

    python benchmarks/fisher/recurrent.py
"""

import copy
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch.fisher import FisherProbe, _registry
from benchmarks.fisher.timing import in_turn, seconds
from benchmarks.pages import heading, parser_of

KNOWN = {
    function: _registry.known(function)
    for kind in ("gru", "lstm", "rnn_tanh", "rnn_relu")
    for function in (getattr(torch, kind), getattr(torch, f"{kind}_cell"))
}


class Network(nn.Module):
    """A recurrent layer, or a cell that runs over the steps, whose last state is read out."""

    def __init__(self, layer: nn.Module, units: int) -> None:
        super().__init__()
        self.layer, self.read = layer, nn.Linear(units, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, C) to (N, 10)."""
        if not isinstance(self.layer, nn.GRUCell):
            return self.read(self.layer(x)[0][:, -1])
        state = None
        for step in x.unbind(1):
            state = self.layer(step, state)
        return self.read(state)


# Layer, its units that are read out, steps and features.
CASES: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {
    "RNN, 64 units, 28 steps": (partial(nn.RNN, 28, 64, batch_first=True), 64, 28, 28),
    "GRU, 64 units, 28 steps": (partial(nn.GRU, 28, 64, batch_first=True), 64, 28, 28),
    "LSTM, 64 units, 28 steps": (partial(nn.LSTM, 28, 64, batch_first=True), 64, 28, 28),
    "LSTM, two layers, both directions": (
        partial(nn.LSTM, 28, 64, 2, batch_first=True, dropout=0.2, bidirectional=True),
        128,
        28,
        28,
    ),
    "LSTM, 256 units, 100 steps": (partial(nn.LSTM, 64, 256, batch_first=True), 256, 100, 64),
    "GRU cell, 64 units, 28 steps": (partial(nn.GRUCell, 28, 64), 64, 28, 28),
}


def switched(run: Callable[[], Any], fast: bool) -> Callable[[], Any]:
    """Return a call with the rule of recurrent layers or without."""

    def switch() -> Any:
        for function, entry in KNOWN.items():
            _registry._KNOWN[function] = entry if fast else replace(entry, rows=None)
        return run()

    return switch


def time_case(name: str, size: int, rounds: int) -> None:
    """Print the ratios of one case."""
    torch.manual_seed(0)
    make, units, steps, features = CASES[name]
    model = Network(make(), units)
    x, y = torch.randn(size, steps, features), torch.randint(10, (size,))
    probed = copy.deepcopy(model)
    probe = FisherProbe(probed)

    def step(network: nn.Module) -> None:
        network.zero_grad()
        torch.manual_seed(0)  # the same dropout
        F.cross_entropy(network(x), y).backward()

    def measured() -> Any:
        with probe:
            step(probed)
        return probe.gram()

    grams = [switched(measured, fast)() for fast in (True, False)]
    apart = float((grams[0] - grams[1]).abs().max() / grams[1].abs().max())
    runs = {"plain": lambda: step(model), "fast": switched(measured, True), "by sample": switched(measured, False)}
    times: dict[str, list[float]] = {each: [] for each in runs}
    for turn in range(rounds):
        for each in in_turn(runs, turn):
            times[each].append(seconds(runs[each]))
    fast, slow = (
        statistics.median(a / b for a, b in zip(times[each], times["plain"], strict=True))
        for each in ("fast", "by sample")
    )
    plain = 1e3 * statistics.median(times["plain"])
    print(f"| {name} | {size} | {fast:.2f} | {slow:.1f} | {plain:.1f} | {apart:.0e} |", flush=True)


def main() -> None:
    """Time what is asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 128], help="batch sizes")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(heading("network | B | fast rule | by one backward pass for each sample | plain step, ms | F apart"))
    for name in arguments.cases:
        for size in arguments.sizes:
            time_case(name, size, arguments.rounds)


if __name__ == "__main__":
    main()
