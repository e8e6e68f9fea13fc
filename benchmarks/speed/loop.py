"""What the engine costs beyond a loop by hand.

Seconds per epoch of a run with the policy ``fixed`` and measuring off, records and checkpoints included, over those of
two other loops on the same tensors: a minimal one by hand, and a usual one with a ``DataLoader``. All validate after
every epoch. They take turns in one process; a ratio is the median of paired ratios.

``by hand`` is compared twice: as anyone would write it, and tuned as the engine is (channels last, fused optimizer),
which leaves only what the engine itself adds.

    python benchmarks/speed/loop.py                      # scikit-learn's digits
    python benchmarks/speed/loop.py --data-dir data      # and MNIST, if data/ holds it
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from autobatch import _errors
from autobatch.control import batch_bounds
from autobatch.policies import PolicySpec
from autobatch.training import (
    Data,
    EpochRow,
    RunConfig,
    RunObserver,
    TaskSpec,
    build_task_model,
    load_data,
    normalise,
    run,
)
from benchmarks.fisher.timing import in_turn
from benchmarks.pages import heading, parser_of

RATE = 0.1


class Normalised:
    """A task's tensors as a loop by hand would hold them: normalised floats, once and for all."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.train = normalise(data.train_inputs, data.mean, data.std), data.train_labels
        self.validation = normalise(data.validation_inputs, data.mean, data.std), data.validation_labels


def engine_seconds(task: TaskSpec, data: Data, batch_size: int, device: str) -> float:
    """Seconds per epoch of the engine, from the end of its first epoch to the end of its last."""
    ends: list[float] = []

    class Clock(RunObserver):
        def epoch_finished(self, row: EpochRow) -> None:
            ends.append(time.perf_counter())

    policy = PolicySpec(name="fixed", kind="fixed", parameters={"batch_size": batch_size, "lr": RATE})
    config = RunConfig(task=task, policy=policy, measure=False, device=device)
    with tempfile.TemporaryDirectory() as folder:
        run(config, Path(folder) / "run", Clock(), data=data)
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def hand_seconds(task: TaskSpec, tensors: Normalised, batch_size: int, *, tuned: bool) -> float:
    """Seconds per epoch of a minimal loop by hand."""
    images, labels = tensors.train
    bounds = batch_bounds(len(labels), batch_size)

    def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
        order = torch.randperm(len(labels))
        return [(images[order[start:stop]], labels[order[start:stop]]) for start, stop in bounds]

    return loop_seconds(task, tensors, batches, tuned=tuned)


def loader_seconds(task: TaskSpec, tensors: Normalised, batch_size: int) -> float:
    """Seconds per epoch of a usual loop with a ``DataLoader``."""
    loader = DataLoader(TensorDataset(*tensors.train), batch_size=batch_size, shuffle=True)
    return loop_seconds(task, tensors, lambda: loader, tuned=False)


def loop_seconds(task: TaskSpec, tensors: Normalised, batches: Callable[[], object], *, tuned: bool) -> float:
    """Seconds per epoch of a loop by hand, without its first epoch."""
    model = build_task_model(task, tensors.data).to(tensors.train[0].device)
    validation_images, validation_labels = tensors.validation
    if tuned:
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=tuned or None
    )
    ends = []
    for _ in range(task.epochs):
        model.train()
        for some, targets in batches():  # type: ignore[attr-defined]
            loss = F.cross_entropy(
                model(some.contiguous(memory_format=torch.channels_last) if tuned else some), targets
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            outputs = torch.cat([model(part) for part in validation_images.split(512)])
            F.cross_entropy(outputs, validation_labels).item()
            (outputs.argmax(1) != validation_labels).double().mean().item()
        ends.append(time.perf_counter())
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def loops_of(task: TaskSpec, data: Data, batch_size: int, device: str = "cpu") -> dict[str, Callable[[], float]]:
    """Return what times an epoch of each loop, the engine's first."""
    tensors = Normalised(data)
    return {
        "engine": lambda: engine_seconds(task, data, batch_size, device),
        "by_hand": lambda: hand_seconds(task, tensors, batch_size, tuned=False),
        "by_hand_tuned": lambda: hand_seconds(task, tensors, batch_size, tuned=True),
        "data_loader": lambda: loader_seconds(task, tensors, batch_size),
    }


def compare(task: TaskSpec, data: Data, batch_size: int, rounds: int) -> list[str]:
    """Time all loops in turn and return a row of the table."""
    loops = loops_of(task, data, batch_size)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for index in range(rounds):
        for name in in_turn(loops, index):
            seconds[name].append(loops[name]())
    engine, *others = seconds.values()
    ratios = [statistics.median(ours / theirs for ours, theirs in zip(engine, other, strict=True)) for other in others]
    return [f"{statistics.median(engine):.4f}", *(f"{ratio:.3f}" for ratio in ratios)]


def task_of(dataset: str, subset: int | None, epochs: int) -> TaskSpec:
    """Return a ResNet-8 task."""
    spec: dict[str, object] = {"name": dataset, "validation": 0.3 if dataset == "digits" else 0.1, "subset": subset}
    return TaskSpec.model_validate({
        "name": f"{dataset}-resnet8",
        "dataset": spec,
        "model": {"name": "resnet", "depth": 8},
        "batch_sizes": (16, 128),
        "learning_rates": (RATE,),
        "epochs": epochs,
    })


def main() -> None:
    """Print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--data-dir", type=Path, help="folder that holds MNIST; without it, only digits are timed")
    parser.add_argument("--rounds", type=int, default=9, help="times that every loop is timed (default 9)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of a loop, of which the first is not timed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tasks = [task_of("digits", None, arguments.epochs)]
    if arguments.data_dir is not None:
        tasks.append(task_of("mnist", 2000, arguments.epochs))
    print(heading("task | B | engine, s/epoch | over by hand | over by hand, tuned alike | over DataLoader"))
    for task in tasks:
        try:
            data = load_data(task, arguments.data_dir)
        except _errors.DataError as error:
            print(f"{task.name} is left out: {error}")
            continue
        for batch_size in task.batch_sizes:
            print(
                "|", " | ".join([task.name, str(batch_size), *compare(task, data, batch_size, arguments.rounds)]), "|"
            )


if __name__ == "__main__":
    main()
