"""A comparison as programs read it: JSON, and tables with commas."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from autobatch._errors import LibraryError
from autobatch._plain import to_json
from autobatch.evidence.bench._compared import ComparedRun
from autobatch.evidence.bench._comparison import PolicyComparison
from autobatch.evidence.bench._figures import PaysBack, PolicyFigures
from autobatch.evidence.bench._tests import TESTS
from autobatch.evidence.bench.telling._words import cell

FORMAT_VERSION = 2
"""Version of the JSON. One of version 1 holds one task, whose keys are at the top."""


def comparison_json(comparison: PolicyComparison) -> str:
    """Return all figures as JSON; null stands for what is not known."""
    return (
        to_json({"format_version": FORMAT_VERSION, **asdict(comparison), "out": str(comparison.out)}, indent=1) + "\n"
    )


def load_comparison(path: str | Path) -> dict[str, dict[str, Any]]:
    """Read the JSON of a comparison, of this version or of the one before.

    Args:
        path: the directory of the comparison, or its ``comparison.json``.

    Returns:
        By the name of each task, the keys of ``TaskComparison`` as plain values; None stands for what is not known. Of
        version 1 only those that it had.

    Raises:
        LibraryError: the file is missing, damaged, foreign or of another version.
    """
    path = Path(path)
    path = path / "comparison.json" if path.is_dir() else path
    try:
        figures = json.loads(path.read_bytes())
        version = figures["format_version"]
        if version == FORMAT_VERSION:
            return {str(task["env"]): task for task in figures["tasks"]}
        if version == 1:
            return {str(figures["env"]): figures}
    except OSError as error:
        raise LibraryError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError):
        raise LibraryError(f"{path}: was not written by 'autobatch compare', or is damaged") from None
    raise LibraryError(f"{path}: has format version {version!r}; this autobatch reads 1 to {FORMAT_VERSION}")


def policies_csv(comparison: PolicyComparison) -> str:
    """Return one row a task and policy, with a heading; an empty cell stands for what is not known."""
    scores = [task.score for task in comparison.tasks]
    tested = [f"p_{figure}_{test}" for figure in dict.fromkeys(("test_error", *scores)) for test in TESTS]
    heading: list[str] = []
    rows = []
    for task in comparison.tasks:
        for one in task.policies:
            row = {"env": task.env, **dict(_flat(one))}
            heading = list(row)
            for test in task.tests:
                if test.policy == one.policy:
                    name = f"p_{test.figure}_{test.test}"
                    row |= {name: test.p, f"{name}_holm": test.p_holm}
            rows.append(row)
    return _csv([*heading, *(column for name in tested for column in (name, f"{name}_holm"))], rows)


def runs_csv(comparison: PolicyComparison) -> str:
    """Return one row a run, with a heading; an empty cell stands for what is not known."""
    heading = [field.name for field in fields(ComparedRun)]
    return _csv(heading, [vars(run) for task in comparison.tasks for run in task.runs])


def _csv(heading: list[str], rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows([cell(row.get(name)) for name in heading] for row in rows)
    return stream.getvalue()


def _flat(figures: PolicyFigures) -> Iterator[tuple[str, Any]]:
    """Yield the figures of a policy as columns."""
    for name, value in vars(figures).items():
        if name == "pays_back":
            yield from ((f"{name}_{field.name}", getattr(value, field.name, None)) for field in fields(PaysBack))
        elif is_dataclass(value):
            yield from ((f"{name}_{key}", own) for key, own in vars(value).items())
        else:
            yield name, value
