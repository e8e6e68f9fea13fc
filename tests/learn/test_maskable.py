"""The example with sb3-contrib, where that is installed: what it learns runs as a policy."""

import runpy
from pathlib import Path

import pytest

from autobatch.envs.steered import _runs
from autobatch.policies import load_policy_spec, make_policy
from autobatch.policies.general import GeneralPolicy
from tests.envs.steered_dynamics import STEERED_FAKES
from tests.policies.cases import make_observation, make_task

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "maskable_ppo.py"


def test_the_example_learns_a_policy_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sb3_contrib")
    monkeypatch.chdir(tmp_path)
    fakes = {"digits-mlp": "short", "mnist10k-mlp": "long"}
    monkeypatch.setattr(_runs, "load_steered", lambda env, without: STEERED_FAKES[fakes[env]])
    program = runpy.run_path(str(EXAMPLE))
    program["main"].__globals__.update(STEPS=64, REAL_STEPS=64, ROLLOUT=64)
    program["main"]()
    path = capsys.readouterr().out.split()[-1]
    policy = make_policy(load_policy_spec(path))
    assert isinstance(policy, GeneralPolicy)
    policy.reset(make_task(steered=True, guessing=2.3), None)
    assert policy.decide(make_observation()).batch_size in make_task().batch_sizes
