"""What the scripts share: where things are, command lines, rows that are kept, and pages of tables."""

import argparse
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from autobatch._files import write_whole
from autobatch.control.run._files import append_lines, read_lines
from autobatch.policies import PolicySpec

ROOT = Path(__file__).resolve().parents[1]
ENVS, RESULTS = ROOT / "envs", ROOT / "benchmarks" / "results"
TASK_BY_TASK = RESULTS / "steer_tasks.md"
"""Tables of single tasks of which ``docs/steer.md`` has the means."""

Row = dict[str, Any]
Options = Mapping[str, Mapping[str, Any]]
"""Arguments of a command by name, with what ``add_argument`` is told of each."""

DATA_DIR: Options = {"--data-dir": {"type": Path}}


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is the docstring of a script as it stands."""
    return argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)


def carry_out(about: str | None, commands: Mapping[str, tuple[Callable[..., object], Options]]) -> None:
    """Carry out the command line of a script that has several commands, each a function of its arguments by name."""
    parser = parser_of(about)
    named = parser.add_subparsers(required=True, dest="command")
    for name, (_, options) in commands.items():
        own = named.add_parser(name)
        for option, told in options.items():
            own.add_argument(option, **told)
    given = vars(parser.parse_args())
    commands[given.pop("command")][0](**given)


def numbers(text: str) -> list[int]:
    """Return the seeds that ``200-204`` or ``1,2`` stands for."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if last else [int(one) for one in text.split(",")]


def seeds(default: str) -> Options:
    """Return the option for seeds."""
    return {"--seeds": {"type": numbers, "default": default}}


def keyed(path: Path, *keys: str) -> dict[tuple[Hashable, ...], Row]:
    """Return the rows of a JSON Lines file by their values of some keys, lists as tuples; of one key the last row."""
    return {tuple(_hashable(row[key]) for key in keys): row for row in read_lines(path)}


def keep(path: Path, row: Row) -> None:
    """Append a row to a JSON Lines file, made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    append_lines(path, [row])


def _hashable(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else value


def changed(spec: PolicySpec, **parameters: object) -> PolicySpec:
    """Return a policy with other parameters."""
    return spec.model_copy(update={"parameters": {**spec.parameters, **parameters}})


def paired(ours: Iterable[Row], theirs: Iterable[Row], figures: Sequence[str]) -> dict[int, list[float]]:
    """Return by how much the logarithms of figures differ, by the seeds that both have; of a seed the last row."""
    one, other = ({row["seed"]: row for row in rows} for rows in (ours, theirs))
    seeds = sorted(one.keys() & other.keys())
    return {seed: [math.log(one[seed][name] / other[seed][name]) for name in figures] for seed in seeds}


def put(path: Path, mark: str, text: str) -> None:
    """Write what stands between a mark and the next end of a page, and print it."""
    replace_between(path, mark, text)
    print(text)


def replace_between(path: Path, mark: str, text: str) -> None:
    """Write what stands between a mark and the next end of a page that has both."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if begin and end:
        write_whole(path, f"{before}{begin}{text}\n{end}{after}".encode())


def heading(titles: str) -> str:
    """Return the first two lines of a Markdown table from its titles with strokes between them."""
    return f"| {titles} |\n" + "| --- " * (titles.count("|") + 1) + "|"


def spread(values: ArrayLike, digits: int = 4, scale: float = 1.0) -> str:
    """Return mean ± standard deviation of figures, those that are not known left out, times a scale."""
    known = np.asarray(values, dtype=float)
    return f"{scale * np.nanmean(known):,.{digits}f} ± {scale * np.nanstd(known, ddof=1):,.{digits}f}"


def relative(change: float) -> str:
    """Return a change of a logarithm as one of the figure, in whole percent."""
    return f"{100 * math.expm1(change):+.0f} %"


def relative_interval(centre: float, low: float, high: float) -> str:
    """Return the same with the ends of its interval, with a digit more."""
    return "{:+.1f} % ({:+.1f} to {:+.1f})".format(*(100 * math.expm1(one) for one in (centre, low, high)))


def half_width(values: ArrayLike) -> float:
    """Return half the width of the 95 % interval of a mean (Student); NaN of one value."""
    known = np.asarray(values, dtype=float)
    return float(stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / math.sqrt(len(known)))
