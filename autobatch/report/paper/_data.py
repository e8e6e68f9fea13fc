"""What the paper's figures and claims are made of: final figures by configuration, and journeys over seeds."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch.beacons import BeaconLibrary, chance

if TYPE_CHECKING:
    import pyarrow as pa

TOP = 5
"""Best configurations that the paper marks (figures 1 and 3)."""

REFERENCE_RATE = 0.1
"""Base rate of the paper's beacons (section 4.3)."""

COLLAPSED = 0.8
"""Share of a guesser's error above which a run that finished has learnt nothing to speak of."""

_NAMED = re.compile(r"s(?P<first>\d+)-to-(?P<last>\d+)(?P<within>-ms)?", re.IGNORECASE)
_FIGURES = ("test_error", "validation_error", "validation_loss")


@dataclass(frozen=True, eq=False)
class Finals:
    """Where the configurations of a library end, all of whose seeds finished; arrays have one entry for each.

    Attributes:
        figure: the final figure that ranks them here: the test error, as in the paper, where every one has it.
        sizes: batch sizes.
        rates: base learning rates.
        plane: (log10 C̄, log10 L), means over seeds, shape (n, 2).
        by_seed: (log10 C̄, log10 L) of each configuration's seeds, shape (seeds, 2) each.
        value: the figure, means over seeds.
        std: its standard deviation over seeds; NaN for one seed.
        learnt: whether no seed collapsed, that is ended near guessing.
        diverged: (batch size, base rate) of the configurations that were left out, for a seed of theirs diverged.
    """

    figure: str
    sizes: NDArray[np.int64]
    rates: Floats
    plane: Floats
    by_seed: tuple[Floats, ...]
    value: Floats
    std: Floats
    learnt: NDArray[np.bool_]
    diverged: tuple[tuple[int, float], ...]

    @cached_property
    def top(self) -> NDArray[np.intp]:
        """Indices of the best configurations, best first; at most ``TOP``."""
        return np.argsort(self.value, kind="stable")[:TOP]

    @property
    def words(self) -> str:
        """The figure as words, such as ``test error``."""
        return self.figure.replace("_", " ")

    @property
    def is_share(self) -> bool:
        """Whether the figure is a share, to be shown in percent."""
        return not self.figure.endswith("_loss")


def finals(library: BeaconLibrary, figure: str | None = None) -> Finals:
    """Return where the configurations of a library end.

    Args:
        library: the beacons.
        figure: the final figure that ranks them; by default the first of test error, validation error and validation
            loss that every finished beacon has.

    Returns:
        The ends; of no configuration where each has a diverged seed.
    """
    sound = {
        own: beacons for own, beacons in library.by_configuration.items() if all(beacon.finished for beacon in beacons)
    }
    every = [beacon for beacons in sound.values() for beacon in beacons]
    chosen = figure or next(
        (name for name in _FIGURES if all(np.isfinite(beacon.final(name)) for beacon in every)), library.score
    )
    places = [
        np.log10([[beacon.final("c_bar"), beacon.final("l_cum")] for beacon in beacons]) for beacons in sound.values()
    ]
    values = [np.array([beacon.final(chosen) for beacon in beacons]) for beacons in sound.values()]
    return Finals(
        figure=chosen,
        sizes=np.array([size for size, _ in sound], dtype=np.int64),
        rates=np.array([rate for _, rate in sound], dtype=np.float64),
        plane=np.array([place.mean(axis=0) for place in places]).reshape(-1, 2),
        by_seed=tuple(places),
        value=np.array([own.mean() for own in values]),
        std=np.array([own.std(ddof=1) if len(own) > 1 else np.nan for own in values]),
        learnt=np.array([_learnt(library, [b.final("validation_error") for b in own]) for own in sound.values()], bool),
        diverged=tuple(own for own in library.configurations if own not in sound),
    )


def _learnt(library: BeaconLibrary, errors: Sequence[float]) -> bool:
    classes = library.task.get("num_classes")
    if not isinstance(classes, int) or classes < 1 or not np.isfinite(errors).all():
        return True
    return max(errors) < COLLAPSED * chance("validation_error", classes)


def reference_rate(library: BeaconLibrary) -> float:
    """Return the recorded base rate that is nearest to the paper's 0.1, by its logarithm."""
    rates = sorted({rate for _, rate in library.configurations})
    return min(rates, key=lambda rate: abs(np.log(rate / REFERENCE_RATE)))


