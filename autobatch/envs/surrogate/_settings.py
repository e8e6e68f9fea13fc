"""What an episode on the surrogate is made of: the arguments that both forms of ``AutoBatch/Surrogate-v0`` share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from autobatch._errors import ConfigError, near_names
from autobatch.envs._reward import check_unit
from autobatch.envs._spaces import action_space
from autobatch.envs.surrogate._dynamics import UNITS

STARTS: Final = ("middle", "random")


@dataclass(frozen=True)
class SurrogateSettings:
    """The arguments of a surrogate environment, checked.

    Attributes:
        envs: names or paths of the tasks; each episode draws one.
        actions: ``"multidiscrete"`` or ``"discrete"``.
        cost: unit of cost, ``"modelled"``, ``"examples"`` or ``"flops"``.
        cost_weight: what a whole training's cost weighs in the reward.
        pessimism: what the disagreement of the ensemble weighs in the reward.
        member: member of the ensemble; ``"mean"``, their average; None, one drawn for each episode.
        noise: whether the dynamics are noisy, as trainings are.
        start: ``"middle"`` or ``"random"`` rungs to move from.
    """

    envs: tuple[str, ...]
    actions: str
    cost: str
    cost_weight: float
    pessimism: float
    member: int | str | None
    noise: bool
    start: str

    @classmethod
    def of(
        cls,
        env: str | Path | Sequence[str | Path],
        *,
        actions: str,
        cost: str,
        cost_weight: float,
        pessimism: float,
        member: int | str | None,
        noise: bool,
        start: str,
    ) -> Self:
        """Check the arguments of an environment.

        Args:
            env: name or path of a task, or several.
            actions: which action space.
            cost: unit of cost.
            cost_weight: see the attributes.
            pessimism: see the attributes.
            member: see the attributes.
            noise: see the attributes.
            start: see the attributes.

        Returns:
            The settings.

        Raises:
            ConfigError: an argument is of the wrong type or out of range; the message names it.
        """
        action_space(actions)
        if cost == "measured":
            raise ConfigError("cost: the surrogate trains nothing that could be timed; choose 'modelled', or Train-v0")
        check_unit(cost, UNITS)
        if start not in STARTS:
            raise ConfigError(f"start: expected one of {', '.join(map(repr, STARTS))}, got {start!r}")
        for name, weight in (("cost_weight", cost_weight), ("pessimism", pessimism)):
            if not _is_number(weight) or not math.isfinite(weight) or weight < 0.0:
                raise ConfigError(f"{name}: expected a finite number of at least 0, got {weight!r}")
        if not (member is None or member == "mean" or (_is_whole(member) and member >= 0)):  # type: ignore[operator]
            raise ConfigError(
                f"member: expected None (drawn for each episode), 'mean', or a whole number from 0, got {member!r}"
            )
        if not isinstance(noise, bool):
            raise ConfigError(f"noise: expected True or False, got {noise!r}")
        return cls(_names(env), actions, cost, float(cost_weight), float(pessimism), member, noise, start)


def check_options(options: Mapping[str, Any] | None, known: tuple[str, ...] = ()) -> None:
    """Refuse what ``reset`` does not know.

    Args:
        options: the options of ``reset``.
        known: names of those that there are.

    Raises:
        ConfigError: there is another one.
    """
    unknown = [str(name) for name in options or () if name not in known]
    if unknown:
        raise ConfigError(f"options: no option is called {unknown[0]!r}; {near_names(unknown[0], known)}")


def _names(env: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    names = (env,) if isinstance(env, str | Path) else env
    if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str | Path) and str(n) for n in names):
        raise ConfigError(f"env: expected the name or path of a task, or a list of them, got {env!r}")
    return tuple(str(name) for name in names)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
