"""Many trainings on fitted dynamics, stepped as one batch: the vector form of ``AutoBatch/Surrogate-v0``."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch._errors import ConfigError
from autobatch._ranges import check_whole
from autobatch.envs._spaces import action_space, check_options, observation_space
from autobatch.envs.surrogate._runs import SurrogateRuns
from autobatch.envs.surrogate._settings import SurrogateArguments, SurrogateSettings, env_names
from autobatch.envs.surrogate._side_by_side import Flags, Info, Runs

Observations = NDArray[np.float32]


class SurrogateVectorEnv(VectorEnv[Observations, Any, NDArray[Any]]):
    """Many surrogate trainings side by side, all stepped at once.

    ## Description
    The vector form of `AutoBatch/Surrogate-v0`: observations, actions, dynamics and rewards are those of
    `SurrogateEnv`, computed for all sub-environments at once. Sub-environment i goes through what a `SurrogateEnv` that
    is reset with seed + i goes through (up to rounding), whatever the others do.

    ## Observation Space
    `Box(-1, 1, (num_envs, size), float32)`: a new array at every call.

    ## Action Space
    `MultiDiscrete([5, 3])` batched as Gymnasium does, a `Box` of whole numbers of shape (num_envs, 2); or, with
    `actions="discrete"`, `MultiDiscrete([9, ...])` of shape (num_envs,).

    ## Transition Dynamics
    Those of `SurrogateEnv`. With several tasks, each sub-environment draws its own at every episode; the moves are
    relative, so one action space serves ladders that differ.

    ## Reward
    That of `SurrogateEnv`, float64, shape (num_envs,).

    ## Starting State
    That of `SurrogateEnv`. `reset(seed=...)` takes a number (sub-environment i is seeded with seed + i) or one for each
    sub-environment. `reset(options={"reset_mask": mask})` begins a new episode where the mask is True only.

    ## Episode End
    That of `SurrogateEnv`, and truncation after `max_episode_steps`. What follows is Gymnasium's `autoreset_mode`, as
    with its own vector environments.

    | `autoreset_mode` | Meaning |
    | --- | --- |
    | `"NextStep"` | the next step begins a new episode, ignores the action, and has reward 0 |
    | `"SameStep"` | the step begins a new episode; `infos` holds the old one's end in `final_obs` and `final_info` |
    | `"Disabled"` | the caller resets, by `reset_mask` |

    ## Arguments
    ```python
    import gymnasium
    envs = gymnasium.make_vec("autobatch:AutoBatch/Surrogate-v0", num_envs=256, env=["digits-resnet8", "digits-mlp"])
    ```

    Those of `SurrogateEnv` (but nothing is drawn: `render_mode` is `None`), and these:

    | Argument | Default | Meaning |
    | --- | --- | --- |
    | `num_envs` | `1` | number of sub-environments |
    | `autoreset_mode` | `"NextStep"` | see above; the attribute of this name has it, as has `metadata` |
    | `max_episode_steps` | `None` | epochs after which an episode is truncated |

    ## Version History
    * v0: first version.
    """

    def __init__(
        self,
        num_envs: int = 1,
        env: str | Path | Sequence[str | Path] | None = None,
        *,
        task: str | Path | Sequence[str | Path] | None = None,
        render_mode: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        **arguments: Unpack[SurrogateArguments],
    ) -> None:
        settings = SurrogateSettings.of(env_names(env, task), arguments)
        self._check(num_envs, render_mode, autoreset_mode, max_episode_steps)
        self._made_of(SurrogateRuns(settings, num_envs), action_space(settings.actions))

    def _check(
        self, num_envs: int, render_mode: str | None, autoreset_mode: str | AutoresetMode, longest: int | None
    ) -> None:
        self.num_envs = check_whole(num_envs, "num_envs")
        if render_mode is not None:
            raise ConfigError("render_mode: many at once are not drawn; make them with vectorization_mode='sync'")
        self._longest = math.inf if longest is None else check_whole(longest, "max_episode_steps")
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}

    def _made_of(self, runs: Runs[Any], actions: gymnasium.Space[Any]) -> None:
        num_envs = runs.count
        self._runs = runs
        self.single_observation_space = observation_space(runs.size)
        self.single_action_space = actions
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._counts = self._count_actions()
        self._generators: list[np.random.Generator] = []
        self._seeds: list[int] = []
        self._going = False
        self._over = np.zeros(num_envs, dtype=np.bool_)
        self._elapsed = np.zeros(num_envs, dtype=np.int64)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generators of the sub-environments, as ``SyncVectorEnv`` has them."""
        self._seed(None)
        return tuple(self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seeds of the sub-environments, as ``SyncVectorEnv`` has them."""
        self._seed(None)
        return tuple(self._seeds)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Begin an episode of all sub-environments, or of those of a mask.

        Args:
            seed: a number, sub-environment i having that plus i; one for each; or None, to go on with the generators.
            options: ``"reset_mask"``: bool array, shape (num_envs,), True where an episode begins. The others go on
                and keep their generators.

        Returns:
            (observations of all sub-environments, infos of those that began).

        Raises:
            ConfigError: there are not as many seeds as sub-environments, the mask is not one, or an option is unknown.
            ResetNeeded: a mask is given, but nothing has begun that could go on.
        """
        check_options(options, ("reset_mask",))
        mask = np.ones(self.num_envs, dtype=np.bool_)
        if options and "reset_mask" in options:
            mask = self._mask(options["reset_mask"])
        self._seed(seed, mask)
        began = self._runs.begin(np.flatnonzero(mask), self._generators)
        self._going = True
        self._over[mask] = False
        self._elapsed[mask] = 0
        infos: dict[str, Any] = {}
        _add(infos, began, mask)
        return self._runs.observe(), infos

    def step(self, actions: Any) -> tuple[Observations, Floats, Flags, Flags, dict[str, Any]]:
        """Train an epoch of every sub-environment.

        Args:
            actions: an action for each sub-environment, of the action space.

        Returns:
            (observations, rewards, terminations, truncations, infos).

        Raises:
            ConfigError: the actions are not in the action space.
            ResetNeeded: no episode has begun, or one is over and ``autoreset_mode`` is ``"Disabled"``.
        """
        if not self._going:
            raise ResetNeeded("step() was called before reset()")
        chosen = self._checked(actions)
        waiting = self._over
        if self.autoreset_mode is AutoresetMode.DISABLED and waiting.any():
            rows = ", ".join(map(str, np.flatnonzero(waiting)[:8]))
            raise ResetNeeded(f"the episodes of sub-environments {rows} are over: reset them with a reset_mask")
        infos: dict[str, Any] = {}
        step = self._runs.advance(chosen, np.flatnonzero(~waiting) if waiting.any() else None)
        self._elapsed = np.where(waiting, 0, self._elapsed + 1)
        truncated: Flags = self._elapsed >= self._longest
        ended = step.terminated | truncated
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            observations = self._same_step(step.info, ended, infos)
            self._elapsed[ended] = 0
        else:
            _add(infos, step.info, ~waiting)
            if waiting.any():
                _add(infos, self._runs.begin(np.flatnonzero(waiting), self._generators), waiting)
            self._over = ended.copy()
            observations = self._runs.observe()
        return observations, step.reward, step.terminated, truncated, infos

    def action_masks(self) -> Flags:
        """Say which actions stay on the ladders.

        Returns:
            bool, shape (num_envs, 9), or (num_envs, 8) with ``actions="multidiscrete"``, see ``SurrogateEnv``.

        Raises:
            ResetNeeded: no episode has begun.
        """
        if not self._going:
            raise ResetNeeded("action_masks() was called before reset()")
        return self._runs.action_masks()

    def _count_actions(self) -> NDArray[np.int64]:
        if isinstance(self.action_space, spaces.Box):  # what a MultiDiscrete space becomes
            return self.action_space.high.astype(np.int64) + 1
        assert isinstance(self.action_space, spaces.MultiDiscrete)
        return self.action_space.nvec

    def _checked(self, actions: Any) -> NDArray[np.int64]:
        try:
            chosen = np.asarray(actions)
        except ValueError:  # a ragged sequence
            chosen = np.empty(0)
        shape = self._counts.shape
        if chosen.shape != shape or chosen.dtype.kind not in "iu":
            raise ConfigError(
                f"actions: expected whole numbers of shape {shape}, got {chosen.dtype} of shape {chosen.shape}"
            )
        wrong = (chosen < 0) | (chosen >= self._counts)
        if wrong.any():
            row = int(np.argwhere(wrong)[0, 0])
            space = self.single_action_space
            raise ConfigError(f"actions: {chosen[row].tolist()} of sub-environment {row} is not in {space}")
        return chosen.astype(np.int64, copy=False)  # moves are negative, too

    def _same_step(self, info: Info, ended: Flags, infos: dict[str, Any]) -> Observations:
        observations = self._runs.observe()
        if not ended.any():
            _add(infos, info, ~ended)
        else:
            rows = np.flatnonzero(ended)
            last = np.full(self.num_envs, None, dtype=object)
            for row in rows.tolist():
                last[row] = observations[row].copy()
            final: dict[str, Any] = {}
            _add(final, {name: values.copy() for name, values in info.items()}, ended)
            infos |= {"final_obs": last, "_final_obs": ended.copy(), "final_info": final, "_final_info": ended.copy()}
            _add(infos, info, ~ended)
            _add(infos, self._runs.begin(rows, self._generators), ended)
            observations[rows] = self._runs.openings(rows)
        return observations

    def _seed(self, seed: int | Sequence[int | None] | None, mask: Flags | None = None) -> None:
        if seed is None:
            seeds: list[int | None] = [None] * self.num_envs
        elif isinstance(seed, int | np.integer):
            seeds = [int(seed) + index for index in range(self.num_envs)]
        else:
            seeds = [None if own is None else int(own) for own in seed]
        if len(seeds) != self.num_envs:
            raise ConfigError(f"seed: expected {self.num_envs} of them, one for each sub-environment, got {len(seeds)}")
        for index, own in enumerate(seeds):
            if index == len(self._generators):
                generator, entropy = seeding.np_random(own)
                self._generators.append(generator)
                self._seeds.append(entropy)
            elif own is not None and (mask is None or mask[index]):
                self._generators[index], self._seeds[index] = seeding.np_random(own)

    def _mask(self, mask: Any) -> Flags:
        if not (isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == (self.num_envs,)):
            raise ConfigError(f"options: reset_mask: expected a bool array of shape ({self.num_envs},)")
        if not mask.any():
            raise ConfigError("options: reset_mask: it is True nowhere")
        if not self._going and not mask.all():
            raise ResetNeeded("nothing has begun yet: call reset() without a reset_mask first")
        return mask.copy()


def _mode(mode: str | AutoresetMode) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = ", ".join(repr(known.value) for known in AutoresetMode)
        raise ConfigError(f"autoreset_mode: expected one of {known}, got {mode!r}") from None


def _add(infos: dict[str, Any], info: Info, mask: Flags) -> None:
    """Add figures of some sub-environments as Gymnasium does: an array by name, and whom it is known of by _name."""
    if mask.all():
        for name, values in info.items():
            infos[name], infos[f"_{name}"] = values, mask.copy()
        return
    if not mask.any():
        return
    others = ~mask
    for name, values in info.items():
        values[others] = infos[name][others] if name in infos else None if values.dtype == object else 0
        infos[name], infos[f"_{name}"] = values, mask | infos[f"_{name}"] if f"_{name}" in infos else mask.copy()
