import dataclasses
import io
import itertools
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from autobatch._errors import CheckpointError, ConfigError, UnknownNameError
from autobatch.policies import (
    SCHEMA,
    LearnedPolicy,
    ObservationView,
    PolicyCard,
    PolicyTraining,
    load_card,
    load_learned,
    load_policy_spec,
    make_policy,
    policy_names,
    save_card,
    save_learned,
)
from autobatch.policies._moves import BATCH_MOVES, RATE_MOVES, Moves
from autobatch.policies.learned._network import Network
from tests.beacons.synthetic import make_library
from tests.policies.cases import LAW, make_observation, make_task, simulate, through_json

SIZE = ObservationView.size
TRAINING = PolicyTraining(algorithm="none", tasks=("synthetic",), steps=0, seeds=(0,), seconds=0.0)


def make_network(
    actions: str = "multidiscrete", activation: str = "tanh", seed: int = 0, scale: float = 0.5
) -> Network:
    generator = np.random.default_rng(seed)
    sizes = (SIZE, 12, 10, 8 if actions == "multidiscrete" else 9)
    layers = [
        (scale * generator.standard_normal((outputs, inputs)), 0.1 * generator.standard_normal(outputs))
        for inputs, outputs in itertools.pairwise(sizes)
    ]
    return Network.of(layers, activation=activation, actions=actions)


def make_constant(*logits: float) -> Network:
    """A network that says the same wherever the run stands."""
    return Network.of([(np.zeros((len(logits), SIZE)), np.array(logits))], activation="tanh", actions="multidiscrete")


def save(folder: Path, network: Network | None = None, name: str = "mine", **card) -> Path:
    network = network or make_network()
    return save_learned(folder / f"{name}.yaml", network, PolicyCard.of(network, TRAINING, **card), description="Mine.")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working directory with the learned policy 'mine' in its policies/ folder."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "policies")
    return tmp_path / "policies"


@pytest.fixture(scope="module")
def library():
    return make_library(seeds=(0,))


