"""One training under control: its parts, made and brought together when the controller gets its model."""

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from autobatch._errors import ConfigError
from autobatch._ranges import check_kind, check_whole
from autobatch.control._account import Account
from autobatch.control._deciding import Decisions
from autobatch.control._feed import Feed
from autobatch.control._parts import Parts
from autobatch.control._periods import Periods
from autobatch.control._ranks import Ranks
from autobatch.control._recorder import Recorder, told_at
from autobatch.control._stepping import Stepping
from autobatch.control.measuring import MeasureWithinBudget, Period
from autobatch.control.rates import OptimizerRates, check_optimizer
from autobatch.control.rewinding import Rewinding
from autobatch.control.run import LoopConfig, LoopTask, RunLog, from_run
from autobatch.control.settings import Settings
from autobatch.control.settings._own_task import check_own_task, check_scouts_loop, loop_facts
from autobatch.control.steps import Course, Passage, check_divisible, least_examples
from autobatch.policies import PolicySpec, ScoutingPolicy, TaskInfo, planned_epochs
from autobatch.policies._wording import configuration, count
from autobatch.policies.steer import LEAST

_LOG = logging.getLogger("autobatch")


class Training(Parts):
    """The parts of a training, the first decision made.

    Each knows those above it and none below: ``feed`` hands out batches, ``stepping`` trains them, ``periods`` ends a
    stretch of them with a decision.

    Args:
        settings: what the controller was told.
        model: the network.
        optimizer: its optimizer.
        dataset_size: training examples.
        epochs: length of the whole training.

    Attributes:
        periods: ends periods.
        stepping: trains batches.
        feed: hands them out.

    Raises:
        ConfigError: something cannot be used, or does not go together.
    """

    def __init__(
        self, settings: Settings, model: nn.Module, optimizer: Optimizer, *, dataset_size: int, epochs: int
    ) -> None:
        self.settings = settings
        self.measured = settings.measuring.steps or MeasureWithinBudget(costs=settings.task.costs)
        facts = _checked_loop(settings, model, optimizer, dataset_size, epochs)
        device = _device_of(model, settings)
        self.ranks = Ranks(settings.processes.group, device)
        if not self.advise:
            check_divisible(settings.batch_sizes, self.ranks.size, settings.plan.accumulation)
        settings.measuring.check_sketch(settings.batch_sizes)
        together = settings.processes.measured == "global"
        # Ranks that measure together must all go on doing so.
        self.period = Period(self.measured, device, gives_up=self.ranks.size == 1 or not together)
        self.rates = OptimizerRates(optimizer, self.period.took_step)
        self.course = Course(
            dataset_size,
            epochs,
            settings.plan.periods(dataset_size),
            least_examples(model, self.ranks.size, settings.plan.accumulation),
        )
        if not self.advise and 2 * self.course.longest_period < settings.batch_sizes[-1]:
            raise ConfigError(
                f"decide_every: batches do not reach across decisions; {self.course.longest_period} examples between "
                f"two are too few for batches of {settings.batch_sizes[-1]}"
            )
        self.task = self._task()
        self._check_ranks()
        self.passage = Passage(
            model,
            optimizer,
            settings.plan,
            self.ranks,
            probe_arguments=settings.measuring.probe_arguments(settings.seed),
            measure_all=together,
            device=device,
            advise=self.advise,
        )
        self.rewinding = Rewinding(self.passage, self.ranks)
        self.account = Account()
        self.recorder = Recorder(settings.loggers if self.ranks.leads else (), settings.library)
        settings.policy.reset(self.task, settings.library)
        self._take_scouts()
        planned = planned_epochs(settings.policy, self.task)
        # What a training that ends early would have earned in its missing epochs, measuring must not spend.
        self.measured.reset(replace(self.task, epochs=planned))
        self.log = RunLog(
            self._config(facts, planned // self.course.periods, device),
            settings.out if self.ranks.leads else None,
            settings.library,
            **({} if settings.out is None else {"first_does": self.ranks.first_makes}),
        )
        self.decisions = Decisions(settings, rates=self.rates, ranks=self.ranks, passage=self.passage)
        self.periods = Periods(self)
        self.stepping = Stepping(self, self.periods)
        self.feed = Feed(self, self.stepping, device)
        self.periods.begin()
        self.account.seconds = 0.0  # setting up is no part of training

    def tell_unscouted(self) -> None:
        """Warn where a policy begins somewhere, and scouts could have said where."""
        alone = self.settings.scouts is None and self.settings.library is None and self.ranks.leads
        if alone and isinstance(self.settings.policy, ScoutingPolicy) and self.task.epochs >= LEAST:
            decision = self.decisions.last
            _LOG.warning(
                "no scouts: the training begins with %s, of which nothing is known; autobatch.scout(...) finds out by "
                "a few short trainings where to begin, and what it returns goes in as scouts=",
                configuration(decision.requested_batch_size, decision.lr),
            )

    def replace(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Go on with another model and optimizer."""
        self.stepping.refuse_inside("replace()")
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model: expected Module, got {model!r}")
        check_optimizer(optimizer)
        _tell_foreign(model, optimizer)
        self.passage.take(model, optimizer)
        self.rates.move(optimizer)
        self.rewinding.leave(-1)
        self.course.least = least_examples(model, self.ranks.size, self.settings.plan.accumulation)

    def identity(self) -> dict[str, Any]:
        """Return what a state must have in common with the training that it is loaded into, as JSON-able values."""
        return {
            "dataset_size": self.course.dataset_size,
            "epochs": self.course.epochs,
            "periods": self.course.periods,
            "batch_sizes": list(self.settings.batch_sizes),
            "learning_rates": list(self.task.learning_rates),
            "seed": self.settings.seed,
        }

    def _task(self) -> TaskInfo:
        settings, rates = self.settings, self.settings.rates
        return TaskInfo(
            name=settings.task.name or "task",
            batch_sizes=settings.batch_sizes,
            learning_rates=rates.to_choose_from(self.rates.reference),
            epochs=self.course.epochs * self.course.periods,
            train_size=self.course.longest_period,
            score=settings.score,
            milestones=tuple(rates.milestones),
            seed=settings.seed,
            costs=settings.task.costs,
            measuring_budget=self.measured.budget,
            steered=rates.policy_says,
            milestone_factor=rates.milestone_factor,
            schedule=rates.factor,
            dataset=settings.task.dataset,
            adaptive=self.rates.adaptive,
            guessing=settings.task.guessing if settings.scouts is None else settings.scouts.guessing,
            shares_loss=settings.task.shares_loss,
            periods=self.course.periods,
            around=rates.around or self._has_scouts_rates(),
            example_seconds={} if settings.scouts is None else dict(settings.scouts.timed.seconds),
        )

    def _has_scouts_rates(self) -> bool:
        """Whether there is to choose from what there was for scouts, around the optimizer's own rate."""
        scouts, rates = self.settings.scouts, self.settings.rates.learning_rates
        return scouts is not None and scouts.own_rate is not None and rates == scouts.learning_rates

    def _config(self, facts: dict[str, Any], planned: int, device: torch.device) -> LoopConfig:
        """Return what a run directory says of the training."""
        settings, policy = self.settings, type(self.settings.policy).__name__
        return LoopConfig(
            task=LoopTask(
                name=self.task.name,
                dataset_size=self.course.dataset_size,
                epochs=self.course.epochs,
                batch_sizes=settings.batch_sizes,
                learning_rates=self.task.learning_rates,
                score=settings.score,
                facts=facts,
            ),
            policy=settings.named or PolicySpec(name=policy, kind=policy),
            seed=settings.seed,
            device=str(device),
            planned_epochs=planned,
            advise=settings.advise,
            library=None if settings.out is None else from_run(settings.library_path, settings.out),
            costs=settings.task.costs,
        )

    def _check_ranks(self) -> None:
        """Refuse ranks that do not train the same thing."""
        settings, ranks = self.settings, self.ranks
        mine = {
            **self.identity(),
            "plan": str(settings.plan),
            "measured": settings.processes.measured,
            "measure": settings.measuring.measure,
            "sketch_rows": settings.measuring.sketch_rows,
            "advise": settings.advise,
        }
        theirs = ranks.agreed(mine)
        differing = sorted(key for key, value in mine.items() if theirs.get(key) != value)
        if ranks.most([len(differing)]) != [0]:
            raise ConfigError(
                f"rank {ranks.rank}: the ranks' controllers differ"
                + "".join(f"; {key}: {mine[key]!r} here, {theirs[key]!r} on the first rank" for key in differing)
                + "; give all of them the same arguments"
            )

    def _take_scouts(self) -> None:
        """Have the policy start from what the scouts came to."""
        scouts, policy = self.settings.scouts, self.settings.policy
        if scouts is None:
            return
        assert isinstance(policy, ScoutingPolicy)
        if scouts.trained:
            policy.take(scouts.scouts)
        if self.ranks.leads:
            advice = bool(self.settings.advise)
            _LOG.log(told_at(advice=advice), "scouts%s: %s", " advise" if advice else "", scouts.advice())


def _tell_foreign(model: nn.Module, optimizer: Optimizer) -> None:
    """Warn of an optimizer that holds none of the model's parameters."""
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        _LOG.warning(
            "the optimizer holds none of the model's parameters: is it another model's? That is right only where it "
            "trains copies of them, as with master weights"
        )


def _checked_loop(
    settings: Settings, model: nn.Module, optimizer: Optimizer, dataset_size: int, epochs: int
) -> dict[str, Any]:
    """Refuse a loop that is too small for its ladder, or not that of the beacons or scouts; return its facts."""
    check_kind(model, (nn.Module,), "model")
    check_optimizer(optimizer)
    _tell_foreign(model, optimizer)
    check_whole(epochs, "epochs")
    check_whole(dataset_size, "dataset_size")
    sizes = settings.batch_sizes
    if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
        raise ConfigError(f"batch_sizes: expected ascending positive integers, got {list(sizes)}")
    if sizes[-1] > dataset_size:
        raise ConfigError(
            f"batch_sizes: the ladder reaches {sizes[-1]}, but the training set has only "
            f"{count(dataset_size, 'example')}"
        )
    facts = loop_facts(
        model,
        optimizer,
        dataset_size=dataset_size,
        epochs=epochs,
        decide_every=settings.plan.decide_every,
        loss_reduction=settings.measuring.loss_reduction,
    )
    if settings.library is not None:
        check_own_task(settings.library, facts)
    if settings.scouts is not None:
        check_scouts_loop(settings.scouts.loop, facts)
    return facts


def _device_of(model: nn.Module, settings: Settings) -> torch.device:
    if settings.processes.device is not None:
        return torch.device(settings.processes.device)
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
