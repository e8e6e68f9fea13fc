"""How the cost of measuring grows with batch size, depth, width and image size.

    python benchmarks/fisher/scaling.py                                    # measure, fit and draw
    python benchmarks/fisher/scaling.py --draw                             # draw what is stored

Cost is the seconds of a measured step (forward, backward, F) less those of a plain one: the median over pairs of steps
that follow each other. CIFAR-type ResNets with BatchNorm in train mode, on random images; everything else is fixed
while one thing grows. On CUDA too, where there is one. The exponent is the slope of a straight line through the
logarithms.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks import pages
from benchmarks.fisher.methods import ours, plain_step
from benchmarks.fisher.models import Case, ResNet
from benchmarks.fisher.timing import settle

RESULTS = pages.RESULTS / "fisher-scaling.json"
FIGURE = pages.ROOT / "docs" / "images" / "fisher_scaling.png"
METHODS = {"F beside the gradient": "library", "gradient from J": "rows"}


@dataclass(frozen=True)
class Setting:
    """A network and its batch."""

    depth: int
    width: int
    image: int
    batch: int


@dataclass(frozen=True)
class Sweep:
    """One thing that grows."""

    field: str
    label: str
    base: Setting
    values: tuple[int, ...]


SWEEPS = (
    Sweep("batch", "batch size B (ResNet-8, 32x32)", Setting(8, 1, 32, 0), (8, 16, 32, 64, 128, 256, 512, 1024)),
    Sweep("depth", "depth (B = 64, 32x32)", Setting(0, 1, 32, 64), (8, 14, 20, 32, 56)),
    Sweep("width", "width, in 16-32-64 channels (ResNet-20, B = 32)", Setting(20, 0, 32, 32), (1, 2, 4)),
    Sweep("image", "side of the image (ResNet-20, B = 32)", Setting(20, 1, 0, 32), (16, 24, 32, 48)),
)


def cost(setting: Setting, device: str, rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """Time plain and measured steps in turns."""
    case = Case("", lambda: ResNet(setting.depth, setting.width), (3, setting.image, setting.image))
    model = case.build().to(device)
    batch = [part.to(device) for part in case.batch(setting.batch)]
    plain = partial(plain_step(case, model), *batch)
    steps = {name: partial(ours(case, model, gradients), *batch) for name, gradients in METHODS.items()}
    for step in (plain, *steps.values()):  # the first call may choose among algorithms
        step()
        step()
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    start = time.perf_counter()
    for index in range(rounds):
        for name, step in steps.items():
            order = (plain, step) if index % 2 else (step, plain)
            times = {run: _seconds(run, device) for run in order}
            pairs[name].append((times[step], times[plain]))
        if time.perf_counter() - start > seconds:
            break
    return {
        name: {
            "plain_seconds": statistics.median(plain for _, plain in some),
            "extra_seconds": statistics.median(measured - plain for measured, plain in some),
            "ratio": statistics.median(measured / plain for measured, plain in some),
            "rounds": len(some),
        }
        for name, some in pairs.items()
    }


def _seconds(run: Callable[[], object], device: str) -> float:
    """Time a step, several times in a row where it is short."""
    settle(device)
    start = time.perf_counter()
    calls = 0
    while not calls or time.perf_counter() - start < 0.03:
        run()
        calls += 1
        settle(device)
    return (time.perf_counter() - start) / calls


def slope(points: list[tuple[float, float]]) -> float | None:
    """Return the exponent of a power law through points; None where one is not positive."""
    values = np.array(points)
    if len(values) < 2 or (values <= 0).any():
        return None
    return float(np.polyfit(np.log(values[:, 0]), np.log(values[:, 1]), 1)[0])


def curves(sweep: Sweep, stored: dict[str, Any], device: str) -> dict[str, list[tuple[float, float]]]:
    """Return the points of a sweep: those of every method, and of the plain step."""
    found: dict[str, list[tuple[float, float]]] = {}
    for value in sweep.values:
        row = stored.get(f"{sweep.field} {value} {device}", {})
        for name, figures in row.items():
            found.setdefault(name, []).append((value, figures["extra_seconds"]))
        if row:
            found.setdefault("plain step", []).append((value, next(iter(row.values()))["plain_seconds"]))
    return found


def draw(stored: dict[str, Any], devices: list[str], path: Path) -> None:
    """Draw a panel for every sweep."""
    figure, panels = plt.subplots(2, 2, figsize=(11, 8.5), layout="constrained")
    colours = {"F beside the gradient": "tab:blue", "gradient from J": "tab:green", "plain step": "tab:gray"}
    styles = {"cpu": ("-", "o"), "cuda": ("--", "s")}
    for sweep, panel in zip(SWEEPS, panels.flat, strict=True):
        for device in devices:
            line, marker = styles[device]
            for name, points in curves(sweep, stored, device).items():
                shown = [(x, 1e3 * y) for x, y in points if y > 0]
                exponent = slope(points)
                what = name if name == "plain step" else f"extra: {name}"
                label = f"{what}, {device.upper()}" + (f" (slope {exponent:.2f})" if exponent is not None else "")
                panel.plot(*zip(*shown, strict=True), line, marker=marker, color=colours[name], label=label)
        panel.set(xscale="log", yscale="log", xlabel=sweep.label, ylabel="milliseconds")
        panel.set_xticks(sweep.values)
        panel.xaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_minor_locator(NullLocator())
        panel.grid(alpha=0.3)
        panel.legend(fontsize=9)
    figure.suptitle("What measuring adds to a training step")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, fit, print and draw."""
    parser = pages.parser_of(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="pairs of steps, at most (default 7)")
    parser.add_argument("--seconds", type=float, default=10, help="after which a setting is left (default 10)")
    parser.add_argument("--draw", action="store_true", help="only print and draw what is stored")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file of results")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    content: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    stored: dict[str, Any] = content.setdefault("rows", {})
    if not arguments.draw:
        content |= {"threads": arguments.threads, "torch": torch.__version__}
        for device in devices:
            for sweep in SWEEPS:
                for value in sweep.values:
                    setting = replace(sweep.base, **{sweep.field: value})
                    row = cost(setting, device, arguments.rounds, arguments.seconds)
                    stored[f"{sweep.field} {value} {device}"] = row
                    print(f"{sweep.field} {value} {device}: " + _text(row), flush=True)
    devices = [device for device in ("cpu", "cuda") if any(key.endswith(device) for key in stored)]
    content["slopes"] = {
        f"{sweep.field} {name} {device}": slope(points)
        for device in devices
        for sweep in SWEEPS
        for name, points in curves(sweep, stored, device).items()
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    print("\n" + pages.heading(" | ".join(["exponent", *(sweep.field for sweep in SWEEPS)])))
    for device in devices:
        for name in ("plain step", *METHODS):
            cells = [content["slopes"].get(f"{sweep.field} {name} {device}") for sweep in SWEEPS]
            print(f"| {name}, {device} | " + " | ".join("" if cell is None else f"{cell:.2f}" for cell in cells) + " |")
    draw(stored, devices, arguments.figure)


def _text(row: dict[str, dict[str, Any]]) -> str:
    return ", ".join(
        f"{name} {1e3 * figures['extra_seconds']:.1f} ms over {1e3 * figures['plain_seconds']:.1f} ms"
        f" (x{figures['ratio']:.2f}, {figures['rounds']} rounds)"
        for name, figures in row.items()
    )


if __name__ == "__main__":
    main()
