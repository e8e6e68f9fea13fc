"""One training on fitted dynamics, a batch of one, as a Gymnasium environment: ``AutoBatch/Surrogate-v0``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from autobatch.envs._drawn import DrawnEnv
from autobatch.envs._spaces import action_space, check_action, check_options, observation_space
from autobatch.envs.surrogate._runs import SurrogateRuns
from autobatch.envs.surrogate._settings import SurrogateArguments, SurrogateSettings, env_names
from autobatch.envs.surrogate._side_by_side import Runs

_ROW = np.zeros(1, dtype=np.intp)


class SurrogateEnv(DrawnEnv):
    """A training whose course is predicted rather than run: an epoch takes microseconds.

    ## Description
    The agent chooses the batch size and the learning rate of every epoch, as in `AutoBatch/Train-v0`, with the same
    observations, actions and rewards. But nothing is trained: how C̄, L and the losses go on is drawn from dynamics that
    were fitted to the task's beacons and to its branch runs (trainings that switched from one configuration to
    another). What an agent learns here holds in a real training as far as the fit does; the surrogate's fidelity is
    documented with its method.

    ## Observation Space
    `Box(-1, 1, (size,), float32)`, the flat view of an observation that every learned policy sees
    (`autobatch.policies.ENTRIES`, versioned by `autobatch.policies.SCHEMA`). Every entry is relative to the task: to
    its ladders, to its best beacon, and to where its beacons stood at the same progress. So the view of all tasks has
    one size. The last entries are masks; an entry that is not known is 0.

    | Entries | What they hold |
    | --- | --- |
    | progress | progress, epochs left, milestones of the learning-rate schedule |
    | configuration | rung on the ladder and of the learning rates, what an epoch costs here and one rung away |
    | score | validation quality, slope, against the best fixed beacon, generalisation gap |
    | position | C̄ and L relative to the region of good beacons and to the nearest ones, and their slopes |
    | cost | modelled seconds so far and to come, relative to the best fixed beacon's |
    | task | size of the training set, largest batch, length of the ladder |
    | masks | whether the training has begun, a score and a position are known, and so on |

    ## Action Space
    Moves on the task's ladder of batch sizes and on its learning rates, no further than these go.

    | `actions` | Space | Meaning |
    | --- | --- | --- |
    | `"multidiscrete"` | `MultiDiscrete([5, 3])` | batch size -2, -1, 0, +1, +2 rungs; learning rate -1, 0, +1 rungs |
    | `"discrete"` | `Discrete(9)` | batch size -1, 0, +1 rungs (action // 3), learning rate -1, 0, +1 (action % 3) |

    The id `AutoBatch/SurrogateDiscrete-v0` has the second by default. `action_masks()` says which actions stay on the
    ladders.

    ## Transition Dynamics
    One step is one epoch with the batch size and the learning rate that the action leads to. The dynamics are an
    ensemble, of which each episode follows one member, and noisy as trainings are. All that an episode leaves to chance
    is drawn when it begins: after `reset(seed=...)`, equal actions lead to equal observations and rewards.

    ## Reward
    What the epoch adds to the normalised validation quality (0 before training and for guessing, 1 for the best fixed
    beacon's final score, -1 once diverged), less `cost_weight` times the epoch's cost over the cost of the best fixed
    beacon's whole training. The rewards of an episode add up to its final quality less its cost. With `pessimism`, each
    reward is less by that much times the disagreement of the ensemble. Test figures play no part.

    ## Starting State
    Before the first epoch. The first action moves from the middle of both ladders, or from rungs drawn at random with
    `start="random"` (which `info` tells; observations show rungs once an epoch has used them). With several tasks, each
    episode draws its own. `info` names the task (`env`) and the `member` of the ensemble (-1 for the average).

    ## Episode End
    Termination after the task's last epoch, and when the training diverges. Nothing truncates an episode.

    ## Arguments
    ```python
    import gymnasium
    env = gymnasium.make("autobatch:AutoBatch/Surrogate-v0", env="digits-resnet8", actions="discrete")
    ```

    | Argument | Default | Meaning |
    | --- | --- | --- |
    | `env` | `"digits-resnet8"` | name or path of a task with beacons and branch runs, or a list of them |
    | `task` | | another name for `env`, for tools whose own argument is called that |
    | `actions` | `"multidiscrete"` | action space, see above |
    | `cost` | `"modelled"` | unit of cost: `"modelled"` (seconds of the cost table), `"examples"` or `"flops"` |
    | `cost_weight` | `0.05` | quality that a whole training at the best beacon's cost is worth |
    | `cost_tables` | `None` | folder with a cost table of each task, `TASK.json`, in place of the libraries' |
    | `pessimism` | `0` | what the ensemble's disagreement weighs in the reward |
    | `member` | `None` | member of the ensemble: a number, `"mean"`, or `None` to draw one for each episode |
    | `noise` | `True` | whether the dynamics are noisy |
    | `start` | `"middle"` | rungs that the first action moves from: `"middle"` or `"random"` |
    | `render_mode` | `None` | `"ansi"` or `"rgb_array"` |

    Floating-point operations go with the examples, so `"flops"` rewards as `"examples"` does.

    `info` of a step holds `epoch`, `batch_size`, `lr`, `c_bar`, `l_cum`, `score` (the validation figure that ranks
    runs), `quality`, `cost` (in seconds or examples), `spread` (the ensemble's disagreement) and `diverged`.

    ## Version History
    * v0: first version.
    """

    def __init__(
        self,
        env: str | Path | Sequence[str | Path] | None = None,
        *,
        task: str | Path | Sequence[str | Path] | None = None,
        render_mode: str | None = None,
        **arguments: Unpack[SurrogateArguments],
    ) -> None:
        super().__init__(render_mode)
        settings = SurrogateSettings.of(env_names(env, task), arguments)
        self._made_of(SurrogateRuns(settings, 1), action_space(settings.actions))

    def _made_of(self, runs: Runs[Any], actions: gymnasium.Space[Any]) -> None:
        self._runs = runs
        self.observation_space = observation_space(runs.size)
        self.action_space = actions
        self._course: list[dict[str, Any]] = []
        self._rewards: list[float] = []
        self._going = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: seed of this episode and those after it; None goes on with the generator.
            options: none are known.

        Returns:
            (observation, info).

        Raises:
            ConfigError: an option is not known.
        """
        check_options(options)
        super().reset(seed=seed)
        info = _single(self._runs.begin(_ROW, [self.np_random]))
        self._course, self._rewards, self._going = [dict(info)], [], True
        return self._runs.observe()[0], info

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Train an epoch.

        Args:
            action: an action of the action space.

        Returns:
            (observation, reward, terminated, truncated, info).

        Raises:
            ConfigError: the action is not in the action space.
            ResetNeeded: no episode has begun, or the last one is over.
        """
        if not self._going:
            raise ResetNeeded(
                "step() was called before reset(), or after the episode's end; call reset() for another one"
            )
        step = self._runs.advance(self._checked(action)[None])
        terminated, reward, info = bool(step.terminated[0]), float(step.reward[0]), _single(step.info)
        self._going = not terminated
        self._course.append(dict(info))
        self._rewards.append(reward)
        return self._runs.observe()[0], reward, terminated, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Say which actions stay on the ladders, as maskable algorithms ask for it.

        Returns:
            bool, shape (9,), or (8,) with ``actions="multidiscrete"``: of its first part, then of its second.

        Raises:
            ResetNeeded: no episode has begun.
        """
        if not self._course:
            raise ResetNeeded("action_masks() was called before reset()")
        masks: NDArray[np.bool_] = self._runs.action_masks()[0]
        return masks

    def _checked(self, action: Any) -> NDArray[np.int64]:
        return check_action(self._runs.settings.actions, action)

    def _drawn(self, mode: str) -> str | NDArray[np.uint8] | None:
        if not self._course:
            return None
        from autobatch.envs.surrogate._render import picture, text  # matplotlib, which stepping does without

        dynamics = self._runs.dynamics[self._runs.task[0]]
        return text(dynamics, self._course, self._rewards) if mode == "ansi" else picture(dynamics, self._course)


def _single(info: dict[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: values[0].item() if values.dtype != object else values[0] for name, values in info.items()}
