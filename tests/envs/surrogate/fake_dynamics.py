"""Dynamics with the interface of the fitted ones and a law of their own, for tests of what is built on them."""

from dataclasses import dataclass, fields, replace

import numpy as np

from autobatch.policies import Moves, ObservationBatch, ObservationView, Quality
from tests.policies.cases import make_task

LADDERS = {"short": (6, (8, 16, 32), (0.05, 0.1)), "long": (9, (8, 16, 32, 64, 128), (0.02, 0.05, 0.1, 0.2, 0.5))}


@dataclass
class FakeState:
    epoch: np.ndarray
    batch_rung: np.ndarray
    rate_rung: np.ndarray
    loss: np.ndarray
    before: np.ndarray
    spent: np.ndarray
    scored: np.ndarray

    def take(self, index):
        return FakeState(*(getattr(self, own.name)[index] for own in fields(self)))

    def put(self, index, other):
        for own in fields(self):
            getattr(self, own.name)[index] = getattr(other, own.name)


@dataclass
class FakeOutcome:
    cost: np.ndarray
    spread: np.ndarray
    diverged: np.ndarray
    score: np.ndarray
    scatter: np.ndarray


class FakeDynamics:
    members = 3
    noise_size = 2

    def __init__(self, name: str) -> None:
        self.epochs, sizes, rates = LADDERS[name]
        self.task = make_task(name=name, batch_sizes=sizes, learning_rates=rates, epochs=self.epochs)
        self.moves = Moves(sizes, rates)
        self.library = None
        self.view = ObservationView(self.task, None)
        self.quality = Quality("validation_loss", 2.0, 0.1)
        self._optimum = len(sizes) // 2

    def begin(self, n):
        zeros = np.zeros(n)
        rungs = (np.full(n, rung) for rung in self.moves.start)
        return FakeState(
            zeros.astype(int), *rungs, np.full(n, 2.0), np.full(n, np.nan), zeros.copy(), np.full((n, 3), np.nan)
        )

    def step(self, state, batch_rung, rate_rung, member, noise):
        wrong = abs(batch_rung - self._optimum) + 0.1 * member + 0.05 * noise[:, 0]
        rate = np.asarray(self.task.learning_rates)[rate_rung]
        loss = state.loss * np.exp(-0.5 + 0.1 * wrong) * (1.0 + 0.02 * noise[:, 1])
        diverged = rate * loss > 0.25
        loss = np.where(diverged, 2.0, loss)
        cost = self.costs("modelled")[batch_rung]
        after = replace(
            state,
            epoch=state.epoch + 1,
            batch_rung=batch_rung.copy(),
            rate_rung=rate_rung.copy(),
            loss=loss,
            before=state.loss,
            spent=state.spent + cost,
            scored=np.stack([10.0 + 10.0 * loss, 1.0 + state.epoch, loss], axis=1),
        )
        return after, FakeOutcome(cost, 0.1 * abs(wrong), diverged, loss, np.full_like(loss, 0.2))

    def observe(self, state):
        nothing = np.full(len(state.epoch), np.nan)
        started = state.epoch > 0
        sizes, rates = np.asarray(self.task.batch_sizes), np.asarray(self.task.learning_rates)
        return self.view.arrays(
            ObservationBatch(
                epoch=state.epoch,
                progress=state.epoch / self.epochs,
                batch_size=sizes[state.batch_rung],
                lr=rates[state.rate_rung],
                c_bar=nothing,
                l_cum=nothing,
                train_loss=state.loss,
                validation_loss=np.where(started, state.loss, np.nan),
                validation_error=np.where(started, np.tanh(state.loss), np.nan),
                c_before=nothing,
                l_before=nothing,
                score_before=state.before,
                spent=state.spent,
            )
        )

    def costs(self, unit):
        sizes = np.asarray(self.task.batch_sizes, dtype=float)
        return np.ones_like(sizes) if unit == "examples" else 1.0 + 10.0 / sizes

    def reference(self, unit):
        return float(self.costs(unit).min() * self.epochs)


FAKES = {name: FakeDynamics(name) for name in LADDERS}