@dataclass(frozen=True, eq=False)
class Curves:
    """Figures epoch by epoch of the seeds of one configuration, or of one policy.

    Attributes:
        name: what a legend calls it.
        seeds: the seeds, ascending.
        columns: an array of shape (seeds, epochs) for each column.
    """

    name: str
    seeds: tuple[int, ...]
    columns: Mapping[str, NDArray[Any]]

    def __getitem__(self, column: str) -> NDArray[Any]:
        """Return a column, shape (seeds, epochs)."""
        return self.columns[column]

    def mean(self, column: str) -> Floats:
        """Return the mean over seeds of a column, shape (epochs,)."""
        return np.asarray(self.columns[column].mean(axis=0), dtype=np.float64)

    def at(self, column: str, share: float) -> Floats:
        """Return a column after a share of the epochs, shape (seeds,); after the first one at least."""
        epochs = self.columns[column].shape[1]
        return np.asarray(self.columns[column][:, max(1, round(share * epochs)) - 1], dtype=np.float64)

    @property
    def stages(self) -> "Stages | None":
        """The batch sizes of the paper's dynamic sampling, by the name; None for another policy."""
        return named_stages(self.name)


class Stages(NamedTuple):
    """What the name of the paper's dynamic sampling says.

    Attributes:
        first: batch size of the first stage.
        last: batch size of the last.
        within_rates: whether it is -MS.
    """

    first: int
    last: int
    within_rates: bool


def named_stages(policy: str) -> Stages | None:
    """Return what the name of a policy says, such as ``s32-to-128-ms``; None where it is not dynamic sampling."""
    match = _NAMED.fullmatch(policy)
    return Stages(int(match["first"]), int(match["last"]), match["within"] is not None) if match else None


def beacon_curves(library: BeaconLibrary, batch_size: int, lr: float) -> Curves | None:
    """Return the curves of the finished beacons of a configuration; None where no seed finished."""
    beacons = [beacon for beacon in library.beacons_at(batch_size, lr) if beacon.finished]
    if not beacons:
        return None
    epochs = min(len(beacon.rows["epoch"]) for beacon in beacons)
    columns = {name: np.stack([beacon.rows[name][:epochs] for beacon in beacons]) for name in beacons[0].rows}
    return Curves(f"s{batch_size}-lr{lr:g}", tuple(beacon.seed for beacon in beacons), columns)


def policy_curves(epochs: "pa.Table | None") -> dict[str, Curves]:
    """Return the curves of every policy of a comparison.

    A run that ended early is left out, and so is one whose position was not measured.

    Args:
        epochs: a comparison's table of epochs; None for no comparison.

    Returns:
        The curves by policy, those with a run that reached the end, in the table's order.
    """
    if epochs is None or not epochs.num_rows:
        return {}
    columns = {name: epochs.column(name).to_numpy() for name in epochs.column_names}
    longest = int(columns["epoch"].max())
    found: dict[str, Curves] = {}
    for policy in dict.fromkeys(columns["policy"].tolist()):
        runs = {}
        for seed in sorted(set(columns["seed"][columns["policy"] == policy].tolist())):
            rows = np.flatnonzero((columns["policy"] == policy) & (columns["seed"] == seed))
            rows = rows[np.argsort(columns["epoch"][rows], kind="stable")]
            if len(rows) == longest:
                runs[seed] = rows
        if runs:
            index = np.stack(list(runs.values()))
            own = {
                name: values[index].astype(np.float64)
                for name, values in columns.items()
                if name not in {"env", "policy", "seed"}
            }
            found[policy] = Curves(policy, tuple(runs), own)
    return found


def measured(curves: Curves) -> bool:
    """Return whether the position of every epoch is known."""
    places = np.stack([curves["c_bar"], curves["l_cum"]])
    return bool(np.isfinite(places).all() and (places > 0).all())


def measured_curves(library: BeaconLibrary, batch_size: int, lr: float) -> Curves | None:
    """Return the curves of a configuration's beacons as ``beacon_curves`` does, where every position is known."""
    curves = beacon_curves(library, batch_size, lr)
    return curves if curves is not None and measured(curves) else None


def journeys_of(curves: Mapping[str, Curves]) -> list[Curves]:
    """Return the curves of dynamic sampling whose every position is known."""
    return [own for own in curves.values() if own.stages is not None and measured(own)]


def fixed_name(name: str) -> bool:
    """Return whether a policy's name is that of a fixed configuration, such as ``s32-lr0.05``."""
    size, _, rate = name.removeprefix("s").partition("-lr")
    return name.startswith("s") and size.isdigit() and (not rate or rate.replace(".", "", 1).isdigit())
