"""Scouts of somebody's own loop: a few short trainings, and which configuration they say to start with."""

import contextlib
import gc
import logging
import math
import re
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NoReturn, TypeVar

import torch

from autobatch._errors import AutoBatchError, ConfigError, OutputError, near_names
from autobatch._files import alone_in
from autobatch._ranges import check_number, check_path, check_several, check_whole
from autobatch.beacons._info import SCORES
from autobatch.control.rates import are_scaled, check_rate
from autobatch.control.settings import AROUND
from autobatch.control.settings._own_task import check_scouts_loop
from autobatch.policies import Scout, ScoutChoice, ScoutPlan, ScoutReport, SteerParameters, SteerPolicy, TaskInfo
from autobatch.policies._wording import configuration, count, percent
from autobatch.policies.steer import DID_NOT_FIT, MOST, TimedSizes, sizes_to_time, within_memory
from autobatch.training.own._cell import Train
from autobatch.training.own._fingerprint import code_fingerprint
from autobatch.training.own._options import grouped, words_before, words_of
from autobatch.training.own._scout_cell import NothingToScoutError, ScoutCell
from autobatch.training.own._scout_files import KeptScout, ScoutFolder
from autobatch.training.own._timing_cell import TimingCell

NEARLY_WHOLE = 0.8
"""Share of their rates from which scouts are said to have trained at them."""

_Number = TypeVar("_Number", int, float)

_LOGGER = logging.getLogger("autobatch")

_OURS = frozenset({"model", "optimizer", "policy", "library", "scouts", "advise", "loggers"})
_OURS_WITHIN = {"rates": ("learning_rates",), "task": ("score",)}


