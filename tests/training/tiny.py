"""A task that trains in a fraction of a second, and runs of it."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autobatch.beacons import CostTable
from autobatch.policies import PolicySpec
from autobatch.training import RunConfig, TaskSpec

COSTS = CostTable(
    device="test",
    step_seconds={8: 0.003, 16: 0.004, 32: 0.005},
    measuring_seconds={8: 0.006, 16: 0.01, 32: 0.02},
    epoch_seconds=0.01,
)


def tiny_task(**changes: Any) -> TaskSpec:
    """Return a task of 84 training digits."""
    settings: dict[str, Any] = {
        "name": "tiny",
        "dataset": {"name": "digits", "subset": 120, "validation": 0.3, "augmentation": "shift"},
        "model": {"name": "mlp", "arguments": {"hidden": [16]}},
        "batch_sizes": [8, 16, 32],
        "learning_rates": [0.05, 0.1],
        "epochs": 4,
        "measuring": {"interval": 50, "floor": 2, "budget": 0.3},
        "seeds": [0, 1],
    }
    return TaskSpec.model_validate_json(json.dumps(settings | changes), strict=True)


def fixed(batch_size: int = 16, lr: float = 0.1) -> PolicySpec:
    return PolicySpec(name="fixed", kind="fixed", parameters={"batch_size": batch_size, "lr": lr})


def stages(*batch_sizes: int) -> PolicySpec:
    return PolicySpec(name="stages", kind="stages", parameters={"batch_sizes": list(batch_sizes), "lr": 0.1})


def tiny_config(policy: PolicySpec | None = None, task: TaskSpec | None = None, **changes: Any) -> RunConfig:
    settings: dict[str, Any] = {"device": "cpu", "costs": COSTS, "seed": 1}
    return RunConfig(task=task or tiny_task(), policy=policy or stages(8, 32, 16, 8), **(settings | changes))


def dropout_net(in_channels: int, num_classes: int, image_size: tuple[int, int]) -> nn.Module:
    """A model that draws from the global generators: a factory for ``tests.training.tiny:dropout_net``."""
    return nn.Sequential(
        _Flat(),
        nn.Linear(in_channels * image_size[0] * image_size[1], 12),
        nn.BatchNorm1d(12),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Linear(12, num_classes),
    )


class _Flat(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def dropout_task(**changes: Any) -> TaskSpec:
    return tiny_task(model={"name": "tests.training.tiny:dropout_net"}, **changes)


def timeless(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a JSON Lines file without what a clock says."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if "seconds" not in key} for row in rows]
