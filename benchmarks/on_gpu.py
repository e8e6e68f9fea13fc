"""Everything that is to be known of a GPU, in one command of a few minutes.

    python benchmarks/on_gpu.py --data-dir data                      # on a machine with a GPU
    python benchmarks/on_gpu.py --rehearse --out /tmp/rehearsal       # the same parts on the CPU, small
    python benchmarks/on_gpu.py page                                  # the tables of what was found

In this order, as far as the time (`--seconds`, 480) goes; what has been done is kept in `OUT/figures.jsonl`, a line a
figure, and a second call goes on where the first one stopped:

- tests: those marked `gpu`;
- measure: a step with F over a plain one (median of interleaved rounds), the weights' gradients from the library and
  from rows of J, and the most memory of each, for ResNet-20 and -110, ViT-tiny and the GPT at 32 to 4,096 samples, in
  float32, TF32 and bfloat16 under autocast;
- costs: a cost table by batch size for every shipped task whose data are there (`OUT/costs/TASK.json`);
- loop: an epoch of a run over one of a loop by hand, as in `benchmarks/speed/loop.py`;
- runs: MNIST and CIFAR-10 at full size, `steer` beside fixed batch sizes, in turn. A run that the time cuts is gone on
  with by the next call (`OUT/runs`).
"""

import json
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autobatch._errors import AutoBatchError
from autobatch.control.run._files import append_lines, read_lines
from autobatch.policies import load_policy_spec
from autobatch.training import EpochRow, RunConfig, RunObserver, load_data, load_run_config, load_task, run
from autobatch.training._calibrate import calibrate, device_kind
from benchmarks.fisher.methods import ours, plain_step
from benchmarks.fisher.models import CASES
from benchmarks.fisher.timing import seconds, settle
from benchmarks.pages import ENVS, RESULTS, ROOT, heading, parser_of
from benchmarks.speed.loop import loops_of, task_of

OUT = RESULTS / "on_gpu"
NETWORKS = ("resnet20", "gpt", "vit-tiny", "resnet110")
SIZES = (128, 32, 512, 2048, 4096)
PRECISIONS = ("float32", "tf32", "bfloat16")
FULL = {"mnist-resnet8": ("steer", "s128-lr0.1"), "cifar10-resnet110": ("steer", "s128-lr0.1")}
KEPT = (
    *("test_error", "test_loss", "validation_loss", "epochs", "optimizer_steps"),
    *("seconds", "scouting_seconds", "measuring_seconds", "batch_sizes"),
)
"""What is kept of a run's summary."""
ROUNDS = 9
PATIENCE = 4.0
"""Seconds that the rounds of one case may take; three are made in any case."""


class TimeUpError(Exception):
    """The time is over; what was begun goes on the next time."""


@dataclass(frozen=True)
class Setting:
    """What is asked for.

    Attributes:
        device: where everything runs.
        small: whether this is a rehearsal.
        data_dir: folder of the data sets; None where there is none.
        out: where figures go.
        ends: ``time.monotonic()`` after which nothing is begun.
    """

    device: torch.device
    small: bool
    data_dir: Path | None
    out: Path
    ends: float

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.ends


Figure = tuple[str, Callable[[], dict[str, Any]]]


def figures(setting: Setting) -> Iterator[Figure]:
    """Return every figure by name, with what finds it, the most wanted first."""
    yield "tests", lambda: tests(setting)
    networks, sizes = (("mlp", "gpt"), (8,)) if setting.small else (NETWORKS, SIZES)
    for size in sizes:
        for network in networks:
            for precision in PRECISIONS[:: 2 if setting.device.type == "cpu" else 1]:
                name = f"measure {network} {size} {precision}"
                yield name, lambda case=(network, size, precision): measure(setting, *case)  # type: ignore[misc]
        if size == sizes[0]:
            for task in ("digits-mlp",) if setting.small else shipped_tasks():
                yield f"costs {task}", lambda task=task: costs(setting, task)  # type: ignore[misc]
    for size in (16,) if setting.small else (16, 128):
        yield f"loop digits-resnet8 {size}", lambda size=size: loop(setting, size)  # type: ignore[misc]
    full = {"digits-mlp": ("steer", "s32-lr0.05")} if setting.small else FULL
    for seed in range(1 if setting.small else 5):
        for task, policies in full.items():
            for policy in policies:
                case = (task, policy, seed)
                yield f"run {task} {policy} {seed}", lambda case=case: whole_run(setting, *case)  # type: ignore[misc]