def make(name: str | Path = "mine", library=None, **task) -> LearnedPolicy:
    policy = make_policy(load_policy_spec(name))
    policy.reset(make_task(**task), library)
    return policy


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("actions", ["multidiscrete", "discrete"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_what_is_saved_is_loaded(tmp_path, actions, activation):
    network = make_network(actions, activation)
    path = save(tmp_path, network, batch_sizes=(8, 16), learning_rates=(0.1, 1 / 3), evaluation={"iqm": 0.5})
    loaded, card = load_learned(str(tmp_path / "mine"))
    assert card == PolicyCard.of(
        network, TRAINING, batch_sizes=(8, 16), learning_rates=(0.1, 1 / 3), evaluation={"iqm": 0.5}
    )
    assert (loaded.activation, loaded.actions, loaded.sizes) == (activation, actions, network.sizes)
    assert np.array_equal(loaded.flat(), network.flat())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.json", "mine.safetensors", "mine.yaml"]
    assert load_policy_spec(path).description == "Mine."


def test_a_name_is_looked_up_and_stays_a_name(home):
    assert load_policy_spec("mine").parameters == {"weights": "mine"}
    assert load_policy_spec("policies/mine.yaml").parameters == {"weights": "mine"}
    assert "mine" in policy_names()
    assert isinstance(make(), LearnedPolicy)


def test_a_yaml_elsewhere_brings_its_weights_along(tmp_path, monkeypatch):
    save(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    spec = load_policy_spec("elsewhere/mine.yaml")
    assert spec.parameters == {"weights": str(tmp_path / "elsewhere" / "mine")}
    monkeypatch.chdir("/")
    make_policy(spec)


def test_a_yaml_elsewhere_may_name_weights_of_an_artefact(home, tmp_path):
    path = tmp_path / "copy.yaml"
    path.write_text((home / "mine.yaml").read_text())
    assert load_policy_spec(path).parameters == {"weights": "mine"}
    path.write_text("name: copy\nkind: learned\nparameters: {weights: policies/mine}\n")
    assert load_policy_spec(path).parameters == {"weights": str(home / "mine")}
    make_policy(load_policy_spec(path))


def test_a_card_is_replaced_when_its_policy_has_been_evaluated(home):
    card = load_card(home / "mine.json")
    save_card(home / "mine.json", card.model_copy(update={"evaluation": {"gain": 0.25}}))
    assert load_learned("mine")[1].evaluation == {"gain": 0.25}
    with pytest.raises(ConfigError, match="other weights"):
        save_card(home / "mine.json", PolicyCard.of(make_network(seed=1), TRAINING))
    with pytest.raises(ConfigError, match=r"mine\.json.*what JSON cannot"):
        save_card(home / "mine.json", card.model_copy(update={"evaluation": {"gain": float("nan")}}))


def test_a_card_of_another_network_is_not_saved(tmp_path):
    with pytest.raises(ConfigError, match="another network"):
        save_learned(tmp_path / "mine.yaml", make_network(seed=1), PolicyCard.of(make_network(), TRAINING))
    assert not list(tmp_path.iterdir())


def test_unknown_weights_say_what_is_known(home):
    (home / "mine.yaml").write_text("name: mine\nkind: learned\nparameters: {weights: mina}\n")
    with pytest.raises(UnknownNameError, match=r"unknown weights 'mina'.*did you mean 'mine'"):
        make()


@pytest.mark.parametrize("weights", ["..", "\0", "x" * 5000, "/nowhere/at/all", "."])
def test_impossible_names_of_weights_are_errors(home, weights):
    with pytest.raises((UnknownNameError, ConfigError)):
        load_learned(weights)


class Payload:
    """Touches a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mknod, (str(self.path),)


def pickled(payload: Payload, form: str) -> bytes:
    if form.startswith("protocol"):
        return pickle.dumps(payload, protocol=int(form[-1]))
    buffer = io.BytesIO()
    torch.save(payload, buffer, _use_new_zipfile_serialization=form == "torch")
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["protocol 0", "protocol 2", "protocol 5", "torch", "torch legacy"])
@pytest.mark.parametrize("suffix", [".safetensors", ".json", ".yaml"])
def test_a_pickle_is_refused_without_being_executed(home, tmp_path, form, suffix):
    touched = tmp_path / "touched"
    content = pickled(Payload(touched), form)
    pickle.loads(pickle.dumps(Payload(touched)))
    assert touched.exists()  # it would
    touched.unlink()
    (home / f"mine{suffix}").write_bytes(content)
    if suffix == ".safetensors":  # even where the card vouches for it
        vouch(home, content)
    with pytest.raises(ConfigError, match=rf"mine\{suffix}") as caught:
        make()
    assert not touched.exists()
    if suffix != ".yaml" and form != "protocol 0":
        assert "pickle" in str(caught.value)


def vouch(home: Path, content: bytes) -> None:
    from hashlib import sha256

    edit_card(home, sha256=sha256(content).hexdigest())


def edit_card(home: Path, **changes) -> None:
    path = home / "mine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_truncated_weights_are_refused(home, kept):
    path = home / "mine.safetensors"
    content = path.read_bytes()[:kept]
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine\.safetensors: expected the file whose SHA-256.*truncated"):
        make()
    vouch(home, content)
    with pytest.raises(ConfigError, match=r"mine\.safetensors: expected safetensors"):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.bias": None}, r"expected the tensors 0\.bias, .*got 0\.weight, 1"),
        ({"3.bias": torch.zeros(2)}, r"expected the tensors .*got .*3\.bias"),
        ({"0.bias": torch.zeros(13)}, r"'0\.bias': expected float32 of shape \(12,\), got float32 of shape \(13,\)"),
        ({"0.bias": torch.zeros(12, dtype=torch.float64)}, r"'0\.bias': expected float32 .*got float64"),
        ({"1.bias": torch.full((10,), float("nan"))}, r"'1\.bias': expected finite numbers"),
        ({"1.bias": torch.full((10,), float("inf"))}, r"'1\.bias': expected finite numbers"),
    ],
)
def test_weights_that_do_not_fit_the_card_are_refused(home, change, message):
    tensors = {name: value for name, value in (make_network().tensors() | change).items() if value is not None}
    content = safetensors.torch.save(tensors)
    (home / "mine.safetensors").write_bytes(content)
    vouch(home, content)
    with pytest.raises(ConfigError, match=r"mine\.safetensors: .*" + message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "reads version 1, the card has 2"),
        ({"observation_schema": SCHEMA + 1}, f"of version {SCHEMA}, the policy was learned on version {SCHEMA + 1}"),
        ({"observation_size": 7}, f"'network.layers': expected 7 first.*got {SIZE}"),
        ({"actions": "box"}, "'actions': expected one of 'multidiscrete', 'discrete', 'steered', 'forked', got 'box'"),
        ({"actions": "discrete"}, "expected layers that end in 9 logits for discrete actions"),
        ({"network": {"layers": [SIZE, 8], "activation": "gelu"}}, "'network.activation': expected one of 'tanh'"),
        ({"sha256": "abc"}, "'sha256': expected text"),
        ({"evaluaton": {}}, "'evaluaton': unknown key; did you mean 'evaluation'"),
        ({"training": None}, "'training'"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(home, change, message):
    edit_card(home, **change)
    with pytest.raises(ConfigError, match=rf"mine\.(json|safetensors): .*{message}"):
        make()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format_version": NaN}', "[" * 100_000, "\xff\0"])
def test_a_damaged_card_is_refused(home, content):
    (home / "mine.json").write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"mine\.json: expected the card of a learned policy in JSON"):
        make()


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_missing_half_is_named(home, suffix):
    (home / f"mine{suffix}").unlink()
    with pytest.raises(ConfigError, match=rf"mine\{suffix}: cannot be read: No such file"):
        make()


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"batch_sizes": (8, 16)}, r"batch_sizes 8, 16 only, and task 'synthetic' has 8, 16, 32"),
        ({"learning_rates": (0.1,)}, r"learning_rates 0\.1 only, and task 'synthetic' has"),
    ],
)
def test_another_ladder_is_refused(home, card, message):
    save(home, **card)
    with pytest.raises(ConfigError, match=message):
        make()


def test_its_own_ladder_is_not(home):
    save(home, batch_sizes=make_task().batch_sizes, learning_rates=make_task().learning_rates)
    make()


# Network -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_network_is_what_torch_makes_of_the_same_layers(activation):
    network = make_network(activation=activation)
    modules: list[torch.nn.Module] = []
    for weight, bias in network.layers:
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        modules += [linear, torch.nn.Tanh() if activation == "tanh" else torch.nn.ReLU()]
    reference = torch.nn.Sequential(*modules[:-1])
    views = np.random.default_rng(0).uniform(-1, 1, (1000, SIZE)).astype(np.float32)
    expected = reference(torch.from_numpy(views)).detach().numpy()
    np.testing.assert_allclose(network.logits(views), expected, rtol=1e-5, atol=1e-6)
    actions = network.act(views)
    assert np.array_equal(actions, np.stack([expected[:, :5].argmax(1), expected[:, 5:].argmax(1)], axis=1))
    assert np.array_equal(network.act(views[0]), actions[0])

    entries = torch.from_numpy(views[0]).requires_grad_()
    logits = reference(entries)
    sum(part.topk(2).values @ torch.tensor([1.0, -1.0]) for part in (logits[:5], logits[5:])).backward()
    np.testing.assert_allclose(
        network.weigh(views[0])[1], (entries.grad * entries).detach().numpy(), rtol=1e-4, atol=1e-6
    )


def test_one_vector_holds_all_layers():
    network = make_network()
    again = Network.of_flat(network.flat(), network.sizes, activation="tanh", actions="multidiscrete")
    assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in network.tensors().items())
    with pytest.raises(ConfigError, match="parameters, got shape"):
        Network.of_flat(network.flat()[1:], network.sizes, activation="tanh", actions="multidiscrete")


# Decisions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_beacons", [True, False])
@pytest.mark.parametrize("actions", ["multidiscrete", "discrete"])
def test_every_decision_is_a_move_with_a_reason(home, library, actions, with_beacons):
    save(home, make_network(actions, seed=2))
    task = make_task()
    decisions = simulate(make(library=library if with_beacons else None), noise=0.2).decisions
    moves = Moves(task.batch_sizes, task.learning_rates)
    before = moves.start
    for decision in decisions:
        rungs = moves.rungs(decision.batch_size, decision.lr)
        assert moves.at(*rungs) == (decision.batch_size, decision.lr)
        assert rungs[0] - before[0] in BATCH_MOVES
        assert rungs[1] - before[1] in RATE_MOVES
        assert re.search(r"batch size .* % sure\); what counted most: \w[^,]* -?\d\.\d\d", decision.reason)
        json.dumps(dataclasses.asdict(decision), allow_nan=False)
        before = rungs
    assert len({(decision.batch_size, decision.lr) for decision in decisions}) > 1
    assert ("there are no beacons" in decisions[0].reason) != with_beacons
    assert decisions == simulate(make(library=library if with_beacons else None), noise=0.2).decisions


def test_the_moves_are_those_of_the_network(home):
    logits = np.zeros(8)
    logits[[4, 5]] = 3.0  # two rungs up, one rate down
    save(home, make_constant(*logits))
    first, second, third = simulate(make()).decisions[:3]
    assert (first.batch_size, first.lr) == (256, 0.05)
    assert first.reason.startswith("start with s256 at lr 0.05: batch size two rungs up (83 % sure), learning rate one")
    assert second.reason.startswith(
        "s256 at lr 0.05 -> s512 at lr 0.025: batch size two rungs up (the ladder ends here"
    )
    assert third.reason.startswith("stay with s512 at lr 0.025")
    assert "nothing that is known yet counted" in third.reason


def test_a_restart_in_mid_run_changes_nothing(home, library):
    policy = make(library=library)

    def restarted(epoch: int) -> LearnedPolicy | None:
        if epoch != LAW.epochs // 2:
            return None
        fresh = make(library=library)
        fresh.load_state_dict(through_json(policy.state_dict()))
        return fresh

    whole = simulate(make(library=library), noise=0.2).decisions
    assert simulate(policy, noise=0.2, before_epoch=restarted).decisions == whole


def test_other_weights_do_not_go_on_with_a_run(home):
    policy = make()
    policy.decide(make_observation())
    state = through_json(policy.state_dict())
    save(home, make_network(seed=1))
    with pytest.raises(CheckpointError, match="started with weights"):
        make().load_state_dict(state)


def test_what_the_training_has_set_up_changes_nothing(home, library):
    expected = simulate(make(library=library), noise=0.2).decisions
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            found = simulate(make(library=library), noise=0.2).decisions
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)
    assert found == expected


def test_deciding_needs_a_task(home):
    with pytest.raises(RuntimeError, match="reset"):
        make_policy(load_policy_spec("mine")).decide(make_observation())
