"""Records as JSON Lines, for programs."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from autobatch.tracking._protocol import Scalar
from autobatch.tracking._record_file import FileLogger, Line, RecordFile


class JSONLinesLogger(FileLogger):
    """Writes an object a line: ``step``, then the figures of the record. NaN and infinity become null.

    A file that is there already is continued as ``CSVLogger`` does it.

    Args:
        path: the file; its folders are made.

    Raises:
        OutputError: the path cannot be written, or the file holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(RecordFile(path, start='{"step": ', header=False, step_of=_step_of))

    def log(self, record: Mapping[str, Scalar], step: int) -> None:
        """Write a record.

        Args:
            record: the figures by name.
            step: training examples seen.

        Raises:
            OutputError: the file cannot be written.
        """
        row: dict[str, Scalar] = {"step": step} | {name: _plain(value) for name, value in record.items()}
        row["step"] = step
        text = json.dumps(row, allow_nan=False, ensure_ascii=False)
        self._file.make_room(step)
        self._file.append(Line(step, text))


def _plain(value: Scalar) -> Scalar:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _step_of(header: str, text: str) -> int:
    row = json.loads(text)
    step = row.get("step") if isinstance(row, dict) else None
    if type(step) is not int:
        raise ValueError("no step")
    return step