def scout(
    train: Train,
    *,
    batch_sizes: Sequence[int] | None = None,
    learning_rates: Sequence[float] | None = None,
    scouts: int | Literal["auto"] = "auto",
    scout_share: float = 0.05,
    seed: int = 0,
    score: Literal["validation_loss", "validation_error"] | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> ScoutReport:
    """Find out by a few short trainings of your own loop which batch size and learning rate to start with.

        def train(controller):
            torch.manual_seed(controller.seed)
            model = Net()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            controller.attach(model, optimizer, dataset_size=len(train_set), epochs=20)
            loader = DataLoader(train_set, batch_sampler=controller.batch_sampler)
            for epoch in controller.each_epoch():
                for x, y in loader:
                    with controller.step() as step:
                        step.backward(F.cross_entropy(model(x), y))
                    optimizer.step()
                    optimizer.zero_grad()
                controller.end_epoch(val_loss=validate(model))
            return model

        report = autobatch.scout(train)
        print(report)
        model = train(AutoBatchController(policy="beacon-follow", scouts=report, rates="steered"))

    Each scout is a call of ``train`` with a controller that holds one configuration and ends the training after a
    twentieth of its length, up to a tenth until it has taken 60 steps: no more batches come then, and
    ``controller.finished`` is true. Where a training has few epochs and many steps, that is within its first one. A
    scout whose training loss is far above another's, or that diverges, ends earlier. The first has the middle one of
    the rates, the others go to where the loss falls; where steps may be what is missing, one or two more train with
    half the batch and a quarter of it, unless steps are many (``docs/concepts/steer.md``).
    They are compared by the mean of the losses that ``step.backward`` gets, or by ``end_epoch(train_loss=...)``; where
    there is neither, by the validation figure.

    A finished scout is kept in ``out``, and is not trained again by the same call. Where anything that can be seen has
    changed since, all are trained anew, with a warning in the log: arguments, the code of your loop and of what it
    calls of yours, tensors, arrays and ``TensorDataset``s that it reads by name, the model's and the optimizer's facts
    when a scout attaches. Other data that have changed cannot be seen.

    Where ``train`` raises, never attaches the controller or returns too early, that scout is left out, a
    ``UserWarning`` says why, and the others go on. Where none is left the report says so, and the training starts in
    the middle of what may be chosen; where all have diverged, at the lowest rate.

    Where the training sees so many examples that larger batches come in question, two calls come before: the first ends
    as it attaches the controller, the second times a few steps of two sizes. Where an example takes hardly longer with
    the smaller one, scouts train with that.

    Where ``train`` returns a mapping with ``"state"``, such as ``{"model": model.state_dict(), "optimizer":
    optimizer.state_dict(), "controller": controller.state_dict()}``, the winner's is kept as ``report.state``: a loop
    that loads it goes on with the winner, bit-identically to one that began with its configuration.

    Args:
        train: the loop. It is called with a controller without a model, and must attach it and train until
            ``controller.finished``. It should seed the generators it uses with ``controller.seed``.
        batch_sizes: the ladder to choose from; by default powers of two from 8 to 128, to as many as 1,024 where the
            training sees many examples, and to a quarter of the data.
        learning_rates: base learning rates to choose from, those of the optimizer's first parameter group; by default
            those around the one that your loop gives it, a third of it, three times as much and so on.
        scouts: learning rates that are tried at most; ``"auto"`` for three, and for five where none are named and the
            loss still falls; 0 for no scouts. A short training has fewer. One or two with smaller batches may follow.
        scout_share: share of the training that each takes; one decision period at least, and up to a tenth until it
            has taken 60 steps.
        seed: the seed that they train with.
        score: the validation figure that is told, and that counts where no training loss is known; by default the loss
            where all scouts have it, else the error.
        out: folder in which the scouts are kept; by default one of the loop's own in ``runs/scouts``.
        options: further arguments of ``AutoBatchController`` that the loop needs, such as ``rates="steered"``,
            ``measuring`` or ``plan``.

    Returns:
        What they came to; printing it gives sentences.

    Raises:
        ConfigError: an argument cannot be used, or the loop is another one in each scout.
        CheckpointError: a file in ``out`` is damaged.
        OutputError: ``out`` cannot be written.
    """
    if not callable(train):
        raise ConfigError(f"train: expected a function of a controller, got {train!r}")
    arguments = grouped(options, ours=_OURS, within=_OURS_WITHIN, who="scout", sets="scouting")
    ladder, rates = _ladder(batch_sizes), _rates(learning_rates)
    if score not in {None, *SCORES}:
        raise ConfigError(f"score={score!r}: {near_names(str(score), SCORES)}")
    if scouts != "auto" and (isinstance(scouts, bool) or not isinstance(scouts, int) or not 0 <= scouts <= 16):
        raise ConfigError(f"scouts: expected 'auto' or a whole number from 0 to 16, got {scouts!r}")
    if not 0.0 < check_number(scout_share, "scout_share") <= 0.25:
        raise ConfigError(f"scout_share: expected a share in (0, 0.25], got {scout_share!r}")
    out = Path("runs/scouts") / _loop_name(train) if out is None else check_path(out, "out")
    scouting = _Scouting(
        train,
        SteerParameters(scouts=MOST if scouts == "auto" else scouts, scout_share=scout_share),
        out=out,
        score=score,
        arguments={
            **arguments,
            "batch_sizes": ladder,
            "rates": replace(arguments["rates"], learning_rates=rates),
            "task": replace(arguments["task"], name=arguments["task"].name or getattr(train, "__name__", "train")),
            "seed": seed,
        },
    )
    with alone_in(out, busy="another process is scouting here; wait for it, or choose another folder"):
        return scouting.carry_out()


def _ladder(given: Sequence[int] | None) -> tuple[int, ...] | None:
    """Return the batch sizes that are named, ascending; None for those of the training's length."""
    if given is None:
        return None
    return _once((check_whole(size, "batch_sizes") for size in _values(given, "batch_sizes")), "batch_sizes")


def _rates(given: Sequence[float] | None) -> tuple[float, ...] | str:
    """Return the learning rates that are named, ascending, or that they are those around the optimizer's own."""
    what = "learning_rates"
    if given is None:
        return AROUND
    rates = _once((check_number(rate, what) for rate in _values(given, what)), what)
    for rate in rates:
        check_rate(rate, what)
    return rates


def _values(given: Any, what: str) -> Sequence[Any]:
    check_several(given, what)
    values = tuple(given)
    if not values:
        raise ConfigError(f"{what}: expected at least one value")
    return values


def _once(given: Iterable[_Number], what: str) -> tuple[_Number, ...]:
    values = sorted(given)
    if len(set(values)) < len(values):
        raise ConfigError(f"{what}: expected each value once, got {values}")
    return tuple(values)


def _loop_name(train: Train) -> str:
    """Return a folder's name for a loop: where it is from, and what it is called."""
    own = train
    while isinstance(own, partial):
        own = own.func
    module = getattr(own, "__module__", None) or "loop"
    if module == "__main__" or module.startswith("autobatch."):
        module = Path(sys.argv[0]).stem or "main"
    name = getattr(own, "__qualname__", type(own).__qualname__)
    return re.sub(r"[^\w.-]+", "-", f"{module}.{name}").strip("-.")


class _Scouting:
    """The scouts of one loop, one after another."""

    def __init__(
        self, train: Train, parameters: SteerParameters, *, out: Path, score: str | None, arguments: Mapping[str, Any]
    ) -> None:
        self._train = train
        self._policy = SteerPolicy(parameters)
        self._out = out
        self._folder = ScoutFolder(out)
        self._score = score
        self._arguments = arguments
        self._kept: list[KeptScout] = []
        self._made: list[KeptScout | tuple[int, float]] = []  # in order; of one that came to nothing what it was
        self._failed: dict[str, str] = {}
        self._failed_seconds = 0.0
        self._untrained = 0
        self._too_large: set[int] = set()
        self._plan: ScoutPlan | None = None
        self._task: TaskInfo | None = None
        self._loop: Mapping[str, Any] = {}
        self._timed: TimedSizes | None = None
        self._untimed: TaskInfo | None = None
        self._earlier = self._called = self._on_accelerator = False
        self._code = code_fingerprint(train)

    def carry_out(self) -> ScoutReport:
        """Train those that are missing, and choose."""
        self._remember()
        try:
            return self._carried_out()
        except _StaleError as error:
            self._forget(str(error))
            return self._carried_out()

    def _carried_out(self) -> ScoutReport:
        place = 0
        while (self._plan is None and place == 0) or (self._plan and place < len(self._plan.configurations)):
            kept = self._found(place)
            if kept is None:
                begun = time.perf_counter()
                kept = self._trained(place)
                if self._untimed is not None:
                    self._time(self._untimed, time.perf_counter() - begun)
                    kept = self._trained(place)
            else:
                _LOGGER.warning(
                    "scout %s is of an earlier call and not trained again: nothing that can be seen has changed; if "
                    "your data have, delete %s",
                    configuration(kept.batch_size, kept.lr),
                    self._out,
                )
            if self._plan is not None and self._plan.configurations:
                self._made.append(self._plan.configurations[place] if kept is None else kept)
                self._kept += [] if kept is None else [kept]
                if self._untrained > 1 and not self._kept:  # nor will it at another rate
                    break
                assert self._task is not None
                self._plan_of(self._task)
            place += 1
        if not self._called and self._arguments["rates"].around:
            self._look()
        if self._failed:
            told = "".join(f"\n  {name}: {text.splitlines()[-1]}" for name, text in self._failed.items())
            warnings.warn(f"{count(len(self._failed), 'scout')} came to nothing:{told}", stacklevel=4)
        return self._report()

    def _look(self) -> None:
        """Have the loop tell its optimizer's rate, where every scout is of an earlier call."""
        place = sys.maxsize  # there is no such scout, which ends the loop as it attaches the controller
        cell = ScoutCell(
            place, plan=self._plan_of, check=self._check, others=(), arguments=self._arguments, code=self._code
        )
        with contextlib.suppress(NothingToScoutError):
            cell.call(self._train)

    def _remember(self) -> None:
        """Take the task from scouts of this loop that are kept already, so that they need not be trained to know it."""
        mine = words_of(self._arguments)
        found = self._folder.all()
        for kept in found:
            theirs = words_before(kept.options)
            differing = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
            if differing or kept.code != self._code:
                code = "another code of the loop, or other values that it reads"
                self._forget(f"another {', '.join(map(repr, differing))}" if differing else code)
                return
            if self._decided_between_epochs(kept):
                self._forget("decisions between epochs alone, not within them")
                return
        self._timed = (self._folder.timed() or TimedSizes()) if found else None
        for kept in found:
            self._earlier, self._loop = True, kept.loop
            self._plan_of(_task(self._arguments, kept))

    def _decided_between_epochs(self, kept: KeptScout) -> bool:
        """Return whether a kept scout's loop, of an earlier version, had no decisions within epochs that now has."""
        loop = kept.loop
        if not loop or loop["decide_every"] is not None:
            return False
        sizes = kept.batch_sizes or self._arguments["batch_sizes"]
        return self._policy.periods_of_epoch(sizes, loop["dataset_size"], loop["epochs"]) > 1

    def _forget(self, why: str) -> None:
        """Let go of the scouts of an earlier call, which were of something else."""
        _LOGGER.warning("%s: its scouts are of an earlier call with %s; they are trained anew", self._out, why)
        self._folder.clear()
        self._kept, self._made, self._failed, self._failed_seconds, self._untrained = [], [], {}, 0.0, 0
        self._too_large = set()
        self._plan = self._task = self._timed = None
        self._loop, self._earlier = {}, False

    def _plan_of(self, task: TaskInfo) -> ScoutPlan:
        if task.around and self._task is not None:
            self._check_same(task)
        score = self._score or _score_of(self._kept)
        self._task = self._as_timed(replace(task, guessing=_guessing(self._kept), score=score))
        self._policy.reset(self._task, None)
        plan = self._policy.scouts(self._done())
        if self._timed is None and plan.configurations and sizes_to_time(task):
            self._untimed, self._task = task, None
            raise NothingToScoutError("what an example takes has to be known before")
        self._plan = plan
        return plan

    def _as_timed(self, task: TaskInfo) -> TaskInfo:
        return replace(task, example_seconds=dict(self._timed.seconds) if self._timed else {})

    def _check_same(self, task: TaskInfo) -> None:
        """Refuse a loop whose rates and sizes to choose from are others than those of the scouts before."""
        assert self._task is not None
        for what, theirs, ours in (
            ("learning rates around the optimizer's own", self._task.learning_rates, task.learning_rates),
            ("batch sizes of the training's length", self._task.batch_sizes, task.batch_sizes),
            ("decisions", (self._task.epochs,), (task.epochs,)),
            ("examples between two decisions", (self._task.train_size,), (task.train_size,)),
        ):
            if theirs != ours:
                was, now = (", ".join(f"{value:g}" for value in values) for values in (theirs, ours))
                self._refuse(f"{what}: {was} there, {now} here")

    def _done(self) -> list[Scout]:
        """Return what the scouts so far came to, those that came to nothing among them."""
        score = self._score or _score_of(self._kept)
        return [one.scout(score) if isinstance(one, KeptScout) else self._failed_scout(*one) for one in self._made]

    def _failed_scout(self, batch_size: int, lr: float) -> Scout:
        return Scout(batch_size, lr, (), (), DID_NOT_FIT if batch_size in self._too_large else None)

    def _check(self, loop: Mapping[str, Any]) -> None:
        try:
            check_scouts_loop(self._loop, loop)
        except ConfigError as error:
            self._refuse(str(error))
        self._loop = loop

    def _refuse(self, why: str) -> NoReturn:
        """Refuse a loop that is another than that of the scouts before."""
        if self._earlier:
            raise _StaleError(f"another loop ({why})")
        raise _OtherLoopError(f"{self._out}: {why}")

    def _found(self, place: int) -> KeptScout | None:
        if self._plan is None:
            return None
        kept = self._folder.read(*self._plan.configurations[place], int(self._arguments["seed"]))
        return kept if kept is not None and kept.length == self._plan.epochs else None

    def _trained(self, place: int) -> KeptScout | None:
        """Train a scout, and keep it unless its loop has failed."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise ConfigError("scout() trains in one process; call it before torch.distributed is initialised")
        if self._on_accelerator:
            gc.collect()  # a controller and its hooks refer to one another: the last scout's memory waits for this
        others = [kept.scout("validation_loss") for kept in self._kept]
        cell = ScoutCell(
            place, plan=self._plan_of, check=self._check, others=others, arguments=self._arguments, code=self._code
        )
        self._called = True
        returned: object = None
        failure: str | None = None
        try:
            returned = cell.call(self._train)
            cell.check_end()
        except NothingToScoutError:
            return None
        except (_OtherLoopError, _StaleError, OutputError):
            raise
        except AutoBatchError as error:
            if self._untimed is not None:  # the loop has caught the error that said so
                return None
            if isinstance(error, ConfigError) and cell.task is None:  # so would every scout, and the training
                raise
            failure = str(error)
        finally:
            self._on_accelerator = cell.on_accelerator
        name = configuration(*cell.configuration) if cell.task is not None else f"scout {place + 1}"
        told = self._arguments["batch_sizes"] and not self._arguments["rates"].around
        if failure is not None and self._task is None and not told:
            raise ConfigError(f"train never came to controller.attach(...), which says what to choose from: {failure}")
        if failure is not None:
            _LOGGER.warning("%s: %s", f"scout {name}" if cell.task is not None else name, failure)
            if not cell.over:
                self._failed[name] = failure
                self._failed_seconds += cell.seconds
                self._too_large |= cell.too_large
                self._untrained += not (cell.has_trained or cell.too_large)
                return None
            # Its figures were in before: what its loop does after the end does not cost the scout.
            warnings.warn(f"scout {name}: after the scout's end: {failure.splitlines()[-1]}", stacklevel=5)
        kept = cell.kept()
        state = cell.state(returned)
        if state is None and cell.whole and isinstance(returned, Mapping) and returned.get("state") is not None:
            _LOGGER.info(
                "scout %s: its state is not kept: it ended within an epoch, and batches were fetched ahead, the loop "
                "has gone on since, or the state holds more than model, optimizer and controller",
                name,
            )
        self._folder.write(kept, state)
        _LOGGER.info(
            "scout %s: %s", name, kept.ended or f"{kept.scout('validation_loss').trained}, {kept.seconds:.3g} s"
        )
        return kept

    def _time(self, task: TaskInfo, before: float) -> None:
        """Find out what examples take in the loop, after a call of so many seconds that has said that it is needed."""
        gc.collect()  # as before a scout
        timed = TimingCell(task, self._arguments).timed(self._train)
        self._timed, self._untimed = replace(timed, took=timed.took + before), None
        self._folder.write_timed(self._timed)
        each = ", ".join(f"{seconds:.3g} s at s{size}" for size, seconds in self._timed.seconds)
        _LOGGER.info("an example takes %s", each or "a time that could not be found out")

    def _report(self) -> ScoutReport:
        arguments = self._arguments
        score = self._score or _score_of(self._kept)
        trained = tuple(kept.trained(score) for kept in self._kept)
        scouts: list[Scout] = [one.scout for one in trained]
        task = within_memory(self._task or self._as_timed(_task(arguments, None)), self._done())
        self._policy.reset(task, None)
        if scouts:
            choice = self._policy.take(scouts)
        else:  # nothing is known of the task, not even that a rate is too high
            middle = configuration(*self._policy.start)
            why = self._plan.note if self._plan is not None and not self._failed else ""
            why = why or f"no scout came to its end: {middle} is the middle of what may be chosen"
            choice = ScoutChoice(None, why)
        start = self._policy.start
        state = None
        for place, kept in enumerate(self._kept):
            if place == choice.scout:
                state = self._folder.state(kept)
            else:
                self._folder.drop_state(kept)
        return ScoutReport(
            choice=choice,
            batch_size=start[0],
            lr=start[1],
            trained=trained,
            failed=dict(self._failed),
            failed_seconds=self._failed_seconds,
            batch_sizes=task.batch_sizes,
            learning_rates=task.learning_rates,
            seed=arguments["seed"],
            epochs=task.epochs if self._task is not None else 0,
            train_size=task.train_size if self._task is not None else 0,
            loop=dict(self._loop),
            state=state,
            note="; ".join(filter(None, (self._plan.note if self._plan is not None else "", self._told_schedule()))),
            guessing=task.guessing,
            periods=task.periods,
            own_rate=task.learning_rates[len(task.learning_rates) // 2] if task.around else None,
            timed=self._timed or TimedSizes(),
        )

    def _told_schedule(self) -> str:
        """Say that the loop's own schedule held the rates far below those that are compared, where it did."""
        applied = [kept.applied for kept in self._kept if kept.ended is None]
        told = []
        if applied and max(applied) <= NEARLY_WHOLE:
            told.append(
                f"a schedule of your loop held the rate at {percent(fmean(applied))} of these while the scouts "
                "trained: what looks best so may be too high once it has risen, so scout without a warm-up, or longer "
                "(scout_share=)"
            )
        if any(kept.moves_each_batch for kept in self._kept):
            told.append(
                "a schedule of your loop moves the rate after every batch: one that was told how many there are "
                "(OneCycleLR's total_steps) is right at one batch size alone, so step it once an epoch, or leave the "
                "rate to the policy (rates='steered')"
            )
        return "; ".join(told)


class _StaleError(ConfigError):
    """The loop is another than that of the scouts that an earlier call has kept."""


class _OtherLoopError(ConfigError):
    """A scout's loop is another than that of the scouts before."""


def _score_of(kept: Sequence[KeptScout]) -> str:
    """Return the figure that ranks scouts: the validation loss where all whole ones have it, else the error."""
    whole = [one for one in kept if one.ended is None]
    has_loss = all(one.validation_losses and math.isfinite(one.validation_losses[-1]) for one in whole)
    return "validation_loss" if has_loss else "validation_error"


def _guessing(kept: Sequence[KeptScout]) -> float | None:
    """Return the loss of a network that has learnt nothing, that of the first scout's first batch; None if not known.

    For a classification that is about log K, what guessing comes to.
    """
    first = next((one.first_loss for one in kept if math.isfinite(one.first_loss)), 0.0)
    return first if first > 0.0 else None  # of losses of 0 and below no share can be said


def _task(arguments: Mapping[str, Any], kept: KeptScout | None) -> TaskInfo:
    """Return the task as a kept scout knows it; one of a single example where none has come so far."""
    optimizer = kept.loop["optimizer"] if kept is not None and kept.loop else {}
    groups = optimizer["groups"].values() if optimizer else ()
    return TaskInfo(
        name=arguments["task"].name,
        batch_sizes=(kept and kept.batch_sizes) or arguments["batch_sizes"],
        learning_rates=(kept and kept.learning_rates) or arguments["rates"].learning_rates,
        epochs=1 if kept is None else kept.epochs,
        train_size=1 if kept is None else kept.train_size,
        score="validation_loss",
        milestones=(),
        seed=int(arguments["seed"]),
        costs=arguments["task"].costs,
        measuring_budget=0.0,
        steered=arguments["rates"].policy_says,
        adaptive=are_scaled([optimizer["name"]] if optimizer else (), groups),
        periods=1 if kept is None else kept.periods,
        around=arguments["rates"].around,
    )
