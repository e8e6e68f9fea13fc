"""How far surrogate dynamics can be trusted: on journeys that they were not fitted to, and against real policies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from autobatch._arrays import Floats
from autobatch._errors import LibraryError
from autobatch.beacons import BeaconLibrary, Branches, Journey, Landscape, forecast_stages
from autobatch.envs.surrogate import FIGURES, Dynamics, TaskRecords, tabulate
from autobatch.evidence.surrogate._on_surrogate import play_policy
from autobatch.policies import Moves, PolicySpec, TaskInfo

FOLDS = 4
"""Parts that the journeys are divided into; each is predicted by dynamics fitted without it."""

LEVEL = 0.9
"""Probability that a surrogate's intervals claim."""

OUTPUTS = (*FIGURES, "condition number", "gain of L")

_ROLLOUTS = 200


@dataclass(frozen=True)
class Fidelity:
    """What a surrogate gets right on journeys that it was not fitted to.

    All errors are in natural logarithms: 0.1 is about 10 %.

    Attributes:
        journeys: how many journeys were predicted; whole trainings that change size or rate at random epochs.
        one_step: root mean square error of the next epoch, by output.
        persistence: that of saying that nothing changes, by output; NaN for what has no last value.
        whole: root mean square error of the final validation loss, from the first epoch on and by the schedule alone.
        bias: mean error of it.
        constant: that of always saying the mean final loss of the other journeys.
        landscape: that of the forecast of C̄ and L with the landscape, which is what ``beacon-follow`` rests on.
        rank: Spearman correlation of predicted and real final losses.
        landscape_rank: that of forecast and landscape.
        position: root mean square errors of the final C̄ and L.
        coverage: share of final losses inside the 90 % interval of noisy rollouts.
    """

    journeys: int
    one_step: Mapping[str, float]
    persistence: Mapping[str, float]
    whole: float
    bias: float
    constant: float
    landscape: float
    rank: float
    landscape_rank: float
    position: tuple[float, float]
    coverage: float


@dataclass(frozen=True)
class PolicyAgreement:
    """Real and surrogate outcomes of some policies.

    Attributes:
        policies: their names.
        real: mean final quality of each in real training, shape (n,).
        surrogate: mean final quality of each on the surrogate, shape (n,).
        real_runs: real trainings of each.
        rank: Spearman correlation of the two; NaN where either ranks nothing, such as a single policy.
        p_value: its two-sided p-value; NaN as well for two policies.
    """

    policies: tuple[str, ...]
    real: Floats
    surrogate: Floats
    real_runs: tuple[int, ...]
    rank: float
    p_value: float


def measure_fidelity(
    library: BeaconLibrary, branches: Branches, task: TaskInfo, others: Sequence[TaskRecords] = ()
) -> Fidelity:
    """Predict every journey by dynamics that were fitted without it.

    Args:
        library: the beacons.
        branches: branch runs, with whole journeys among them.
        task: the task.
        others: what was recorded of other tasks, which the dynamics are fitted to as well.

    Returns:
        The errors.

    Raises:
        LibraryError: there are fewer journeys than folds.
    """
    whole = [own for own in branches.journeys if own.kind == "journey" and own.finished]
    if len(whole) < FOLDS:
        raise LibraryError(
            f"fidelity is measured on journeys, and there are {len(whole)} that finished; record at least {FOLDS} "
            "with 'autobatch beacons branch --journeys N'"
        )
    landscape = Landscape.fit(library)
    steps, guesses, forecasts, finals = [], [], [], []
    for fold in range(FOLDS):
        held = whole[fold::FOLDS]
        rest = tuple(own for own in branches.journeys if not any(own is other for other in held))
        dynamics = Dynamics.fit(library, Branches(rest, branches.info), task, others=others)
        steps.append(_one_step(dynamics, held))
        guesses += [_whole(dynamics, journey, fold) for journey in held]
        forecasts += [_forecast(library, landscape, journey) for journey in held]
        finals += [_final(journey) for journey in held]
    errors, still = (np.concatenate([own[index] for own in steps]) for index in (0, 1))
    real, guessed, forecast = (np.array(values) for values in (finals, guesses, forecasts))
    misses = guessed[:, 0] - real[:, 0]
    others = (real[:, 0].sum() - real[:, 0]) / (len(real) - 1)
    known = np.isfinite(forecast)
    return Fidelity(
        journeys=len(whole),
        one_step=dict(zip(OUTPUTS, _rms(errors), strict=True)),
        persistence=dict(zip(OUTPUTS, _rms(still), strict=True)),
        whole=float(_rms(misses)),
        bias=float(misses.mean()),
        constant=float(_rms(others - real[:, 0])),
        landscape=float(_rms((forecast - real[:, 0])[known])),
        rank=float(stats.spearmanr(guessed[:, 0], real[:, 0]).statistic),
        landscape_rank=float(stats.spearmanr(forecast[known], real[known, 0]).statistic),
        position=(float(_rms(guessed[:, 3] - real[:, 1])), float(_rms(guessed[:, 4] - real[:, 2]))),
        coverage=float(np.mean((guessed[:, 1] <= real[:, 0]) & (real[:, 0] <= guessed[:, 2]))),
    )


