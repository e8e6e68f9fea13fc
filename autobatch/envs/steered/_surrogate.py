"""``AutoBatch/Surrogate-v1``: fitted dynamics whose schedule is the agent's, one training or many at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from autobatch.envs._drawn import DrawnEnv
from autobatch.envs.steered._actions import check_steered, steered_space
from autobatch.envs.steered._runs import SteeredRuns
from autobatch.envs.surrogate._env import SurrogateEnv
from autobatch.envs.surrogate._settings import SteeredArguments, SteeredSettings, env_names
from autobatch.envs.surrogate._vector import SurrogateVectorEnv


class SteeredSurrogateEnv(SurrogateEnv):
    """A predicted training of a task that the agent knows nothing of: size, rate, its fall and the end are its own.

    ## Description
    As `AutoBatch/Surrogate-v0`, but with the schedule in the agent's hands: it says when the rate begins to fall and
    when training ends. Nothing that it sees needs a library of the task. Actions, observations and rewards are those of
    `AutoBatch/Train-v1`. Dynamics are fitted to beacons, branch runs and journeys that kept no schedule
    (`steered.parquet`), as far as there are such.

    ## Observation Space
    `Box(-1, 1, (size,), float32)`, schema 2 (`autobatch.policies.general.ENTRIES`), as in `AutoBatch/Train-v1`.

    ## Action Space
    `MultiDiscrete([5, 3, 2, 2])` or `Discrete(11)`, as in `AutoBatch/Train-v1`; with `forks=True`
    `MultiDiscrete([5, 3, 2, 2, 2])` or `Discrete(20)`.

    ## Transition Dynamics
    One step is one epoch, on an ensemble of which each episode follows one member, and noisy as trainings are. All that
    an episode leaves to chance is drawn when it begins: after `reset(seed=...)`, equal actions lead to equal
    observations and rewards.

    ## Reward
    That of `AutoBatch/Train-v1`; with `pessimism`, less that much times the disagreement of the ensemble.

    ## Starting State
    Where the rule of `steer` begins: batch size 32 or the rung next to it, the middle rate. With `start="random"`
    another rung and rate; with `start="scouts"` the scouts of `steer` go first (on the surrogate, charged to the first
    step), and the agent goes on from the one that is chosen. With several tasks, each episode draws its own. `info`
    names the task (`env`) and the `member` of the ensemble (-1 for the average).

    ## Episode End
    Termination where the agent stops, once a falling rate has come to nothing, after the task's last epoch, and when
    the training diverges. Nothing truncates an episode.

    ## Arguments
    ```python
    import gymnasium
    env = gymnasium.make("autobatch:AutoBatch/Surrogate-v1", env="digits-mlp", start="scouts", vary=True)
    ```

    | Argument | Default | Meaning |
    | --- | --- | --- |
    | `env` | `"digits-resnet8"` | name or path of a task with beacons, or a list of them |
    | `task` | | another name for `env`, for tools whose own argument is called that |
    | `actions` | `"multidiscrete"` | `"multidiscrete"` or `"discrete"` |
    | `cost` | `"modelled"` | unit of cost: `"modelled"` (seconds of the cost table), `"examples"` or `"flops"` |
    | `cost_weight` | `0.05` | share of the final loss that a whole training's cost is worth |
    | `cost_tables` | `None` | folder with a cost table of each task, `TASK.json`, in place of the libraries' |
    | `pessimism` | `0` | what the ensemble's disagreement weighs in the reward |
    | `member` | `None` | member of the ensemble: a number, `"mean"`, or `None` to draw one for each episode |
    | `noise` | `True` | whether the dynamics are noisy |
    | `start` | `"middle"` | `"middle"`, `"random"` or `"scouts"`, see above |
    | `vary` | `False` | whether each episode draws a cost table, a part of the ladders, and half the length or more |
    | `forks` | `False` | whether actions may be tried, as in `AutoBatch/Train-v1` |
    | `without` | `[]` | names of other tasks that the dynamics are fitted without, to judge on them what was learned |
    | `render_mode` | `None` | `"ansi"` or `"rgb_array"` |

    `info` of a step holds `epoch`, `batch_size`, `lr` (before the fall), `factor` (the fall's), `c_bar`, `l_cum`,
    `score`, `quality` (natural logarithm of guessing's score over this one), `cost`, `spread`, `stopped` and
    `diverged`; with `forks=True` what `AutoBatch/Train-v1` has of forks, too.

    ## Version History
    * v1: schema 2, the rate's fall, stop, scouts, tasks that vary; no library in observations and rewards. v0 stays.
    """

    def __init__(
        self,
        env: str | Path | Sequence[str | Path] | None = None,
        *,
        task: str | Path | Sequence[str | Path] | None = None,
        render_mode: str | None = None,
        **arguments: Unpack[SteeredArguments],
    ) -> None:
        DrawnEnv.__init__(self, render_mode)
        settings = _settings(env, task, arguments)
        self._made_of(SteeredRuns(settings, 1), steered_space(settings.actions, forks=settings.forks))

    def _checked(self, action: Any) -> NDArray[np.int64]:
        settings = self._runs.settings
        return check_steered(settings.actions, action, forks=settings.forks)


class SteeredSurrogateVectorEnv(SurrogateVectorEnv):
    """Many trainings of ``SteeredSurrogateEnv`` side by side, all stepped at once.

    ## Description
    The vector form of `AutoBatch/Surrogate-v1`, as `SurrogateVectorEnv` is of v0: sub-environment i goes through what a
    `SteeredSurrogateEnv` that is reset with seed + i goes through.

    ## Arguments
    ```python
    import gymnasium
    envs = gymnasium.make_vec("autobatch:AutoBatch/Surrogate-v1", num_envs=64, env=["digits-mlp", "mnist10k-mlp"])
    ```

    Those of `SteeredSurrogateEnv` and of `SurrogateVectorEnv`.

    ## Version History
    * v1: first version.
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
        **arguments: Unpack[SteeredArguments],
    ) -> None:
        settings = _settings(env, task, arguments)
        self._check(num_envs, render_mode, autoreset_mode, max_episode_steps)
        self._made_of(SteeredRuns(settings, num_envs), steered_space(settings.actions, forks=settings.forks))


def _settings(env: Any, task: Any, arguments: SteeredArguments) -> SteeredSettings:
    return SteeredSettings.of(env_names(env, task), arguments)
