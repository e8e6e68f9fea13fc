"""Natural gradients held against theory on wide networks (``benchmarks/optim/dynamics.py``)."""

import importlib.util
import statistics
from pathlib import Path
from types import ModuleType

import pytest
import torch
from sklearn.datasets import load_digits

from autobatch._errors import ConfigError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "optim" / "dynamics.py"


@pytest.fixture(scope="module")
def dynamics() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dynamics", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("approximation", "layers", "tolerance"),
    [
        ("exact", 3, 0.01),
        ("layer", 3, 0.02),
        ("layer", 4, 0.02),
        ("tridiagonal", 3, 0.02),
        ("tridiagonal", 4, 0.02),
        ("kfac", 3, 0.05),
        ("unit", 3, 0.2),
    ],
)
def test_outputs_of_wide_networks_go_as_theory_has_them(
    dynamics: ModuleType, approximation: str, layers: int, tolerance: float
) -> None:
    """Over three steps; the deviation falls with the width."""
    narrow, wide = (
        statistics.mean(dynamics.deviation(approximation, layers, width, seed) for seed in range(3))
        for width in (64, 512)
    )
    assert wide < tolerance
    assert wide < 0.6 * narrow


def test_kronecker_factors_need_as_many_inputs_as_samples(dynamics: ModuleType) -> None:
    """The theory's condition on the first layer: of 4 inputs, 8 samples' are not independent."""
    assert dynamics.deviation("kfac", 3, 512, 0, inputs=4) > 5 * dynamics.deviation("kfac", 3, 512, 0)


def test_blocks_beside_each_other_of_five_layers_are_singular(dynamics: ModuleType) -> None:
    model, (x, y) = dynamics.network(32, 5, 16, 0), dynamics.examples(4, 16, 0)
    with pytest.raises(ConfigError, match="of 5 layers is singular"):
        dynamics.course(model, x, y, "tridiagonal", 0.1, steps=1)


def test_the_published_run_on_zeros_and_ones_of_digits(dynamics: ModuleType) -> None:
    """The golden run's course at a smaller size: one step fits, and new images are predicted as the kernel has it."""
    images, labels = load_digits(n_class=2, return_X_y=True)
    x = torch.as_tensor(images)
    x, y = x / x.norm(dim=1, keepdim=True), torch.as_tensor(labels).double()[:, None] - 0.5
    losses = dynamics.golden_run((x[:50], y[:50]), (x[50:], y[50:]), width=1024, seed=0)
    assert losses["train"][1] < 0.01 * losses["train"][0]
    assert losses["train"][2] < 0.1 * losses["train"][1]
    assert losses["test"][2] == pytest.approx(losses["test_predicted"], rel=0.3)


def test_the_kernel_is_that_of_a_wide_network(dynamics: ModuleType) -> None:
    x, _ = dynamics.examples(4, 32, 0)
    model = dynamics.network(2048, 3, 32, 0)
    rows = []
    for one in x:
        gradients = torch.autograd.grad(model(one), list(model.parameters()))
        # A layer's weight is drawn with variance 2 / inputs: of one that is scaled instead, the gradient is smaller.
        rows.append(torch.cat([own.flatten() * (2.0 / own.shape[1]) ** 0.5 for own in gradients]))
    jacobian = torch.stack(rows)
    expected = dynamics.tangent_kernel(x, x, 3)
    assert float((jacobian @ jacobian.mT - expected).norm() / expected.norm()) < 0.1
