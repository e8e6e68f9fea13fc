"""Steering without beacons beside the best fixed beacon of the whole grid, everything charged.

    python benchmarks/steering/steer.py run TASK [--policies steer] [--seeds 200-204] [--data-dir data]
    python benchmarks/steering/steer.py page

``run`` trains each policy on fresh seeds of a shipped task, as if nothing had been recorded of it, one run at a time in
a process with one thread, and appends one line a run to ``benchmarks/results/steer/TASK.jsonl``; what is there is not
trained again. ``page`` sets the runs beside those of the best fixed beacons in ``benchmarks/results/compare`` (other
fresh seeds of the same tasks), or, for a task that has none there, beside its runs of policy ``best``, and writes the
tables of ``docs/steer.md``, of ``benchmarks/results/steer_tasks.md`` and of the README. Times are by the cost table
of the task's library, or in steps; a policy that scouts or forks pays for what it throws away, and one that
measures for measuring. Relative differences are of geometric means, with a 95 % interval by Welch's method on the
logarithms of the runs' figures. Where a task trains with another optimizer than SGD, `pick-after-i-epochs` gets the two
highest of the task's own rates in place of its own. Policies that need a rate (`seesaw`, `late-switch`) start at the
middle one of the task's, as one who knows nothing would; `prodigy` is the optimizer of that name at batch size 32,
`steer-without-forks` is `steer` on a task where it forks, and `steer-without-lists` on tasks that name neither batch
sizes nor learning rates.
"""

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from autobatch.beacons import BeaconLibrary
from autobatch.control.run._files import read_lines
from autobatch.policies import load_policy_spec, policy_kind
from autobatch.policies.steer._search import start_without_scouts
from autobatch.report._comparison import modelled_seconds
from autobatch.training import RunConfig, TaskSpec, load_epochs, load_task, run, task_info
from benchmarks import pages
from benchmarks.pages import ENVS, changed, heading, spread

RESULTS, COMPARED = pages.RESULTS / "steer", pages.RESULTS / "compare"
BEST = {
    "digits-resnet8": "s32-lr0.025",
    "digits-mlp": "s32-lr0.05",
    "digits-densenet8": "s16-lr0.2",
    "mnist10k-resnet8": "s8-lr0.025",
    "mnist10k-mlp": "s64-lr0.025",
    "cifar5k-resnet8": "s32-lr0.025",
}
"""The best configuration of each task's grid, as ``docs/results.md`` has it; other seeds than the library's."""

NEW = ("mnist5k-convnet", "cifar5k-convnet", "diamonds-mlp", "topics-gpt", "digits-vit", "mnist10k-densenet8")
"""Tasks whose best configuration is that of the library's own seeds, and is trained here."""

FIGURES = ("validation_loss", "test_loss", "test_error")
RULE = "steer"
"""What the paired tests over tasks set beside each of the others."""

UNFORKED = "steer-without-forks"
"""The same without forks, for tasks that have some."""

UNLISTED = "steer-without-lists"
"""The same where the task names neither batch sizes nor learning rates."""

KEPT = ("optimizer_steps", "examples", "seconds", "batch_sizes", "scouts", "forks")
"""What else is kept of a run's summary."""


def best_of(name: str) -> str:
    """Return the best configuration of a task's grid, as a policy."""
    if name in BEST:
        return BEST[name]
    best = BeaconLibrary.load(ENVS / name).best_fixed()
    return f"s{best.batch_size}-lr{best.lr:g}"


def best_runs(name: str) -> pd.DataFrame:
    """Return the runs of the best configuration on fresh seeds; none where they have not been trained."""
    best = best_of(name)
    if name in BEST:
        compared = pd.read_parquet(COMPARED / name / "runs.parquet")
        return compared[compared["policy"] == best]
    rows = pd.DataFrame(recorded(name), columns=["policy", "modelled_seconds", "optimizer_steps", *FIGURES])
    return rows[rows["policy"] == best]


