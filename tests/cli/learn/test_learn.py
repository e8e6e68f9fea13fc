"""The commands that learn: train-policy and surrogate, and mistakes with them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from autobatch.cli.learn import _train_policy as _command
from autobatch.cli.learn._progress import LearningProgressBar
from autobatch.envs.surrogate import _ensemble
from autobatch.evidence.surrogate import _fidelity
from autobatch.learn import CemSettings, CrossEntropy, _train_policy
from autobatch.policies import load_card
from tests.envs.surrogate.synthetic_runs import EPOCHS, make_folder
from tests.training.tiny import COSTS

STEPS = "6200"
"""Two generations."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with env ``known``, env ``bare`` without branch runs, and the learning ``runs/mine``."""
    place = tmp_path_factory.mktemp("place")
    make_folder(place / "envs" / "known")
    make_folder(place / "envs" / "bare", branches=False)
    return place


@pytest.fixture(scope="module", autouse=True)
def _fitted_roughly() -> Iterator[None]:
    """What the commands say is tested, and not how well a surrogate knows its task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ensemble, "_STEPS", (20, 20))
        patch.setattr(_fidelity, "FOLDS", 2)
        yield


@pytest.fixture(autouse=True)
def _inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.delenv("AUTOBATCH_PATH", raising=False)


@pytest.fixture(scope="module")
def learned(place: Path) -> Path:
    from autobatch.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["train-policy", "--env", "known", "--steps", STEPS, "--out", "runs/mine"]) == 0
    return place / "runs" / "mine"


def test_it_learns_and_says_what_comes_next(call, tmp_path, monkeypatch) -> None:
    out = tmp_path / "mine"
    monkeypatch.setattr("sys.argv", ["autobatch", "train-policy", "--env", "known"])
    code, said, _ = call("train-policy", "--env", "known", "--steps", STEPS, "--seeds", "2,0-1", "--out", str(out))
    assert code == 0
    for seed in range(3):
        assert f"seed {seed}: done, mean return" in said
    assert said.count("(kept)") == 1
    assert f"autobatch compare --policies {out / 'mine.yaml'} --envs known" in said
    card = load_card(out / "mine.json")
    assert sorted(card.training.seeds) == [0, 1, 2]
    assert card.training.command == "autobatch train-policy --env known"


def test_where_nothing_is_said(call, place) -> None:
    code, _, _ = call("train-policy", "--env", "known", "--steps", "64", "--algo", "cem", "--hidden", "4,3")
    assert code == 0
    card = load_card(place / "runs" / "cem-known" / "cem-known.json")
    assert card.network.layers[1:] == (4, 3, 8)
    assert card.actions == "multidiscrete"


def test_begin_takes_over_of_a_policy_what_is_not_named(call, place) -> None:
    short = ("train-policy", "--env", "known", "--steps", "64")
    assert call(*short, "--actions", "discrete", "--hidden", "4,3", "--out", "runs/first")[0] == 0
    for name, named in (("a", ()), ("b", ("--hidden", "4,3")), ("c", ("--actions", "discrete"))):
        out = f"runs/{name}"
        assert call(*short, "--begin", "runs/first/first.yaml", *named, "--out", out)[0] == 0
        card = load_card(place / out / f"{name}.json")
        assert (card.network.layers[1:-1], card.actions) == ((4, 3), "discrete")


def test_departures_from_the_rule_are_learned_on_all_that_is_recorded(call, place, monkeypatch) -> None:
    quick = CemSettings(population=4, episodes=2, elite=0.5, deviation=0.0, extra=0.0)
    monkeypatch.setattr(_train_policy, "_cem_settings", lambda _: quick)
    monkeypatch.setattr(_train_policy, "_judging_seeds", lambda _: range(2))
    monkeypatch.setattr(CrossEntropy.network, "__defaults__", (2,))
    monkeypatch.setattr(_command, "_recorded", lambda *, branched: () if branched else ("known", "bare"))
    code, said, _ = call("train-policy", "--env", "all", "--actions", "steered", "--steps", "8")
    assert code == 0
    assert "return above the rule's: +0.0000 ± 0.0000" in said
    assert "nothing better than the rule of steer was found: it is kept" in said
    assert "--envs known --against steer" in said
    card = load_card(place / "runs" / "cem-all" / "cem-all.json")
    assert (card.actions, card.network.layers[1:], card.training.tasks) == ("steered", (12,), ("known", "bare"))
    out = ("--out", "runs/further")
    code, said, _ = call("train-policy", "--env", "bare", "--steps", "8", "--begin", "runs/cem-all/cem-all.yaml", *out)
    assert code == 0
    assert load_card(place / "runs" / "further" / "further.json").actions == "steered"
    assert "nothing better than runs/cem-all/cem-all.yaml was found: it is kept" in said


def test_all_is_what_has_been_recorded() -> None:
    branched, recorded = (_command._recorded(branched=own) for own in (True, False))
    assert set(branched) == {"known", "digits-mlp", "digits-resnet8"}
    assert {*branched, "bare", "mnist10k-mlp"} < set(recorded)
    assert "cifar10-resnet110" not in recorded


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (["--env", "knwon"], ["did you mean 'known'?"]),
        (["--env", "known,digits-mpl"], ["did you mean", "digits-mlp"]),
        (["--env", ","], ["at least one env"]),
        (["--algo", "ce"], ["unknown algorithm 'ce'", "did you mean 'cem'?"]),
        (["--algo", "sarsa"], ["known: cem, dqn, ppo"]),
        (["--algo", "dqn", "--actions", "multidiscrete"], ["discrete"]),
        (["--on", "surogate"], ["did you mean 'surrogate'?"]),
        (["--on", "train", "--pessimism", "0.5"], ["pessimism"]),
        (["--epochs", "3"], ["epochs"]),
        (["--actions", "discret"], ["did you mean 'discrete'"]),
        (["--actions", "stered"], ["did you mean 'steered'"]),
        (["--actions", "steered", "--algo", "ppo"], ["'steered'", "cem, not by ppo", "network_of"]),
        (["--actions", "steered", "--cost", "measured"], ["surrogate", "'modelled'"]),
        (["--actions", "steered", "--hidden", "0"], ["at least 1"]),
        (["--begin", "learned-general", "--hidden", "4"], ["begin", "--hidden and --actions are left out"]),
        (["--begin", "learned-general", "--actions", "discrete"], ["begin", "'steered'"]),
        (["--cost", "modeled"], ["did you mean 'modelled'?"]),
        (["--cost", "measured"], ["surrogate", "'modelled'"]),
        (["--cost-weight", "-1"], ["cost_weight"]),
        (["--cost-weight", "nan"], ["cost_weight"]),
        (["--pessimism", "-1"], ["pessimism"]),
        (["--seeds", "one"], ["--seeds", "0-2 or 0,5"]),
        (["--seeds", "3-1"], ["--seeds"]),
        (["--seeds", "0,3-1"], ["--seeds"]),
        (["--seeds", "-1"], ["--seeds"]),
        (["--seeds", "0,0"], ["different seeds"]),
        (["--seeds", "0-99999999999"], ["--seeds"]),
        (["--hidden", "16x16"], ["--hidden"]),
        (["--hidden", "0"], ["at least 1"]),
        (["--begin", "steer"], ["begin", "'learned'", "'steer'"]),
        (["--begin", "learned-digit"], ["learned-digits"]),
        (["--begin", "learned-digits-mlp", "--hidden", "4"], ["begin", "--hidden and --actions are left out"]),
        (["--steps", "0"], ["--steps"]),
        (["--jobs", "0"], ["--jobs"]),
        (["--env", "bare"], ["autobatch beacons branch"]),
        (["--out", "envs"], ["new or empty"]),
        (["--out", "envs/known/env.yaml"], ["new or empty"]),
        (["--out", "runs/two words"], ["the policy gets the folder's name"]),
        (["--resume"], ["holds no learning"]),
        (["--resume", "--out", "envs"], ["holds no learning"]),
    ],
)
def test_mistakes_are_named_and_leave_nothing_behind(refused, place, arguments, phrases) -> None:
    before = sorted(place.glob("runs/*"))
    env = [] if "--env" in arguments else ["--env", "known"]
    out = [] if "--out" in arguments else ["--out", "runs/new"]
    said = refused("train-policy", *env, "--steps", STEPS, *out, *arguments)
    for phrase in phrases:
        assert phrase in said
    assert sorted(place.glob("runs/*")) == before


def test_a_learning_that_is_there_is_neither_lost_nor_mixed_up(refused, call, learned) -> None:
    before = {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()}
    mine = ("train-policy", "--env", "known", "--out", "runs/mine")
    assert "go on with --resume" in refused(*mine, "--steps", STEPS)
    assert "'steps' was 6200 and is 7000" in refused(*mine, "--steps", "7000", "--resume")
    assert "'cost_weight' was 0.05 and is 0.1" in refused(*mine, "--steps", STEPS, "--cost-weight", "0.1", "--resume")
    assert {path: path.read_bytes() for path in learned.rglob("*") if path.is_file()} == before
    assert call(*mine, "--steps", STEPS, "--resume")[0] == 0
    assert (learned / "mine.safetensors").read_bytes() == before[learned / "mine.safetensors"]


def test_interrupted_it_says_how_to_go_on(call, tmp_path, monkeypatch) -> None:
    def interrupt(self, progress) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LearningProgressBar, "progressed", interrupt)
    code, _, err = call("train-policy", "--env", "known", "--steps", STEPS, "--out", str(tmp_path / "cut"))
    assert code == 130
    assert "--resume" in err
    assert "Traceback" not in err


# surrogate -----------------------------------------------------------------------------------------------------------


def test_surrogate_tells_in_tables_how_far_it_can_be_trusted(call) -> None:
    code, said, err = call("surrogate", "known")
    assert (code, err) == (0, "")
    for phrase in ("24 journeys", "| one epoch ahead |", "| validation loss |", "rank correlation", "90 % interval"):
        assert phrase in said


def test_surrogate_tells_in_strict_json(call, place) -> None:
    runs = place / "real" / "known"
    for index, (size, lr) in enumerate([(8, 0.2), (32, 0.1), (128, 0.05)]):
        write_run(runs / f"run-{index}", place, size, lr, loss=0.25 * (index + 1))
    write_run(runs / "broken", place, 8, 0.05, loss=None, stopped="diverged: loss is not finite")
    code, said, err = call("surrogate", "known", "--json", "--runs", str(runs))
    assert (code, err) == (0, "")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(said, parse_constant=refuse)
    assert found["env"] == "synthetic"
    assert found["fidelity"]["journeys"] == 24
    assert found["fidelity"]["persistence"]["gain of L"] is None
    assert found["policies"]["policies"] == ["s128", "s32", "s8"]
    assert found["policies"]["real_runs"] == [1, 1, 2]
    assert found["policies"]["real"][2] < 0.1, "what diverged has quality -1"
    code, said, _ = call("surrogate", "known", "--runs", str(runs))
    assert "| s128 | 1 |" in said
    assert "Rank correlation over 3 policies" in said
    for size in (32, 128):
        write_run(place / "few" / f"s{size}", place, size, 0.1, loss=12.0 / size)
        code, said, err = call("surrogate", "known", "--runs", "few")
        assert (code, err) == (0, "")
        assert ("Rank correlation over 2 policies: " in said) == (size == 128)
        assert "nan" not in said
        found = json.loads(call("surrogate", "known", "--json", "--runs", "few")[1], parse_constant=refuse)
        assert (found["policies"]["rank"] is None) == (size == 32)


def write_run(out: Path, place: Path, size: int, lr: float, loss: float | None, stopped: str = "finished") -> None:
    """A run directory as far as ``surrogate`` reads it."""
    from autobatch.control.run import CONFIG, SUMMARY
    from autobatch.policies import PolicySpec
    from autobatch.training import RunConfig, Summary, load_task

    policy = PolicySpec(name=f"s{size}", kind="fixed", parameters={"batch_size": size, "lr": lr})
    config = RunConfig(task=load_task(place / "envs" / "known"), policy=policy, seed=1, device="cpu", costs=COSTS)
    out.mkdir(parents=True)
    (out / CONFIG).write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    facts = {"validation_loss": loss, "validation_error": loss, "stopped_because": stopped}
    facts |= dict.fromkeys((
        "test_error",
        "test_loss",
        "train_loss",
        "c_bar",
        "l_cum",
        "measuring_budget",
        "best_beacon",
    ))
    facts |= dict.fromkeys(
        ("examples", "optimizer_steps", "samples", "seconds", "measuring_seconds", "measuring_share"), 0
    )
    named = {"task": "known", "policy": policy.name, "seed": 1, "device": "cpu", "epochs": EPOCHS, "batch_sizes": {}}
    (out / SUMMARY).write_text(Summary(**facts | named).model_dump_json())


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (["knwon"], ["did you mean 'known'?"]),
        (["bare"], ["autobatch beacons branch"]),
        (["known", "--runs", "envs"], ["no finished run", "autobatch compare"]),
        (["known", "--runs", "nowhere"], ["no finished run"]),
    ],
)
def test_mistakes_with_surrogate_are_named(refused, arguments, phrases) -> None:
    said = refused("surrogate", *arguments)
    for phrase in phrases:
        assert phrase in said
