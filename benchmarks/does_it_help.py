"""Does beacon-follow help? Real training on fresh seeds, interleaved, every run kept, measuring time charged.

    python benchmarks/does_it_help.py --env digits-resnet8 --seeds 100 101 102 103 104

Only a policy that steers by beacons measures, and pays for it. A run that is finished in ``--out`` is not run again,
and one that was cut off goes on, so the script can be stopped at any time. Times are compared within a seed only, where
the runs follow each other on one machine.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from autobatch import BeaconLibrary, RunConfig, Summary, load_policy_spec, load_task, make_policy, run
from autobatch._artefacts import find_artefact


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="digits-resnet8")
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102, 103, 104])
    parser.add_argument("--policies", nargs="*", default=["s32-to-128", "s16-to-64-ms", "beacon-follow"])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/does-it-help"))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()

    folder = Path(find_artefact("envs", arguments.env))
    folder = folder if folder.is_dir() else folder.parent
    task = load_task(arguments.env)
    best = BeaconLibrary.load(folder).best_fixed()
    reference = f"s{best.batch_size}-lr{best.lr:g}"
    policies = [reference, *(name for name in arguments.policies if name != reference)]
    summaries: dict[str, list[Summary]] = {name: [] for name in policies}
    for turn, seed in enumerate(arguments.seeds):
        # Each seed starts with another policy, so that a drift of the machine's speed favours none of them.
        for name in policies[turn % len(policies) :] + policies[: turn % len(policies)]:
            spec = load_policy_spec(name)
            out = arguments.out / arguments.env / f"{name}-s{seed}"
            config = RunConfig(
                task=task,
                task_path=folder,
                policy=spec,
                seed=seed,
                device="auto",
                data_dir=arguments.data_dir,
                measure=make_policy(spec).needs_library,
            )
            summary = run(config, out, resume=(out / "config.yaml").exists())
            summaries[name].append(summary)
            print(f"seed {seed}  {name:16s} {summary.seconds:7.2f} s", flush=True)
    figures = [row(name, runs, summaries[reference]) for name, runs in summaries.items()]
    print(f"\n{arguments.env}, seeds {arguments.seeds}, {os.cpu_count()} cores; the best fixed beacon is {reference}\n")
    print(table(figures))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(
            json.dumps({"env": arguments.env, "seeds": arguments.seeds, "rows": figures}, indent=1)
        )


def row(name: str, runs: Sequence[Summary], reference: Sequence[Summary]) -> dict[str, object]:
    """Sum one policy up: means, standard deviations, and what is paired with the reference by seed."""
    losses, theirs = (np.array([_finite(one.validation_loss) for one in some]) for some in (runs, reference))
    errors, their_errors = (np.array([_finite(one.test_error) for one in some]) for some in (runs, reference))
    seconds, their_seconds = (np.array([one.seconds for one in some]) for some in (runs, reference))
    ratios = seconds / their_seconds
    return {
        "policy": name,
        "validation_loss": [losses.mean(), losses.std(ddof=1)],
        "test_error": [errors.mean(), errors.std(ddof=1)],
        "seconds": [seconds.mean(), seconds.std(ddof=1)],
        "time_ratio": [float(np.median(ratios)), ratios.min(), ratios.max()],
        "steps": float(np.mean([one.optimizer_steps for one in runs])),
        "measuring_share": float(np.mean([one.measuring_share for one in runs])),
        "p_validation_loss": _p_value(losses, theirs),
        "p_test_error": _p_value(errors, their_errors),
    }


def table(rows: Sequence[dict[str, object]]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| policy | test error, % | validation loss | p (error) | p (loss) | seconds | time ratio (range) | steps "
        "| measuring |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        error, loss, seconds, ratio = (one[key] for key in ("test_error", "validation_loss", "seconds", "time_ratio"))
        lines.append(
            f"| {one['policy']} | {100 * error[0]:.2f} ± {100 * error[1]:.2f} | {loss[0]:.4f} ± {loss[1]:.4f} "
            f"| {one['p_test_error']:.2f} | {one['p_validation_loss']:.2f} | {seconds[0]:.1f} ± {seconds[1]:.1f} "
            f"| {ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f}) | {one['steps']:.0f} | {one['measuring_share']:.0%} |"
        )
    return "\n".join(lines)


def _finite(value: float | None) -> float:
    return float("nan") if value is None else value


def _p_value(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Two-sample t-test as in the paper's Table 1; NaN where the two are the same runs."""
    return float("nan") if np.array_equal(ours, theirs) else float(stats.ttest_ind(ours, theirs).pvalue)


if __name__ == "__main__":
    main()
