"""A training's records, as a controller logs them, and a logger for which everything goes wrong."""

import math
from collections.abc import Mapping

import pytest

from autobatch.tracking import CSVLogger, JSONLinesLogger, Logger, Scalar

Records = list[tuple[dict[str, Scalar], int]]

both = pytest.mark.parametrize(
    ("logger", "name"), [(CSVLogger, "log.csv"), (JSONLinesLogger, "log.jsonl")], ids=["csv", "jsonl"]
)


def record(epoch: int, **figures: Scalar) -> dict[str, Scalar]:
    return {
        "epoch": epoch,
        "progress": epoch / 4,
        "c_bar": None if epoch == 0 else 10.5 * epoch,
        "region_c": None,
        "batch_size": 32 << epoch,
        "changed": epoch % 2 == 0,
        "reason": "C̄ is below the region, “größer”, ×2" if epoch < 2 else "stay, 保持\nin line 2",
        "limit": "ladder ends at 64" if epoch == 1 else None,
        "validation_loss": math.nan if epoch == 0 else 1 / epoch,
        **figures,
    }


def training() -> Records:
    return [(record(epoch), 1000 * epoch) for epoch in range(4)]


def log_all(logger: Logger, records: Records) -> None:
    for each, step in records:
        logger.log(each, step)


class BrokenLogger:
    """Fails as long as it is told to."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
        self.steps: list[int] = []

    def log(self, record: Mapping[str, Scalar], step: int) -> None:
        self._fail()
        assert isinstance(record, dict)
        record.clear()
        self.steps.append(step)

    def resume(self, step: int) -> None:
        self._fail()
        self.steps.append(-step)

    def close(self) -> None:
        self._fail()

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error
