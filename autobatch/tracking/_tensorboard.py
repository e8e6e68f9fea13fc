"""Records as TensorBoard event files."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autobatch._files import naming_output
from autobatch.tracking._packages import import_tracker
from autobatch.tracking._protocol import Scalar
from autobatch.tracking._records import ChangedTexts, as_metrics


class TensorBoardLogger:
    """Writes numbers as scalars under ``autobatch/`` over the examples seen, and texts where they change.

    Each record is on disk when ``log`` returns. Where a training goes on in a folder that has events already,
    TensorBoard is told to leave out those at the first record's step and after (its ``purge_step``); they stay on disk.

    Args:
        log_dir: the folder of event files; made where it is missing.

    Raises:
        ConfigError: TensorBoard is not installed.
        OutputError: the folder cannot be written.
    """

    def __init__(self, log_dir: str | Path) -> None:
        self.log_dir = str(log_dir)
        self._module = import_tracker("torch.utils.tensorboard", "tensorboard", type(self).__name__)
        self._writer: Any = None
        self._last = 0
        self._resumed: int | None = None
        self._texts = ChangedTexts()
        if "://" not in self.log_dir:
            with naming_output(folder := Path(log_dir)):
                folder.mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder).close()

    def log(self, record: Mapping[str, Scalar], step: int) -> None:
        """Write a record.

        Args:
            record: the figures by name.
            step: training examples seen.
        """
        if self._writer is None or step <= self._last:
            self.close()
            purge_step = step if self._resumed is None else min(step, self._resumed + 1)
            self._writer = self._module.SummaryWriter(self.log_dir, purge_step=purge_step)
            self._texts, self._resumed = ChangedTexts(), None
        self._last = step
        for name, value in as_metrics(record).items():
            self._writer.add_scalar(name, value, step)
        for name, text in self._texts.of(record).items():
            self._writer.add_text(name, text, step)
        self._writer.flush()

    def resume(self, step: int) -> None:
        """Leave out the records after ``step``, from the next one on.

        Args:
            step: training examples seen where the training goes on.
        """
        self.close()
        self._resumed = step

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
