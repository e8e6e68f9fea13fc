"""Models: the paper's parameter counts and structure, seeds, and factories of the user's own."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autobatch._errors import ConfigError
from autobatch.fisher import FisherProbe
from autobatch.training import TaskSpec, build_model, build_task_model, load_data, load_task


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "depth", "channels", "expected", "tolerance"),
    [
        ("resnet", 110, 3, 1.73e6, 0.005e6),  # paper, section 4
        ("resnet", 20, 3, 0.27e6, 0.005e6),  # He et al. (2016), table 6
        ("resnet", 8, 1, 75_000, 500),
        ("densenet", 110, 3, 1.77e6, 0.005e6),
        ("densenet", 8, 1, 10_000, 500),
    ],
)
def test_parameter_counts(name, depth, channels, expected, tolerance):
    assert parameters(build_model(name, depth=depth, in_channels=channels)) == pytest.approx(expected, abs=tolerance)


def test_mlp_of_the_paper():
    model = build_model("mlp", in_channels=1, image_size=28)
    assert parameters(model) == 784 * 500 + 500 + 500 * 500 + 500 + 500 * 10 + 10
    assert parameters(build_model("mlp", in_channels=1, image_size=32)) == pytest.approx(0.77e6, abs=0.005e6)
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    first, second, third = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    assert torch.equal(model(x), third(F.relu(second(F.relu(first(x.flatten(1)))))))


def test_resnet_against_its_definition():
    """The forward pass written out from the state dict by the paper's description."""
    model = build_model("resnet", depth=14, in_channels=1).double()
    state = model.state_dict()
    x = torch.rand(4, 1, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def conv_bn(v, conv, bn, stride=1):
        v = F.conv2d(v, state[f"{conv}.weight"], stride=stride, padding=1)
        mean, variance = v.mean((0, 2, 3), keepdim=True), v.var((0, 2, 3), correction=0, keepdim=True)
        scale, shift = (state[f"{bn}.{key}"].view(1, -1, 1, 1) for key in ("weight", "bias"))
        return (v - mean) / (variance + 1e-5).sqrt() * scale + shift

    v = conv_bn(x, "conv", "bn").relu()
    for unit in range(6):
        stride = 2 if unit in {2, 4} else 1
        inside = conv_bn(v, f"units.{unit}.conv1", f"units.{unit}.bn1", stride).relu()
        inside = conv_bn(inside, f"units.{unit}.conv2", f"units.{unit}.bn2")
        v = v[:, :, ::stride, ::stride]
        v = torch.cat([v, v.new_zeros(len(v), inside.shape[1] - v.shape[1], *v.shape[2:])], 1) + inside
    expected = v.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]
    assert torch.allclose(model(x), expected, rtol=1e-10, atol=1e-12)


def test_densenet_layers_per_stack():
    model = build_model("densenet", depth=110)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert [c.out_channels for c in convolutions if c.kernel_size == (3, 3)] == [16] + [8] * 18 + [10] * 18 + [14] * 18
    assert sum(c.kernel_size == (1, 1) for c in convolutions) == 2


@pytest.mark.parametrize("name", ["resnet", "densenet", "mlp"])
@pytest.mark.parametrize("size", [8, (28, 28), (9, 13), 32])
def test_every_model_takes_every_size(name, size):
    depth = None if name == "mlp" else 8
    model = build_model(name, depth=depth, in_channels=2, num_classes=7, image_size=size)
    height, width = (size, size) if isinstance(size, int) else size
    assert model(torch.zeros(2, 2, height, width)).shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet", "densenet", "mlp"])
def test_seed_decides_and_global_state_stays(name):
    arguments = {} if name == "mlp" else {"depth": 8}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build_model(name, **arguments)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    same, other = build_model(name, **arguments), build_model(name, **arguments, seed=1)
    for key, value in first.state_dict().items():
        assert torch.equal(value, same.state_dict()[key])
    assert any(not torch.equal(value, other.state_dict()[key]) for key, value in first.state_dict().items())