def shipped_tasks() -> list[str]:
    """Return the names of the tasks that come with a library."""
    return sorted(path.parent.name for path in ENVS.glob("*/beacons.parquet"))


def tests(setting: Setting) -> dict[str, Any]:
    """Run the tests that are marked ``gpu``."""
    report = setting.out / "tests.xml"
    options = ["-q", "-n", "0", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}", "tests/gpu"]
    options += ["-k", "occur_twice"] if setting.small else []
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options], check=False, cwd=ROOT, capture_output=True, text=True
    )
    if not report.exists():
        return {"error": (ended.stdout + ended.stderr)[-2000:]}
    suite = next(ElementTree.parse(report).iter("testsuite"))
    found: dict[str, Any] = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    found["failed"] = {
        str(case.get("name")): str(fault.get("message", ""))[:300]
        for case in suite.iter("testcase")
        for fault in (*case.iter("failure"), *case.iter("error"))
    }
    report.unlink()
    return found


@contextmanager
def computing_in(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in float32, in TF32 or under bfloat16's autocast."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def measure(setting: Setting, network: str, size: int, precision: str) -> dict[str, Any]:
    """Time rounds of a plain step and those with F."""
    device, case = setting.device, CASES[network]
    inputs, targets = (part.to(device) for part in case.batch(size))
    steps = {"plain": plain_step, "measured": ours, "measured by rows": partial(ours, gradients="rows")}
    took: dict[str, list[float]] = {name: [] for name in steps}
    memory: dict[str, int] = {}
    try:
        with computing_in(precision, device):
            ready = {name: make(case, case.build().to(device)) for name, make in steps.items()}
            for name, step in ready.items():
                for _ in range(3):
                    step(inputs, targets)
                memory[name] = most_memory(device, lambda step=step: step(inputs, targets))  # type: ignore[misc]
            begun = time.monotonic()
            while len(took["plain"]) < (3 if time.monotonic() - begun > PATIENCE else ROUNDS):
                for name, step in ready.items():
                    took[name].append(seconds(lambda step=step: step(inputs, targets), device))  # type: ignore[misc]
    except torch.OutOfMemoryError as error:
        return {"error": f"out of memory: {str(error).splitlines()[0][:200]}"}
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    ratios = {
        name: sorted(one / plain for plain, one in zip(took["plain"], took[name], strict=True)) for name in [*took][1:]
    }
    middle = {name: statistics.median(some) for name, some in took.items()}
    return {
        "ratio": statistics.median(ratios["measured"]),
        "ratio_by_rows": statistics.median(ratios["measured by rows"]),
        "ratios": ratios,
        "seconds": middle,
        "bytes": memory,
    }


def most_memory(device: torch.device, step: Callable[[], object]) -> int:
    """Return the most bytes that are in use during a step; 0 on the CPU."""
    if device.type != "cuda":
        step()
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    step()
    settle(device)
    return torch.cuda.max_memory_allocated(device)


def costs(setting: Setting, name: str) -> dict[str, Any]:
    """Time a shipped task's cost table."""
    task = load_task(ENVS / name)
    sizes = task.batch_sizes[:2] if setting.small else task.batch_sizes
    table = calibrate(task, load_data(task, setting.data_dir, setting.device), setting.device, sizes)
    folder = setting.out / "costs"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(table.to_dict(), indent=1) + "\n")
    ratio = {size: table.measuring(size) / table.training_seconds(size, 1) for size in sizes}
    return {"examples_per_second": {size: size / table.training_seconds(size, 1) for size in sizes},
            "measuring_over_step": ratio}  # fmt: skip


def loop(setting: Setting, size: int) -> dict[str, Any]:
    """Time epochs of a run beside those of loops by hand."""
    task = task_of("digits", None, 2 if setting.small else 3)
    data = load_data(task, None, setting.device)
    loops = loops_of(task, data, size, str(setting.device))
    rounds = [{name: one() for name, one in loops.items()} for _ in range(1 if setting.small else 3)]
    return {
        f"over_{name}": statistics.median(one["engine"] / one[name] for one in rounds)
        for name in loops
        if name != "engine"
    } | {"seconds": statistics.median(one["engine"] for one in rounds)}


