"""How batches are made: an epoch in stretches, and a global batch as micro-batch x accumulation x ranks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from autobatch._errors import CheckpointError, ConfigError
from autobatch._ranges import check_number, names_arguments
from autobatch.control.measuring import stretches


@names_arguments
@dataclass(frozen=True)
class BatchPlan:
    """How batches are made: where they end for a decision, and how a rank's share of one goes through the model.

    Attributes:
        micro_batch: most examples of a forward pass. ``"auto"`` finds the largest that fits; a number starts from
            there. Either way, running out of memory halves it on all ranks and the same batch is trained again. None:
            the whole share at once, and running out of memory is an error as ever.
        memory_limit: bytes that a forward pass may save for its backward pass; more counts as running out of memory.
            For CPUs, which do not say when they run out.
        bn_batch: examples over which BatchNorm takes its statistics, whatever the batch size (ghost batches: Hoffer et
            al., "Train longer, generalize better", 2017, section 5); each is a micro-batch.
        accumulation: batches that your own loop, or a framework's, accumulates before a step of the optimizer.
        decide_every: examples between two decisions, or a share of an epoch in (0, 1); None decides once an epoch.
            Batches do not reach across decisions.

    Raises:
        ConfigError: a value cannot be used, or two do not go together.
    """

    micro_batch: int | Literal["auto"] | None = None
    memory_limit: int | None = None
    bn_batch: int | None = None
    accumulation: int = 1
    decide_every: float | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        numbers = {
            "micro_batch": 1 if self.micro_batch in {"auto", None} else self.micro_batch,
            "memory_limit": 1 if self.memory_limit is None else self.memory_limit,
            "bn_batch": 1 if self.bn_batch is None else self.bn_batch,
            "accumulation": self.accumulation,
        }
        for name, value in numbers.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                expected = "'auto' or a positive integer" if name == "micro_batch" else "a positive integer"
                raise ConfigError(f"BatchPlan: {name}: expected {expected}, got {value!r}")
        if self.memory_limit is not None and not self.guarded:
            raise ConfigError("BatchPlan: memory_limit needs micro_batch='auto' or a number")
        if self.accumulation > 1 and self.splits:
            raise ConfigError(
                "BatchPlan: accumulation says that the loop accumulates by itself; micro_batch and bn_batch do not go "
                "with it"
            )
        if self.decide_every is not None:
            self._check_every(self.decide_every)

    @staticmethod
    def _check_every(every: float) -> None:
        number = math.nan if isinstance(every, bool) else check_number(every, "BatchPlan: decide_every")
        if not 0 < number < math.inf or (number >= 1 and number % 1):
            raise ConfigError(
                "BatchPlan: decide_every: expected a number of examples or a share of an epoch in (0, 1), got "
                f"{every!r}"
            )

    def periods(self, dataset_size: int) -> int:
        """Return how many decision periods an epoch has.

        Args:
            dataset_size: examples in one epoch.

        Returns:
            Periods, at least one.
        """
        if self.decide_every is None:
            return 1
        examples = self.decide_every * dataset_size if self.decide_every < 1 else self.decide_every
        return min(dataset_size, max(1, round(dataset_size / examples)))

    @property
    def guarded(self) -> bool:
        """Whether running out of memory halves the micro-batch instead of ending the training."""
        return self.micro_batch is not None

    @property
    def splits(self) -> bool:
        """Whether batches may be split, which takes a loop over ``controller.micro_batches(batch)``."""
        return self.guarded or self.bn_batch is not None


def check_divisible(batch_sizes: Sequence[int], ranks: int, accumulation: int) -> None:
    """Refuse a ladder whose sizes do not divide among ranks and accumulated parts.

    Args:
        batch_sizes: the ladder.
        ranks: processes.
        accumulation: parts that the loop accumulates.

    Raises:
        ConfigError: a size is no multiple of ranks x accumulation, or the smallest leaves parts of a last batch empty.
    """
    parts = ranks * accumulation
    if parts == 1:
        return
    wrong = [size for size in batch_sizes if size % parts or size < 2 * parts]
    if wrong:
        raise ConfigError(
            f"batch_sizes: {ranks} ranks x {accumulation} accumulated parts need multiples of {parts}, from "
            f"{2 * parts} on (the last batch of an epoch has at least half the size), got {wrong}"
        )


class MicroBatches:
    """Finds the largest micro-batch that fits, by what has fitted and what has not.

    Args:
        plan: the plan.
        least: examples that a micro-batch has at least, where the share has as many.

    Raises:
        ConfigError: the plan asks for fewer.
    """

    def __init__(self, plan: BatchPlan, least: int = 1) -> None:
        given = {"micro_batch": plan.micro_batch, "bn_batch": plan.bn_batch}
        asked = {name: size for name, size in given.items() if isinstance(size, int)}
        for name, size in asked.items():
            if size < least:
                raise ConfigError(
                    f"BatchPlan: {name}={size}: the model has BatchNorm, which has no statistics of a single example; "
                    f"expected at least {least}"
                )
        self.least = least
        self._cap: float = min(asked.values(), default=math.inf)
        self._fits = 0
        self._fails: float = math.inf
        self._now: float = math.inf

    def begin(self) -> None:
        """Begin a batch: whatever is not known to fail may be tried."""
        self._now = math.inf

    def sizes(self, share: int) -> list[int]:
        """Return the micro-batches of a share: as few as may fit, as equal as they can be.

        Where something has fitted and something else has not, half-way between the two is tried. None is smaller than
        the least there may be, though one may then be larger than it should.

        Args:
            share: examples of one rank's share of a batch.

        Returns:
            Their sizes.
        """
        most = int(min(self._cap, self._fails - 1, self._now, share))
        parts = math.ceil(share / most)
        if 0 < self._fits < most < self._fails < math.inf:
            parts = (parts + math.ceil(share / self._fits)) // 2
        parts = min(parts, max(1, share // self.least))
        return [stop - start for start, stop in stretches(share, parts)]

    def proven(self, size: int) -> bool:
        """Return whether a micro-batch at least as large has fitted."""
        return size <= self._fits

    def fitted(self, size: int) -> None:
        """Take down that a micro-batch went through."""
        self._fits, self._now = max(self._fits, size), math.inf

    def failed(self, size: int) -> None:
        """Take down that a micro-batch ran out of memory: for this batch, half of it is tried, or what has fitted."""
        if self._fits >= size:  # what fitted once does not any more
            self._fits = 0
        self._fails = min(self._fails, size)
        self._now = max(size // 2, self._fits)

    def state_dict(self) -> dict[str, Any]:
        """Return what is known, as JSON-able values."""
        return {"fits": self._fits, "fails": None if math.isinf(self._fails) else self._fails}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        fits, fails = int(state["fits"]), math.inf if state["fails"] is None else int(state["fails"])
        if not 0 <= fits < fails or fails < 2:
            raise CheckpointError(f"controller state is damaged: micro-batches of {fits} fit, those of {fails} do not")
        self._fits, self._fails = fits, fails
