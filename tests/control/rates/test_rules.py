"""What a batch size does to the learning rate: formulas, and AdaScale's gain against its definition."""

import json
import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch._errors import ConfigError
from autobatch.control import LearningRateRule
from autobatch.control.rates._rules import GradientNoise

sizes = st.integers(1, 10**5)
positive = st.floats(1e-12, 1e12)


@settings(max_examples=300)
@given(sizes, sizes, st.floats(-3.0, 3.0))
def test_rules_follow_their_formulas(batch_size: int, reference: int, power: float) -> None:
    scale, noise = batch_size / reference, GradientNoise()
    expected = {"none": 1.0, "linear": scale, "sqrt": scale**0.5, "adascale": 1.0}
    for name, factor in expected.items():
        rule = LearningRateRule(name)  # type: ignore[arg-type]
        assert rule.factor(batch_size, reference, noise) == pytest.approx(factor, rel=1e-15)
        told = rule.describe(batch_size, reference, factor)
        assert (told == "") == (name == "none" or batch_size == reference)
    assert LearningRateRule("power", power=power).factor(batch_size, reference, noise) == pytest.approx(scale**power)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(positive, st.floats(0.0, 1.0), st.integers(1, 512), st.integers(1, 60)), max_size=8),
    sizes,
    sizes,
)
def test_the_gain_lies_between_one_and_s(
    samples: list[tuple[float, float, int, int]], batch_size: int, reference: int
) -> None:
    noise = GradientNoise()
    for trace, share, own, steps in samples:  # 1ᵀF1 is at most B tr F
        noise.add(trace, share * own * trace, own, steps, own / reference)
    gain, scale = noise.gain(batch_size, reference), batch_size / reference
    assert min(1.0, scale) * (1 - 1e-9) <= gain <= max(1.0, scale) * (1 + 1e-9)
    other = GradientNoise()
    other.load_state_dict(json.loads(json.dumps(noise.state_dict())))
    assert other.gain(batch_size, reference) == gain


@pytest.mark.parametrize("own", [4, 16, 64])
@pytest.mark.parametrize("signal", [0.0, 0.1, 1.0, 10.0])
def test_the_gain_is_adascales(signal: float, own: int) -> None:
    """Johnson et al. 2020, eq. 2: E[σ² + μ²] / E[σ²/S + μ²], σ² and μ² of a batch of the reference size."""
    generator = torch.Generator().manual_seed(own)
    features, reference, steps = 6, 4, 3000
    spread = torch.linspace(0.2, 2.0, features, dtype=torch.float64)
    mean = torch.full((features,), signal / math.sqrt(features), dtype=torch.float64)

    def gradients(count: int) -> torch.Tensor:
        return mean + spread * torch.randn(steps, count, features, dtype=torch.float64, generator=generator)

    noise = GradientNoise()
    for sample in gradients(own):
        gram = sample @ sample.T
        noise.add(float(gram.trace()), float(gram.sum()), own, 1, own / reference)
    batches = gradients(reference).mean(dim=1)  # what the definition speaks of
    variance = float(batches.var(dim=0).sum())
    squared_mean = float(batches.mean(dim=0).square().sum())
    for scale in (1, 2, 8, 32):
        expected = (variance + squared_mean) / (variance / scale + squared_mean)
        assert noise.gain(scale * reference, reference) == pytest.approx(expected, rel=0.12 if signal >= 1.0 else 0.25)
    if signal == 0.0:
        assert noise.gain(32, reference) > 6.0


def test_a_sample_counts_for_the_steps_that_it_stands_for() -> None:
    rng = random.Random(0)
    once, often = GradientNoise(), GradientNoise()
    for _ in range(20):
        trace, steps = rng.uniform(1, 2), rng.randint(1, 50)
        squared_sum = rng.uniform(0, 8 * trace)
        once.add(trace, squared_sum, 8, steps, 2.0)
        for _ in range(steps):
            often.add(trace, squared_sum, 8, 1, 2.0)
        assert once.gain(32, 4) == pytest.approx(often.gain(32, 4))


def test_a_single_example_says_nothing() -> None:
    noise = GradientNoise()
    noise.add(5.0, 5.0, 1, 10, 1.0)
    assert noise.gain(8, 1) == 1.0


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "cubic"},
        {"name": "power"},
        {"name": "linear", "power": 0.5},
        {"name": "power", "power": math.nan},
        {"reference_batch_size": 0},
        {"ramp": -1},
        {"momentum": "drop"},
    ],
)
def test_rules_that_make_no_sense_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        LearningRateRule(**arguments)  # type: ignore[arg-type]
