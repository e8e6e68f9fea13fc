"""A tiny training in a loop of its own, with a controller that the tests try to break."""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from autobatch.control import AutoBatchController, DecisionRecord, NeverMeasure
from autobatch.policies import Decision, Observation

RATE = 0.05


class Scripted:
    """A policy that asks for the sizes (and rates) of a list, one after the other."""

    needs_library = False

    def __init__(self, script: Sequence[int | tuple[int, float | None]]) -> None:
        self.script = [entry if isinstance(entry, tuple) else (entry, None) for entry in script]
        self.asked = 0
        self.seen: list[Observation] = []

    def reset(self, task: object, library: object) -> None:
        self.asked = 0

    def decide(self, observation: Observation) -> Decision:
        size, rate = self.script[min(self.asked, len(self.script) - 1)]
        self.asked += 1
        self.seen.append(observation)
        return Decision(size, rate, reason=f"s{size}")

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.asked = state["asked"]


class Returns(Scripted):
    """Has training go back after the third epoch to the weights after the first."""

    best_period: int | None = None
    back_to: int | None = None

    def decide(self, observation: Observation) -> Decision:
        self.best_period = 1 if observation.epoch else None
        self.back_to = 1 if observation.epoch == 3 and not self.asked > 4 else None
        return super().decide(observation)

    def gone_back(self) -> None:
        self.asked = 9


class Data(Dataset[tuple[int, Tensor, Tensor]]):
    """Examples that know their index."""

    def __init__(self, size: int, features: int = 3) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(size, features, generator=generator)
        self.y = torch.randint(2, (size,), generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor]:
        return index, self.x[index], self.y[index]


def weights(model: nn.Module) -> Tensor:
    """All parameters and buffers as one vector."""
    return torch.cat([value.detach().double().flatten() for value in model.state_dict().values()])


def new_model(make: Callable[[], nn.Module] = lambda: nn.Linear(3, 2)) -> nn.Module:
    """The same model at every call."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(0)  # torch.manual_seed notes a traceback for each kind of device
        return make()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Two groups, the second at twice the rate."""
    first, *others = model.parameters()
    return torch.optim.SGD([{"params": [first]}, {"params": others, "lr": 2 * RATE}], lr=RATE)


def inside_steps(optimizer: torch.optim.Optimizer, note: Callable[[], Any]) -> None:
    """Call a function at the end of the optimizer's own code, where no hook can look; the one before is not called."""
    optimizer._optimizer_step_code = note  # type: ignore[method-assign]


class Toy:
    """Model, optimizer, controller and what every step got."""

    def __init__(
        self,
        script: Sequence[int | tuple[int, float | None]] | Any,
        *,
        size: int = 26,
        epochs: int = 3,
        make: Callable[[], nn.Module] = lambda: nn.Linear(3, 2),
        optimize: Callable[[nn.Module], torch.optim.Optimizer] = sgd,
        **settings: Any,
    ) -> None:
        self.data = Data(size)
        self.model = new_model(make)
        self.optimizer = optimize(self.model)
        self.policy = Scripted(script) if isinstance(script, list | tuple) else script
        settings = {"batch_sizes": (2, 4, 8), "measuring": NeverMeasure(), **settings}
        self.controller = AutoBatchController(
            self.model, self.optimizer, policy=self.policy, dataset_size=size, epochs=epochs, **settings
        )
        self.steps: list[tuple[int, list[int], float]] = []  # example, indices, rate of the first group
        self.records: list[DecisionRecord] = []
        self.rates: list[Any] = []
        inside_steps(self.optimizer, lambda: self.rates.append(self.optimizer.param_groups[0]["lr"]))
        self.note()

    def note(self) -> None:
        if not self.records or repr(self.controller.decision) != repr(self.records[-1]):
            self.records.append(self.controller.decision)

    def loader(self, **options: Any) -> DataLoader[Any]:
        return DataLoader(self.data, batch_sampler=self.controller.batch_sampler, **options)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.model(x), y)

    def step(self, batch: Any) -> None:
        """Train one batch."""
        indices, x, y = batch
        place = self.controller.examples
        with self.controller.step() as step:
            step.backward(self.loss(x, y))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.note()
        self.steps.append((place, indices.tolist(), float(self.rates[-1])))

    def epoch(self, batches: Iterable[Any] | None = None, **figures: Any) -> None:
        """Train one epoch and end it."""
        for batch in batches if batches is not None else self.loader():
            self.note()
            self.step(batch)
        self.controller.end_epoch(**figures)
        self.note()

    def sizes(self) -> list[int]:
        return [len(indices) for _, indices, _ in self.steps]

    def check_examples(self) -> None:
        """Every example once an epoch."""
        size = len(self.data)
        seen = [index for _, indices, _ in self.steps for index in indices]
        assert len(seen) % size == 0
        for epoch in range(len(seen) // size):
            assert sorted(seen[epoch * size : (epoch + 1) * size]) == list(range(size))

    def check(self) -> None:
        """Every example once an epoch; each decision from its example on."""
        self.check_examples()
        for place, indices, rate in self.steps:
            record = max((r for r in self.records if r.example <= place), key=lambda r: r.example)
            latest = [r for r in self.records if r.example == record.example][-1]
            assert rate == latest.lr
            assert len(indices) < 2 * latest.batch_size


class Chunks:
    """An iterable dataset's loader: an epoch's examples in chunks of random sizes."""

    def __init__(self, data: Data, seed: int, length: int | None = None, form: str = "tuple") -> None:
        self.data, self.seed, self.form = data, seed, form
        self.length = len(data) if length is None else length

    def __iter__(self) -> Iterator[Any]:
        rng = random.Random(self.seed)
        place = 0
        while place < self.length:
            stop = min(self.length, place + rng.randint(0, 9))
            indices = torch.arange(place, stop) % len(self.data)
            place = stop
            x, y = self.data.x[indices], self.data.y[indices]
            if self.form == "dict":
                yield {"x": x, "y": y, "index": indices, "name": [f"example {int(i)}" for i in indices], "scale": 2.0}
            else:
                yield (indices, x, y)


def json_copy(state: Any) -> Any:
    """What a JSON file gives back."""
    return json.loads(json.dumps(state))
