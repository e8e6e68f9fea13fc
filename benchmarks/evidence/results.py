"""Does it help? Every policy beside the best fixed beacon, on every task, and the page that says what came of it.

    python benchmarks/evidence/results.py run digits-resnet8 --seeds 100-104 --jobs 2
    python benchmarks/evidence/results.py journeys digits-resnet8 --seeds 100-104 --jobs 2
    python benchmarks/evidence/results.py steps digits-resnet8 --seeds 100-104 --jobs 2
    python benchmarks/evidence/results.py page

``run`` trains with equal budgets and keeps every run in ``--out``, so it can be stopped at any time and given again;
its figures go into ``benchmarks/results/compare/ENV``. Only policies that look at C̄, L or the gradients measure, and
pay for it. ``journeys`` trains the dynamic sampling of the paper and the best fixed beacon, all of them measured, into
``benchmarks/results/journeys/ENV``, for ``benchmarks/evidence/reproduction.py``. ``steps`` tells ``beacon-follow`` that
a step takes as long at every batch size, as on a device that the largest batch does not fill, and counts time in steps,
into ``benchmarks/results/steps/ENV``. ``page`` trains nothing: it writes ``docs/results.md`` and its pictures from
those figures.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from autobatch import BeaconLibrary, load_policy_spec, load_task
from autobatch._artefacts import find_artefact
from autobatch.beacons import CostTable
from autobatch.cli._lists import whole_numbers
from autobatch.cli.evidence._lines import lines
from autobatch.evidence import compare_policies, comparison_markdown
from autobatch.policies import PolicySpec
from benchmarks.evidence.results_page import write_page
from benchmarks.pages import RESULTS, changed, parser_of

RIVALS = (
    "noise-scale",
    "norm-test",
    "inner-product-test",
    "cabs",
    "adascale",
    "simigrad",
    "plateau",
    "increase-batch",
    "adabatch",
    "sqrt-warmup",
)
PAPER = ("s32-to-128", "s16-to-64-ms")
JOURNEYS = (
    "s32-to-128",
    "s32-to-128-ms",
    "s16-to-64",
    "s16-to-64-ms",
    "s64-to-16",
    "s32-to-512",
    "s32-to-512-ms",
    "s512-to-32",
)
VARIANTS = {
    "beacon-follow-10-percent": ("beacon-follow", {"tolerance": 0.1}),
    "noise-scale-rate-kept": ("noise-scale", {"scale_rate": False}),
    "cabs-momentum": ("cabs", {"momentum": 0.9}),
}
"""Rules that are also tried otherwise than published or shipped: the name, the policy, and what is changed."""

KEPT = {"run": "compare"}
"""Folder of the figures of what is trained, where it has another name."""

UNIT = 0.01
"""Seconds that stand for a step where time is counted in steps."""

LEARNED = {
    "digits-resnet8": ("learned-digits-resnet8",),
    "digits-mlp": ("learned-digits-mlp",),
    "digits-densenet8": ("learned-digits-resnet8",),
    "mnist10k-resnet8": ("learned-digits",),
    "mnist10k-mlp": ("learned-digits",),
    "cifar5k-resnet8": ("learned-digits",),
}
"""Policies learned for the task, or for the nearest tasks that there are any for."""


def main() -> None:
    """Train what is missing, or write the page."""
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=("run", "journeys", "steps", "page"))
    parser.add_argument("env", nargs="?")
    parser.add_argument("--seeds", default="100-104")
    parser.add_argument("--policies", help="only these, such as beacon-follow,noise-scale")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    arguments = parser.parse_args()
    if arguments.what == "page":
        write_page(RESULTS)
        return
    if arguments.env is None:
        parser.error("which task? such as digits-resnet8")
    named = arguments.policies.split(",") if arguments.policies else None
    policies: dict[str, list[PolicySpec | str]] = {
        "run": [*contestants(arguments.env, named)],
        "journeys": [*JOURNEYS],
        "steps": ["beacon-follow"],
    }
    comparison = compare_policies(
        policies[arguments.what],
        arguments.env,
        whole_numbers(arguments.seeds, "--seeds", "100-104"),
        out=arguments.out / arguments.what / arguments.env,
        jobs=arguments.jobs,
        data_dir=arguments.data_dir,
        costs=counted_in_steps(arguments.env) if arguments.what == "steps" else None,
        measure_all=arguments.what == "journeys",
        observer=lines(quiet=False),
    )
    keep(comparison.out, RESULTS / KEPT.get(arguments.what, arguments.what) / arguments.env)
    print(comparison_markdown(comparison))


def contestants(env: str, named: list[str] | None) -> list[PolicySpec]:
    """Return the policies of a task: ours, the paper's, the rivals, and the rivals started from the best fixed beacon.

    Every rung of the ladder is there as well, at its best recorded rate, for what would have been best in hindsight.
    """
    library = BeaconLibrary.load(find_artefact("envs", env).parent)
    ladder = load_task(env).batch_sizes
    best = library.best_fixed()
    start = {"batch_size": best.batch_size, "lr": best.lr}
    sound = sorted(
        (one for one in library.results() if not one.diverged and one.batch_size in ladder),
        key=lambda one: one.mean[library.score],
        reverse=True,
    )
    rates = {one.batch_size: one.lr for one in sound}
    specs = [load_policy_spec(name) for name in ("beacon-follow", *LEARNED.get(env, ()), *PAPER)]
    specs += [load_policy_spec(f"s{size}-lr{rates[size]:g}") for size in ladder if size in rates]
    specs += [load_policy_spec(name) for name in ("random", "rmgd", *RIVALS)]
    for name, (shipped, changes) in VARIANTS.items():
        specs.append(renamed(name, shipped, changes))
    specs += [renamed(f"{name}-from-best", name, start) for name in RIVALS]
    return [spec for spec in specs if named is None or spec.name in named]


def renamed(name: str, shipped: str, parameters: Mapping[str, object]) -> PolicySpec:
    """Return a policy under another name with other parameters."""
    return changed(load_policy_spec(shipped), **parameters).model_copy(update={"name": name})


def counted_in_steps(env: str) -> CostTable:
    """Return a cost table in which a step and a measurement take a unit at every batch size."""
    costs = BeaconLibrary.load(find_artefact("envs", env).parent).costs
    assert costs is not None
    units = dict.fromkeys(costs.step_seconds, UNIT)
    return replace(costs, step_seconds=units, measuring_seconds=units, epoch_seconds=0.0)


def keep(out: Path, place: Path) -> None:
    """Copy the figures of a comparison, without the place where its runs lie."""
    place.mkdir(parents=True, exist_ok=True)
    for name in ("runs.parquet", "epochs.parquet", "comparison.csv"):
        shutil.copyfile(out / name, place / name)
    figures = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    del figures["out"]
    (place / "comparison.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
