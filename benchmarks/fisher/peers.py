"""The Gram matrix of per-sample gradients: what it costs with this package, and with others.

    python -m benchmarks.fisher.peers                     # everything that the results do not hold yet
    python -m benchmarks.fisher.peers --cases mlp gpt --batch-sizes 32 --methods ours backpack --again
    python -m benchmarks.fisher.peers --table             # print the stored results

It is run as a module, since Opacus brings a package ``benchmarks`` of its own.

The other libraries are those of ``pip install autobatch[bench]``; one that is not installed is left out.

*Time* is that of a whole step, forward, backward and F, over that of a plain forward and backward: the median of paired
ratios, with quartiles. All methods of a case and batch size take turns in one fresh process, each timing next to one of
the plain step. *Memory* is what a method adds to the peak of the plain step: in a fresh process of its own, with a
malloc that returns what is freed, the method runs once with four samples (so that its code is loaded), then plain steps
run, then the method twice, and the peaks of the resident size are compared (on CUDA: of PyTorch's allocator).

*What F is* says which definition a method's F agrees with, in float64 (or in float32, where a library knows no other)
with four samples: ``exact`` is B backward passes, one for each sample's loss; ``rows`` the paper's under BatchNorm in
train mode; otherwise how far it is from the nearer one (Frobenius norms).

*Floor* is what multiply-adds alone allow at equal efficiency, see ``floor.py``.
"""

import argparse
import contextlib
import copy
import faulthandler
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import pages
from benchmarks.fisher.floor import floor
from benchmarks.fisher.methods import (
    METHODS,
    SkippedError,
    exact_jacobian,
    has_batch_norm,
    plain_step,
    rows_jacobian,
    version,
)
from benchmarks.fisher.models import CASES, Case
from benchmarks.fisher.timing import in_turn, seconds, settle

RESULTS = pages.RESULTS / "fisher-peers.json"
MEMORY_LIMIT = 10 * 2**30
FIRST_CALL_LIMIT = 60
CHECK_SAMPLES = 4
# An F that is off by less agrees with a definition; it does to the last digits where it is off by less than ROUND_OFF.
TOLERANCE = 1e-3
ROUND_OFF = 1e-9
# What is too short for the clock is repeated.
SHORTEST = 0.03
# So that the resident size follows what is in use.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_TRIM_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "1"}


# -- in a process of its own ---------------------------------------------------------------------------------------


def check(case: Case, name: str) -> dict[str, Any]:
    """Compare a method's F with the definitions."""
    return _failing(lambda: _check_method(case, name))


def _check_method(case: Case, name: str) -> dict[str, Any]:
    base = case.build().double()
    inputs, targets = case.batch(CHECK_SAMPLES)
    reference = Reference(case, base, _typed(case, inputs, torch.float64), targets)
    try:
        return reference.compare(name, inputs, torch.float64)
    except RuntimeError as error:
        if "dtype" not in str(error) and "scalar type" not in str(error):
            raise
        return reference.compare(name, inputs, torch.float32)


