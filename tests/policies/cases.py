"""Shared cases: a task, observations, and a simulated run that follows the synthetic law whatever is decided."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from autobatch.beacons import CostTable
from autobatch.policies import Decision, Observation, Policy, TaskInfo
from tests.beacons.synthetic import BATCH_SIZES, LEARNING_RATES, Law, make_costs

NAN = float("nan")
LAW = Law()


def make_task(**changes) -> TaskInfo:
    facts = {
        "name": "synthetic",
        "batch_sizes": BATCH_SIZES,
        "learning_rates": LEARNING_RATES,
        "epochs": LAW.epochs,
        "train_size": LAW.train_size,
        "score": "validation_loss",
        "milestones": (0.5, 0.75),
        "seed": 0,
        "costs": make_costs(),
        "measuring_budget": 0.1,
        "milestone_factor": 0.1,
    }
    return TaskInfo(**facts | changes)


def make_observation(epoch: int = 0, epochs: int = LAW.epochs, **changes) -> Observation:
    facts = {
        "epoch": epoch,
        "progress": epoch / epochs,
        "batch_size": 0 if epoch == 0 else 32,
        "lr": NAN if epoch == 0 else 0.1,
        "c_bar": NAN if epoch == 0 else 100.0,
        "l_cum": 0.0 if epoch == 0 else 10.0,
        "steps": 32 * epoch,
        "train_loss": NAN if epoch == 0 else 0.5,
        "validation_loss": NAN if epoch == 0 else 0.5,
        "validation_error": NAN if epoch == 0 else 0.1,
    }
    return Observation(**facts | changes)


@dataclass
class Journey:
    """What a simulated run came to."""

    law: Law
    costs: CostTable
    decisions: list[Decision] = field(default_factory=list)

    @property
    def stages(self) -> list[tuple[int, float]]:
        return [(decision.batch_size, decision.lr) for decision in self.decisions]

    @property
    def final_loss(self) -> float:
        end = self.law.journey(self.stages)[-1]
        return self.law.loss(end.c_bar, end.l_cum)

    @property
    def seconds(self) -> float:
        return sum(self.costs.training_seconds(size, self.law.steps_per_epoch(size), 1) for size, _ in self.stages)

    @property
    def changes(self) -> int:
        return sum(one != other for one, other in zip(self.stages, self.stages[1:], strict=False))


OWN_RATE = 0.1


def simulate(
    policy: Policy,
    *,
    law: Law = LAW,
    noise: float = 0.0,
    seed: int = 0,
    before_epoch: Callable[[int], Policy | None] = lambda epoch: None,
) -> Journey:
    """Play a run of a policy that was reset: C̄ and L follow the law under whatever it decides.

    ``noise`` is the relative error of the measured C̄ and L after one epoch; it falls with the root of the epochs.
    ``before_epoch`` may hand over another policy object, as a restart does.
    """
    generator = np.random.default_rng(seed)
    journey = Journey(law, make_costs())
    observation = make_observation(0, law.epochs)
    for epoch in range(law.epochs):
        policy = before_epoch(epoch) or policy
        decision = policy.decide(observation)
        if decision.lr is None:  # left to the training
            decision = replace(decision, lr=OWN_RATE)
        journey.decisions.append(decision)
        place = law.journey(journey.stages)[-1]
        errors = np.exp(noise * generator.standard_normal(2) / np.sqrt(epoch + 1))
        observation = replace(
            make_observation(epoch + 1, law.epochs),
            batch_size=decision.batch_size,
            lr=decision.lr,
            c_bar=float(place.c_bar * errors[0]),
            l_cum=float(place.l_cum * errors[1]),
            steps=int(place.steps),
            train_loss=NAN,  # the law says nothing of it
        )
    return journey


def through_json(state: dict) -> dict:
    """A state as a checkpoint gives it back."""
    return json.loads(json.dumps(state, allow_nan=False))
