"""``AutoBatch/Train-v1``: real training of a task that nothing is known of, its schedule and end the agent's."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from autobatch._errors import ConfigError, near_names
from autobatch.beacons import chance
from autobatch.envs._reward import WEIGHT, LogGain, check_weight
from autobatch.envs._spaces import check_flags, observation_space
from autobatch.envs.steered._actions import steered_space
from autobatch.envs.steered._episode import SteeredEpisode, SteeredRules
from autobatch.envs.train import Pricing, TrainingEnv, load_setting
from autobatch.policies.general import FORK_ENTRIES, CourseView
from autobatch.policies.view import EpochCosts

STARTS = ("middle", "scouts")


class SteeredTrainEnv(TrainingEnv[SteeredRules]):
    """Real training of a task without a library: each step is an epoch; size, rate, its fall and the end are chosen.

    ## Description
    As `AutoBatch/Train-v0`, with the schedule in the agent's hands and no library: the rate is constant until the agent
    has it fall, falls along a line to nothing, and then training ends. What the agent sees is relative to the
    training's own first epochs, and to scouts where these went first, so that what is learned on one task can be asked
    on any.

    ## Observation Space
    `Box(-1, 1, (size,), float32)`, schema 2 (`autobatch.policies.general.ENTRIES`). The last entries are masks; an
    entry that is not known is 0.

    | Entries | What they hold |
    | --- | --- |
    | time | progress, epochs left, how far the rate has fallen, how far the planned end is |
    | configuration | size, rate and noise relative to the start, rungs above and below |
    | losses | relative to guessing, their slopes, scatter, and lowest so far; the generalisation gap |
    | cost | so far, relative to the whole task as it began; one rung away; at the largest batch |
    | task | training examples, steps of an epoch, the loss of guessing |
    | scouts | by how much the best was better, whether its rate is at the end of those tried, its loss |
    | rule | what the rule of `steer` would do from here |
    | masks | whether the rate falls, figures are known, scouts have gone, and so on |
    | forks | with `forks=True` only: the last one's difference and its error, how long ago, whether one was taken |

    ## Action Space
    `actions="multidiscrete"` is `MultiDiscrete([5, 3, 2, 2])`:

    | Part | Choices |
    | --- | --- |
    | batch size | -2, -1, 0, +1, +2 rungs of the ladder |
    | rate | halved, kept, doubled |
    | fall | 1: the rate begins to fall |
    | stop | 1: training ends here |

    `actions="discrete"` is `Discrete(11)`: batch size -1, 0, +1 rungs (action // 3) by rate halved, kept, doubled
    (action % 3); 9: the rate begins to fall; 10: stop.

    `forks=True` adds a part to the first, `MultiDiscrete([5, 3, 2, 2, 2])`, whose 1 has the others tried, and nine
    numbers to the second, `Discrete(20)`: 11 to 19 try what 0 to 8 do. See Forks below.

    The rate stays between the lowest and the highest of the task's. Once it is told to fall, it falls for about three
    times as long as training took before, as the rule's does: exactly as long where the rule would begin, and four
    epochs later at the end for each that it begins later, at most to the end of the task. Told again, it falls to
    nothing within the coming epoch. A batch that is larger than when the fall began does part of the fall: the rate is
    higher by the square root of the ratio (Seesaw). Before the first epoch, stop does nothing. The id
    `AutoBatch/TrainDiscrete-v1` has `"discrete"` by default. `action_masks()` says which actions change something.

    ## Transition Dynamics
    One epoch of training, as in `AutoBatch/Train-v0`; after stop, none. On one kind of device, the same seed and the
    same actions give the same observations, rewards and `info`, bit for bit, unless `cost="measured"`.

    **Forks.** Where an action that would change the coming epoch is to be tried, that epoch is trained twice from the
    state of now, on the same order of the data: under what is in force, and under what the action says. The latter goes
    on where its validation loss, of weights averaged over the second half of the epoch, is not higher by 2 %, by the
    one-sided paired test at 95 % that `steer` forks by; otherwise the training is where it would be had nothing been
    tried. Cost and seconds of both count. What is tried is not taken where it diverges or does not fit into memory, and
    stop is never tried.

    ## Reward
    `reward = quality after - quality before - cost_weight * cost of the step / cost of the whole task`

    Quality is the natural logarithm of what guessing scores over the validation score: 0 before training, 0.1 higher
    where the loss is 10 % lower, at least -1, and -1 once a training has diverged. The whole task is that at the batch
    size which the training began with. So with the default `cost_weight` a whole training is worth 5 % of the loss. The
    rewards of an episode add up to its final quality less its cost. Test figures play no part.

    ## Starting State
    Before the first epoch, where the rule of `steer` begins without scouts: batch size 32 or the rung next to it, the
    middle rate. With `start="scouts"` up to four short trainings go first, as those of `steer` do, and the agent goes
    on from the chosen one's end; they are charged to the first step. `info["run_seed"]` and
    `reset(options={"run_seed": 100})` are as in v0.

    ## Episode End
    Termination where the agent stops, once a falling rate has come to nothing, after the last epoch, and when the
    training diverges. Nothing truncates an episode.

    ## Arguments
    ```python
    import gymnasium
    env = gymnasium.make("autobatch:AutoBatch/Train-v1", env="digits-mlp", epochs=12, start="scouts")
    ```

    | Argument | Default | Meaning |
    | --- | --- | --- |
    | `env` | `"digits-resnet8"` | name or path of a task; it needs no beacons |
    | `task` | | another name for `env`, for tools whose own argument is called that |
    | `actions` | `"multidiscrete"` | action space, see above |
    | `cost` | `"modelled"` | unit of cost, as in v0 |
    | `cost_weight` | `0.05` | share of the final loss that a whole training's cost is worth |
    | `start` | `"middle"` | `"middle"` or `"scouts"`, see above |
    | `forks` | `False` | whether actions may be tried, see above |
    | `epochs` | `None` | length of a training; `None` for the task's |
    | `device` | `"cpu"` | torch device; `"auto"` for a GPU where there is one |
    | `data_dir` | `None` | where datasets lie or are downloaded to; `None` for `data` in the working directory |
    | `threads` | `None` | CPU threads; `None` for the task's |
    | `measure` | `False` | whether C̄ and L are measured, for pictures; observations hold neither |
    | `trust_code` | `False` | allow the task to name factories to import |
    | `render_mode` | `None` | `"ansi"` or `"rgb_array"`: the plane with the journey |

    Beacons are never used; a cost table that was recorded with them is, otherwise this machine is timed once, which
    takes a few seconds. A task that keeps its schedule (`schedule: {keep: true}`) is refused.

    `info` holds `run_seed`, `epoch`, `progress`, `batch_size`, `lr` (before the fall), `quality`, `cost_total`,
    `stopped` and `diverged`, and after an epoch `factor` (the fall's), `cost`, `score`, `train_loss`, `validation_loss`
    and `validation_error`. With `forks=True` also `forked` (whether the step has tried something) and, 0 where it has
    not, `fork_taken`, `fork_loss` (averaged weights, under what was in force), `fork_difference` (by how much that of
    what was tried is higher), `fork_standard_error`, and `fork_cost` and `fork_steps` of the epoch thrown away.

    ## Version History
    * v1: schema 2, the rate's fall, stop, scouts; no library in observations and rewards. v0 stays as it is.
    """

    episodes, measured, space_of = SteeredEpisode, False, staticmethod(steered_space)
    further = ("start", "forks")

    def __init__(
        self,
        env: str | Path | None = None,
        *,
        start: str = "middle",
        forks: bool = False,
        cost_weight: float = WEIGHT,
        **arguments: Any,
    ) -> None:
        check_weight(cost_weight)
        check_flags(forks=forks)
        if start not in STARTS:
            raise ConfigError(f"start: no start is called {start!r}; {near_names(str(start), STARTS)}")
        super().__init__(env, start=start, forks=forks, cost_weight=cost_weight, **arguments)
        self.action_space = steered_space(self._actions, forks=forks)
        self.observation_space = observation_space(CourseView.size + (len(FORK_ENTRIES) if forks else 0))

    @staticmethod
    def _made(
        *,
        cost: str,
        cost_weight: float,
        measure: bool,
        start: str = "middle",
        forks: bool = False,
        **setting_of: Any,
    ) -> SteeredRules:
        found = load_setting(needs_costs=measure or cost in {"modelled", "measured"}, **setting_of)
        if found.task.schedule.keep:
            raise ConfigError(
                f"env: task '{found.task.name}' keeps its schedule (schedule.keep), and here it is the agent's: choose "
                "another task, or AutoBatch/Train-v0"
            )
        setting = replace(found, library=None, library_missing="AutoBatch/Train-v1 uses no beacons")
        info = replace(setting.info(measure=measure), guessing=chance("train_loss", setting.data.num_classes))
        pricing = Pricing(cost, info, setting)
        # By the clock nothing is known before; then, and of unknown costs, the table or examples have to do.
        seconds = EpochCosts(info, None).by_rung
        gain = LogGain(math.log(chance(info.score, setting.data.num_classes)))
        return SteeredRules(setting, pricing, measure, info, gain, cost_weight, seconds, start == "scouts", forks)
