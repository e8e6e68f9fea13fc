"""Write ``docs/results.md`` and its pictures from the figures in ``benchmarks/results``; see ``results.py``."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from autobatch import BeaconLibrary, load_task
from autobatch._artefacts import find_artefact
from autobatch._files import write_whole
from autobatch.evidence import load_comparison
from autobatch.report._save_figure import save_figure
from benchmarks.evidence.switching import switching_table
from benchmarks.pages import ROOT, heading, replace_between

Comparison = dict[str, Any]
Cell = Callable[[str, Comparison], str]

DOCS = ROOT / "docs"
PAGE = DOCS / "results.md"

TASKS = (
    "digits-resnet8",
    "digits-mlp",
    "digits-densenet8",
    "mnist10k-resnet8",
    "mnist10k-densenet8",
    "mnist10k-mlp",
    "cifar5k-resnet8",
)
"""In the order of the page; those without figures are left out."""

SWITCHING = "digits-resnet8"
"""A task with journeys in its branch runs."""

VARIANTS = ("-from-best", "-10-percent", "-rate-kept", "-momentum")
"""Ends of the names of policies that only the notes tell of."""

HIGHEST = 3.0
"""Test error over the best fixed beacon's beyond which the picture only names a policy."""

GOAL_RATIO, GOAL_P = 0.5, 0.05
UNKNOWN = "-"

# Okabe and Ito; what a policy belongs to is also told by its marker.
_LOOKS = {
    "best fixed": ("#000000", "*", 150),
    "beacon-follow": ("#D55E00", "o", 70),
    "wider": ("#D55E00", "P", 45),
    "learned": ("#CC79A7", "D", 45),
    "fixed": ("#8C8C8C", "s", 26),
    "paper": ("#0072B2", "^", 42),
    "rival": ("#009E73", "v", 36),
    "chance": ("#8C8C8C", "x", 36),
}
_NAMES = {
    "best fixed": "best fixed beacon",
    "beacon-follow": "beacon-follow",
    "wider": "the same, tolerance 10 %",
    "learned": "learned policy",
    "fixed": "other fixed beacons",
    "paper": "the paper's schedules",
    "rival": "published rules",
    "chance": "random",
}


def write_page(results: Path) -> None:
    """Write the page.

    Args:
        results: the folder with ``compare/ENV/comparison.json``, ``steps/ENV/comparison.json`` and ``notes/*.md``.
    """
    found, in_steps = comparisons(results / "compare"), comparisons(results / "steps")
    notes = results / "notes"
    parts = [(notes / "head.md").read_text(encoding="utf-8").strip(), summary(found)]
    parts.append("![Test error and time of every policy on every task](images/results.png)")
    parts += ["## Every policy", (notes / "policies.md").read_text(encoding="utf-8").strip()]
    parts += [everyone(found), (notes / "variants.md").read_text(encoding="utf-8").strip()]
    parts += ["## Task by task", (notes / "tasks.md").read_text(encoding="utf-8").strip()]
    tail = (notes / "tail.md").read_text(encoding="utf-8").strip()
    parts.append(tail.replace("{switching}", switching_table(SWITCHING)).replace("{steps}", summary_in_steps(in_steps)))
    write_whole(PAGE, ("\n\n".join(part for part in parts if part) + "\n").encode())
    replace_between(ROOT / "README.md", "benchmarks/evidence/results.py page", short_summary(found, in_steps))
    save_figure(DOCS / "images" / "results.png", picture(found))
    print(PAGE)


def comparisons(folder: Path) -> dict[str, Comparison]:
    """Return the figures of each task in ``ENV/comparison.json``, in the order of the page."""
    return {env: load_comparison(folder / env)[env] for env in TASKS if (folder / env / "comparison.json").exists()}


def reached(_: str, comparison: Comparison) -> str:
    """Say whether ``beacon-follow`` reached the goal."""
    p = student(comparison)
    return "yes" if p is not None and p > GOAL_P and ours(comparison)["modelled_ratio"] <= GOAL_RATIO else "no"


def best_error(_: str, comparison: Comparison) -> str:
    """Return the best fixed beacon with its test error."""
    reference = comparison["policies"][0]
    return f"{reference['policy']}: {percent(reference['test_error'])}"


def error(_: str, comparison: Comparison) -> str:
    """Return the test error of ``beacon-follow``."""
    return percent(ours(comparison)["test_error"])


def p_value(_: str, comparison: Comparison) -> str:
    """Return the p-value of the difference of test errors."""
    return p_text(student(comparison))


def time(_: str, comparison: Comparison) -> str:
    """Return the time of ``beacon-follow`` by the cost table, best fixed = 1."""
    return f"**{number(ours(comparison)['modelled_ratio'])}**"


def least(env: str, comparison: Comparison) -> str:
    """Return the least time that is possible, best fixed = 1."""
    return number(floor(env, comparison))


def repaid(_: str, comparison: Comparison) -> str:
    """Return after how many trainings the beacons are paid back."""
    return trainings(ours(comparison)["pays_back"]["modelled_trainings"])


