"""What an episode on the surrogate is made of: the arguments that both forms of ``AutoBatch/Surrogate-v0`` share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypedDict

from autobatch._errors import ConfigError
from autobatch.envs._reward import WEIGHT, check_unit
from autobatch.envs._spaces import action_space, check_flags, refuse_unknown, task_of
from autobatch.envs.surrogate._dynamics import MODELLED_UNITS

STARTS: Final = ("middle", "random")


class SurrogateArguments(TypedDict, total=False):
    """The arguments of ``SurrogateEnv`` and ``SurrogateVectorEnv`` that say what an episode is made of."""

    actions: str
    cost: str
    cost_weight: float
    cost_tables: str | Path | None
    pessimism: float
    member: int | str | None
    noise: bool
    start: str


class SteeredArguments(SurrogateArguments, total=False):
    """Those of the environments whose schedule is steered, too."""

    vary: bool
    forks: bool
    without: Sequence[str]


@dataclass(frozen=True)
class SurrogateSettings:
    """The arguments of a surrogate environment, checked.

    Attributes:
        envs: names or paths of the tasks; each episode draws one.
        actions: ``"multidiscrete"`` or ``"discrete"``.
        cost: unit of cost, ``"modelled"``, ``"examples"`` or ``"flops"``.
        cost_weight: what a whole training's cost weighs in the reward.
        cost_tables: folder with a cost table of each task, ``TASK.json``; None for those of the libraries.
        pessimism: what the disagreement of the ensemble weighs in the reward.
        member: member of the ensemble; ``"mean"``, their average; None, one drawn for each episode.
        noise: whether the dynamics are noisy, as trainings are.
        start: ``"middle"`` or ``"random"`` rungs to move from.
    """

    starts: ClassVar[tuple[str, ...]] = STARTS

    envs: tuple[str, ...]
    actions: str = "multidiscrete"
    cost: str = "modelled"
    cost_weight: float = WEIGHT
    cost_tables: str | Path | None = None
    pessimism: float = 0.0
    member: int | str | None = None
    noise: bool = True
    start: str = "middle"

    @classmethod
    def of(cls, envs: tuple[str, ...], given: Mapping[str, Any]) -> Self:
        """Return the settings of tasks with the arguments that an environment was given.

        Args:
            envs: names or paths of the tasks.
            given: the arguments by name.

        Returns:
            The settings.

        Raises:
            ConfigError: there is no such argument, or one cannot be used; the message names it.
        """
        refuse_unknown(given, {"env", "task", "render_mode", *(field.name for field in fields(cls))} - {"envs"})
        return cls(envs, **given)

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            ConfigError: one is of the wrong type or out of range; the message names it.
        """
        action_space(self.actions)
        if self.cost == "measured":
            raise ConfigError("cost: the surrogate trains nothing that could be timed; choose 'modelled', or Train-v0")
        check_unit(self.cost, MODELLED_UNITS)
        if self.start not in self.starts:
            raise ConfigError(f"start: expected one of {', '.join(map(repr, self.starts))}, got {self.start!r}")
        for name, weight in (("cost_weight", self.cost_weight), ("pessimism", self.pessimism)):
            number = isinstance(weight, int | float) and not isinstance(weight, bool)
            if not number or not math.isfinite(weight) or weight < 0.0:
                raise ConfigError(f"{name}: expected a finite number of at least 0, got {weight!r}")
        member = self.member
        whole = isinstance(member, int) and not isinstance(member, bool) and member >= 0
        if not (member is None or member == "mean" or whole):
            raise ConfigError(
                f"member: expected None (drawn for each episode), 'mean', or a whole number from 0, got {member!r}"
            )
        tables = self.cost_tables
        if tables is not None and not (isinstance(tables, str | Path) and str(tables)):
            raise ConfigError(f"cost_tables: expected a folder that has TASK.json for each task, got {tables!r}")
        check_flags(noise=self.noise)


@dataclass(frozen=True)
class SteeredSettings(SurrogateSettings):
    """The arguments of an environment whose schedule is steered, checked.

    Attributes:
        vary: whether each episode draws a cost table, a part of the ladders, and a length.
        forks: whether actions may be tried.
        without: names of tasks that the dynamics are fitted without.
    """

    starts: ClassVar[tuple[str, ...]] = (*STARTS, "scouts")

    vary: bool = False
    forks: bool = False
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the arguments.

        Raises:
            ConfigError: one is of the wrong type or out of range; the message names it.
        """
        super().__post_init__()
        check_flags(vary=self.vary, forks=self.forks)
        without = self.without
        if not isinstance(without, list | tuple) or not all(isinstance(name, str) and name for name in without):
            raise ConfigError(f"without: expected a list of names of tasks, got {without!r}")
        object.__setattr__(self, "without", tuple(without))


def env_names(
    env: str | Path | Sequence[str | Path] | None, task: str | Path | Sequence[str | Path] | None = None
) -> tuple[str, ...]:
    """Return the names or paths of one task, or of several.

    Args:
        env: what was given as ``env``.
        task: what was given as ``task``, which is another name for it.

    Returns:
        The names or paths.

    Raises:
        ConfigError: it is neither, or both names were used.
    """
    env = task_of(env, task)
    names = (env,) if isinstance(env, str | Path) else env
    if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str | Path) and str(n) for n in names):
        raise ConfigError(f"env: expected the name or path of a task, or a list of them, got {env!r}")
    return tuple(str(name) for name in names)
