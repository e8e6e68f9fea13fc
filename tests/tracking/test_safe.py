"""What becomes of a training whose logger raises."""

import logging
from pathlib import Path

import pytest

from autobatch import ConfigError
from autobatch.tracking import CSVLogger, JSONLinesLogger, SafeLogger
from tests.tracking.records import BrokenLogger, both, log_all, training


def test_the_first_failure_is_a_warning_and_later_records_are_tried(caplog: pytest.LogCaptureFixture) -> None:
    inner = BrokenLogger(OSError(28, "No space left on device"))
    logger = SafeLogger(inner)
    logger.log({"a": 1}, 5)
    logger.resume(5)
    logger.log({"a": 1}, 10)
    assert [(entry.levelno, entry.name) for entry in caplog.records] == [(logging.WARNING, "autobatch")]
    assert caplog.messages == [
        "BrokenLogger: log() failed, training goes on without it: OSError: [Errno 28] No space left on device"
    ]
    assert logger.failures == 3
    inner.error = None
    logger.resume(10)
    logger.log({"a": 1}, 20)
    assert inner.steps == [-10, 20]
    logger.close()
    logger.close()
    assert caplog.messages[1:] == ["BrokenLogger: 3 calls failed in all; what it shows is not complete"]


def test_a_logger_that_only_fails_to_close(caplog: pytest.LogCaptureFixture) -> None:
    inner = BrokenLogger(None)
    logger = SafeLogger(inner)
    logger.log({}, 5)
    inner.error = RuntimeError("connection lost")
    logger.close()
    assert caplog.messages == [
        "BrokenLogger: close() failed, training goes on without it: RuntimeError: connection lost"
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_passes_through(error: type[BaseException]) -> None:
    logger = SafeLogger(BrokenLogger(error()))
    for call in (lambda: logger.log({}, 5), lambda: logger.resume(5), logger.close):
        with pytest.raises(error):
            call()


def test_the_record_of_step_0_waits_until_it_is_clear_that_the_training_begins_there() -> None:
    calls: list[int] = []
    for then in (lambda logger: logger.begin(), lambda logger: logger.log({}, 10), lambda logger: logger.close()):
        inner = BrokenLogger(None)
        logger = SafeLogger(inner)
        logger.log({"a": 1}, 0)
        assert inner.steps == []
        then(logger)
        logger.begin()
        calls += inner.steps
    assert calls == [0, 0, 10, 0]


@both
def test_a_controller_that_is_made_and_then_restored_keeps_its_records(
    logger: type[CSVLogger] | type[JSONLinesLogger], name: str, tmp_path: Path
) -> None:
    first = SafeLogger(logger(tmp_path / name))
    log_all(first, training())
    whole = (tmp_path / name).read_bytes()
    again = SafeLogger(logger(tmp_path / name))
    again.log(*training()[0])
    again.resume(1500)
    log_all(again, training()[2:])
    again.close()
    assert (tmp_path / name).read_bytes() == whole
    restored_at_the_start = SafeLogger(logger(tmp_path / name))
    restored_at_the_start.log(*training()[0])
    restored_at_the_start.resume(0)
    log_all(restored_at_the_start, training()[1:])
    assert (tmp_path / name).read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_logger_that_changes_its_record_changes_no_other() -> None:
    record = {"a": 1}
    SafeLogger(BrokenLogger(None)).log(record, 5)
    assert record == {"a": 1}


def test_resume_is_for_those_that_have_it() -> None:
    class Plain:
        log = close = staticmethod(lambda *_: None)

    SafeLogger(Plain()).resume(3)


def test_what_is_no_logger_is_refused() -> None:
    with pytest.raises(ConfigError, match="got the class CSVLogger"):
        SafeLogger(CSVLogger)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"expected objects with log\(record, step\) and close\(\), got 'csv:x'"):
        SafeLogger("csv:x")  # type: ignore[arg-type]
