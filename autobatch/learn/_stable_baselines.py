"""Learning by Stable-Baselines3 (DQN and PPO), and taking the network that it trained out of it.

A training goes in legs. Each begins with generators and environments that are seeded anew from (seed, leg), and ends
with a checkpoint of tensors and JSON: so a training that was interrupted ends bit by bit like one that was not.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch import nn

from autobatch._errors import CheckpointError, ConfigError, OutputError, near_names
from autobatch.beacons._info import told_differences
from autobatch.integrations._generators import generators_kept
from autobatch.policies._moves import STEERING
from autobatch.policies.learned._network import HEADS, Actions, Activation, Network
from autobatch.training._checkpoint import Checkpoint, put_back, read_checkpoint, snapshot, write_checkpoint
from autobatch.training._engine import reproducible

if TYPE_CHECKING:
    from stable_baselines3 import DQN, PPO
    from stable_baselines3.common.vec_env.base_vec_env import VecEnv

Observe = Callable[[int, float], None]

ALGORITHMS = ("dqn", "ppo")
CHECKPOINT = "sb3.safetensors"
"""Name of the checkpoint in a training's directory."""

_PURPOSE = 0x736233
_REPLAY = "replay/"
_REPLAYED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
_COUNTERS = ("num_timesteps", "_n_updates", "_n_calls", "_episode_num")
_LEARNING_RATE = 1e-3
"""Learning rate at the start; it falls in proportion to what is left of the training."""

_ROLLOUT = 4096
"""Transitions that PPO gathers before it learns from them, about."""


def stable_baselines() -> ModuleType:
    """Import Stable-Baselines3.

    Returns:
        The package.

    Raises:
        ConfigError: it cannot be imported; the message names the extra.
    """
    try:
        import stable_baselines3
    except ImportError as error:
        raise ConfigError(
            f"learning by DQN or PPO needs Stable-Baselines3, which cannot be imported ({error}); install it with: "
            "pip install 'autobatch[rl]'"
        ) from error
    return stable_baselines3


def as_vec_env(env: "VectorEnv[Any, Any, Any]") -> "VecEnv":
    """Make a vector environment of Gymnasium's into one that Stable-Baselines3 takes.

    Args:
        env: such as ``gymnasium.make_vec("autobatch:AutoBatch/Surrogate-v0", num_envs=256,
            vectorization_mode="vector_entry_point")``.

    Returns:
        An environment for ``PPO("MlpPolicy", ...)`` and, with discrete actions, ``DQN("MlpPolicy", ...)``.

    Raises:
        ConfigError: Stable-Baselines3 is not installed, or the environment does not say when it resets what has ended.
    """
    stable_baselines()
    from autobatch.learn._vec_env import GymnasiumVecEnv

    return GymnasiumVecEnv(env)


def train_with_sb3(
    algorithm: str,
    venv: "VectorEnv[Any, Any, Any]",
    *,
    steps: int,
    seed: int,
    out: str | Path,
    observe: Observe | None = None,
    hidden: tuple[int, ...] = (32, 32),
    gamma: float = 1.0,
    checkpoint_every: int | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Network:
    """Train a policy by DQN or PPO.

    Args:
        algorithm: ``"dqn"`` (discrete actions only) or ``"ppo"``.
        venv: the environments, seeded here at every leg; they stay open.
        steps: transitions to train on, all environments together.
        seed: decides initial weights, exploration and episodes.
        out: directory of this training; its checkpoint goes there.
        observe: called now and then with (transitions so far, mean return of the latest episodes).
        hidden: widths of the hidden layers.
        gamma: discount of a step; 1 for what it is worth at the end.
        checkpoint_every: transitions between checkpoints; a tenth of ``steps`` by default.
        resume: go on from the checkpoint in ``out`` if there is one.
        settings: arguments of the algorithm's class in Stable-Baselines3, in place of those chosen here.

    Returns:
        The network as it was at the end; its moves are those that Stable-Baselines3 calls deterministic.

    Raises:
        CheckpointError: the checkpoint in ``out`` is damaged or of another training.
        ConfigError: an argument cannot be used, or Stable-Baselines3 is not installed.
        OutputError: ``out`` holds a training already, or cannot be written.
    """
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"unknown algorithm '{algorithm}'; {near_names(algorithm, ALGORITHMS)}")
    actions = actions_of(venv.single_action_space)
    if algorithm == "dqn" and actions != "discrete":
        raise ConfigError("dqn chooses one of a list of actions: make the environment with actions='discrete'")
    every = checkpoint_every if checkpoint_every is not None else math.ceil(steps / 10)
    if steps < 1 or every < 1:
        raise ConfigError(f"steps and checkpoint_every: expected at least 1, got {steps} and {every}")
    path = Path(out) / CHECKPOINT
    if path.exists() and not resume:
        raise OutputError(f"{path}: holds a training already; resume it, or choose another directory")
    stable_baselines()
    identity = {
        "algorithm": algorithm,
        "steps": steps,
        "seed": seed,
        "hidden": list(hidden),
        "gamma": gamma,
        "checkpoint_every": every,
        "environments": venv.num_envs,
        "observations": list(venv.single_observation_space.shape or ()),
        "actions": actions,
        "settings": {key: repr(value) for key, value in sorted((settings or {}).items())},
    }
    with reproducible(torch.device("cpu"), 1), generators_kept():
        learner = _Learner(algorithm, venv, identity, dict(settings or {}))
        if path.exists():
            learner.restore(path)
        learner.learn(path, observe)
        return network_of(learner.model)