def told(found: dict[str, Comparison], columns: Mapping[str, Cell]) -> str:
    """Return a table of tasks, of cells by their titles."""
    return table(list(columns), [[cell(*own) for cell in columns.values()] for own in found.items()])


def summary(found: dict[str, Comparison]) -> str:
    """Return the table of all tasks: was the goal reached, and what would have been possible at all."""
    return told(
        found,
        {
            "task": lambda env, _: env,
            "best fixed beacon, test error, %": best_error,
            "beacon-follow, test error, %": error,
            "difference, points": lambda _, own: difference(ours(own)["test_difference"]),
            "p": p_value,
            "time ratio, cost table": time,
            "by the clock (range)": lambda _, own: ratio(ours(own)["time_ratio"]),
            "least possible": least,
            "trainings that repay the beacons": repaid,
            "goal": reached,
        },
    )


def short_summary(found: dict[str, Comparison], in_steps: dict[str, Comparison]) -> str:
    """Return the table of all tasks as the README has it."""
    return told(
        found,
        {
            "task": lambda env, _: env,
            "`beacon-follow`, test error, %": error,
            "p": p_value,
            "its time, best fixed = 1": time,
            "least possible": least,
            "trainings that repay the beacons": repaid,
            "counted in steps: time, error, p": lambda env, _: (
                ", ".join(cell(env, in_steps[env]) for cell in (time, error, p_value)) if env in in_steps else UNKNOWN
            ),
        },
    )


def summary_in_steps(found: dict[str, Comparison]) -> str:
    """Return the table of the tasks whose time was counted in steps."""
    return told(
        found,
        {
            "task, time counted in steps": lambda env, _: env,
            "best fixed beacon, test error, %": best_error,
            "beacon-follow, test error, %": error,
            "p": p_value,
            "steps and measurements, ratio": time,
            "goal": reached,
        },
    )


def floor(env: str, comparison: Comparison) -> float:
    """Return the least time ratio that any choice of batch sizes could have: that of the cheapest one throughout."""
    library, task = BeaconLibrary.load(find_artefact("envs", env).parent), load_task(env)
    costs, best = library.costs, library.best_fixed()
    if costs is None:
        return math.nan
    examples = comparison["policies"][0]["examples"] / task.epochs
    whole = {
        size: costs.training_seconds(size, math.ceil(examples / size) * task.epochs, task.epochs)
        for size in task.batch_sizes
    }
    return min(whole.values()) / whole[best.batch_size]


def everyone(found: dict[str, Comparison]) -> str:
    """Return the table of all policies but variants over all tasks: test error and time ratio."""
    cells: dict[str, dict[str, str]] = {}
    for env, comparison in found.items():
        tests = p_values(comparison, "test_error")
        for one in comparison["policies"]:
            if not one["policy"].endswith(VARIANTS) and kind_of(one) != "fixed":
                p = tests.get(one["policy"], {}).get("student")
                cells.setdefault(row_name(one), {})[env] = result_cell(one, p)
    tasks = [env for env in found if any(env in own for own in cells.values())]
    return table(["policy", *tasks], [[name, *(own.get(env, "") for env in tasks)] for name, own in cells.items()])


def row_name(one: dict[str, Any]) -> str:
    """Return the name of a policy's row: the best fixed beacon and learned policies are others on each task."""
    kind, name = kind_of(one), str(one["policy"])
    if kind in {"best fixed", "learned"}:
        return _NAMES[kind]
    return f"**`{name}`**" if name == "beacon-follow" else f"`{name}`"


def result_cell(one: dict[str, Any], p: float | None) -> str:
    """Return test error and time ratio, with a star where the error differs, and how many runs diverged."""
    ended = f" ({one['diverged']} diverged)" if one["diverged"] else ""
    if one["test_error"]["mean"] is None:
        return f"{UNKNOWN}{ended}"
    star = "*" if p is not None and p <= GOAL_P else ""
    return f"{100 * one['test_error']['mean']:.2f}{star}, {number(one['modelled_ratio'])}{ended}"


def picture(found: dict[str, Comparison]) -> Figure:
    """Draw test error against time, a panel a task."""
    columns = min(3, max(1, len(found)))
    lines = math.ceil(len(found) / columns)
    figure = Figure(figsize=(4.6 * columns, 4.1 * lines + 0.6), layout="constrained")
    shown: dict[str, Any] = {}
    for index, (env, comparison) in enumerate(found.items(), start=1):
        shown |= panel(figure.add_subplot(lines, columns, index), env, comparison)
    ordered = [kind for kind in _NAMES if kind in shown]
    figure.legend(
        [shown[kind] for kind in ordered],
        [_NAMES[kind] for kind in ordered],
        loc="outside lower center",
        ncols=4,
        fontsize=9,
        frameon=False,
    )
    return figure


