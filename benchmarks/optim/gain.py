"""What the optimizers of ``autobatch.optim`` cost, and what they gain, beside SGD, Adam and SOAP.

    python benchmarks/optim/gain.py step [--data-dir data]      # a step's time and memory
    python benchmarks/optim/gain.py train [--data-dir data]     # the trainings that the results do not hold yet
    python benchmarks/optim/gain.py page                        # write the tables into docs/optimizers.md, draw

*Time of a step* is over SGD's, forward and backward pass included: optimizers take turns step by step with SGD's, each
on a network of its own, and the median of paired ratios is weighted by how often a step updates and inverts with the
defaults (in 100 steps one inversion and nine more updates). *Memory* is the optimizer's state over the parameters.

*Trainings* are of three networks on a part of the data (CIFAR's images at half their size), one thread, batches of
128, rates that fall to 0 in a line, no augmentation and no weight decay. Every optimizer has the same grid, three rates
half a decade apart, which goes on by at most three more where the best is at its edge; the rate with the least
validation loss on a seed of its own is trained with three others. All else is at its defaults, but for the autoencoder,
where factors and blocks are updated in every step and inverted every 20, as is usual for it: at the defaults' 10 and
100 K-FAC diverged at every rate that was tried. Seconds are those of the processor, without evaluations. SOAP is that
of the package ``pytorch-optimizer``, with no preconditioner of more than 512 rows, and is left out where that is not
installed. Lines go to ``benchmarks/results/optim/``; what is there is not done again.
"""

import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch import TaskSpec, load_data, load_task
from autobatch._files import append_whole
from autobatch.control.run._files import read_lines
from autobatch.optim import KFAC, MiniBlockFisher, Padam, observing
from autobatch.training.models import build_model
from benchmarks import pages
from benchmarks.pages import heading, keyed

RESULTS = pages.RESULTS / "optim"
PICTURE = pages.ROOT / "docs" / "images" / "optim_gain.png"
BATCH = 128
SEEDS = (1, 2, 3)
TUNING_SEED = 0
CYCLE, UPDATES, INVERSIONS = 100, 9, 1
TURNS = 3


def soap(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return SOAP of another package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_optimizer import SOAP
    optimizer: torch.optim.Optimizer = SOAP(model.parameters(), lr=lr, weight_decay=0.0, max_precondition_dim=512)
    return optimizer


Make = Callable[..., torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD with momentum": lambda model, lr: torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True),
    "Adam": lambda model, lr: torch.optim.Adam(model.parameters(), lr=lr),
    "Padam": lambda model, lr: Padam(model.parameters(), lr=lr),
    "MiniBlockFisher": lambda model, lr, **own: MiniBlockFisher(model.parameters(), lr=lr, **own),
    "KFAC": lambda model, lr, **own: KFAC(model.parameters(), model, lr=lr, **own),
    "KFAC, rank 64": lambda model, lr, **own: KFAC(model.parameters(), model, lr=lr, projection=64, **own),
    "SOAP": soap,
}
MIDDLE = {
    "mlp": (0.1, 3e-3, 0.3, 3e-4, 0.01, 0.01, 3e-3),
    "autoencoder": (1e-3, 3e-3, 0.3, 1e-4, 0.01, 0.01, 3e-3),
    "resnet8": (0.1, 3e-3, 0.3, 3e-4, 0.03, 0.03, 3e-3),
}
"""The rate in the middle of each optimizer's grid."""
EXTENSIONS = 3
SCHEDULED = ("MiniBlockFisher", "KFAC", "KFAC, rank 64")


class Autoencoder(nn.Sequential):
    """Layers of 250, 100 and 30 units and back, of images with 784 elements."""

    def __init__(self) -> None:
        sizes = (784, 250, 100, 30, 100, 250, 784)
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers[:-1])