def network_of(model: "DQN | PPO") -> Network:
    """Take the network that decides out of a model of Stable-Baselines3.

    Args:
        model: a DQN or PPO with an ``MlpPolicy``, flat observations and one of this package's kinds of actions.

    Returns:
        A network whose moves are the model's deterministic ones.

    Raises:
        ConfigError: the model's layers are not those of a plain network.
    """
    policy: Any = model.policy
    modules = list(policy.q_net.q_net) if hasattr(policy, "q_net") else [*policy.mlp_extractor.policy_net]
    if not hasattr(policy, "q_net"):
        modules.append(policy.action_net)
    linear = [module for module in modules if isinstance(module, nn.Linear)]
    between = {type(module) for module in modules if not isinstance(module, nn.Linear)}
    activations: dict[type[nn.Module], Activation] = {nn.Tanh: "tanh", nn.ReLU: "relu"}
    if len(between) > 1 or not between <= set(activations) or 2 * len(linear) - 1 != len(modules):
        raise ConfigError(
            "expected linear layers with tanh or relu between them, got "
            + ", ".join(type(module).__name__ for module in modules)
        )
    activation = activations[between.pop()] if between else "tanh"
    return Network.of(
        [(layer.weight, layer.bias) for layer in linear], activation=activation, actions=actions_of(model.action_space)
    )


def actions_of(space: "spaces.Space[Any]") -> Actions:
    """Say which kind of actions a space holds.

    Args:
        space: the action space of one environment.

    Returns:
        ``"multidiscrete"``, ``"discrete"``, ``"steered"`` or ``"forked"``.

    Raises:
        ConfigError: it holds none of them.
    """
    for kind in ("multidiscrete", *STEERING):
        if isinstance(space, spaces.MultiDiscrete) and tuple(space.nvec) == HEADS[kind]:
            return cast("Actions", kind)
    if isinstance(space, spaces.Discrete) and (int(space.n),) == HEADS["discrete"]:
        return "discrete"
    raise ConfigError(
        f"expected an environment whose actions are MultiDiscrete({list(HEADS['multidiscrete'])}) or "
        f"Discrete({HEADS['discrete'][0]}), got {space}"
    )


