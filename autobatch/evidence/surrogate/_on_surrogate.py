"""Any policy on surrogate dynamics: what it would come to, many times over."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch.envs.surrogate import Dynamics
from autobatch.policies import Observation, PolicySpec, make_policy


@dataclass(frozen=True)
class SurrogateRuns:
    """Where some surrogate trainings ended.

    Attributes:
        score: final validation score, shape (n,); that of guessing or worse where the training diverged.
        quality: final normalised quality, shape (n,); -1 where it diverged.
        cost: modelled seconds of the whole training, without measuring, shape (n,); progress without a cost table.
        diverged: shape (n,).
    """

    score: Floats
    quality: Floats
    cost: Floats
    diverged: NDArray[np.bool_]


def play_policy(dynamics: Dynamics, policy: PolicySpec, seeds: Sequence[int], *, noise: bool = True) -> SurrogateRuns:
    """Run a policy on surrogate dynamics, once for each seed.

    Args:
        dynamics: the dynamics.
        policy: the policy; its task has the run's seed.
        seeds: seeds of the runs; each also draws a member of the ensemble.
        noise: whether the dynamics are noisy.

    Returns:
        Where the runs ended; one that its policy has stopped stays where it was then. A policy that steers the rate
        does so here too, without scouts.
    """
    count = len(seeds)
    policies = [make_policy(policy) for _ in seeds]
    for own, seed in zip(policies, seeds, strict=True):
        own.reset(replace(dynamics.task, seed=seed), dynamics.library)
    generators = [np.random.default_rng([seed, 0x706C6179]) for seed in seeds]
    members = np.array([int(generator.integers(dynamics.members)) for generator in generators])
    draws = np.stack([generator.standard_normal((dynamics.epochs, dynamics.noise_size)) for generator in generators])
    state = dynamics.begin(count)
    diverged, stopped = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    rungs = np.zeros((count, 2), dtype=np.int64)
    rates, factors = np.log2(dynamics.task.learning_rates), np.log2(dynamics.scale.factors)
    for epoch in range(dynamics.epochs):
        factor = np.full(count, factors[epoch])
        for index, own in enumerate(policies):
            decision = own.decide(_observation(dynamics, state.columns[index : index + 1], epoch))
            lr = decision.lr if decision.lr is not None else dynamics.task.learning_rates[dynamics.moves.start[1]]
            rungs[index] = dynamics.moves.rungs(decision.batch_size, lr)
            stopped[index] |= decision.stop
            if decision.factor is not None:
                factor[index] = np.log2(decision.factor)
        batch, rate = rungs.T
        after, outcome = dynamics.train(
            state, batch, rates[rate], members, draws[:, epoch] * noise, factor=factor, rate_rung=rate
        )
        going = np.flatnonzero(~diverged & ~stopped)
        state.put(going, after.take(going))
        diverged[going] |= outcome.diverged[going]
    score = state.scored[:, 2].copy()
    quality = np.where(diverged, -1.0, dynamics.quality(score))
    return SurrogateRuns(score, quality, state.totals[:, 3].copy(), diverged)


def _observation(dynamics: Dynamics, columns: Floats, epoch: int) -> Observation:
    """Return what a policy sees of one training."""
    if epoch == 0:
        return Observation(0, 0.0, 0, np.nan, np.nan, 0.0, 0, np.nan, np.nan, np.nan)
    state = type(dynamics.begin(1))(columns)
    batch_size, lr = dynamics.moves.at(int(state.batch_rung[0]), int(state.rate_rung[0]))
    validation_loss, train_loss, validation_error = np.exp(state.seen[0]).tolist()
    return Observation(
        epoch=epoch,
        progress=epoch / dynamics.epochs,
        batch_size=batch_size,
        lr=lr,
        c_bar=float(state.scored[0, 0]),
        l_cum=float(state.scored[0, 1]),
        steps=round(float(state.totals[0, 2])),
        train_loss=train_loss,
        validation_loss=validation_loss,
        validation_error=min(validation_error, 1.0),
    )
