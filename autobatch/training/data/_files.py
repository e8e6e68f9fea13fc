"""A user's own files: where they are, and their text."""

import os
from pathlib import Path

from autobatch._artefacts import expand_home
from autobatch._errors import DataError
from autobatch.training.task import own_prefix


def find_own_file(dataset: str, data_dir: Path) -> Path:
    """Find the file that a dataset names.

    Args:
        dataset: such as ``"csv:flowers.csv"``; where its path is relative, it lies in the working directory or else in
            ``data_dir``.
        data_dir: where datasets lie.

    Returns:
        The file.

    Raises:
        DataError: it is missing.
    """
    path = expand_home(dataset.removeprefix(own_prefix(dataset) or ""))
    places = list(dict.fromkeys((path, data_dir / path)))
    found = next((place for place in places if os.path.isfile(place)), None)
    if found is None:
        expected = " or ".join(str(place.absolute()) for place in places)
        raise DataError(f"dataset {dataset!r}: expected a file {expected}")
    return found


def read_own_file(dataset: str, data_dir: Path) -> tuple[Path, str]:
    """Read the text file that a dataset names.

    Args:
        dataset: as ``find_own_file`` takes it.
        data_dir: where datasets lie.

    Returns:
        The file, and its text without a byte-order mark.

    Raises:
        DataError: the file is missing, cannot be read, or is not UTF-8.
    """
    found = find_own_file(dataset, data_dir)
    try:
        return found, found.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{found}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{found}: expected UTF-8, found something else at byte {error.start}") from error