def panel(axes: Axes, env: str, comparison: Comparison) -> dict[str, Any]:
    """Draw one task; returns an artist for each kind of policy."""
    shown = {}
    reference = comparison["policies"][0]
    axes.axhspan(100 * reference["test_error"]["low"], 100 * reference["test_error"]["high"], color="0.93", zorder=0)
    shipped = [one for one in comparison["policies"] if "-from-best" not in one["policy"]]
    most = HIGHEST * reference["test_error"]["mean"]
    half = len(comparison["seeds"]) / 2
    inside = [one for one in shipped if one["finished"] > half and one["test_error"]["mean"] <= most]
    for one in inside:
        kind = kind_of(one)
        color, marker, size = _LOOKS[kind]
        x, y = one["modelled_ratio"], 100 * one["test_error"]["mean"]
        low, high = (100 * (one["test_error"][end] or one["test_error"]["mean"]) for end in ("low", "high"))
        front = 4 if kind in {"best fixed", "beacon-follow", "wider", "learned"} else 2
        axes.plot([x, x], [max(low, 1e-2), high], color=color, linewidth=1.0, alpha=0.5, zorder=front)
        shown[kind] = axes.scatter([x], [y], s=size, c=color, marker=marker, zorder=front + 1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    means = [100 * one["test_error"]["mean"] for one in inside]
    axes.set_xlim(0.2, 2.7)
    axes.set_ylim(0.6 * min(means), 1.5 * max(means))
    for x, words in ((1.0, ""), (GOAL_RATIO, "goal"), (floor(env, comparison), "least possible")):
        axes.axvline(x, color="0.75", linewidth=0.8, linestyle="-" if not words else ":", zorder=0)
        side = "left" if 0.0 < x - GOAL_RATIO < 0.05 else "right"  # not over the word beside the goal's line
        axes.text(x, 0.02, words, rotation=90, ha=side, va="bottom", fontsize=7, transform=axes.get_xaxis_transform())
    beyond = [one["policy"] for one in shipped if one not in inside]
    if beyond:
        told = textwrap.fill(f"beyond the scale, or most runs diverged: {', '.join(beyond)}", 44)
        axes.text(0.98, 0.98, told, ha="right", va="top", fontsize=7, color="0.35", transform=axes.transAxes)
    for axis, ticks, unit in (
        (axes.xaxis, (0.2, 0.3, 0.5, 0.7, 1, 1.5, 2), ""),
        (axes.yaxis, (0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 90), " %"),
    ):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: f"{value:g}{unit}"))
    axes.set_title(f"{env}, {len(comparison['seeds'])} seeds", fontsize=10)
    axes.set_xlabel("time, best fixed beacon = 1 (cost table)", fontsize=9)
    axes.set_ylabel("test error, 95 % interval", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.93", linewidth=0.5)
    axes.set_axisbelow(True)
    return shown


def kind_of(one: dict[str, Any]) -> str:
    """Return what a policy belongs to."""
    name = one["policy"]
    if one["reference"]:
        return "best fixed"
    if name in {"beacon-follow", "random"}:
        return "chance" if name == "random" else name
    if name.startswith("beacon-follow"):
        return "wider"
    if name.startswith("learned"):
        return "learned"
    if "-to-" in name:
        return "paper"
    return "fixed" if "-lr" in name else "rival"


def ours(comparison: Comparison) -> dict[str, Any]:
    """Return the figures of ``beacon-follow``."""
    return next(one for one in comparison["policies"] if one["policy"] == "beacon-follow")


def student(comparison: Comparison) -> float | None:
    """Return the p-value by which the test error of ``beacon-follow`` differs, of Student's test."""
    return p_values(comparison, "test_error")["beacon-follow"]["student"]


def p_values(comparison: Comparison, figure: str) -> dict[str, dict[str, float | None]]:
    """Return p-values by policy and test."""
    found: dict[str, dict[str, float | None]] = {}
    for one in comparison["tests"]:
        if one["figure"] == figure:
            found.setdefault(one["policy"], {})[one["test"]] = one["p"]
    return found


def percent(values: dict[str, Any]) -> str:
    """Return mean ± standard deviation in percent, without the sign."""
    if values["mean"] is None:
        return UNKNOWN
    text = f"{100.0 * values['mean']:.2f}"
    return text if values["std"] is None else f"{text} ± {100.0 * values['std']:.2f}"


def difference(estimate: dict[str, Any]) -> str:
    """Return a difference of errors with its interval, in points."""
    if estimate["value"] is None:
        return UNKNOWN
    text = f"{100 * estimate['value']:+.2f}"
    if estimate["low"] is None:
        return text
    return f"{text} [{100 * estimate['low']:+.2f}, {100 * estimate['high']:+.2f}]"


def ratio(values: dict[str, Any]) -> str:
    """Return the median of paired ratios and their range."""
    if values["median"] is None:
        return UNKNOWN
    return f"{values['median']:.2f} ({values['least']:.2f}-{values['greatest']:.2f})"


def number(value: float | None) -> str:
    """Return a ratio."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.2f}"


def trainings(value: float | None) -> str:
    """Return a number of trainings; None stands for one that is not finite."""
    return "never" if value is None else f"{value:,.0f}"


def p_text(value: float | None) -> str:
    """Return a p-value."""
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join([heading(" | ".join(titles)), *(f"| {' | '.join(cells)} |" for cells in rows)])