def policy_agreement(
    dynamics: Dynamics, real: Mapping[str, Sequence[float]], specs: Mapping[str, PolicySpec], *, runs: int = 16
) -> PolicyAgreement:
    """Compare policies in real training and on the surrogate.

    Args:
        dynamics: the surrogate.
        real: final validation scores of the real trainings of each policy, by name.
        specs: the policies, by the same names.
        runs: surrogate trainings of each.

    Returns:
        Their qualities, and how well the two rankings agree.
    """
    names = tuple(sorted(real))
    ours = np.array([float(np.mean(dynamics.quality(np.asarray(real[name], dtype=float)))) for name in names])
    theirs = np.array([float(play_policy(dynamics, specs[name], range(runs)).quality.mean()) for name in names])
    rank = p_value = math.nan
    if min(len(np.unique(ours)), len(np.unique(theirs))) > 1:
        agreement = stats.spearmanr(ours, theirs)
        rank, p_value = float(agreement.statistic), float(agreement.pvalue)
    counts = tuple(len(real[name]) for name in names)
    return PolicyAgreement(names, ours, theirs, counts, rank, p_value)


def _one_step(dynamics: Dynamics, held: Sequence[Journey]) -> tuple[Floats, Floats]:
    """Return what the next epochs of some journeys are missed by, and by how much they differ from the last."""
    table = tabulate([(own.rows, own.finished) for own in held], dynamics.guessing, dynamics.scale)
    predicted = dynamics.predict(table)
    still = np.full_like(table.outcome, np.nan)
    still[:, :3] = table.before - table.outcome[:, :3]
    sound = ~table.diverged
    return (predicted - table.outcome)[sound], still[sound]


def _whole(dynamics: Dynamics, journey: Journey, seed: int) -> Floats:
    """Return the final log loss by the schedule alone, the ends of its interval, and the final log C̄ and log L."""
    rungs = _rungs(dynamics.moves, journey)
    generator = np.random.default_rng(seed)
    count = _ROLLOUTS
    member = np.arange(count) % dynamics.members
    state = dynamics.begin(count)
    for epoch in range(len(rungs)):
        noise = generator.standard_normal((count, dynamics.noise_size))
        noise[:, -1] = 0.0  # the journey is known to have finished
        batch, rate = (np.full(count, rungs[epoch, axis]) for axis in (0, 1))
        state, _ = dynamics.step(state, batch, rate, member, noise)
    loss = state.seen[:, 0]
    low, high = np.quantile(loss, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    log_c, log_l = np.log(state.scored[:, :2]).mean(axis=0)
    return np.array([loss.mean(), low, high, log_c, log_l])


def _forecast(library: BeaconLibrary, landscape: Landscape, journey: Journey) -> float:
    """Return the log of the score that forecast and landscape promise for a journey's schedule."""
    rows = journey.rows
    stages = [
        (float(progress), int(size), float(lr))
        for progress, size, lr in zip(rows["progress"], rows["batch_size"], rows["lr"], strict=True)
    ]
    end = forecast_stages(library, stages)[-1]
    return math.log(float(landscape.predict(end.c_bar, end.l_cum).score))


def _final(journey: Journey) -> Floats:
    return np.log([journey.rows[name][-1] for name in ("validation_loss", "c_bar", "l_cum")])


def _rungs(moves: Moves, journey: Journey) -> NDArray[np.int64]:
    pairs = zip(journey.rows["batch_size"], journey.rows["lr"], strict=True)
    return np.array([moves.rungs(int(size), float(lr)) for size, lr in pairs])


def _rms(values: Floats) -> Floats:
    mean: Floats = np.sqrt(np.mean(np.square(values), axis=0))
    return mean
