"""From an experiment's names to a run's configuration."""

import pytest

from autobatch import ConfigError, UnknownNameError
from autobatch.policies import load_policy_spec
from autobatch.training import ExperimentSpec, TaskSpec, load_experiment, resolve
from autobatch.training._experiment import override
from tests.training.tiny import tiny_task


def test_defaults_are_the_main_job():
    config = resolve(ExperimentSpec())
    assert (config.task.name, config.policy.kind, config.seed) == ("digits-resnet8", "beacon-follow", 0)
    assert config.task_path is not None
    assert (config.task_path / "env.yaml").exists()


def test_overrides_of_the_command_line_go_on_top_of_those_of_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("env: digits-mlp\npolicy: fixed\nset: {task.epochs: 7, policy.parameters.lr: 0.2}\n")
    config = resolve(load_experiment(file), {"--set": ["task.epochs=3"]})
    assert config.task.epochs == 3
    assert config.policy.parameters["lr"] == 0.2
    assert config.policy.parameters["batch_size"] is None  # as the file of the policy has it


def test_every_shipped_config_resolves():
    for name in ("digits", "mnist", "cifar10", "cifar100", "svhn"):
        experiment = load_experiment(name)
        assert resolve(experiment).task.name == experiment.env


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("polcy: fixed", "did you mean 'policy'?"),
        ("seed: -1", "seed"),
        ("set: [1]", "set"),
        ("policy: 3", "policy"),
    ],
)
def test_a_mistake_in_an_experiment_names_file_and_key(tmp_path, text, phrase):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml:1") as caught:
        load_experiment(file)
    assert phrase in str(caught.value)


def test_rates_around_the_optimizers_own_follow_it_when_it_is_changed():
    told = tiny_task().model_dump(mode="json", exclude={"learning_rates"})
    task = TaskSpec.model_validate(told)
    changed, _ = override(task, load_policy_spec("steer"), {"--set": ["task.optimizer.lr=0.02"]})
    assert changed.around
    assert changed.learning_rates[4] == 0.02
    named, _ = override(task, load_policy_spec("steer"), {"--set": ["task.learning_rates=[0.1, 0.2]"]})
    assert named.learning_rates == (0.1, 0.2)
    assert not named.around


def test_overrides_name_their_key():
    with pytest.raises(ConfigError, match=r"--set.*'task\.epoch'.*did you mean 'epochs'"):
        resolve(ExperimentSpec(), {"--set": ["task.epoch=3"]})
    with pytest.raises(UnknownNameError, match="digits-mlp"):
        resolve(ExperimentSpec(env="digits-mpl"))


def test_a_name_whose_other_keys_do_not_go_with_it_says_how_to_replace_all() -> None:
    with pytest.raises(ConfigError, match=r"give it whole: 'task.schedule=\{name: cosine\}'"):
        override(tiny_task(), load_policy_spec("fixed"), {"--set": ["task.schedule.name=cosine"]})
    task, _ = override(tiny_task(), load_policy_spec("fixed"), {"--set": ["task.schedule={name: cosine}"]})
    assert task.schedule.name == "cosine"
