"""What a search begins with, and, where it is for departures from the rule of ``steer``, what is kept of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autobatch._arrays import Floats
from autobatch._errors import ConfigError
from autobatch.learn._cells import EpisodeCells
from autobatch.learn._general import SteeredArena
from autobatch.learn._plan import LearningPlan
from autobatch.learn._rollouts import ANYWHERE, MARGIN, NOWHERE, Population, joined
from autobatch.policies import PolicySpec, load_policy_spec, make_policy
from autobatch.policies._moves import STEERING
from autobatch.policies.general import FORK_ENTRIES, CourseView, GeneralPolicy
from autobatch.policies.learned._network import HEADS, Network, parameter_count
from autobatch.policies.learned._policy import LearnedPolicy

SteeredStage = SteeredArena | EpisodeCells


@dataclass(frozen=True, eq=False)
class Beginning:
    """A learned policy, or the rule itself.

    Attributes:
        network: its network; of zeros, which is the rule, where actions are steered and nothing learned is begun with.
        margin: lead of the rule's choices, where actions are steered; so are the other two.
        seen: lowest and highest of each entry of the view that it was trained on, shape (entries, 2), beyond which the
            rule decides; None where nothing is too far.
        rule: parameters of its rule, as its YAML has them; None for the usual ones.
    """

    network: Network
    margin: float = MARGIN
    seen: Floats | None = None
    rule: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, plan: LearningPlan) -> "Beginning | None":
        """Return what a plan begins with; None for nothing.

        Args:
            plan: the plan.

        Returns:
            What it begins with.

        Raises:
            ConfigError: the policy that it is to begin with is of another kind or network, or cannot be read.
        """
        if plan.begin is not None:
            spec = load_policy_spec(plan.begin)
            policy = _learned(spec)
            _check(plan, policy.network)
            card = policy.card
            seen = None if card.seen is None else np.array(card.seen)
            return cls(policy.network, card.margin, seen, spec.parameters.get("rule"))
        if plan.actions not in STEERING:
            return None
        entries = CourseView.size + (len(FORK_ENTRIES) if plan.actions == "forked" else 0)
        sizes = (entries, *plan.hidden, sum(HEADS[plan.actions]))
        return cls(Network.of_flat(np.zeros(parameter_count(sizes)), sizes, activation="tanh", actions=plan.actions))

    @property
    def is_rule(self) -> bool:
        """Whether it never departs from the rule."""
        return self.margin > 0.0 and not self.network.flat().any()

    def kept_by(self, network: Network) -> bool:
        """Whether a search has come to the network that it began with."""
        return np.array_equal(network.flat(), self.network.flat())


@dataclass(frozen=True, eq=False)
class Judged:
    """What a network came to on episodes that nothing was learned from.

    Attributes:
        network: the network.
        returns: its returns, shape (episodes,).
        seen: lowest and highest of each entry of the view in these episodes, shape (entries, 2), where actions are
            steered; else shape (0, 2).
    """

    network: Network
    returns: Floats
    seen: Floats = field(default_factory=lambda: np.zeros((0, 2)))


@dataclass(frozen=True, eq=False)
class Kept:
    """What is kept of a search for departures from the rule.

    Attributes:
        network: the network.
        margin: lead of the rule's choices.
        seen: lowest and highest of each entry of the view that it goes by, as the card has it.
        nothing_better: whether it is what the search began with.
        above_rule: by how much its return is above the rule's on the same new episodes, and the standard error.
        found_above: the same of what was found, kept or not, beside what the search began with.
    """

    network: Network
    margin: float
    seen: tuple[tuple[float, float], ...] | None
    nothing_better: bool
    above_rule: tuple[float, float]
    found_above: tuple[float, float]

    def told(self) -> dict[str, Any]:
        """Return what the card says of it."""
        return {
            "kept": "what it began with" if self.nothing_better else "what was found",
            "return_above_the_rule": [round(value, 4) for value in self.above_rule],
            "found_above_what_it_began_with": [round(value, 4) for value in self.found_above],
        }


def begun_with(policy: str) -> Network:
    """Return the network of a learned policy.

    Args:
        policy: its name or the path of its YAML.

    Returns:
        The network.

    Raises:
        ConfigError: it is of another kind, or cannot be read.
    """
    return _learned(load_policy_spec(policy)).network


def judge(stage: SteeredStage, begun: Beginning | None, network: Network, seeds: Sequence[int]) -> Judged:
    """Play a network that was found on new episodes.

    Args:
        stage: where.
        begun: what the search began with; a network that is still that goes by what that has seen. None for nothing.
        network: the network.
        seeds: of the episodes.

    Returns:
        What it came to.
    """
    margin, seen = MARGIN if begun is None else begun.margin, None
    if begun is not None and begun.seen is not None and begun.kept_by(network):
        seen = begun.seen[None]
    policy = Population(network.flat()[None], network.sizes, network.actions, margin=margin, seen=seen)
    returns, _ = stage.play(policy, seeds)
    return Judged(network, returns[0], stage.seen)


def choose(stage: SteeredStage, begun: Beginning, found: Judged, seeds: Sequence[int]) -> Kept:
    """Set what was found beside what the search began with and the rule, and keep the better of the first two.

    What was found is better by more than one standard error, or else what the search began with is kept.

    Args:
        stage: where they are played.
        begun: what the search began with.
        found: what was found, on these episodes.
        seeds: of the episodes.

    Returns:
        What is kept.
    """
    sizes, own = begun.network.sizes, begun.network.flat()
    vectors, bounds = [own], [np.tile(ANYWHERE, (sizes[0], 1)) if begun.seen is None else begun.seen]
    if not begun.is_rule:
        vectors.append(np.zeros_like(own))
        bounds.append(np.tile(NOWHERE, (sizes[0], 1)))
    policies = Population(vectors, sizes, begun.network.actions, margin=begun.margin, seen=np.stack(bounds))
    returns, _ = stage.play(policies, seeds)
    beginning, rule = returns[0], returns[-1]
    found_above = _mean(found.returns - beginning)
    if found_above[0] <= found_above[1]:
        seen = None if begun.seen is None else _pairs(begun.seen)
        return Kept(begun.network, begun.margin, seen, True, _mean(beginning - rule), found_above)
    seen = None
    if begun.is_rule or begun.seen is not None:
        seen = _pairs(joined([found.seen, stage.seen, *([] if begun.seen is None else [begun.seen])]))
    return Kept(found.network, begun.margin, seen, False, _mean(found.returns - rule), found_above)


def _learned(spec: PolicySpec) -> LearnedPolicy | GeneralPolicy:
    policy = make_policy(spec)
    if not isinstance(policy, LearnedPolicy | GeneralPolicy):
        raise ConfigError(
            f"begin: expected a policy of kind 'learned' or 'learned-general', and '{spec.name}' is of kind "
            f"'{spec.kind}'"
        )
    return policy


def _check(plan: LearningPlan, network: Network) -> None:
    """Refuse a network that the search cannot begin with."""
    if network.activation != "tanh":
        raise ConfigError(f"begin: expected tanh between the layers, '{plan.begin}' has {network.activation}")
    own = (network.sizes[1:-1], network.actions)
    if own != (plan.hidden, plan.actions):
        raise ConfigError(
            f"begin: '{plan.begin}' has hidden layers {list(own[0])} and actions {own[1]!r}, the plan hidden "
            f"{list(plan.hidden)} and actions {plan.actions!r}: give the plan those of the policy ('autobatch "
            "train-policy' takes them over where --hidden and --actions are left out)"
        )


def _mean(differences: Floats) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(len(differences)))


def _pairs(seen: Floats) -> tuple[tuple[float, float], ...]:
    return tuple((float(low), float(high)) for low, high in seen)
