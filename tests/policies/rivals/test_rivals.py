"""Each published rule against its formula, on gradients with a known answer, and over restarts."""

import math
import random
from typing import Any

import numpy as np
import pytest
import torch

from autobatch.fisher import GradientMoments
from autobatch.policies import Observation, Policy, PolicySpec, load_policy_spec, make_policy, policy_kind
from autobatch.policies._rungs import nearest_rung, rung_above, rung_below
from autobatch.policies.rivals import NoiseAverage
from tests.policies.cases import make_observation, make_task, through_json

LADDER = (8, 16, 32, 64, 128, 256, 512)
MEASURED = ("noise-scale", "norm-test", "inner-product-test", "cabs", "adascale", "simigrad")
BLIND = ("plateau", "increase-batch", "adabatch", "sqrt-warmup")
SPREAD = np.array([3.0, 2.0, 1.0, 1.0])
"""Standard deviations of a sample's gradient on the quadratic, along the axes."""


def made(kind: str, *, task: Any = None, **parameters: Any) -> Policy:
    policy = make_policy(PolicySpec(name=kind, kind=kind, parameters=parameters))
    policy.reset(task or make_task(batch_sizes=LADDER), None)
    return policy


def quadratic(distance: float) -> GradientMoments:
    """A batch of 8 on f = ½ x² + noise, ``distance`` from its optimum on the first axis.

    The noise has mean 0 and the covariance diag(SPREAD²) in the batch itself, without bias: 2 samples on each axis, at
    ± s sqrt(7 / 2).
    """
    noise = np.concatenate([np.diag(SPREAD), -np.diag(SPREAD)]) * math.sqrt(7 / 2)
    rows = torch.from_numpy(np.array([distance, 0.0, 0.0, 0.0]) + noise)
    return GradientMoments.of_gram(rows @ rows.T)


VARIANCE = float(np.sum(SPREAD**2))