class _Learner:
    """A model of Stable-Baselines3 with what its training in legs needs."""

    def __init__(
        self, algorithm: str, venv: "VectorEnv[Any, Any, Any]", identity: dict[str, Any], settings: dict[str, Any]
    ) -> None:
        from stable_baselines3.common.logger import Logger
        from stable_baselines3.common.vec_env import VecMonitor

        self.identity = identity
        self.steps: int = identity["steps"]
        self.leg = 0
        env = VecMonitor(as_vec_env(venv))
        self.model: Any = None
        self.model = self._dqn(env, settings) if algorithm == "dqn" else self._ppo(env, settings)
        self.model.set_logger(Logger(folder=None, output_formats=[]))

    def learn(self, path: Path, observe: Observe | None) -> None:
        """Train the legs that are left, each to its checkpoint."""
        model, every = self.model, self.identity["checkpoint_every"]
        told = _Telling(model, max(self.steps // 100, 1), observe)
        while model.num_timesteps < self.steps:
            end = min((self.leg + 1) * every, self.steps)
            if model.num_timesteps < end:  # the leg before may have gone beyond this one's end
                words = np.random.SeedSequence([self.identity["seed"], _PURPOSE, self.leg]).generate_state(1)
                model.set_random_seed(int(words[0] >> 1))
                model._last_obs = None  # has learn() reset the environments
                model.learn(end - model.num_timesteps, callback=told, log_interval=2**62, reset_num_timesteps=False)
            self.leg += 1
            self._save(path)
        told.tell()

    def restore(self, path: Path) -> None:
        """Go back to a checkpoint.

        Raises:
            CheckpointError: it is damaged or of another training.
        """
        checkpoint = read_checkpoint(path)
        record = checkpoint.record
        if differing := told_differences(record.get("identity") or {}, self.identity):
            raise CheckpointError(f"{path}: the training was started differently: {differing}")
        replay = {name: value for name, value in checkpoint.tensors.items() if name.startswith(_REPLAY)}
        model = self.model
        put_back(
            {name: value for name, value in checkpoint.tensors.items() if name not in replay},
            model.policy,
            model.policy.optimizer,
            str(path),
        )
        try:
            self.leg = int(record["leg"])
            for name in _COUNTERS:
                if hasattr(model, name):
                    setattr(model, name, int(record[name]))
            buffer = getattr(model, "replay_buffer", None)
            if buffer is not None:
                buffer.pos, buffer.full = int(record["replay_at"]), bool(record["replay_full"])
                for name in _REPLAYED:
                    getattr(buffer, name)[: buffer.size()] = replay[_REPLAY + name].numpy()
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: damaged: {error!r}") from None

    def _save(self, path: Path) -> None:
        model = self.model
        tensors = snapshot(model.policy, model.policy.optimizer)
        counters = {name: getattr(model, name) for name in _COUNTERS if hasattr(model, name)}
        record = {"identity": self.identity, "leg": self.leg, **counters}
        buffer = getattr(model, "replay_buffer", None)
        if buffer is not None:
            record |= {"replay_at": buffer.pos, "replay_full": buffer.full}
            for name in _REPLAYED:
                tensors[_REPLAY + name] = torch.from_numpy(getattr(buffer, name)[: buffer.size()].copy())
        write_checkpoint(path, Checkpoint(tensors, record))

    def _ppo(self, env: "VecEnv", settings: dict[str, Any]) -> "PPO":
        from stable_baselines3 import PPO

        rollout = min(_ROLLOUT, max(self.steps // 20, 64))
        length = max(math.ceil(rollout / env.num_envs), 2)
        gathered = length * env.num_envs
        # As many equal parts as leave each large enough.
        parts = next(
            parts for parts in range(8, 0, -1) if parts == 1 or (gathered % parts == 0 and gathered // parts >= 256)
        )
        chosen: dict[str, Any] = {
            "learning_rate": self._rate,
            "n_steps": length,
            "batch_size": gathered // parts,
            "n_epochs": 10,
            "ent_coef": 0.003,
        }
        return PPO("MlpPolicy", env, **(self._common(nn.Tanh, env) | chosen | settings))

    def _dqn(self, env: "VecEnv", settings: dict[str, Any]) -> "DQN":
        from stable_baselines3 import DQN

        chosen: dict[str, Any] = {
            "learning_rate": self._rate,
            "buffer_size": 100_000,
            "learning_starts": min(self.steps // 20, 5_000),
            "batch_size": 256,
            "train_freq": 1,
            "gradient_steps": max(env.num_envs // 16, 1),
            "target_update_interval": max(5_000, env.num_envs),
            "exploration_fraction": 0.5,
            "exploration_final_eps": 0.05,
        }
        model = DQN("MlpPolicy", env, **(self._common(nn.ReLU, env) | chosen | settings))
        schedule = model.exploration_schedule
        model.exploration_schedule = lambda _: schedule(self._left())
        return model

    def _rate(self, _left: float) -> float:
        return _LEARNING_RATE * max(self._left(), 0.02)

    def _left(self) -> float:
        # What is left of the whole training; Stable-Baselines3 would say what is left of the leg.
        return max(1.0 - self.model.num_timesteps / self.steps, 0.0) if self.model is not None else 1.0

    def _common(self, activation: type[nn.Module], env: "VecEnv") -> dict[str, Any]:
        return {
            "gamma": self.identity["gamma"],
            "seed": self.identity["seed"],
            "device": "cpu",
            "policy_kwargs": {"net_arch": self.identity["hidden"], "activation_fn": activation},
            "stats_window_size": max(100, env.num_envs),
        }


@dataclass
class _Telling:
    """The callback of a training: tells how it goes, no more often than needed."""

    model: Any
    every: int
    observe: Observe | None
    told_at: int = 0

    def __call__(self, _locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
        if self.model.num_timesteps >= self.told_at + self.every:
            self.tell()
        return True

    def tell(self) -> None:
        """Tell the mean return of the latest episodes, once there is one."""
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        if self.observe is not None and returns and self.model.num_timesteps > self.told_at:
            self.told_at = self.model.num_timesteps
            self.observe(self.told_at, float(np.mean(returns)))
