"""The documentation's examples, run as they stand."""

import re
from pathlib import Path

import pytest

from autobatch.policies import BeaconFollowParameters, PolicySpec, load_policy_spec, make_policy
from autobatch.policies import _registry as registry
from tests.policies.cases import make_observation, make_task, through_json

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", ["how-to/add-a-policy.md", "concepts/beacon-follow.md"])
def test_every_yaml_of_the_docs_makes_a_policy(page, tmp_path):
    examples = blocks(page, "yaml")
    assert examples
    for example in examples:
        path = tmp_path / "example.yaml"
        path.write_text(example)
        make_policy(load_policy_spec(path))


@pytest.fixture
def kinds_of_the_how_to(monkeypatch):
    # Whoever follows the page brings its kind into the package.
    monkeypatch.setattr(registry, "_KINDS", {name: kind for name, kind in registry._KINDS.items() if name != "climb"})
    namespace = {}
    for code in blocks("how-to/add-a-policy.md", "python"):
        exec(compile(code, "add-a-policy.md", "exec"), namespace)


@pytest.mark.usefixtures("kinds_of_the_how_to")
def test_the_policy_on_the_flat_view_climbs_where_the_loss_no_longer_falls():
    spec = PolicySpec(name="mine", kind="flat")
    policy = make_policy(spec)
    policy.reset(make_task(), None)
    sizes = [8]
    for epoch, loss in enumerate([0.9, 0.8, 0.8, 0.5], start=1):
        observation = make_observation(epoch, validation_loss=loss, batch_size=sizes[-1], lr=0.1)
        sizes.append(policy.decide(observation).batch_size)
        state = through_json(policy.state_dict())
        policy = make_policy(spec)
        policy.reset(make_task(), None)
        policy.load_state_dict(state)
    assert sizes == [8, 8, 8, 16, 16]


@pytest.mark.usefixtures("kinds_of_the_how_to")
def test_the_policy_of_the_how_to_works_as_described():
    spec = PolicySpec(name="mine", kind="climb", parameters={"patience": 2})
    losses = [float("nan"), 0.9, 0.8, 0.8, 0.8, 0.7, 0.7, 0.7]
    sizes = []
    policy = make_policy(spec)
    policy.reset(make_task(), None)
    for epoch, loss in enumerate(losses):
        sizes.append(policy.decide(make_observation(epoch, validation_loss=loss)).batch_size)
        state = through_json(policy.state_dict())
        policy = make_policy(spec)
        policy.reset(make_task(), None)
        policy.load_state_dict(state)
    assert sizes == [8, 8, 8, 8, 16, 16, 16, 32]


def test_the_page_states_the_defaults():
    page = (DOCS / "concepts/beacon-follow.md").read_text(encoding="utf-8")
    stated = dict(re.findall(r"^\| `(\w+)` \| ([\w.-]+) \|", page, flags=re.MULTILINE))
    own = BeaconFollowParameters().model_dump(exclude={"without_beacons"})  # these are the defaults of kind 'steer'
    assert stated == {name: str(value) for name, value in own.items()}
    assert "| `without_beacons` |" in page
