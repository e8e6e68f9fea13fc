"""How many measured steps does a stable C̄ need?

    python benchmarks/fisher/samples_per_epoch.py --env digits-resnet8 --batch-sizes 8 32 128 512

Every step of a few fixed runs is measured. Then fewer samples are imitated: the training is cut into as many stretches
as it may have samples, one step of each stands for its stretch, and C̄ and L at the end are compared with those of all
steps (root mean square of the relative error, over seeds and over where in the stretch the step lies). The figure to
hold them against is the distance between neighbouring rungs of the ladder: a position that is off by a small part of
it is still located right.
"""

from pathlib import Path

import numpy as np

from autobatch import RunConfig, load_policy_spec, load_task, run
from autobatch.control.run._files import read_lines
from benchmarks.pages import heading, parser_of

RATES = (4.0, 2.0, 1.0, 0.5, 0.25, 0.1)


def main() -> None:
    """Run what is missing and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--env", default="digits-resnet8")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32, 128, 512])
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[200, 201])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/samples-per-epoch"))
    arguments = parser.parse_args()

    task = load_task(arguments.env)
    every_step = task.measuring.model_copy(update={"interval": 1, "floor": 1})
    task = task.model_copy(update={"measuring": every_step})
    measured = {}
    for batch_size in arguments.batch_sizes:
        for seed in arguments.seeds:
            out = arguments.out / arguments.env / f"s{batch_size}-s{seed}"
            config = RunConfig(
                task=task,
                policy=load_policy_spec(f"s{batch_size}-lr{arguments.lr:g}"),
                seed=seed,
                data_dir=arguments.data_dir,
                recording=True,
            )
            run(config, out, resume=(out / "config.yaml").exists())
            measured[batch_size, seed] = read_lines(out / "measurements.jsonl")
            print(f"s{batch_size}, seed {seed}: {len(measured[batch_size, seed])} steps measured", flush=True)
    _report(arguments.batch_sizes, arguments.seeds, task.epochs, measured)


def _report(batch_sizes: list[int], seeds: list[int], epochs: int, measured: dict) -> None:
    c_bar = {size: np.mean([_figures(measured[size, seed])[0].mean() for seed in seeds]) for size in batch_sizes}
    titles = ["samples per epoch", *(f"s{size}: C̄ off by, L off by" for size in batch_sizes)]
    print("\n" + heading(" | ".join(titles)))
    for rate in RATES:
        cells = []
        for size in batch_sizes:
            steps = len(measured[size, seeds[0]]) / epochs
            if rate > steps:
                cells.append("-")
                continue
            off = np.array([_off(*_figures(measured[size, seed]), round(rate * epochs)) for seed in seeds])
            cells.append("{:.1%}, {:.1%}".format(*np.sqrt((off**2).mean(axis=(0, 1)))))
        print(f"| {rate:g} | " + " | ".join(cells) + " |")
    print(
        "\nC̄ of every step, and its ratio to the batch size before: "
        + ", ".join(
            f"s{size} {c_bar[size]:.0f}" + (f" (x{c_bar[size] / c_bar[before]:.1f})" if before else "")
            for before, size in zip([None, *batch_sizes[:-1]], batch_sizes, strict=True)
        )
    )


def _figures(lines: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Return c_k and l_k of every measured step."""
    c = np.array([line["condition_number"] for line in lines], dtype=float)
    energy = np.array([line["lr"] / line["batch_size"] * line["trace"] ** 0.5 for line in lines])
    return c, energy


def _off(c: np.ndarray, energy: np.ndarray, samples: int) -> np.ndarray:
    """Return relative errors of C̄ and L for every placement of the sample within its stretch, shape (16, 2)."""
    bounds = np.linspace(0, len(c), samples + 1)
    widths = np.diff(bounds)
    offs = []
    for place in (np.arange(16) + 0.5) / 16:
        chosen = np.floor(bounds[:-1] + place * widths).astype(int)
        offs.append((
            (c[chosen] * widths).sum() / c.sum() - 1,
            (energy[chosen] * widths).sum() / energy.sum() - 1,
        ))
    return np.array(offs)


if __name__ == "__main__":
    main()
