"""``AutoBatch/Train-v0``: real training, an epoch a step."""

from pathlib import Path
from typing import Any

from autobatch.envs._reward import Reward
from autobatch.envs._spaces import action_space, observation_space
from autobatch.envs.train._episode import Episode, Rules
from autobatch.envs.train._pricing import Pricing
from autobatch.envs.train._setting import Setting, load_setting
from autobatch.envs.train._training import TrainingEnv
from autobatch.policies import ObservationView, Quality


class TrainEnv(TrainingEnv[Rules]):
    """Real training: each step is one epoch, whose batch size and learning rate the agent chooses.

    ## Description
    A network is trained on the images of a task, for as many epochs as the task has. Before every epoch the agent moves
    on the task's ladder of batch sizes and on its learning rates; then the epoch is trained and the network validated.
    The aim is a low validation loss at the end, at little cost. All is as in `autobatch run`: the same engine, data,
    schedule of the learning rate and measuring of C̄ and L, so that a policy that was learned here can drive a run.

    ## Observation Space
    `Box(-1, 1, (size,), float32)`, the flat view that every learned policy sees (`autobatch.policies.ENTRIES`, its
    version `autobatch.policies.SCHEMA`). Every entry is relative to the task: to its ladders, to its best fixed beacon,
    and to where its beacons stood at equal progress. So the view of all tasks has one size. The last entries are masks;
    an entry that is not known is 0.

    | Entries | What they hold |
    | --- | --- |
    | progress | progress, epochs left, milestones of the learning-rate schedule |
    | configuration | rung on the ladder and of the learning rates, what an epoch costs one rung away |
    | score | validation quality, slope, against the best fixed beacon, generalisation gap |
    | position | C̄ and L relative to the region of good beacons and to the nearest beacons, and their slopes |
    | cost | modelled seconds so far and to come, relative to the best fixed beacon's |
    | task | size of the training set, largest batch, length of the ladder |
    | masks | whether the training has begun, a score and a position are known, and so on |

    ## Action Space
    Moves on both ladders, no further than these go.

    | `actions` | Space | Meaning |
    | --- | --- | --- |
    | `"multidiscrete"` | `MultiDiscrete([5, 3])` | batch size -2, -1, 0, +1, +2 rungs; learning rate -1, 0, +1 rungs |
    | `"discrete"` | `Discrete(9)` | batch size -1, 0, +1 rungs (action // 3), learning rate -1, 0, +1 (action % 3) |

    The id `AutoBatch/TrainDiscrete-v0` has the second by default. `action_masks()` says which actions stay on the
    ladders.

    For agents with continuous actions, `autobatch.envs.BoxActions(env)` makes `Box(-1, 1, (2,), float32)` of the first:
    a number is rounded to the nearest move.

    ## Transition Dynamics
    One epoch of training: every example once, in an order that follows from the training's seed, with the batch size
    and the base learning rate that the action leads to; the task's schedule multiplies the rate. A share of the steps
    is measured, which the task's budget bounds. On one kind of device, the same seed and the same actions give the same
    observations, rewards and `info`, bit for bit, unless `cost="measured"`.

    ## Reward
    What the epoch adds to the validation quality, less `cost_weight` times the epoch's share of a whole training's
    cost:

    `reward = quality after - quality before - cost_weight * cost of the epoch / cost of the reference training`

    Quality is 0 before training and for guessing, and 1 for the best fixed beacon's final score; it is linear in the
    logarithm of a loss, or in an error, and clipped to [-1, 1.5]. It is -1 once a training has diverged. Without
    beacons, a fiftieth of what guessing scores has quality 1. The reference training is a whole one at the batch size
    of the best fixed beacon, or without beacons in the middle of the ladder. The rewards of an episode add up to its
    final quality less `cost_weight` times its share of the cost. Test figures play no part.

    | `cost` | Cost of an epoch |
    | --- | --- |
    | `"modelled"` | seconds of the cost table recorded with the beacons (of whatever device), measuring left out |
    | `"examples"` | training examples; the same for every action |
    | `"flops"` | operations of matrix products and convolutions, forward and backward, measuring left out |
    | `"measured"` | seconds by the clock, measuring and validation included, against the reference's modelled seconds |

    ## Starting State
    Before the first epoch. The first action moves from the middle of both ladders. The training's seed, from which
    weights, order and augmentation follow, is drawn from the environment's generator and told in `info["run_seed"]`;
    `reset(options={"run_seed": 100})` chooses it.

    ## Episode End
    Termination after the last epoch, or when the training diverges: a loss is not finite, or the training loss is ten
    times that of guessing. Nothing truncates an episode.

    ## Arguments
    ```python
    import gymnasium
    env = gymnasium.make("autobatch:AutoBatch/Train-v0", env="digits-resnet8", actions="discrete")
    ```

    | Argument | Default | Meaning |
    | --- | --- | --- |
    | `env` | `"digits-resnet8"` | name or path of a task |
    | `task` | | another name for `env`, for tools whose own argument is called that |
    | `actions` | `"multidiscrete"` | action space, see above |
    | `cost` | `"modelled"` | unit of cost, see above |
    | `cost_weight` | `0.05` | quality that a whole training at the reference's cost is worth |
    | `epochs` | `None` | length of a training; `None` for the task's |
    | `device` | `"cpu"` | torch device; `"auto"` for a GPU where there is one |
    | `data_dir` | `None` | where datasets lie or are downloaded to; `None` for `data` in the working directory |
    | `threads` | `None` | CPU threads; `None` for the task's |
    | `measure` | `True` | whether C̄ and L are measured |
    | `trust_code` | `False` | allow the task to name factories to import |
    | `render_mode` | `None` | `"ansi"` or `"rgb_array"`: the plane with beacons and the journey |

    Beacons are used where they are of this very task: data, model, optimizer, schedule and length. With another number
    of `epochs` they are not, and observations and quality are those of a task without beacons; the cost table still
    holds. `env.unwrapped.library_missing` says why there are none. A task without a cost table has this machine timed
    once, when it needs one: a few seconds, kept in the user's cache folder.

    `info` holds `run_seed`, `epoch`, `progress`, `batch_size`, `lr`, `quality`, `cost_total` and `diverged`, and after
    an epoch `cost`, `score` (the validation figure that ranks runs), `c_bar`, `l_cum`, `train_loss`, `validation_loss`
    and `validation_error`. A figure that is not known or not finite is left out.

    ## Version History
    * v0: first version.
    """

    episodes, measured, space_of = Episode, True, staticmethod(action_space)

    def __init__(self, env: str | Path | None = None, **arguments: Any) -> None:
        super().__init__(env, **arguments)
        self.observation_space = observation_space(self._rules.view.size)

    @property
    def library_missing(self) -> str | None:
        """Why observations are masked as without beacons; None where they are not."""
        return self._rules.setting.library_missing

    @staticmethod
    def _made(*, cost: str, cost_weight: float, measure: bool, **setting_of: Any) -> Rules:
        setting = load_setting(needs_costs=measure or cost in {"modelled", "measured"}, **setting_of)
        info = setting.info(measure=measure)
        pricing = Pricing(cost, info, setting)
        reward = Reward(_quality(setting), pricing.reference, cost_weight)
        return Rules(setting, pricing, measure, ObservationView(info, setting.library), reward)


def _quality(setting: Setting) -> Quality:
    if setting.library is not None:
        return Quality.of(setting.library)
    return Quality.of_classes(setting.task.score, setting.data.num_classes)
