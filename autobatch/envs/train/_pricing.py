"""What an epoch of real training costs, in the unit that was chosen."""

from torch.utils.flop_counter import FlopCounterMode

from autobatch.envs.train._setting import Setting
from autobatch.envs.train._workshop import carry_out
from autobatch.policies import TaskInfo
from autobatch.policies.view import reference_rung
from autobatch.training import build_task_model
from autobatch.training._losses import mean_loss


class Pricing:
    """Turns epochs into cost.

    Measuring is part of ``"measured"`` seconds only: its share is bounded by the task's budget, and an agent's choices
    hardly change it.

    Args:
        unit: one of ``UNITS``.
        info: the task; with its costs, where the unit is seconds.
        setting: where the task's data and model come from.
    """

    def __init__(self, unit: str, info: TaskInfo, setting: Setting) -> None:
        self._info = info
        self._setting = setting
        self._flops: dict[int, float] = {}
        # Real seconds are compared with modelled ones: a reference that was timed would differ from run to run.
        self._modelled = {"examples": self._examples, "flops": self._operations}.get(unit, self._seconds)
        self._is_measured = unit == "measured"

    @property
    def reference(self) -> float:
        """Cost of a whole training at the batch size of the best fixed beacon, or else in the middle of the ladder."""
        return self.whole(self._info.batch_sizes[reference_rung(self._info, self._setting.library)])

    def whole(self, batch_size: int) -> float:
        """Return the cost of a whole training at one batch size, modelled seconds standing for those by the clock."""
        return self._modelled(batch_size) * self._info.epochs

    def epoch(self, batch_size: int, seconds: float) -> float:
        """Return the cost of an epoch.

        Args:
            batch_size: its global batch size.
            seconds: what it has taken by the clock.

        Returns:
            The cost; it rests on the clock only where the unit is ``"measured"``.
        """
        return seconds if self._is_measured else self._modelled(batch_size)

    def _examples(self, batch_size: int) -> float:
        return float(self._info.train_size)

    def _seconds(self, batch_size: int) -> float:
        assert self._info.costs is not None
        return self._info.costs.whole_epochs(batch_size, self._info.train_size)

    def _operations(self, batch_size: int) -> float:
        if batch_size not in self._flops:
            self._flops[batch_size] = batch_flops(self._setting, batch_size) / batch_size * self._info.train_size
        return self._flops[batch_size]


def batch_flops(setting: Setting, batch_size: int) -> float:
    """Count the floating-point operations of one batch, forward and backward.

    Args:
        setting: where the task's data and model come from.
        batch_size: examples in the batch.

    Returns:
        Operations of matrix products and convolutions, the only ones that ``torch.utils.flop_counter`` knows.
    """
    return carry_out(setting.device, setting.task.threads, lambda: _count(setting, batch_size))


def _count(setting: Setting, batch_size: int) -> float:
    data = setting.data
    model = build_task_model(setting.task, data, seed=0, trust_code=setting.trust_code).to(setting.device).train()
    inputs = data.network_inputs(data.train_inputs[:batch_size])
    with FlopCounterMode(display=False) as counter:
        loss = mean_loss(model(inputs), data.train_labels[:batch_size])
        loss.backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops())