class Workload:
    """A network, its data and its loss.

    Args:
        name: "mlp", "autoencoder" or "resnet8"; "resnet20" for timing.
        data_dir: where the data lie.
    """

    def __init__(self, name: str, data_dir: Path) -> None:
        self.name = name
        images = "cifar5k-resnet8" if name.startswith("resnet") else "mnist10k-mlp"
        given = load_task(images).model_dump(mode="json", exclude_unset=True)
        data = load_data(TaskSpec.model_validate(given), data_dir)
        self.autoencoding = name == "autoencoder"
        # A folder of images has them class by class.
        apart = slice(0, 10000, 5) if name.startswith("resnet") else slice(0, 2000)
        self.parts = {
            part: (self._taken(data.network_inputs(inputs)), labels)
            for part, inputs, labels in (
                ("train", data.train_inputs, data.train_labels),
                ("validation", data.validation_inputs, data.validation_labels),
                ("test", data.test_inputs[apart], data.test_labels[apart]),
            )
        }
        self.epochs = {"mlp": 4, "autoencoder": 4, "resnet8": 3}.get(name, 1)
        self.schedule = {"update_every": 1, "invert_every": 20} if self.autoencoding else {}

    def _taken(self, inputs: Tensor) -> Tensor:
        if self.name == "resnet8":
            inputs = F.avg_pool2d(inputs, 2)
        if not self.autoencoding:
            return inputs.contiguous(memory_format=torch.channels_last)
        low = inputs.min()
        return (inputs - low) / (inputs.max() - low)

    def model(self, seed: int) -> nn.Module:
        """Return a network with fresh weights."""
        if self.name == "mlp":
            return build_model("mlp", in_channels=1, image_size=28, seed=seed, hidden=[200, 100])
        if self.name.startswith("resnet"):
            model = build_model("resnet", depth=int(self.name.removeprefix("resnet")), seed=seed)
            return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Autoencoder()

    def loss(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch."""
        if self.autoencoding:
            outputs = model(inputs)
            return F.binary_cross_entropy_with_logits(outputs, inputs.flatten(1), reduction="sum") / len(inputs)
        return F.cross_entropy(model(inputs), labels)

    def figures(self, model: nn.Module) -> dict[str, float]:
        """Return losses in evaluation mode of at most 2,000 examples of each part, and the test part's error.

        An autoencoder's is the squared one of an image.
        """
        model.eval()
        found = {}
        with torch.no_grad():
            for part, (inputs, labels) in self.parts.items():
                pieces = list(zip(inputs[:2000].split(500), labels[:2000].split(500), strict=True))
                losses = [float(self.loss(model, *piece)) * len(piece[0]) for piece in pieces]
                found[f"{part}_loss"] = sum(losses) / min(len(inputs), 2000)
            inputs, labels = self.parts["test"]
            if self.autoencoding:
                found["test_error"] = float((model(inputs).sigmoid() - inputs.flatten(1)).square().sum(1).mean())
            else:
                outputs = torch.cat([model(piece) for piece in inputs.split(500)])
                found["test_error"] = float((outputs.argmax(1) != labels).float().mean())
        model.train()
        return found


def one_step(work: Workload, model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> float:
    """Take a step, and return the processor's seconds."""
    start = time.process_time()
    with observing(optimizer):
        work.loss(model, *batch).backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.process_time() - start


def train(work: Workload, name: str, lr: float, seed: int) -> list[dict[str, float]]:
    """Train, and return what every epoch came to."""
    model, (inputs, labels) = work.model(seed), work.parts["train"]
    optimizer = OPTIMIZERS[name](model, lr, **(work.schedule if name in SCHEDULED else {}))
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    per_epoch = len(inputs) // BATCH
    total, seconds, rows = per_epoch * work.epochs, 0.0, []
    for epoch in range(work.epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for step in range(per_epoch):
            for group in optimizer.param_groups:
                group["lr"] = lr * (1.0 - (epoch * per_epoch + step) / total)
            chosen = order[step * BATCH : (step + 1) * BATCH]
            seconds += one_step(work, model, optimizer, (inputs[chosen], labels[chosen]))
        rows.append({"epoch": epoch + 1, "seconds": seconds, **work.figures(model)})
        if not math.isfinite(rows[-1]["train_loss"]):
            break
    return rows


def add(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    append_whole(path, f"{json.dumps(row)}\n".encode())  # with NaN, which those that diverged have


def usable() -> list[str]:
    """Return the optimizers that are installed."""
    try:
        soap(nn.Linear(1, 1), 0.1)
    except ImportError:
        return [name for name in OPTIMIZERS if name != "SOAP"]
    return list(OPTIMIZERS)


def train_all(data_dir: Path, names: list[str]) -> None:
    """Train what is missing: the grid, then the best of it with other seeds."""
    path = RESULTS / "gain.jsonl"
    for work_name in names:
        work = Workload(work_name, data_dir)

        def trained(name: str, lr: float, seed: int, work: Workload = work) -> dict[str, Any]:
            for row in read_lines(path):
                if (row["work"], row["optimizer"], row["lr"], row["seed"]) == (work.name, name, lr, seed):
                    return row
            row = {"work": work.name, "optimizer": name, "lr": lr, "seed": seed, "epochs": train(work, name, lr, seed)}
            add(path, row)
            last = row["epochs"][-1]
            print(work.name, name, f"{lr:.3g}", seed, {key: f"{value:.4g}" for key, value in last.items()}, flush=True)
            return row

        for name in usable():
            middle = MIDDLE[work_name][list(OPTIMIZERS).index(name)]
            places, tried = [-1, 0, 1], {}
            for _ in range(EXTENSIONS + 1):
                for place in places:
                    rate = float(f"{middle * 10 ** (place / 2):.2g}")
                    tried[place] = tried.get(place) or trained(name, rate, TUNING_SEED)
                best = min(places, key=lambda place: _validation(tried[place]["epochs"]))
                if min(places) < best < max(places):
                    break
                places.append(best + (1 if best == max(places) else -1))
            for seed in SEEDS:
                trained(name, tried[best]["lr"], seed)


def _validation(rows: list[dict[str, float]]) -> float:
    loss = rows[-1]["validation_loss"]
    return loss if math.isfinite(loss) else math.inf


def time_steps(data_dir: Path) -> None:
    """Time what is missing: every optimizer's plain, updating and inverting steps, each beside a step of SGD's."""
    path = RESULTS / "steps.jsonl"
    done = keyed(path, "work", "optimizer")
    for work_name in ("resnet20", "mlp", "autoencoder"):
        work = Workload(work_name, data_dir)
        inputs, labels = work.parts["train"]
        batches = [(inputs[start : start + BATCH], labels[start : start + BATCH]) for start in range(0, 1024, BATCH)]
        for name in (*SCHEDULED, *(own for own in usable() if own not in SCHEDULED)):
            if name == "SGD with momentum" or (work_name, name) in done:
                continue
            models = work.model(0), work.model(0)
            optimizers = optimizer_for(name, models[0]), OPTIMIZERS["SGD with momentum"](models[1], 1e-3)
            ratios: dict[str, list[float]] = {"plain": [], "update": [], "inversion": []}
            for step in range(4 * (TURNS + 1)):
                pair = [
                    one_step(work, model, optimizer, batches[step % len(batches)])
                    for model, optimizer in zip(models, optimizers, strict=True)
                ]
                if step >= 4:
                    kind = ("inversion", "plain", "update", "plain")[step % 4] if name in SCHEDULED else "plain"
                    ratios[kind].append(pair[0] / pair[1])
            of = {kind: statistics.median(own) for kind, own in ratios.items() if own}
            whole = of["plain"]
            if name in SCHEDULED:
                plain = CYCLE - UPDATES - INVERSIONS
                whole = (plain * of["plain"] + UPDATES * of["update"] + INVERSIONS * of["inversion"]) / CYCLE
            size = sum(own.nbytes for own in models[0].parameters())
            held = sum(value.nbytes for state in optimizers[0].state.values() for value in tensors_in(state))
            row = {"work": work_name, "optimizer": name, **of, "whole": whole, "state": held / size}
            add(path, row)
            print(
                {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}, flush=True
            )


def optimizer_for(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer whose kinds of steps come by turns: inverting, plain, updating, plain."""
    scheduled = {"update_every": 2, "invert_every": 4} if name in SCHEDULED else {}
    return OPTIMIZERS[name](model, 1e-4, **scheduled)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested states."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for own in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(own)


def write_page() -> None:
    """Write the tables into the page, between its marks."""
    for name, table in (("steps", steps_table()), ("trainings", trainings_table())):
        mark = f"benchmarks/optim/gain.py {name}"
        pages.replace_between(pages.ROOT / "docs" / "optimizers.md", mark, f"\n{table}\n")


def steps_table() -> str:
    """Return the table of times and memory."""
    found = keyed(RESULTS / "steps.jsonl", "work", "optimizer")
    works = list(dict.fromkeys(work for work, _ in found))
    table = [heading(f"optimizer | {' | '.join(f'{work}: step, state' for work in works)}")]
    for name in dict.fromkeys(name for _, name in found):
        cells = [f"{row['whole']:.2f}, {row['state']:.1f}" for work in works if (row := found[work, name])]
        table.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(table)


def trainings() -> dict[tuple[str, str], list[list[dict[str, float]]]]:
    """Return the epochs of every seed's training, by network and optimizer, in the order of the lists above."""
    found: dict[tuple[str, str], list[list[dict[str, float]]]] = {
        (work, name): [] for work in MIDDLE for name in OPTIMIZERS
    }
    for row in read_lines(RESULTS / "gain.jsonl"):
        if row["seed"] in SEEDS:
            found[row["work"], row["optimizer"]].append([{**epoch, "lr": row["lr"]} for epoch in row["epochs"]])
    return {key: runs for key, runs in found.items() if runs}


def trainings_table() -> str:
    """Return the table of final figures and times: means over the seeds, with standard deviations."""
    found = trainings()
    table = [heading("training | optimizer | rate | training loss | test error | seconds | to the first-order loss")]
    for (work, name), runs in found.items():
        usual = [[run[-1]["train_loss"] for run in found[work, other]] for other in ("SGD with momentum", "Adam")]
        goal = min(statistics.mean(losses) for losses in usual if all(map(math.isfinite, losses)))
        reached = [next((epoch["seconds"] for epoch in run if epoch["train_loss"] <= goal), math.nan) for run in runs]
        told = f"{statistics.mean(reached):.1f}" if all(map(math.isfinite, reached)) else "-"
        loss, error = ([run[-1][key] for run in runs] for key in ("train_loss", "test_error"))
        seconds = statistics.mean(run[-1]["seconds"] for run in runs)
        rate = runs[0][0]["lr"]
        table.append(f"| {work} | {name} | {rate:g} | {_told(loss)} | {_told(error)} | {seconds:.1f} | {told} |")
    return "\n".join(table)


def draw() -> None:
    """Draw training loss and test error over the processor's seconds, means over the seeds."""
    from matplotlib.figure import Figure

    groups = trainings()
    works = list(dict.fromkeys(work for work, _ in groups))
    figure = Figure(figsize=(3.4 * len(works), 5), layout="constrained")
    axes = figure.subplots(2, len(works), squeeze=False)
    for column, work in enumerate(works):
        for row, key in enumerate(("train_loss", "test_error")):
            own = axes[row][column]
            for name in OPTIMIZERS:
                if runs := groups.get((work, name)):
                    points = [
                        [statistics.mean(run[epoch][what] for run in runs) for what in ("seconds", key)]
                        for epoch in range(min(map(len, runs)))
                    ]
                    own.plot(*zip(*points, strict=True), marker="o", ms=3, lw=1, label=name)
            own.set(yscale="log", ylabel=key.replace("_", " "), title=work if row == 0 else "")
        axes[1][column].set(xlabel="seconds of the processor")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(OPTIMIZERS), fontsize=7)
    figure.savefig(PICTURE, dpi=150)


def _told(values: list[float]) -> str:
    sound = [value for value in values if math.isfinite(value)]
    if len(sound) < len(values):
        return f"{len(values) - len(sound)} of {len(values)} diverged"
    return f"{statistics.mean(sound):.4g} ± {statistics.stdev(sound):.2g}" if len(sound) > 1 else f"{sound[0]:.4g}"


def main() -> None:
    """Do what was asked for."""
    parser = pages.parser_of(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("step", "train"):
        own = commands.add_parser(command)
        own.add_argument("--data-dir", type=Path, default=Path("data"), help="where the data lie")
    own.add_argument("--works", nargs="+", default=["mlp", "autoencoder", "resnet8"])
    commands.add_parser("page", help="write the tables into the page, draw the figure")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.command == "step":
        time_steps(asked.data_dir)
    elif asked.command == "train":
        train_all(asked.data_dir, asked.works)
    else:
        write_page()
        draw()


if __name__ == "__main__":
    main()