def logistic(seed: int, count: int = 32) -> tuple[np.ndarray, GradientMoments, float]:
    """Gradients of logistic regression on random data, by the textbook, and the mean loss."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 5))
    y = (x @ np.ones(5) + rng.normal(size=count) > 0).astype(float)
    probability = 1 / (1 + np.exp(-x @ rng.normal(scale=0.3, size=5)))
    rows = (probability - y)[:, None] * x
    loss = -float(np.mean(y * np.log(probability) + (1 - y) * np.log(1 - probability)))
    gram = torch.from_numpy(rows @ rows.T)
    return rows, GradientMoments.of_gram(gram), loss


def asked(policy: Policy, gradients: GradientMoments | None, epoch: int = 1, **changes: Any) -> Any:
    return policy.decide(make_observation(epoch, gradients=gradients, **changes))


def first(wanted: float) -> int:
    return next((rung for rung in LADDER if rung >= wanted), LADDER[-1])


def closest(wanted: float) -> int:
    return min(LADDER, key=lambda rung: abs(math.log2(rung) - math.log2(wanted)))


def test_which_kinds_pay_for_measuring() -> None:
    assert all(policy_kind(kind).blind for kind in BLIND)
    assert not any(policy_kind(kind).blind for kind in MEASURED)


@pytest.mark.parametrize("kind", [*MEASURED, *BLIND])
def test_the_shipped_file_states_the_defaults(kind: str) -> None:
    assert load_policy_spec(kind).parameters == policy_kind(kind).parameters().model_dump()


@pytest.mark.parametrize("kind", [*MEASURED, *BLIND])
def test_the_first_size_is_the_nearest_rung_at_the_trainings_own_rate(kind: str) -> None:
    policy = made(kind, task=make_task(batch_sizes=(20, 60, 400)))
    decision = policy.decide(make_observation(0))
    assert (decision.batch_size, decision.lr) == (400 if kind == "adascale" else 20, None)
    assert made(kind, lr=0.2).decide(make_observation(0)).lr == 0.2


@pytest.mark.parametrize("kind", MEASURED)
def test_what_is_not_known_changes_nothing(kind: str) -> None:
    policy = made(kind)
    begun = policy.decide(make_observation(0)).batch_size
    single = GradientMoments(1, 1, 1.0, 1.0, 1.0, math.nan)
    for epoch, gradients in enumerate((None, single), start=1):
        decision = asked(policy, gradients, epoch, batch_size=begun)
        assert (decision.batch_size, "kept" in decision.reason) == (begun, True)
        assert decision.lr in (None, 0.1)


@pytest.mark.parametrize("distance", [0.1, 1.0, 1.5, 2.0, 3.0, 10.0])
def test_the_noise_scale_of_the_quadratic(distance: float) -> None:
    policy = made("noise-scale")
    policy.decide(make_observation(0))
    decision = asked(policy, quadratic(distance))
    signal = distance**2 - VARIANCE / 8
    scale = VARIANCE / signal if signal > 0 else math.inf
    assert decision.batch_size == (512 if signal <= 0 else closest(scale))
    # McCandlish et al. 2018, section 2.2: the best rate is the largest / (1 + N / B).
    ratio = (1 + scale / 32) / (1 + scale / decision.batch_size) if signal > 0 else decision.batch_size / 32
    assert decision.lr == pytest.approx(0.1 * ratio)
    assert ("hides the gradient" in decision.reason) == (signal <= 0)


def test_the_noise_scale_is_averaged_over_epochs_by_its_parts() -> None:
    policy = made("noise-scale", memory=0.75, scale_rate=False)
    policy.decide(make_observation(0))
    variance = signal = 0.0
    for epoch in range(1, 8):
        rows, gradients, _ = logistic(epoch, count=16)
        mean = rows.mean(axis=0)
        own = float(np.cov(rows.T).trace())
        variance = 0.75 * variance + 0.25 * own
        signal = 0.75 * signal + 0.25 * (float(mean @ mean) - own / 16)
        decision = asked(policy, gradients, epoch)
        assert decision.batch_size == (closest(variance / signal) if signal > 0 else 512)
        assert decision.lr == 0.1


@pytest.mark.parametrize("theta", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("distance", [0.2, 1.0, 2.0, 4.0, 20.0])
def test_the_norm_test_of_the_quadratic(theta: float, distance: float) -> None:
    policy = made("norm-test", theta=theta)
    policy.decide(make_observation(0))
    wanted = VARIANCE / (theta * distance) ** 2
    decision = asked(policy, quadratic(distance), batch_size=16)
    assert decision.batch_size == (16 if wanted <= 8 else max(16, first(wanted)))
    assert ("kept" in decision.reason) == (wanted <= 8)
    assert decision.lr is None


@pytest.mark.parametrize("distance", [0.2, 0.5, 1.0, 2.0, 20.0])
@pytest.mark.parametrize(("theta", "nu"), [(0.9, 5.84), (0.9, 0.3), (0.2, 5.84)])
def test_the_inner_product_test_of_the_quadratic(distance: float, theta: float, nu: float) -> None:
    policy = made("inner-product-test", theta=theta, nu=nu)
    policy.decide(make_observation(0))
    along, across = SPREAD[0] ** 2 / (theta * distance) ** 2, (VARIANCE - SPREAD[0] ** 2) / (nu * distance) ** 2
    wanted = max(along, across)
    decision = asked(policy, quadratic(distance), batch_size=8)
    assert decision.batch_size == (8 if wanted <= 8 else first(wanted))
    assert ("fails the orthogonality test" in decision.reason) == (wanted > 8 and across > along)


@pytest.mark.parametrize("seed", range(6))
def test_the_tests_on_logistic_regression(seed: int) -> None:
    rows, gradients, loss = logistic(seed)
    mean = rows.mean(axis=0)
    norm = float(mean @ mean)
    least = np.sum((rows - mean) ** 2) / 31 / (0.25 * norm)  # Byrd et al. 2012, eq. 3.11
    norm_test = made("norm-test")
    assert asked(norm_test, gradients, batch_size=8).batch_size == (8 if least <= 32 else first(least))
    products = rows @ mean
    inner = np.sum((products - norm) ** 2) / 31 / (0.9**2 * norm**2)  # Bollapragada et al. 2018, eq. 2.6
    residues = rows - np.outer(products / norm, mean)
    across = np.sum(residues**2) / 31 / (5.84**2 * norm)  # eq. 3.3
    least = max(inner, across)
    assert asked(made("inner-product-test"), gradients, batch_size=8).batch_size == (8 if least <= 32 else first(least))
    wanted = 0.4 * float(np.sum(rows.var(axis=0))) / loss  # Balles et al. 2017, eq. 22
    cabs = asked(made("cabs"), gradients, lr=0.4, train_loss=loss)
    assert cabs.batch_size == closest(max(8, wanted))
    assert cabs.lr is None


@pytest.mark.parametrize(
    ("loss", "size"), [(13.125 / 8, 8), (13.125 / 96, 128), (13.125 / 40, 32), (1e-9, 512), (0, 512)]
)
def test_cabs_on_the_quadratic(loss: float, size: int) -> None:
    # The variance of the batch itself, divided by B = 8 and not by 7: 15 x 7 / 8.
    decision = asked(made("cabs"), quadratic(1.0), lr=1.0, train_loss=loss)
    assert decision.batch_size == size
    assert asked(made("cabs", momentum=0.9), quadratic(1.0), lr=0.1, train_loss=loss).batch_size == size
    assert asked(made("cabs"), quadratic(1.0), batch_size=64, train_loss=math.nan).batch_size == 64


def test_adascale_multiplies_the_rate_by_its_gain() -> None:
    policy = made("adascale", scale=4.0)
    assert policy.decide(make_observation(0)).batch_size == 128
    variance = signal = 0.0
    steps = 0
    for epoch in range(1, 6):
        rows, gradients, _ = logistic(epoch)
        mean = rows.mean(axis=0)
        keep = (1 - 4 / 1000) ** (10 * epoch)
        steps += 10 * epoch
        own = float(np.cov(rows.T).trace())
        variance = keep * variance + (1 - keep) * own
        signal = keep * signal + (1 - keep) * max(0.0, float(mean @ mean) - own / 32)
        decision = asked(policy, gradients, epoch, steps=steps, batch_size=128, lr=0.1 if epoch == 1 else 99.0)
        base = variance / 32  # of a batch of the base size
        gain = (base + signal) / (base / 4 + signal)
        assert decision.batch_size == 128
        assert 1 < gain <= 4
        assert decision.lr == pytest.approx(0.1 * gain, rel=1e-9)


@pytest.mark.parametrize(
    ("cosine", "size", "then"),
    [(0.0, 32, 64), (-1.0, 256, 512), (0.09, 512, 512), (0.11, 32, 16), (1.0, 8, 8), (0.1, 64, 64), (math.nan, 64, 64)],
)
def test_simigrad_goes_one_rung(cosine: float, size: int, then: int) -> None:
    policy = made("simigrad")
    policy.decide(make_observation(0))
    decision = asked(policy, GradientMoments(32, 4, 3.0, 1.0, 2.0, cosine), batch_size=size)
    assert decision.batch_size == then
    steered = not math.isnan(cosine) and cosine != 0.1
    assert decision.lr == pytest.approx(0.1 * math.sqrt(then / 32) if steered else 0.1)


def test_plateau_counts_as_torch_does() -> None:
    rng = random.Random(3)
    for patience in (0, 2, 5):
        policy = made("plateau", patience=patience, factor=2.0, batch_size=8)
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=2.0**-3)
        torch_rule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience)
        size = policy.decide(make_observation(0)).batch_size
        for epoch in range(1, 25):
            loss = rng.choice([0.5, 0.4, 0.39999, 0.3, 0.2])
            torch_rule.step(loss)
            size = policy.decide(make_observation(epoch, validation_loss=loss, batch_size=size)).batch_size
            assert size == min(512, round(1 / optimizer.param_groups[0]["lr"]))
        assert size > 8


def test_plateau_goes_by_the_tasks_score_and_leaves_out_what_is_not_known() -> None:
    policy = made("plateau", task=make_task(score="validation_error"), patience=1, batch_size=8)
    errors = (0.5, math.nan, 0.5, math.nan, 0.5, 0.4, 0.4, 0.4)
    sizes = [policy.decide(make_observation(0)).batch_size]
    for epoch, error in enumerate(errors, start=1):
        losses = {"validation_loss": 1.0 / epoch, "validation_error": error}
        sizes.append(policy.decide(make_observation(epoch, batch_size=sizes[-1], **losses)).batch_size)
    assert sizes == [8, 8, 8, 8, 8, 64, 64, 64, 512]


def test_increase_batch_takes_of_a_decay_what_the_ladder_has() -> None:
    policy = made("increase-batch", task=make_task(milestones=(0.5, 0.75), epochs=8))
    decisions = [policy.decide(make_observation(epoch, 8, lr=0.1 if epoch else math.nan)) for epoch in range(9)]
    assert [own.batch_size for own in decisions] == [32] * 4 + [256] * 2 + [512] * 3  # not 320, not 3200
    assert decisions[0].lr is None
    schedule = [1.0] * 4 + [0.1] * 2 + [0.01] * 3
    effective = [own.lr * factor for own, factor in zip(decisions[1:], schedule[1:], strict=True)]
    # Rate over size follows the schedule; the rate decays by what the ladder could not take.
    for own, rate, factor in zip(decisions[1:], effective, schedule[1:], strict=True):
        assert rate / own.batch_size == pytest.approx(0.1 / 32 * factor)
    assert effective[4] == pytest.approx(0.1 * 256 / 320)
    assert effective[6] == pytest.approx(0.1 * 512 / 3200)
    assert max(effective) <= 0.1


def test_adabatch_doubles_at_every_fifth() -> None:
    policy = made("adabatch", batch_size=64)
    decisions = [policy.decide(make_observation(epoch, 10, lr=0.1 if epoch else math.nan)) for epoch in range(11)]
    assert [own.batch_size for own in decisions] == [64, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512]
    assert [own.lr for own in decisions[1:]] == pytest.approx([0.1 * own.batch_size / 64 for own in decisions[1:]])


def test_the_warm_up_reaches_its_size_within_its_share() -> None:
    policy = made("sqrt-warmup")
    decisions = [policy.decide(make_observation(epoch, 8, lr=0.1 if epoch else math.nan)) for epoch in range(9)]
    assert [own.batch_size for own in decisions] == [32, 32, 64, 64, 128, 128, 128, 128, 128]
    assert [own.lr for own in decisions[1:]] == pytest.approx([
        0.1 * math.sqrt(own.batch_size / 32) for own in decisions[1:]
    ])
    over = made("sqrt-warmup", batch_size=512, last=32, share=1.0)
    assert {over.decide(make_observation(epoch, 8)).batch_size for epoch in range(9)} == {512}


def walk(policy: Policy, restarted: Any = None) -> list[Any]:
    """Decisions of a run whose gradients and losses wander; after each epoch the policy may be another object."""
    decisions, size = [], 0
    for epoch in range(12):
        _, gradients, loss = logistic(epoch)
        gradients = None if epoch in (0, 5) else gradients
        observation = make_observation(
            epoch,
            12,
            batch_size=size,
            lr=0.1 if epoch == 1 else math.nan if epoch == 0 else 0.7,
            steps=20 * epoch,
            gradients=gradients,
            train_loss=loss,
            validation_loss=0.5 if epoch < 3 else 0.6,
        )
        decisions.append(policy.decide(observation))
        policy = restarted(policy) if restarted else policy
        again: Observation = make_observation(epoch, 12, batch_size=512, lr=0.7, gradients=gradients)
        assert policy.decide(again) == decisions[-1] or epoch == 0
        size = decisions[-1].batch_size
    return decisions


@pytest.mark.parametrize("kind", [*MEASURED, *BLIND])
def test_a_restart_after_every_epoch_changes_nothing(kind: str) -> None:
    parameters = {"plateau": {"patience": 1}, "inner-product-test": {"theta": 0.2}}.get(kind, {})

    def restarted(policy: Policy) -> Policy:
        fresh = made(kind, **parameters)
        fresh.load_state_dict(through_json(policy.state_dict()))
        return fresh

    whole = walk(made(kind, **parameters))
    assert walk(made(kind, **parameters), restarted) == whole
    assert len({(own.batch_size, own.lr) for own in whole}) > 1


def test_rungs() -> None:
    assert [nearest_rung(size, LADDER) for size in (-1.0, 0.0, 11.0, 12.0, 300.0, math.inf)] == [8, 8, 8, 16, 256, 512]
    assert [rung_above(size, LADDER) for size in (1.0, 8.0, 8.1, 512.0, math.inf)] == [8, 8, 16, 512, 512]
    assert [rung_below(size, LADDER) for size in (1.0, 8.0, 15.9, 320.0, 3200.0)] == [8, 8, 8, 256, 512]


def test_the_gain_is_the_ratio_of_the_best_rates() -> None:
    noise = NoiseAverage()
    assert math.isnan(noise.noise_scale)
    noise.update(6.0, 0.5, keep=0.0)
    assert noise.noise_scale == 12.0
    assert noise.gain(64, 8) == pytest.approx((1 + 12 / 8) / (1 + 12 / 64))