def whole_run(setting: Setting, name: str, policy: str, seed: int) -> dict[str, Any]:
    """Train a run, or go on with it, until it ends or the time is up."""

    class Watch(RunObserver):
        def epoch_finished(self, row: EpochRow) -> None:
            if setting.over:
                raise TimeUpError

        def scout_epoch(self, row: EpochRow, epochs: int) -> None:
            self.epoch_finished(row)

    out = setting.out / "runs" / f"{name}-{policy}-s{seed}"
    task = load_task(ENVS / name)
    if setting.small:
        task = task.model_copy(update={"epochs": 6})
    config = RunConfig(
        task=task, policy=load_policy_spec(policy), seed=seed, device=str(setting.device), data_dir=setting.data_dir
    )
    begun = (out / "config.yaml").exists()
    summary = run(load_run_config(out) if begun else config, out, Watch(), resume=begun)
    kept = {name: getattr(summary, name) for name in KEPT}
    return {**kept, "ended": summary.ended_early or summary.stopped_because}


def found(out: Path) -> dict[str, dict[str, Any]]:
    """Return the figures that are there, by name."""
    return {line.pop("name"): line for line in read_lines(out / "figures.jsonl")}


def find_all(setting: Setting) -> None:
    """Find what is missing, as long as there is time."""
    setting.out.mkdir(parents=True, exist_ok=True)
    done = found(setting.out)
    kind = device_kind(setting.device, torch.get_num_threads())
    for name, find in figures(setting):
        if name in done:
            continue
        if setting.over:
            print("the time is up; the same command goes on from here")
            return
        begun = time.monotonic()
        try:
            figure = find()
        except TimeUpError:
            continue
        except AutoBatchError as error:
            figure = {"error": str(error).splitlines()[0]}
        line = {"name": name, "device": kind, "torch": torch.__version__, "took": time.monotonic() - begun, **figure}
        append_lines(setting.out / "figures.jsonl", [line])
        told = figure.get("error") or figure.get("ratio") or figure.get("test_error")
        print(f"{name}: {told if told is not None else 'done'} ({line['took']:.1f} s)", flush=True)


def page(out: Path) -> None:
    """Print tables of what was found."""
    every = found(out)
    if not every:
        print(f"{out}: nothing was found yet")
        return
    print(f"{next(iter(every.values()))['device']}, torch {next(iter(every.values()))['torch']}\n")
    cases = {tuple(name.split()[1:]): one for name, one in every.items() if name.startswith("measure ")}
    precisions = [precision for precision in PRECISIONS if any(case[2] == precision for case in cases)]
    columns = " | ".join(f"{precision}, by rows" for precision in precisions)
    print(heading(f"network | samples | {columns} | most memory, over a plain step's"))
    for network, size in sorted({case[:2] for case in cases}, key=lambda case: (case[0], int(case[1]))):
        some = [cases.get((network, size, precision), {}) for precision in precisions]
        told = [
            f"{one['ratio']:.2f}, {one['ratio_by_rows']:.2f}" if "ratio" in one else str(one.get("error", "-"))[:13]
            for one in some
        ]
        bytes_ = some[0].get("bytes", {})
        memory = f"{bytes_['measured'] / bytes_['plain']:.2f}" if bytes_.get("plain") else "-"
        print(f"| {network} | {size} | {' | '.join(told)} | {memory} |")
    for name, one in every.items():
        if not name.startswith("measure "):
            figure = {key: value for key, value in one.items() if key not in {"device", "torch", "took"}}
            print(f"- {name}: {json.dumps(figure)}")


def main() -> None:
    """Carry out a command line."""
    parser = parser_of(__doc__)
    parser.add_argument("command", nargs="?", choices=("find", "page"), default="find")
    parser.add_argument("--seconds", type=float, default=480.0, help="after which nothing is begun (default 480)")
    parser.add_argument("--data-dir", type=Path, help="folder that holds MNIST and CIFAR-10")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, small")
    given = parser.parse_args()
    if given.command == "page":
        page(given.out)
        return
    if not given.rehearse and not torch.cuda.is_available():
        parser.error("there is no GPU; --rehearse carries out every part on the CPU, small")
    device = torch.device("cpu" if given.rehearse else "cuda")
    find_all(Setting(device, given.rehearse, given.data_dir, given.out, time.monotonic() + given.seconds))


if __name__ == "__main__":
    main()
