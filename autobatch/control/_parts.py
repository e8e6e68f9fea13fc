"""The parts of a training, by name: what hands out batches, trains them and ends a period knows of one another."""

from autobatch.control._account import Account
from autobatch.control._deciding import Decisions
from autobatch.control._ranks import Ranks
from autobatch.control._recorder import Recorder
from autobatch.control.measuring import MeasuringPlan, Period
from autobatch.control.rates import OptimizerRates
from autobatch.control.rewinding import Rewinding
from autobatch.control.run import RunLog
from autobatch.control.settings import Settings
from autobatch.control.steps import Course, Passage
from autobatch.policies import TaskInfo


class Parts:
    """What the ends of periods, the steps and the hand-out of batches go by: the parts of a training.

    Attributes:
        settings: what the controller was told.
        measured: which steps are measured.
        ranks: the processes.
        course: the way through the data.
        task: what the policy knows.
        rates: the optimizer's rates.
        passage: brings batches through the model.
        rewinding: keeps the best weights.
        period: the decision period that is trained.
        account: what is known at the end of the last.
        recorder: tells loggers.
        log: keeps the run.
        decisions: what was decided.
    """

    settings: Settings
    measured: MeasuringPlan
    ranks: Ranks
    course: Course
    task: TaskInfo
    rates: OptimizerRates
    passage: Passage
    rewinding: Rewinding
    period: Period
    account: Account
    recorder: Recorder
    log: RunLog
    decisions: Decisions

    @property
    def advise(self) -> bool:
        """Whether the loop is only advised."""
        return bool(self.settings.advise)