def _typed(case: Case, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    return inputs if case.text else inputs.to(dtype)


class Reference:
    """A case's gradient and F by every definition that applies, in float64."""

    def __init__(self, case: Case, base: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        self._case, self._base, self._targets = case, base, targets
        jacobians = {"exact": exact_jacobian(case, copy.deepcopy(base), inputs, targets)}
        if case.train and has_batch_norm(base):
            jacobians["rows"] = rows_jacobian(case, copy.deepcopy(base), inputs, targets)
        self._grams = {meaning: rows @ rows.T for meaning, rows in jacobians.items()}
        self._gradient = jacobians["exact"].mean(0)

    def compare(self, name: str, inputs: Tensor, dtype: torch.dtype) -> dict[str, Any]:
        """Say how far a method's F and gradient are off."""
        model = copy.deepcopy(self._base).to(dtype)
        step = METHODS[name][0](self._case, model)
        faulthandler.dump_traceback_later(FIRST_CALL_LIMIT, exit=True)
        gram = step(_typed(self._case, inputs, dtype), self._targets).detach().double()
        faulthandler.cancel_dump_traceback_later()
        row: dict[str, Any] = {
            "dtype": str(dtype).removeprefix("torch."),
            "deviation": {meaning: _distance(gram, wanted) for meaning, wanted in self._grams.items()},
        }
        if missing := [key for key, parameter in model.named_parameters() if parameter.grad is None]:
            return row | {"gradient": f"none for {missing[0]}"}
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        return row | {"gradient_deviation": _distance(gradient, self._gradient)}


def _distance(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def trial(case: Case, size: int, name: str, device: str) -> dict[str, Any]:
    """Run a method alone: whether it works, how long it takes, and its memory."""
    base = case.build().to(device)
    inputs, targets = (tensor.to(device) for tensor in case.batch(size))

    def run() -> dict[str, Any]:
        step = METHODS[name][0](case, copy.deepcopy(base))
        faulthandler.dump_traceback_later(FIRST_CALL_LIMIT, exit=True)
        step(inputs[:4], targets[:4])
        faulthandler.cancel_dump_traceback_later()
        plain = plain_step(case, base)
        _reset_peak(device)
        for _ in range(2):
            plain(inputs, targets)
        base.zero_grad(set_to_none=True)
        before = _peak(device)
        _reset_peak(device)
        faulthandler.dump_traceback_later(FIRST_CALL_LIMIT, exit=True)
        first = seconds(lambda: step(inputs, targets), device)
        faulthandler.cancel_dump_traceback_later()
        if first < FIRST_CALL_LIMIT / 4:
            step(inputs, targets)
        return {"first_call_seconds": first, "extra_bytes": max(0, _peak(device) - before)}

    return _failing(run)


def timings(case: Case, size: int, names: list[str], device: str, rounds: int, longest: float) -> dict[str, Any]:
    """Time methods and the plain step in turns."""
    base = case.build().to(device)
    inputs, targets = (tensor.to(device) for tensor in case.batch(size))
    steps: dict[str, Callable[[Tensor, Tensor], object]] = {
        name: METHODS[name][0](case, copy.deepcopy(base)) for name in names
    }
    plain = plain_step(case, base)
    plain_once = _warm_seconds(lambda: plain(inputs, targets), device)
    once, failures = {}, {}
    for name, step in steps.items():
        outcome = _failing(lambda step=step: {"once": _warm_seconds(lambda: step(inputs, targets), device)})
        if "once" in outcome:
            once[name] = outcome["once"]
        else:
            failures[name] = outcome
    spent = dict(once)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in once}
    for index in range(rounds):
        for name in in_turn(once, index):
            if samples[name] and spent[name] > longest:
                continue
            start = time.perf_counter()
            runs = [
                (plain, max(1, round(SHORTEST / plain_once))),
                (steps[name], max(1, round(SHORTEST / once[name]))),
            ]
            times = {}
            for step, repeats in runs if index % 2 else reversed(runs):
                times[step] = seconds(lambda step=step: step(inputs, targets), device, repeats)
            samples[name].append((times[steps[name]], times[plain]))
            spent[name] += time.perf_counter() - start
    return failures | {name: _summary(pairs) for name, pairs in samples.items()}


def _summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    ratios = sorted(ours / plain for ours, plain in pairs)
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return {
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "rounds": len(pairs),
        "seconds": statistics.median(ours for ours, _ in pairs),
        "plain_seconds": statistics.median(plain for _, plain in pairs),
    }


def _failing(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what a method returns, or why it did not."""
    try:
        return run()
    except SkippedError as error:
        return {"skipped": str(error)}
    except ImportError as error:
        return {"not_installed": str(error)}
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return {"failed": f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]}


def _warm_seconds(run: Callable[[], object], device: str) -> float:
    """Time the second call, or the first where that takes long."""
    first = seconds(run, device)
    return first if first > 5 else seconds(run, device)


def _peak(device: str) -> int:
    """Return the peak of memory in use since the last reset, in bytes."""
    if device == "cuda":
        settle(device)
        return torch.cuda.max_memory_allocated()
    import resource

    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):  # Linux only; elsewhere the peak is that since the start
        Path("/proc/self/clear_refs").write_text("5")


def work(task: dict[str, Any]) -> None:
    """Do one task and print what it found as the last line."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(task["threads"])
    if task["device"] == "cpu":
        try:
            import resource
        except ImportError:  # not on this platform
            pass
        else:
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    case = CASES[task["case"]]
    if task["kind"] == "check":
        found = check(case, task["method"])
    elif task["kind"] == "trial":
        found = trial(case, task["batch"], task["method"], task["device"])
    else:
        found = timings(case, task["batch"], task["methods"], task["device"], task["rounds"], task["seconds"])
    print("\n" + json.dumps(found))


# -- the process that starts the others ----------------------------------------------------------------------------


def delegate(**task: Any) -> dict[str, Any]:
    """Do a task in a fresh process; where that dies, say how."""
    environment = os.environ | {"OMP_NUM_THREADS": str(task["threads"])}
    if task["kind"] == "trial":
        environment |= MALLOC
    command = [sys.executable, "-m", "benchmarks.fisher.peers", "--worker", json.dumps(task)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "Timeout (" in done.stderr:
        return {"skipped": f"its first call takes more than {FIRST_CALL_LIMIT} s"}
    last = [line for line in done.stderr.splitlines() if line.strip()]
    how = f"exit {done.returncode}" if done.returncode > 0 else f"signal {-done.returncode}"
    return {"failed": f"the process died ({how}): {last[-1] if last else ''}"[:300]}


class Results:
    """Stored figures, written after every task."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.content: dict[str, Any] = {"checks": {}, "floors": {}, "rows": {}}
        if path.exists():
            self.content = json.loads(path.read_text())

    def put(self, part: str, key: str, value: Any) -> None:
        """Store a value and write the file."""
        self.content[part][key] = value
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".tmp")
        new.write_text(json.dumps(self.content, indent=1, sort_keys=True) + "\n")
        new.replace(self._path)


def _key(case: str, size: int, method: str, device: str, threads: int) -> str:
    return f"{case} B={size} {method} " + (f"cpu-{threads}" if device == "cpu" else device)


def measure(arguments: argparse.Namespace, results: Results) -> None:
    """Fill in what is missing."""
    device, threads = arguments.device, arguments.threads
    common = {"device": device, "threads": threads}
    for name in arguments.cases:
        for method in arguments.methods:
            key = f"{name} {method}"
            if key not in results.content["checks"] or arguments.again:
                found = delegate(kind="check", case=name, method=method, **common | {"device": "cpu"})
                if "not_installed" not in found:
                    results.put("checks", key, found | {"version": version(method)})
                print(f"{name} {method}: F is {_meaning(found)}", flush=True)
    for name in arguments.cases:
        for size in arguments.batch_sizes:
            numbers = floor(CASES[name], size)
            results.put("floors", f"{name} B={size}", vars(numbers))
            rows = {}
            for method in arguments.methods:
                key = _key(name, size, method, device, threads)
                if key not in results.content["rows"] or arguments.again:
                    rows[method] = delegate(kind="trial", case=name, batch=size, method=method, **common)
            working = [method for method, row in rows.items() if "extra_bytes" in row]
            if working:
                pace = {"rounds": arguments.rounds, "seconds": arguments.seconds}
                found = delegate(kind="time", case=name, batch=size, methods=working, **common, **pace)
                for method in working:
                    rows[method] |= found.get(method, found)
            for method, row in rows.items():
                if "not_installed" not in row:
                    key = _key(name, size, method, device, threads)
                    row |= {"version": version(method), "torch": torch.__version__}
                    results.put("rows", key, row)
                print(f"{name} B={size} {method}: {_figure(row)}", flush=True)


def _figure(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    for kind in ("skipped", "failed", "not_installed"):
        if kind in row:
            return f"{kind.replace('_', ' ')}: {row[kind]}"
    low, high = row["ratio_quartiles"]
    memory = row["extra_bytes"] / 2**20
    return f"{row['ratio']:.2f} [{low:.2f}, {high:.2f}], {memory:.0f} MiB, {row['rounds']} rounds"


def _meaning(found: dict[str, Any] | None) -> str:
    """Say what a method's F is."""
    if found is None or "not_installed" in found:
        return ""
    if "failed" in found:
        return "fails"
    if "skipped" in found:
        return "too slow" if "takes more" in found["skipped"] else "-"
    nearest, off = min(found["deviation"].items(), key=lambda item: item[1])
    if off < TOLERANCE:
        return nearest if off < ROUND_OFF else f"{nearest} (to {off:.0e})"
    return f"**neither**, {off:.0%} off {nearest}" if len(found["deviation"]) > 1 else f"**wrong**, {off:.0%} off"


def _cell(row: dict[str, Any]) -> str:
    if reason := row.get("failed", ""):
        return f"> {MEMORY_LIMIT >> 30} GiB" if "allocate memory" in reason or "MemoryError" in reason else "fails"
    if reason := row.get("skipped", ""):
        return f"> {FIRST_CALL_LIMIT} s" if "takes more" in reason else "-"
    return f"{row['ratio']:.2f} / {row['extra_bytes'] / 2**20:.0f}" if row else ""


def table(arguments: argparse.Namespace, results: Results) -> None:
    """Print Markdown tables of what is stored."""
    rows, checks, floors = (results.content[part] for part in ("rows", "checks", "floors"))
    methods, device, threads = arguments.methods, arguments.device, arguments.threads

    def stored(case: str, size: int, method: str) -> dict[str, Any]:
        return rows.get(_key(case, size, method, device, threads), {})

    print(f"\nStep with F over a plain step ({'CUDA' if device == 'cuda' else f'CPU, {threads} threads'}),", end=" ")
    print("and extra peak memory in MiB; † where F is wrong:\n")
    print(pages.heading(" | ".join(["network", "B", *methods])))
    reasons: dict[str, int] = {}
    for name in arguments.cases:
        for size in arguments.batch_sizes:
            cells = []
            for method in methods:
                row = stored(name, size, method)
                wrong = _meaning(checks.get(f"{name} {method}")).startswith("**")
                cells.append(_cell(row) + (" †" if wrong and "ratio" in row else ""))
                if reason := row.get("failed") or row.get("skipped"):
                    reasons.setdefault(f"{name}, {method}: {reason}", size)
            _line(name, str(size), *cells)
    print("\nWhat F is (float64, four samples):\n")
    print(pages.heading(" | ".join(["network", *methods])))
    for name in arguments.cases:
        _line(name, *(_meaning(checks.get(f"{name} {method}")) for method in methods))
    print("\nFloor by multiply-adds at equal efficiency, and what ours takes:\n")
    titles = "network | B | floor, J for gradient | ours-rows | gap | floor, J beside gradient | ours | gap"
    print(pages.heading(titles))
    for name in arguments.cases:
        for size in arguments.batch_sizes:
            if numbers := floors.get(f"{name} B={size}"):
                cells = []
                for added, method in (("reused", "ours-rows"), ("beside", "ours")):
                    least = 1 + numbers[added] / numbers["plain"]
                    ratio = stored(name, size, method).get("ratio")
                    cells += [f"{least:.2f}", f"{ratio:.2f}" if ratio else "", f"{ratio - least:+.2f}" if ratio else ""]
                _line(name, str(size), *cells)
    if reasons:
        print("\nWhy not (and at which batch size first):\n")
        for reason, size in reasons.items():
            print(f"- {reason} (B = {size})")
    versions = {method: version for method in methods if (version := _version(rows, method))}
    print("\nVersions: " + ", ".join(f"{method} {number}" for method, number in versions.items()))


def _version(rows: dict[str, Any], method: str) -> str:
    return next((row["version"] for key, row in rows.items() if key.split()[2] == method and row["version"]), "")


def _line(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = pages.parser_of(__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="times that a method is timed, at most (default 9)")
    parser.add_argument("--seconds", type=float, default=20, help="after which a method is timed no more (default 20)")
    parser.add_argument("--again", action="store_true", help="measure anew what is stored already")
    parser.add_argument("--table", action="store_true", help="only print what is stored")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file of results")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    results = Results(arguments.out)
    if not arguments.table:
        measure(arguments, results)
    table(arguments, results)


if __name__ == "__main__":
    main()
