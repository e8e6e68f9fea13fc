"""Portfolio: the configuration that did best on other tasks, in the mean of its ranks.

Average ranks (Brazdil and Soares 2000, "A comparison of ranking methods for classification algorithm selection", ECML,
LNCS 1810): what to begin with on a task that nothing is known of. The other tasks are the shipped beacon libraries;
those of the task's own data set are left out, since what was chosen on the same images tells nothing of new ones, and
those of the other family of optimizers, since rates of SGD mean nothing to Adam.

Libraries have different grids. A configuration is ranked where every library has one at most a rung away, that is by a
factor of two in batch size and in rate each; the nearest stands in for it, of two the smaller. A configuration with a
diverged seed comes last.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from statistics import fmean

from pydantic import BaseModel

from autobatch._artefacts import artefact_roots, holds_beacons
from autobatch._errors import ConfigError
from autobatch._files import seen_in
from autobatch._yaml import load_yaml
from autobatch.beacons import BeaconLibrary
from autobatch.policies._moves import Moves
from autobatch.policies._parameters import PolicyParameters, Stateless, after_reset
from autobatch.policies._protocol import Decision, Observation, TaskInfo
from autobatch.policies._registry import register_policy
from autobatch.policies._wording import configuration, figure

Configuration = tuple[int, float]

RUNG = 2.0 + 1e-9
"""Factor between neighbours on a ladder; the slack is for rates that are no powers of two."""


class PortfolioParameters(PolicyParameters):
    """Parameters of the kind ``portfolio``: none."""


@dataclass(frozen=True)
class Recorded:
    """What a library tells a portfolio.

    Attributes:
        name: its task's.
        dataset: name of the data set that it was recorded on, as ``same_images`` has it.
        adaptive: whether its optimizer scales its steps by the gradients' own size.
        scores: mean final score of every configuration, lower is better; infinite where a seed diverged.
    """

    name: str
    dataset: str
    adaptive: bool
    scores: Mapping[Configuration, float]


def same_images(dataset: str) -> str:
    """Return what two names of a data set have in common: of a folder of images, the folder's own name.

    Args:
        dataset: such as ``"mnist"`` or ``"imagefolder:data/cifar10"``.

    Returns:
        Such as ``"mnist"`` or ``"cifar10"``.
    """
    return PurePath(dataset.rpartition(":")[2]).name


def mean_ranks(libraries: Sequence[Mapping[Configuration, float]]) -> dict[Configuration, float]:
    """Rank what all libraries have.

    Args:
        libraries: score by configuration of each, lower is better.

    Returns:
        Mean rank, from 1 on, of every configuration that each library has within a rung; equal ones share theirs.
    """
    candidates = {one: [_nearest(one, scores) for scores in libraries] for one in sorted(set().union(*libraries))}
    common = {one: nearest for one, nearest in candidates.items() if None not in nearest}
    ranks: dict[Configuration, list[float]] = {one: [] for one in common}
    for place, scores in enumerate(libraries):
        own = {one: scores[near] for one, nearest in common.items() if (near := nearest[place]) is not None}
        for one, score in own.items():
            better, equal = (sum(test(other) for other in own.values()) for test in (score.__gt__, score.__eq__))
            ranks[one].append(better + (equal + 1) / 2)
    return {one: fmean(own) for one, own in ranks.items()}


@register_policy(
    "portfolio",
    PortfolioParameters,
    blind=True,
    changes="nothing",
    when="No short training can be afforded; to compare with.",
)
class PortfolioPolicy(Stateless):
    """Train with what has the best mean rank over the shipped libraries of other data sets and such an optimizer."""

    needs_library = False

    def __init__(self, parameters: PortfolioParameters) -> None:
        self.parameters = parameters
        self._decision: Decision | None = None

    def reset(self, task: TaskInfo, library: BeaconLibrary | None) -> None:
        """Rank the configurations of other tasks, and move the best to the nearest of this one."""
        own_images = same_images(task.dataset)
        others = [own for own in shipped() if own.dataset != own_images and own.adaptive == task.adaptive]
        ranks = mean_ranks([own.scores for own in others]) if others else {}
        if not ranks:
            raise ConfigError(
                f"policy 'portfolio' has no libraries of other data sets than that of task '{task.name}', and of an "
                "optimizer like its own, to go by"
            )
        best, rank = min(ranks.items(), key=lambda entry: (entry[1], entry[0]))
        moves = Moves(task.batch_sizes, task.learning_rates)
        chosen = moves.at(*moves.rungs(*best))
        reason = (
            f"{configuration(*chosen)}: mean rank {figure(rank)} of {len(ranks)} over "
            f"{', '.join(own.name for own in others)}"
        )
        if chosen != best:
            reason += f", where it is {configuration(*best)}"
        if not task.dataset:
            reason += "; whether one of them is of the task's own data set is not known"
        self._decision = Decision(*chosen, reason)

    def decide(self, observation: Observation) -> Decision:
        """Return the configuration, the same every time."""
        return after_reset(self._decision)


def shipped() -> tuple[Recorded, ...]:
    """Return the shipped libraries, by name; a user's own are not among them, so that results can be compared."""
    return _recorded(artefact_roots()[-1] / "envs")


@lru_cache
def _recorded(envs: Path) -> tuple[Recorded, ...]:
    found = []
    for folder in seen_in(envs, "*"):
        if holds_beacons(folder):
            library = BeaconLibrary.load(folder)
            scores = {
                (own.batch_size, own.lr): math.inf if own.diverged else own.mean[library.score]
                for own in library.results()
            }
            env = load_yaml(folder / "env.yaml", _Env)  # the library does not say which folder of images it is of
            found.append(Recorded(folder.name, same_images(env.dataset.name), env.optimizer.name != "sgd", scores))
    return tuple(found)


class _Dataset(BaseModel):
    name: str


class _Optimizer(BaseModel):
    name: str = "sgd"


class _Env(BaseModel):
    dataset: _Dataset
    optimizer: _Optimizer = _Optimizer()


def _nearest(wanted: Configuration, scores: Mapping[Configuration, float]) -> Configuration | None:
    within = {one: [abs(math.log(a / b)) for a, b in zip(one, wanted, strict=True)] for one in scores}
    near = [one for one, away in within.items() if max(away) <= math.log(RUNG)]
    return min(near, key=lambda one: (sum(within[one]), one), default=None)
