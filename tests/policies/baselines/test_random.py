from collections import Counter

from autobatch.policies.baselines import RandomParameters, RandomPolicy
from tests.policies.cases import make_observation, make_task


def draws(epochs: int, seed: int = 0, every: int = 1) -> list[tuple[int, float]]:
    policy = RandomPolicy(RandomParameters(every=every))
    policy.reset(make_task(seed=seed), None)
    decisions = [policy.decide(make_observation(epoch, epochs)) for epoch in range(epochs)]
    return [(decision.batch_size, decision.lr) for decision in decisions]


def test_one_seed_draws_the_same_and_another_differently():
    assert draws(20, seed=3) == draws(20, seed=3)
    assert draws(20, seed=3) != draws(20, seed=4)


def test_a_draw_is_kept_for_the_epochs_asked_for():
    kept = draws(12, every=4)
    assert [len(set(kept[start : start + 4])) for start in (0, 4, 8)] == [1, 1, 1]
    assert len(set(kept)) > 1


def test_draws_are_uniform_over_the_grid():
    task = make_task()
    counts = Counter(draws(3500))
    expected = 3500 / (len(task.batch_sizes) * len(task.learning_rates))
    assert len(counts) == len(task.batch_sizes) * len(task.learning_rates)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    # 34 degrees of freedom: 99.9 % of uniform draws stay below 65.2.
    assert chi_square < 65.2
