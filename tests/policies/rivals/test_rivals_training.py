"""The published rules in real trainings: they get real gradients, and what they ask for is what is trained."""

import math

import pytest
import torch

from autobatch.control import AutoBatchController, MeasureAtInterval, Rates, TaskFacts
from autobatch.policies import load_policy_spec, make_policy
from tests.control.loops import Data, Toy

LADDER = (2, 4, 8, 16)
SIZE = 64


def decisions(name: str, **settings: object) -> Toy:
    policy = make_policy(load_policy_spec(name))
    toy = Toy(
        policy,
        size=SIZE,
        epochs=8,
        batch_sizes=LADDER,
        measuring=MeasureAtInterval(3),
        task=TaskFacts(score="validation_loss"),
        **settings,
    )
    while not toy.controller.finished:
        toy.epoch(train_loss=0.7, val_loss=1.0)
    toy.check()
    return toy


@pytest.mark.parametrize("name", ["noise-scale", "norm-test", "inner-product-test", "cabs", "adascale", "simigrad"])
def test_a_rule_that_measures_gets_real_gradients(name: str) -> None:
    toy = decisions(name)
    reasons = [record.reason for record in toy.records]
    assert not any("no gradients were measured" in reason for reason in reasons)
    assert all(math.isfinite(record.lr) and record.limit is None for record in toy.records)
    gradients = toy.controller.observation.gradients
    assert gradients is not None
    assert gradients.samples >= 1
    assert gradients.variance > 0


def test_the_norm_test_grows_a_batch_that_fails_it() -> None:
    policy = make_policy(load_policy_spec("norm-test").model_copy(update={"parameters": {"batch_size": 2}}))
    toy = Toy(policy, size=SIZE, epochs=3, batch_sizes=LADDER, measuring=MeasureAtInterval(1))
    toy.epoch()
    gradients = toy.controller.observation.gradients
    assert gradients is not None
    wanted = gradients.variance / (0.25 * gradients.mean_squared_norm)
    assert toy.controller.batch_size == next((rung for rung in LADDER if rung >= wanted), 16)
    assert toy.controller.batch_size > 2


@pytest.mark.parametrize("name", ["increase-batch", "adabatch"])
def test_rate_over_size_follows_the_schedule(name: str) -> None:
    def schedule(progress: float) -> float:
        return 0.5 ** sum(progress >= milestone for milestone in (0.25, 0.5))

    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    spec = load_policy_spec(name)
    changes = {"batch_size": 2} | ({"factor": 2.0} if name == "increase-batch" else {})
    controller = AutoBatchController(
        model,
        optimizer,
        policy=make_policy(spec.model_copy(update={"parameters": {**spec.parameters, **changes}})),
        batch_sizes=LADDER,
        dataset_size=SIZE,
        epochs=8,
        rates=Rates(schedule=schedule, milestones=(0.25, 0.5)),
        measuring=MeasureAtInterval(1000),
    )
    data, sizes = Data(SIZE), set()
    while not controller.finished:
        sizes.add(controller.batch_size)
        assert controller.lr_effective / controller.batch_size == pytest.approx(
            0.05 / 2 * schedule(controller.progress)
        )
        if name == "increase-batch":  # the ladder takes the whole schedule, and the rate stays
            assert controller.lr_effective == pytest.approx(0.05)
        for indices in controller.batches():
            with controller.step() as step:
                step.backward(torch.nn.functional.cross_entropy(model(data.x[indices]), data.y[indices]))
            optimizer.step()
            optimizer.zero_grad()
        controller.end_epoch()
    assert sizes == ({2, 4, 8} if name == "increase-batch" else {2, 4, 8, 16})
