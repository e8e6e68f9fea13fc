"""What environments of real training have in common: an episode is a training, and can be sent elsewhere midway."""

import copy
from pathlib import Path
from typing import Any, ClassVar, Generic, Self

import numpy as np
from gymnasium import Space
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from autobatch._errors import ConfigError
from autobatch._ranges import check_whole
from autobatch.envs._drawn import DrawnEnv
from autobatch.envs._reward import WEIGHT, check_unit
from autobatch.envs._spaces import check_flags, check_options, refuse_unknown, task_of
from autobatch.envs.train._trained import RulesT, TrainedEpisode

_OPTIONS = ("run_seed",)


class TrainingEnv(DrawnEnv, Generic[RulesT]):
    """An environment in which each step is an epoch of real training; its kinds say what their arguments mean."""

    episodes: ClassVar[type[TrainedEpisode[Any]]]
    """Kind of episodes."""

    further: ClassVar[tuple[str, ...]] = ()
    """Arguments that this kind has beside those of all."""

    measured: ClassVar[bool]
    """Whether C̄ and L are measured where nobody says."""

    def __init__(
        self,
        env: str | Path | None = None,
        *,
        task: str | Path | None = None,
        actions: str = "multidiscrete",
        cost: str = "modelled",
        cost_weight: float = WEIGHT,
        epochs: int | None = None,
        device: str = "cpu",
        data_dir: str | Path | None = None,
        threads: int | None = None,
        measure: bool | None = None,
        trust_code: bool = False,
        render_mode: str | None = None,
        **others: Any,
    ) -> None:
        own = ("env", "task", "actions", "cost", "cost_weight", "epochs", "device", "data_dir", "threads", "measure")
        refuse_unknown(others, {*own, "trust_code", "render_mode", *self.further})
        measure = self.measured if measure is None else measure
        check_flags(measure=measure, trust_code=trust_code)
        check_unit(cost)
        self.action_space = self.space_of(actions)
        super().__init__(render_mode)
        self._actions = actions
        self._arguments = {
            "env": task_of(env, task),
            "cost": cost,
            "cost_weight": cost_weight,
            "epochs": epochs,
            "device": device,
            "data_dir": data_dir,
            "threads": threads,
            "measure": measure,
            "trust_code": trust_code,
            **others,
        }
        self._rules = self._made(**self._arguments)
        self._episode: TrainedEpisode[RulesT] | None = None
        self._broken_off = False

    @staticmethod
    def space_of(actions: str) -> Space[Any]:
        """Return the action space of a kind of actions."""
        raise NotImplementedError

    @staticmethod
    def _made(*, cost: str, cost_weight: float, measure: bool, **setting_of: Any) -> RulesT:
        """Return the rules that all episodes share."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin a training.

        Args:
            seed: seeds the environment's generator, from which the training's own seed is drawn.
            options: ``{"run_seed": 100}`` gives the training's seed itself; None draws it.

        Returns:
            Observation and info before the first decision.

        Raises:
            ConfigError: an option is not known or has a value that cannot be used.
        """
        super().reset(seed=seed)
        run_seed = _run_seed(options)
        self._leave()
        seed = int(self.np_random.integers(2**31)) if run_seed is None else run_seed
        episode = self.episodes(self._rules, seed)
        episode.begin()
        self._episode = episode
        return episode.observation(), episode.figures()

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Do what the action says, train an epoch and validate.

        Args:
            action: what to do, see ``action_space``.

        Returns:
            Observation, reward, whether the training is over, False, and info.

        Raises:
            ConfigError: the action is of another type or shape, or out of range; nothing is trained then.
            ResetNeeded: no training has begun, it is over, or an earlier step was interrupted amid its epoch.
        """
        if self._broken_off:
            raise ResetNeeded(
                "a step was interrupted amid its epoch, so the training stands nowhere: call reset() for another one, "
                "or go on with a copy that was made between two steps"
            )
        if self._episode is None:
            raise ResetNeeded("step() was called before reset()")
        if self._episode.finished:
            raise ResetNeeded("step() was called after the training's end; call reset() for another one")
        try:
            reward = self._episode.act(self._actions, action)
        except ConfigError:  # an action that is none: nothing has been trained
            raise
        except BaseException:
            self._leave()
            self._broken_off = True
            raise
        return self._episode.observation(), reward, self._episode.finished, False, self._episode.figures()

    def action_masks(self) -> NDArray[np.bool_]:
        """Say which actions lead where they say, as maskable algorithms ask for it.

        Returns:
            bool, one for each choice of each part of the action, one part after the other.

        Raises:
            ResetNeeded: no training has begun.
        """
        if self._episode is None:
            raise ResetNeeded("action_masks() was called before reset()")
        return self._episode.masks(self._actions)

    def close(self) -> None:
        """Let go of the training; a later ``reset`` begins another."""
        self._leave()

    def _drawn(self, mode: str) -> str | NDArray[np.uint8] | None:
        if self._episode is None:
            return None
        from autobatch.envs.train._render import picture, text  # matplotlib, which training does without

        return text(self._episode) if mode == "ansi" else picture(self._episode)

    def _leave(self) -> None:
        if self._episode is not None:
            self._episode.close()
        self._episode, self._broken_off = None, False

    def __getstate__(self) -> dict[str, Any]:
        episode = self._episode
        return self.__dict__ | {"_rules": None, "_episode": None if episode is None else episode.state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rules = state["_rules"] or self._made(**self._arguments)
        if state["_episode"] is not None:
            self._episode = self.episodes.restored(self._rules, state["_episode"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = type(self).__new__(type(self))
        other.__setstate__(copy.deepcopy(self.__getstate__(), memo) | {"_rules": self._rules})
        return other


def _run_seed(options: dict[str, Any] | None) -> int | None:
    check_options(options, _OPTIONS)
    seed = (options or {}).get("run_seed")
    return None if seed is None else check_whole(seed, "options: 'run_seed'", least=0)
