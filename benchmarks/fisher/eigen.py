"""From which batch size do few eigenvalues cost less than all of them?

    python benchmarks/fisher/eigen.py                                  # B = 128 ... 8192, as far as not yet measured
    python benchmarks/fisher/eigen.py --sizes 512 1024 --repeats 9

Processor seconds (of one thread unless ``--threads`` is given) for all eigenvalues of F, ``eigvalsh``, and for only
those that the figures need: lambda_max (Lanczos), the rank and the smallest kept one (inertia of F - threshold, Lanczos
on its inverse). Both take turns in one process; seconds are the least of the repeats, the ratio is the median of paired
ratios. Errors are of the few against the true spectrum, or against all eigenvalues where that is not known (``net``).
From B = 4096 on each is timed once, and all eigenvalues are computed of two spectra only.

Spectra: six decades and twelve, one eigenvalue above a narrow bulk, half the eigenvalues zero, a third of them within
0.1 % of the threshold, and ``net``: an MLP 64-500-500-10 on shifted digits after two epochs, whose F decays through the
threshold as those of real steps do.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import fft

from autobatch.fisher import FisherProbe
from autobatch.fisher._eigen import all_eigenvalues, eigenvalues_above, largest_eigenvalue
from autobatch.training import augment, build_task_model, load_data, load_task, normalise
from benchmarks.pages import heading, parser_of

EPS = torch.finfo(torch.float32).eps
DENSE_ONCE = 4096


def known_spectra(size: int) -> dict[str, np.ndarray]:
    """Return spectra, ascending, with lambda_max = 1."""
    generator = np.random.default_rng(0)
    third = size // 3
    near = (size * EPS) ** 2 * (1 + 1e-3 * generator.standard_normal(third))
    cluster = np.concatenate([np.geomspace(1e-12, 1e-10, third), near, np.geomspace(1e-4, 1, size - 2 * third)])
    return {
        "6 decades": np.geomspace(1e-6, 1, size),
        "12 decades": np.geomspace(1e-12, 1, size),
        "bulk": np.append(np.sort(generator.uniform(1e-3, 2e-3, size - 1)), 1.0),
        "half zero": np.append(np.zeros(size // 2), np.geomspace(1e-5, 1, size - size // 2)),
        "cluster": np.sort(cluster),
    }


def matrix_with(eigenvalues: np.ndarray) -> torch.Tensor:
    """Return a dense matrix of given eigenvalues: diagonal, then twice signs and a cosine transform of either side."""
    generator = np.random.default_rng(1)
    matrix = np.diag(eigenvalues)
    for _ in range(2):
        signs = generator.choice([-1.0, 1.0], len(eigenvalues))
        matrix = fft.dctn(signs[:, None] * matrix * signs, norm="ortho", overwrite_x=True)
    return torch.from_numpy((matrix + matrix.T) / 2)


def net_matrix(size: int) -> torch.Tensor:
    """Return F of one step of a network on real images, shifted at random so that there are enough of them."""
    task = load_task("digits-mlp")
    data = load_data(task)
    generator = torch.Generator().manual_seed(0)

    def batch(examples: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.randint(len(data.train_labels), (examples,), generator=generator)
        images = augment(data.train_inputs[chosen], task.dataset.augmentation, generator)
        return normalise(images, data.mean, data.std), data.train_labels[chosen]

    model = build_task_model(task, data)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    for _ in range(30):
        images, labels = batch(64)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = batch(size)
    probe = FisherProbe(model)
    with probe:
        F.cross_entropy(model(images), labels).backward()
    return probe.gram()


def few(gram: torch.Tensor) -> tuple[float, int, float] | None:
    """Return lambda_max, the rank and the smallest kept eigenvalue."""
    largest = largest_eigenvalue(gram)
    if largest is None:
        return None
    above = eigenvalues_above(gram, largest * (len(gram) * EPS) ** 2, largest)
    return None if above is None else (largest, *above)


def timed(function: Callable[[], object]) -> tuple[float, object]:
    """Return processor seconds, which other programs on the machine disturb little, and the result."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def measure(name: str, size: int, repeats: int) -> dict:
    """Time and compare both ways on one matrix."""
    expected = known_spectra(size).get(name)
    gram = net_matrix(size) if expected is None else matrix_with(expected)
    large = size >= DENSE_ONCE
    dense = not large or name in {"12 decades", "net"}
    few_seconds, all_seconds = [], []
    result = None
    for _ in range(1 if large else repeats):
        seconds, result = timed(lambda: few(gram))
        few_seconds.append(seconds)
        if dense:
            seconds, computed = timed(lambda: all_eigenvalues(gram))
            all_seconds.append(seconds)
            expected = computed if name == "net" else expected
    kept = expected[expected > expected[-1] * (size * EPS) ** 2]
    row = {"spectrum": name, "B": size, "rank": len(kept), "few_seconds": min(few_seconds)}
    if all_seconds:
        ratios = [every / some for every, some in zip(all_seconds, few_seconds, strict=True)]
        row |= {"all_seconds": min(all_seconds), "all_over_few": statistics.median(ratios)}
    if result is not None:
        row |= {
            "error_largest": abs(result[0] / kept[-1] - 1),
            "error_rank": result[1] - len(kept),
            "error_smallest": abs(result[2] / kept[0] - 1),
        }
    return row


def main() -> None:
    """Measure what is missing and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--spectra", nargs="+", default=[*known_spectra(9), "net"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/fisher-eigen.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = json.loads(arguments.out.read_text()) if arguments.out.exists() else []
    for size in arguments.sizes:
        for name in arguments.spectra:
            key = {"spectrum": name, "B": size, "threads": arguments.threads}
            if not any(key.items() <= row.items() for row in rows):
                rows.append(key | measure(name, size, arguments.repeats))
                arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
                print(f"B = {size}, {name}: done", flush=True)
    titles = "B | spectrum | rank | all, s | few, s | all / few | error of λmax | of the rank | of the smallest"
    print("\n" + heading(titles))
    for row in sorted(rows, key=lambda row: row["B"]):
        cells = [f"{row['B']}", row["spectrum"], f"{row['rank']}"]
        cells += [f"{row['all_seconds']:.3g}" if "all_seconds" in row else "-", f"{row['few_seconds']:.3g}"]
        cells += [f"{row['all_over_few']:.2f}" if "all_over_few" in row else "-"]
        errors = ("error_largest", "error_rank", "error_smallest")
        cells += [f"{row[error]:.0e}" if error in row else "not found" for error in errors]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