def train(name: str, policy: str, seed: int, data_dir: Path | None) -> pages.Row:
    """Train one run in a temporary directory and return its figures."""
    task = load_task(ENVS / name).model_copy(update={"threads": 1})
    library = BeaconLibrary.load(ENVS / name)
    assert library.costs is not None
    spec = load_policy_spec({"prodigy": "s32-lr1", UNFORKED: RULE, UNLISTED: RULE}.get(policy, policy))
    if policy == UNLISTED:
        told = task.model_dump(mode="json", exclude={"batch_sizes", "learning_rates"})
        task = TaskSpec.model_validate(told)
    if policy == UNFORKED:
        spec = changed(spec, forks=0)
    if policy == "prodigy":
        optimizer = task.optimizer.model_copy(update={"name": policy, "nesterov": False})
        task = task.model_copy(update={"optimizer": optimizer, "learning_rates": (1.0,)})
    if spec.kind in {"seesaw", "late-switch"}:
        spec = changed(spec, lr=start_without_scouts(task_info(task, library))[1])
    if spec.kind == "pick-after-i-epochs" and task.optimizer.name != "sgd":  # its own rates are SGD's
        spec = changed(spec, configurations=[(size, lr) for size in (32, 128) for lr in task.learning_rates[-2:]])
    # No task_path, unless that is what a policy is about: the run knows nothing of the beacons. It gets the cost table,
    # which any new task would time.
    config = RunConfig(
        task=task,
        task_path=ENVS / name if spec.kind == "best-beacon-stopped" else None,
        policy=spec,
        seed=seed,
        device="cpu",
        data_dir=data_dir,
        measure=not policy_kind(spec.kind).blind,
        costs=library.costs,
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        summary = run(config, out)
        seconds = modelled_seconds(load_epochs(out), library.costs, summary.scouts, summary.forks)
    return {
        "policy": policy,
        "seed": seed,
        **{figure: getattr(summary, figure) for figure in ("stopped_because", *FIGURES)},
        "modelled_seconds": seconds,
        **{figure: getattr(summary, figure) for figure in KEPT},
    }


def recorded(name: str) -> list[pages.Row]:
    """Return the runs that are there."""
    return read_lines(RESULTS / f"{name}.jsonl")


def run_all(task: str, policies: str, seeds: Iterable[int], data_dir: Path | None) -> None:
    """Train what is missing."""
    found = {(one["policy"], one["seed"]) for one in recorded(task)}
    named = [best_of(task) if one == "best" else one for one in policies.split(",")]
    for seed in seeds:
        for policy in named:
            if (policy, seed) not in found:
                row = train(task, policy, seed, data_dir)
                pages.keep(RESULTS / f"{task}.jsonl", row)
                print(f"{task} {policy} {seed}: {row['validation_loss']:.4f} {row['test_loss']:.4f}", flush=True)


def relative(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Return the relative difference of geometric means and its 95 % interval (Welch, on logarithms)."""
    difference = stats.ttest_ind(np.log(ours), np.log(theirs), equal_var=False)
    low, high = difference.confidence_interval(0.95)
    centre = np.log(ours).mean() - np.log(theirs).mean()
    return math.expm1(centre), math.expm1(low), math.expm1(high)


def page() -> None:
    """Write the tables of ``docs/steer.md``, of single tasks and of the README between their marks, and print them."""
    every, brief, pooled, paired = tables()
    for path, mark, lines in (
        (pages.TASK_BY_TASK, "page", every),
        (pages.ROOT / "docs" / "steer.md", "page", [*pooled, "", *paired]),
        (pages.ROOT / "README.md", "readme", brief),
    ):
        pages.put(path, f"benchmarks/steering/steer.py {mark}", "\n".join(lines))
        print()


def tables() -> tuple[list[str], list[str], list[str], list[str]]:
    """Return the table task by task, that of the README, that over all tasks, and the paired tests over tasks."""
    titles = "task | best fixed, found by | its test error, % | `steer`, the same | test loss, relative | time | steps"
    brief = [heading(titles)]
    logs: dict[str, dict[str, list[tuple[float, float]]]] = {}
    ratios: dict[str, list[tuple[float, float]]] = {}
    means: dict[str, dict[str, pd.Series]] = {}
    told_of: dict[str, dict[str, str]] = {}
    fixed: dict[str, str] = {}
    for name in (*BEST, *NEW):
        found = recorded(name)
        if not found:
            continue
        best, theirs = best_of(name), best_runs(name)
        ours = pd.DataFrame(found)
        ours = ours[ours["policy"] != best]
        if theirs.empty or ours.empty:
            continue
        fixed[name] = f"`{best}`: {theirs['test_loss'].mean():.3g}, {100 * theirs['test_error'].mean():.3g} %"
        for policy, rows in ours.groupby("policy", sort=False):
            sound = rows[rows["stopped_because"] == "finished"]
            told = f"{len(rows) - len(sound)} diverged"
            time = rows["modelled_seconds"].mean() / theirs["modelled_seconds"].mean()
            steps = rows["optimizer_steps"].mean() / theirs["optimizer_steps"].mean()
            if len(sound) > 1:
                centre, low, high = relative(sound["test_loss"].to_numpy(float), theirs["test_loss"].to_numpy(float))
                told = f"{100 * centre:+.1f} % ({100 * low:+.0f} to {100 * high:+.0f})"
                for figure in FIGURES:
                    one, other = (np.log(some[figure].to_numpy(float)) for some in (sound, theirs))
                    error = math.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
                    logs.setdefault(str(policy), {}).setdefault(figure, []).append((one.mean() - other.mean(), error))
            ratios.setdefault(str(policy), []).append((time, steps))
            costs = rows[["modelled_seconds", "optimizer_steps"]].mean()
            means.setdefault(str(policy), {})[name] = pd.concat([sound[[*FIGURES]].mean(), costs])
            few = "" if len(rows) > 4 else f" ({len(rows)} runs)"
            told_of.setdefault(str(policy), {})[name] = f"{told}, {time:.2f}{few}"
            if policy == "steer":
                trained = len(BeaconLibrary.load(ENVS / name).beacons)
                errors = [spread(some["test_error"], 2, 100) for some in (theirs, rows)]
                brief.append(
                    f"| {name} | `{best}`, {trained} trainings | {errors[0]} | {errors[1]} | {told} | "
                    f"**{time:.2f}** | **{steps:.2f}** |"
                )
    titles = "policy | tasks | validation loss | test loss | test error | time (geometric mean, worst) | steps"
    pooled = [heading(titles)]
    for policy, pairs in ratios.items():
        time, steps = (np.exp(np.mean(np.log([pair[index] for pair in pairs]))) for index in (0, 1))
        found = logs.get(policy, {})
        told = " | ".join(_pooled(found.get(figure, [])) for figure in FIGURES)
        worst = max(pair[0] for pair in pairs)
        pooled.append(f"| `{policy}` | {len(pairs)} | {told} | {time:.2f}, {worst:.2f} | {steps:.2f} |")
        if policy == "steer":
            brief.append(
                f"| all {len(pairs)} | | | | {_pooled(found.get('test_loss', []))} | **{time:.2f}** | **{steps:.2f}** |"
            )
    return _every(fixed, told_of), brief, pooled, _paired(means)


def _every(fixed: dict[str, str], told_of: dict[str, dict[str, str]]) -> list[str]:
    """Return a line a task: its best fixed configuration, and what is told of every policy that most tasks have."""
    policies = sorted((one for one in told_of if 2 * len(told_of[one]) > len(fixed)), key=lambda one: one != RULE)
    titles = " | ".join(f"`{policy}`" for policy in policies)
    lines = [heading(f"task | best fixed: test loss, test error | {titles}")]
    for name, best in fixed.items():
        lines.append(f"| {name} | {best} | {' | '.join(told_of[one].get(name, '-') for one in policies)} |")
    return lines


def _paired(means: dict[str, dict[str, pd.Series]]) -> list[str]:
    """Return the rule beside each other policy: relative differences over the tasks that both have, tasks paired."""
    lines = [heading(f"`{RULE}` beside | tasks | validation loss | test loss | test error | time | steps")]
    for policy, theirs in means.items():
        shared = sorted(theirs.keys() & means.get(RULE, {}).keys())
        if policy == RULE or len(shared) < 3:
            continue
        told = []
        for figure in (*FIGURES, "modelled_seconds", "optimizer_steps"):
            logs = np.array([math.log(means[RULE][name][figure] / theirs[name][figure]) for name in shared])
            test = stats.ttest_1samp(logs, 0.0)
            low, high = test.confidence_interval(0.95)
            ranks = f", {stats.wilcoxon(logs).pvalue:.2g}" if len(logs) > 5 else ""  # of fewer none is ever below 0.05
            told.append(
                f"{100 * math.expm1(logs.mean()):+.1f} % "
                f"({100 * math.expm1(low):+.0f} to {100 * math.expm1(high):+.0f}; "
                f"p = {test.pvalue:.2g}{ranks})"
            )
        lines.append(f"| `{policy}` | {len(shared)} | {' | '.join(told)} |")
    return lines


def _pooled(differences: list[tuple[float, float]]) -> str:
    """Return the mean relative difference over tasks with its 95 % interval, the tasks weighing alike."""
    if not differences:
        return "-"
    centre = float(np.mean([one for one, _ in differences]))
    error = math.sqrt(sum(error**2 for _, error in differences)) / len(differences)
    return pages.relative_interval(centre, centre - 1.96 * error, centre + 1.96 * error)


if __name__ == "__main__":
    options = {"task": {}, "--policies": {"default": "steer"}, **pages.seeds("200-204"), **pages.DATA_DIR}
    pages.carry_out(__doc__, {"run": (run_all, options), "page": (page, {})})
