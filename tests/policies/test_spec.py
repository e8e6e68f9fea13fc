from pathlib import Path

import pytest

from autobatch._artefacts import artefact_roots
from autobatch._errors import ConfigError, UnknownNameError
from autobatch.policies import (
    PolicySpec,
    load_policy_spec,
    make_policy,
    policy_kind,
    policy_kinds,
    policy_names,
    register_policy,
)
from autobatch.policies.baselines import FixedParameters, FixedPolicy, StagesPolicy

SHIPPED = artefact_roots()[-1] / "policies"
SHIPPED_NAMES = sorted(path.stem for path in SHIPPED.glob("*.yaml"))


@pytest.fixture
def write_policy(tmp_path, monkeypatch):
    """Write ./policies/NAME.yaml in a working directory of its own."""
    (tmp_path / "policies").mkdir()
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str) -> Path:
        path = tmp_path / "policies" / f"{name}.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_every_shipped_yaml_loads_and_makes_its_policy(name):
    spec = load_policy_spec(name)
    assert spec.name == name
    assert spec.description.endswith(".")
    assert make_policy(spec).needs_library == (spec.kind in {"beacon-follow", "best-beacon-stopped"})


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_every_shipped_yaml_spells_out_every_parameter(name):
    spec = load_policy_spec(name)
    assert set(spec.parameters) == set(policy_kind(spec.kind).parameters.model_fields)


@pytest.mark.parametrize("kind", ["beacon-follow", "fixed", "random", "steer"])
def test_yaml_named_like_its_kind_states_the_defaults(kind):
    model = policy_kind(kind).parameters
    assert model(**load_policy_spec(kind).parameters) == model()


def test_without_beacons_beacon_follow_does_as_steer():
    without = load_policy_spec("beacon-follow").parameters["without_beacons"]
    assert without == load_policy_spec("steer").parameters


def test_every_kind_has_a_yaml():
    assert {load_policy_spec(name).kind for name in SHIPPED_NAMES} == set(policy_kinds())


@pytest.mark.parametrize("kind", policy_kinds())
def test_every_parameter_has_a_sentence(kind):
    for field in policy_kind(kind).parameters.model_fields.values():
        assert field.description.endswith(".")


def test_shipped_names_are_listed():
    assert set(SHIPPED_NAMES) <= set(policy_names())


@pytest.mark.parametrize("name", ["s32-to-128", "s16-to-64-ms", "s512-to-32"])
def test_shipped_stages_are_what_their_name_means_without_a_file(name, tmp_path, monkeypatch):
    from autobatch.policies.baselines._shorthand import expand_shorthand

    defaults = {"starts": None, "within_rates": False, "lr": None}
    assert defaults | expand_shorthand(name)["parameters"] == load_policy_spec(name).parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("s64", {"batch_size": 64}),
        ("s64-lr0.05", {"batch_size": 64, "lr": 0.05}),
        ("s8-lr1e-3", {"batch_size": 8, "lr": 0.001}),
        ("s32-to-512", {"batch_sizes": [32, 64, 128, 256, 512], "within_rates": False}),
        ("s64-to-16-ms", {"batch_sizes": [64, 64, 32, 32, 16], "within_rates": True}),
    ],
)
def test_names_in_the_papers_notation_need_no_file(name, parameters):
    spec = load_policy_spec(name)
    assert (spec.name, spec.parameters) == (name, parameters)
    assert isinstance(make_policy(spec), StagesPolicy if "-to-" in name else FixedPolicy)


@pytest.mark.parametrize("name", ["s0", "s32-lr0", "s0-to-64", "s32-to-100"])
def test_notation_with_impossible_figures_is_an_error(name):
    with pytest.raises(ConfigError, match=name.partition("-lr")[0]):
        load_policy_spec(name)


def test_a_copy_in_the_working_directory_comes_first(write_policy):
    text = (SHIPPED / "fixed.yaml").read_text().replace("batch_size: null", "batch_size: 256")
    path = write_policy("fixed", text)
    write_policy("mine", text.replace("name: fixed", "name: mine"))
    assert load_policy_spec("fixed").parameters["batch_size"] == 256
    assert load_policy_spec(path) == load_policy_spec("fixed")
    assert load_policy_spec("mine").name == "mine"
    assert "mine" in policy_names()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "name: a\nkind: fixed\nparameters:\n  batchsize: 8\n",
            ["mine.yaml:4", "parameters.batchsize", "'batch_size'"],
        ),
        ("name: a\nkind: fixed\nparameters:\n  lr: fast\n", ["mine.yaml:4", "parameters.lr", "number", "'fast'"]),
        ("name: a\nkind: fixed\nparameters:\n  lr: -1\n", ["mine.yaml:4", "parameters.lr", "positive", "-1"]),
        ("name: a\nkind: fixed\nparameters:\n  lr: .nan\n", ["mine.yaml:4", "parameters.lr"]),
        ("name: a\nkind: stages\n", ["mine.yaml", "batch_sizes", "missing"]),
        ("name: a\nkind: stages\nparameters: {batch_sizes: []}\n", ["mine.yaml:3", "parameters.batch_sizes"]),
        ("name: a\nkind: stages\nparameters: {batch_sizes: [8, 1.5]}\n", ["mine.yaml:3", "parameters.batch_sizes"]),
        ("name: a\nkind: fixed\nparametres: {}\n", ["mine.yaml:3", "parametres", "'parameters'"]),
        ("kind: fixed\n", ["mine.yaml", "name", "missing"]),
        (
            "name: a\nkind: beacon-follow\nparameters:\n  landscape: nearst\n",
            ["mine.yaml:4", "parameters.landscape", "'nearest'"],
        ),
        ("name: a\nkind: random\nparameters:\n  every: true\n", ["mine.yaml:4", "parameters.every", "integer"]),
    ],
)
def test_bad_yaml_names_file_line_key_and_expectation(write_policy, text, parts):
    write_policy("mine", text)
    with pytest.raises(ConfigError) as caught:
        load_policy_spec("mine")
    for part in parts:
        assert part in str(caught.value)


def test_an_unknown_kind_gets_near_names(write_policy):
    write_policy("mine", "name: a\nkind: beacon-folow\n")
    with pytest.raises(UnknownNameError, match=r"mine.yaml.*beacon-folow.*'beacon-follow'"):
        load_policy_spec("mine")


@pytest.mark.parametrize("name", ["beacon-folow", "s32-", "32", "policies/none.yaml", "\0", "x" * 5000])
def test_an_unknown_name_says_what_is_known(name):
    with pytest.raises(UnknownNameError, match="beacon-follow"):
        load_policy_spec(name)


def test_changed_parameters_are_checked_again():
    spec = PolicySpec(name="mine", kind="fixed", parameters={"batch_sise": 8})
    with pytest.raises(ConfigError, match=r"policy 'mine'.*batch_sise.*'batch_size'"):
        make_policy(spec)


def test_a_kind_is_registered_once():
    with pytest.raises(ConfigError, match="'fixed' is registered already"):
        register_policy("fixed", FixedParameters)
