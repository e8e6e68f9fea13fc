"""A Gymnasium vector environment as Stable-Baselines3 takes it: what has ended is reset within the same step.

Only imported where Stable-Baselines3 is to be used.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from autobatch._errors import ConfigError


class GymnasiumVecEnv(VecEnv):
    """Wraps a vector environment; give it to ``PPO("MlpPolicy", ...)`` or ``DQN("MlpPolicy", ...)``.

    Stable-Baselines3 expects the first observation of the next episode in the step that ends one, and the last
    observation as ``terminal_observation``. A vector environment that resets in the same step says both; in one that
    resets in the next step or not at all, what has ended is reset at once with ``options={"reset_mask": ...}``.

    Args:
        env: the vector environment, with the same spaces for all.

    Raises:
        ConfigError: the environment does not say when it resets what has ended.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        self.venv = env
        mode = env.metadata.get("autoreset_mode")
        if not isinstance(mode, AutoresetMode):
            raise ConfigError(
                f"{type(env).__name__}: expected metadata['autoreset_mode'] to be a gymnasium.vector.AutoresetMode, "
                f"got {mode!r}"
            )
        self._same_step = mode is AutoresetMode.SAME_STEP
        self._actions: Any = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Reset all environments, with the seeds and options that were set for this reset."""
        seeds, options = self._seeds, self._options
        self._reset_seeds()
        self._reset_options()
        if any(given != options[0] for given in options):
            raise ConfigError("the environments of a batch share their options: give the same to all")
        # Consecutive seeds, as seed() makes them, are what a vector environment makes of the first.
        seed: Any = seeds[0] if seeds[0] is None or seeds == list(_consecutive(seeds[0], len(seeds))) else seeds
        observations, infos = self.venv.reset(seed=seed, options=options[0] or None)
        self.reset_infos = _by_environment(infos, self.num_envs)
        return np.array(observations)

    def step_async(self, actions: np.ndarray[Any, Any]) -> None:
        """Take the actions of a step, one for each environment."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards, which episodes have ended, and one dictionary for each environment."""
        observations, rewards, terminations, truncations, infos = self.venv.step(self._actions)
        observations = np.array(observations)  # neither an environment's nor a caller's later writes reach the other
        ended = np.logical_or(terminations, truncations)
        told = _by_environment(infos, self.num_envs)
        final: Any = observations
        if ended.any():
            if self._same_step:
                final = [own.pop("final_obs", None) for own in told]
            else:
                observations, started = self._reset(ended, observations)
        for index in np.flatnonzero(ended):
            if self._same_step:
                last = told[index].pop("final_info", {})
                self.reset_infos[index], told[index] = told[index], last
            else:
                self.reset_infos[index] = started[index]
            told[index]["terminal_observation"] = np.array(final[index])
            told[index]["TimeLimit.truncated"] = bool(truncations[index] and not terminations[index])
        return observations, np.asarray(rewards, dtype=np.float32), ended, told

    def close(self) -> None:
        """Close the environments."""
        self.venv.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute for each of some environments, by default all; a batch has one value for all."""
        chosen = self._get_indices(indices)
        own: Callable[[str], Sequence[Any]] | None = getattr(self.venv, "get_attr", None)
        if own is not None and attr_name != "render_mode":
            values = own(attr_name)
            return [values[index] for index in chosen]
        value = getattr(self.venv, attr_name)
        return [value for _ in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of all environments.

        Args:
            attr_name: its name.
            value: its value.
            indices: of which environments; only all of a batch can be set.

        Raises:
            ConfigError: some environments are meant.
        """
        if list(self._get_indices(indices)) != list(range(self.num_envs)):
            raise ConfigError(f"set_attr('{attr_name}'): the environments of a batch share it; leave indices out")
        own: Callable[[str, Any], None] | None = getattr(self.venv, "set_attr", None)
        if own is not None:
            own(attr_name, value)
        else:
            setattr(self.venv, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of each environment.

        Args:
            method_name: its name.
            *method_args: its arguments.
            indices: of which environments; None for all.
            **method_kwargs: its keyword arguments.

        Returns:
            What each returned.

        Raises:
            ConfigError: a batch that has no environments of its own cannot call their methods.
        """
        call: Callable[..., Sequence[Any]] | None = getattr(self.venv, "call", None)
        if call is None:
            raise ConfigError(
                f"env_method('{method_name}'): {type(self.venv).__name__} steps all environments at once and has none "
                "of its own to ask; call the method of the vector environment"
            )
        results = call(method_name, *method_args, **method_kwargs)
        return [results[index] for index in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Return False for each environment: none is wrapped as far as this adapter knows."""
        return [False for _ in self._get_indices(indices)]

    def _reset(self, ended: Any, observations: Any) -> tuple[Any, list[dict[str, Any]]]:
        started, infos = self.venv.reset(options={"reset_mask": ended})
        started = np.array(started)
        if not np.array_equal(started[~ended], observations[~ended]):
            raise ConfigError(
                f"{type(self.venv).__name__}: reset(options={{'reset_mask': mask}}) has reset environments outside the "
                "mask; make the vector environment with autoreset_mode=SAME_STEP, or honour the mask"
            )
        return started, _by_environment(infos, self.num_envs)


def _consecutive(first: int, count: int) -> range:
    return range(first, first + count)


def _by_environment(infos: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return one dictionary for each environment, with what a vector environment's says of it."""
    told: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, values in infos.items():
        if key.startswith("_"):
            continue
        mask = infos.get(f"_{key}")
        columns = _by_environment(values, count) if isinstance(values, dict) else values
        for index in range(count) if mask is None else np.flatnonzero(mask):
            told[index][key] = columns[index]
    return told
