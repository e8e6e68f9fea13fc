"""Event files, read back by TensorBoard's own reader."""

import math
import time
from pathlib import Path
from typing import Any

import pytest

from autobatch import OutputError
from autobatch.tracking import TensorBoardLogger, make_logger
from tests.tracking.records import log_all, record, training

pytest.importorskip("tensorboard", reason="tensorboard is not installed")


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def scalars(events: Any, name: str) -> dict[int, float]:
    return {event.step: event.value for event in events.Scalars(f"autobatch/{name}")}


def texts(events: Any, name: str) -> dict[int, str]:
    found = events.Tensors(f"autobatch/{name}/text_summary")
    return {event.step: event.tensor_proto.string_val[0].decode() for event in found}


def test_numbers_are_scalars_and_texts_are_written_where_they_change(tmp_path: Path) -> None:
    logger = make_logger(f"tensorboard:{tmp_path / 'new' / 'runs'}")
    log_all(logger, training())
    events = read(tmp_path / "new" / "runs")  # before it is closed
    logger.close()
    logger.close()
    assert scalars(events, "batch_size") == {0: 32, 1000: 64, 2000: 128, 3000: 256}
    assert scalars(events, "c_bar") == {1000: 10.5, 2000: 21, 3000: 31.5}
    assert scalars(events, "changed") == {0: 1, 1000: 0, 2000: 1, 3000: 0}
    assert math.isnan(scalars(events, "validation_loss")[0])
    assert "autobatch/region_c" not in events.Tags()["scalars"]
    assert texts(events, "reason") == {0: "C̄ is below the region, “größer”, ×2", 2000: "stay, 保持\nin line 2"}
    assert texts(events, "limit") == {1000: "ladder ends at 64", 2000: "none"}


@pytest.mark.parametrize("told", [False, True], ids=["not told", "told"])
def test_a_resumed_training_replaces_what_it_does_again(told: bool, tmp_path: Path) -> None:
    first = TensorBoardLogger(tmp_path)
    log_all(first, [*training()[:2], (record(2), 1700), (record(3), 2700)])
    first._writer.close()
    (events,) = tmp_path.iterdir()
    events.write_bytes(events.read_bytes()[:-5])  # killed while writing
    wait_for_another_second()
    again = TensorBoardLogger(tmp_path)
    if told:
        again.resume(1000)
    log_all(again, training()[2:] if told else [(record(2), 1600), (record(3), 3000)])
    again.close()
    steps = [0, 1000, 2000, 3000] if told else [0, 1000, 1600, 3000]
    assert list(scalars(read(tmp_path), "batch_size")) == steps
    # TensorBoard's reader takes back scalars only; a text of the lost part stays until one is written over it.
    assert texts(read(tmp_path), "reason")[steps[2]] == record(2)["reason"]


def test_a_training_that_goes_back_replaces_its_records(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    for step in (0, 10, 20, 30):
        logger.log({"a": step}, step)
    wait_for_another_second()
    for step in (20, 25):
        logger.log({"a": step + 1000}, step)
    logger.close()
    assert scalars(read(tmp_path), "a") == {0: 0, 10: 10, 20: 1020, 25: 1025}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(OutputError, match="cannot be written"):
            TensorBoardLogger(folder)


def wait_for_another_second() -> None:
    """The reader takes event files in the order of their names, which begin with the second of their making."""
    time.sleep(1.01 - time.time() % 1)