def test_initial_weights():
    convolutions = [m for m in build_model("resnet", depth=110).modules() if isinstance(m, nn.Conv2d)]
    weight = torch.cat([m.weight.detach().flatten() for m in convolutions if m.out_channels == 64])
    assert float(weight.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.01)
    first, second, last = (m for m in build_model("mlp", image_size=28).modules() if isinstance(m, nn.Linear))
    assert float(second.weight.detach().std()) == pytest.approx((2 / 500) ** 0.5, rel=0.01)
    assert float(last.weight.detach().abs().max()) <= 500**-0.5
    assert float(first.bias.detach().abs().max()) == 0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet", {"depth": 9}, "needs a depth of 6n + 2"),
        ("resnet", {}, "needs a depth of 6n + 2"),
        ("densenet", {"depth": 2}, "needs a depth of 6n + 2"),
        ("densenet", {"depth": 8, "image_size": 3}, "needs 4x4 pixels, got 3x3"),
        ("mlp", {"depth": 8}, "an mlp has no depth"),
        ("mlp", {"hidden": [5, 0]}, "hidden': expected a list of positive integers, got [5, 0]"),
        ("mlp", {"hidden": 5}, "hidden': expected a list of positive integers, got 5"),
        ("mlp", {"width": 5}, "'model.arguments.width': unknown; mlp takes only 'hidden'"),
        ("resnet", {"depth": 8, "width": 5}, "'model.arguments.width': unknown; resnet takes no further arguments"),
        ("densnet", {"depth": 8}, "unknown model 'densnet'; did you mean 'densenet'"),
        ("convnet", {"image_size": 3}, "a convnet halves images twice, so needs 4x4 pixels, got 3x3"),
        ("convnet", {"channels": []}, "channels': expected a list of positive integers, got []"),
        ("vit", {"depth": 1, "image_size": 6}, "a vit cuts images into patches of 4x4 pixels, got 6x6"),
        ("vit", {"depth": 1, "width": 6}, "a vit needs a width that its heads divide, got 6 and 4"),
        ("gpt", {"depth": 0, "context": 8}, "a gpt needs a depth of 1 to 1202 blocks, got 0"),
        ("gpt", {"depth": 1, "context": 8, "width": 6}, "a gpt needs a width that its heads divide, got 6 and 4"),
        ("gpt", {"depth": 1, "context": 8, "heads": "x"}, "heads': expected a positive integer, got 'x'"),
        ("gpt", {"depth": 1}, "a gpt needs 'context'"),
    ],
)
def test_bad_model(name, arguments, message):
    with pytest.raises(ConfigError) as error:
        build_model(name, **arguments)
    assert message in str(error.value)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module in the working directory, which is not on the path of a console script."""
    (tmp_path / "own_models.py").write_text(
        "import torch\n"
        "def small(in_channels, num_classes, image_size, width=3):\n"
        "    size = in_channels * image_size[0] * image_size[1]\n"
        "    layers = [torch.nn.Flatten(), torch.nn.Linear(size, width), torch.nn.Linear(width, num_classes)]\n"
        "    return torch.nn.Sequential(*layers)\n"
        "def broken(**_): raise KeyError('x')\n"
        "def nothing(**_): return 3\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    yield "own_models"
    sys.modules.pop("own_models", None)


def test_factory_runs_only_when_trusted(own_module):
    with pytest.raises(ConfigError, match="--trust-code"):
        build_model("own_models:small")
    assert own_module not in sys.modules
    path, state = list(sys.path), torch.get_rng_state()
    model = build_model("own_models:small", image_size=4, num_classes=5, width=2, trust_code=True)
    assert sys.path == path
    assert torch.equal(torch.get_rng_state(), state)
    assert parameters(model) == 48 * 2 + 2 + 2 * 5 + 5
    again = build_model("own_models:small", image_size=4, num_classes=5, width=2, trust_code=True)
    assert torch.equal(model[1].weight, again[1].weight)


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("own_models:none", {}, "cannot import own_models:none: AttributeError"),
        ("no_models:small", {}, "cannot import no_models:small: ModuleNotFoundError"),
        ("own_models:number", {}, "own_models:number is int, expected a callable"),
        ("own_models:broken", {}, "own_models:broken failed: KeyError"),
        ("own_models:nothing", {}, "returned int, expected a torch.nn.Module"),
        ("own_models:small", {"depth": 3}, "own_models:small failed: TypeError"),
    ],
)
def test_bad_factory(name, arguments, message):
    with pytest.raises(ConfigError) as error:
        build_model(name, **arguments, trust_code=True)
    assert message in str(error.value)


def test_task_model_fits_its_data():
    for name in ("digits-resnet8", "digits-mlp"):
        task = load_task(name)
        data = load_data(task)
        assert build_task_model(task, data)(data.train_inputs[:3].float()).shape == (3, 10)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "mlp", "arguments": {"seed": 3}}, "'t': key 'model.arguments.seed': set by autobatch itself"),
        ({"name": "mlp", "arguments": {"hidden": "x"}}, "'t': key 'model.arguments.hidden': expected a list"),
        ({"name": "a.b:c"}, "'t': key 'model.name': 'a.b:c' imports and runs code; say --trust-code"),
    ],
)
def test_bad_task_model(model, message):
    digits = load_task("digits-mlp")
    task = TaskSpec.model_validate({**digits.model_dump(), "name": "t", "model": model})
    with pytest.raises(ConfigError) as error:
        build_task_model(task, load_data(task))
    assert message in str(error.value)


def test_a_gpt_sees_nothing_of_what_it_predicts():
    model = build_model("gpt", depth=2, context=6, num_classes=5, width=8, heads=2).double()
    text = torch.tensor([[0, 1, 2, 3, 4, 0]])
    other = text.clone()
    other[0, 4] = 1
    before, after = model(text), model(other)
    assert before.shape == (1, 5, 6)
    assert torch.equal(before[:, :, :4], after[:, :, :4])
    assert not torch.allclose(before[:, :, 4:], after[:, :, 4:])


MEASURED = {
    "convnet": {"channels": [3, 4], "in_channels": 2, "image_size": 4},
    "vit": {"depth": 1, "width": 4, "heads": 2, "patch": 2, "in_channels": 2, "image_size": 4},
    "gpt": {"depth": 2, "width": 4, "heads": 2, "context": 5},
    "mlp": {"hidden": [4], "in_channels": 6, "image_size": 1},
}


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_measured_is_the_gradients_of_single_examples(name):
    model = build_model(name, **MEASURED[name], num_classes=3).double()
    generator = torch.Generator().manual_seed(0)
    shape = {"gpt": (5,), "mlp": (6,)}.get(name, (2, 4, 4))
    inputs = torch.randn(4, *shape, generator=generator, dtype=torch.float64)
    inputs = (inputs.abs() * 10).long() % 3 if name == "gpt" else inputs
    labels = torch.randint(3, (4, 5) if name == "gpt" else (4,), generator=generator)
    probe = FisherProbe(model, gradients="rows")
    with probe:
        probe.backward(F.cross_entropy(model(inputs), labels))
    rows = []
    for one, label in zip(inputs.split(1), labels.split(1), strict=True):
        gradients = torch.autograd.grad(F.cross_entropy(model(one), label), list(model.parameters()))
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    every = torch.stack(rows)
    torch.testing.assert_close(probe.gram(), every @ every.T)
