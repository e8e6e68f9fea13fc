"""The kinds of policy, by name: one typed table that YAML files refer to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from autobatch._errors import ConfigError, UnknownNameError, near_names
from autobatch.policies._parameters import PolicyParameters
from autobatch.policies._protocol import Policy

ParametersT = TypeVar("ParametersT", bound=PolicyParameters)
PolicyT = TypeVar("PolicyT", bound=Policy)


@dataclass(frozen=True)
class PolicyKind:
    """One registered kind of policy.

    Attributes:
        name: what a YAML's ``kind:`` says.
        parameters: the model that the YAML's ``parameters:`` are checked against.
        build: makes a policy from checked parameters.
        blind: whether its policies never look at C̄, L or gradients, but of steps that they ask for, so that measuring
            others for them is in vain.
        changes: what its policies change once training goes on, in words for listings.
        when: when to choose one, a sentence for listings.
    """

    name: str
    parameters: type[PolicyParameters]
    build: Callable[[Any], Policy]
    blind: bool = False
    changes: str = ""
    when: str = ""

    @property
    def needs(self) -> str:
        """What its policies cannot do without, in words for listings."""
        scouts = hasattr(self.build, "scouts")
        found = []
        if getattr(self.build, "needs_library", False):
            found.append("beacons, or else scouts" if scouts else "beacons")
        elif scouts:
            found.append("scouts")
        if "lr" in self.parameters.model_fields:
            found.append("a rate")
        if not self.blind:
            found.append("measuring")
        return "; ".join(found) or "nothing"


_KINDS: dict[str, PolicyKind] = {}


def register_policy(
    kind: str, parameters: type[ParametersT], *, blind: bool = False, changes: str = "", when: str = ""
) -> Callable[[Callable[[ParametersT], PolicyT]], Callable[[ParametersT], PolicyT]]:
    """Register a policy class under a kind, so that YAML files can name it.

    Args:
        kind: what a YAML's ``kind:`` will say.
        parameters: the model of the YAML's ``parameters:``; a sentence in each field's description.
        blind: whether its policies never look at C̄, L or gradients, but of steps that they ask for.
        changes: what its policies change once training goes on, such as ``"batch size, rate"``.
        when: when to choose one, in a sentence.

    Returns:
        A decorator for the class (or a function) that makes the policy from such parameters.

    Raises:
        ConfigError: the kind is taken.
    """
    if kind in _KINDS:
        raise ConfigError(f"policy kind '{kind}' is registered already; choose another name")

    def register(build: Callable[[ParametersT], PolicyT]) -> Callable[[ParametersT], PolicyT]:
        _KINDS[kind] = PolicyKind(kind, parameters, build, blind, changes, when)
        return build

    return register


def policy_kinds() -> list[str]:
    """Return the names of all registered kinds, sorted."""
    return sorted(_KINDS)


def policy_kind(kind: str) -> PolicyKind:
    """Look up a kind.

    Args:
        kind: its name.

    Returns:
        The registered kind.

    Raises:
        UnknownNameError: no such kind.
    """
    try:
        return _KINDS[kind]
    except KeyError:
        raise UnknownNameError(f"unknown policy kind '{kind}'; {near_names(kind, _KINDS)}") from None
