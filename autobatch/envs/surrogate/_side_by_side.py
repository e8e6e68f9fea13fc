"""What environments on fitted dynamics step: trainings side by side, each of some task, with noise of its own."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch._errors import ConfigError
from autobatch.envs.surrogate._dynamics import Dynamics
from autobatch.envs.surrogate._load import cost_table
from autobatch.envs.surrogate._settings import SurrogateSettings

Flags = NDArray[np.bool_]
Rows = NDArray[np.intp]
Info = dict[str, NDArray[Any]]
SettingsT = TypeVar("SettingsT", bound=SurrogateSettings)

MEAN = -1
"""The member that stands for the average of all."""


@dataclass(frozen=True)
class Step:
    """What one epoch brought to each run, arrays of shape (n,); only entries of runs that stepped mean something.

    Attributes:
        reward: the reward; 0 for a run that did not step.
        terminated: whether the episode is over; False for a run that did not step.
        info: other figures by name; they are finite.
    """

    reward: Floats
    terminated: Flags
    info: Info


class Runs(ABC, Generic[SettingsT]):
    """Trainings on fitted dynamics, one epoch at a time; which task a run is of may differ from run to run.

    All that an episode leaves to chance is drawn when it begins, from the run's own generator. So what one run goes
    through depends on nothing that happens to the others.

    Args:
        settings: the environment's arguments.
        count: how many runs.

    Attributes:
        size: numbers in an observation.
        dynamics: the fitted dynamics, by task.
        task: each run's index into ``dynamics``.
        member: each run's member of the ensemble.

    Raises:
        ConfigError: a task has no such member of the ensemble, or no sound cost table where a folder of some is named.
    """

    size: int

    def __init__(self, settings: SettingsT, count: int) -> None:
        self.settings = settings
        self.count = count
        self.dynamics = self._loaded()
        self.task = np.zeros(count, dtype=np.intp)
        self.member = np.full(count, settings.member if isinstance(settings.member, int) else MEAN)
        self._states = [dynamics.begin(count) for dynamics in self.dynamics]
        self._all = np.arange(count)
        self._potential = np.zeros(count)
        self._noise = np.zeros((count, *np.max([(own.epochs, own.noise_size) for own in self.dynamics], axis=0)))

    @abstractmethod
    def begin(self, rows: Rows, generators: Sequence[np.random.Generator]) -> Info:
        """Begin an episode of some runs.

        Args:
            rows: which runs.
            generators: the generators of all runs; those of ``rows`` are drawn from.

        Returns:
            What is known of the episodes by name, arrays of shape (count,); only entries of ``rows`` mean something.
        """

    @abstractmethod
    def advance(self, actions: NDArray[Any], rows: Rows | None = None) -> Step:
        """Do what actions say, and train an epoch.

        Args:
            actions: an action for each run, shape (count, ...); those of runs that do not step do not matter.
            rows: the runs that step; None for all.

        Returns:
            What it brought.
        """

    @abstractmethod
    def openings(self, rows: Rows) -> NDArray[np.float32]:
        """Return what agents see of runs that have just begun.

        Args:
            rows: which runs.

        Returns:
            A new array, float32, of shape (rows, size), in [-1, 1].
        """

    @abstractmethod
    def action_masks(self) -> Flags:
        """Return which actions lead where they say, of each run."""

    def observe(self) -> NDArray[np.float32]:
        """Return what agents see of all runs: a new array, float32, of shape (count, size), in [-1, 1]."""
        return self.openings(self._all)

    @staticmethod
    @abstractmethod
    def _load(env: str, settings: SettingsT) -> Dynamics:
        """Return the fitted dynamics of a task."""

    def _loaded(self) -> list[Dynamics]:
        found, member = [self._load(env, self.settings) for env in self.settings.envs], self.settings.member
        if (tables := self.settings.cost_tables) is not None:
            found = [own.charged_by(cost_table(Path(tables), own.task.name)) for own in found]
        for env, dynamics in zip(self.settings.envs, found, strict=True):
            if isinstance(member, int) and member >= dynamics.members:
                raise ConfigError(f"member: {env!r} has members 0 to {dynamics.members - 1}, got {member}")
        return found

    def _draw_task(self, row: int, generator: np.random.Generator) -> int:
        """Draw a run's task, and its member of the ensemble; return the task's index."""
        self.task[row] = task = int(generator.integers(len(self.dynamics))) if len(self.dynamics) > 1 else 0
        if self.settings.member is None:
            self.member[row] = generator.integers(self.dynamics[task].members)
        return task

    def _draw_noise(self, row: int, generator: np.random.Generator) -> None:
        """Draw what a run's epochs are scattered by."""
        dynamics = self.dynamics[self.task[row]]
        shape = dynamics.epochs, dynamics.noise_size
        self._noise[row, : shape[0], : shape[1]] = generator.standard_normal(shape)

    def _by_task(self, rows: Rows) -> Iterator[tuple[int, Rows]]:
        """Yield the index of every task that some runs are of, and those of them that are."""
        task = self.task[rows]
        for index in range(len(self.dynamics)):
            own = rows[task == index]
            if own.size:
                yield index, own

    def _told(self, rows: Rows) -> Info:
        """Return which task and member of the ensemble some runs are of."""
        names = np.full(self.count, None, dtype=object)
        names[rows] = np.array(self.settings.envs, dtype=object)[self.task[rows]]
        return {"env": names, "member": self.member.copy()}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the dynamics out: they are loaded by name."""
        return {key: value for key, value in self.__dict__.items() if key != "dynamics"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the dynamics again."""
        self.__dict__.update(state)
        self.dynamics = self._loaded()
