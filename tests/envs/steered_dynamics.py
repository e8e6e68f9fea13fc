"""Fake dynamics that take any rate, for environments whose schedule is the agent's."""

import math

import numpy as np

from tests.envs.surrogate.fake_dynamics import LADDERS, FakeDynamics, FakeState


class SteeredState(FakeState):
    """With what agents of schema 2 see."""

    @property
    def seen(self) -> np.ndarray:
        return np.log(np.stack([self.loss, 0.9 * self.loss, np.tanh(self.loss)], axis=1))

    def take(self, index):
        return SteeredState(**vars(super().take(index)))


class SteeredDynamics(FakeDynamics):
    guessing = np.log([2.0, 2.0, 0.9])

    def begin(self, n):
        return SteeredState(**vars(super().begin(n)))

    def train(self, state, batch_rung, rate, member, noise, *, factor):
        rates = np.log2(self.task.learning_rates)
        nearest = np.abs(rate[:, None] - rates).argmin(axis=1)
        after, outcome = self.step(state, batch_rung, nearest, member, 0.3 * noise)
        better = np.exp(0.2 * (np.exp2(factor) - 1.0) + 0.1 * np.minimum(rates[nearest] - rate, 0.0))
        after = SteeredState(**vars(after))
        after.loss = np.where(outcome.diverged, math.exp(0.7), after.loss * better)
        outcome.score = after.loss
        return after, outcome


STEERED_FAKES = {name: SteeredDynamics(name) for name in LADDERS}
