"""Tasks: what env.yaml may say, the schedule, and what makes beacons comparable."""

import math

import pytest
import yaml
from pydantic import ValidationError

from autobatch._artefacts import artefact_names, find_artefact
from autobatch._errors import ConfigError
from autobatch._yaml import load_yaml
from autobatch.training import TaskSpec, check_ladder, load_task
from autobatch.training.task import fitting
from autobatch.training.task._info import run_task_info

MINIMAL = {
    "name": "t",
    "dataset": {"name": "digits"},
    "model": {"name": "resnet", "depth": 8},
    "batch_sizes": [8, 16],
    "learning_rates": [0.1],
    "epochs": 2,
}


def load(tmp_path, changes):
    path = tmp_path / "env.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **changes}))
    return load_yaml(path, TaskSpec)


@pytest.mark.parametrize("name", artefact_names("envs"))
def test_every_shipped_task(name):
    task = load_task(name)
    assert task.name == find_artefact("envs", name).parent.name
    assert TaskSpec.model_validate_json(task.model_dump_json(), strict=True) == task


def test_defaults_are_the_papers(tmp_path):
    task = load(tmp_path, {})
    assert (task.optimizer.name, task.optimizer.momentum, task.optimizer.nesterov) == ("sgd", 0.9, True)
    assert task.optimizer.weight_decay == 1e-4
    assert (task.schedule.milestones, task.schedule.factor) == ((0.5, 0.75), 0.1)
    assert task.measuring.interval == 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": [16, 8]}, "key 'batch_sizes': expected ascending"),
        ({"batch_sizes": [8, 8]}, "key 'batch_sizes': expected ascending"),
        ({"batch_sizes": [0, 8]}, "key 'batch_sizes[0]': expected a positive integer"),
        ({"batch_sizes": [10**40]}, "key 'batch_sizes[0]': expected a positive integer"),
        ({"learning_rates": [0.1, 0.1]}, "key 'learning_rates': expected ascending"),
        ({"learning_rates": [0.0]}, "key 'learning_rates[0]': expected a positive number"),
        ({"learning_rates": [-1.0]}, "key 'learning_rates[0]': expected a positive number"),
        ({"learning_rates": [math.nan]}, "key 'learning_rates[0]': expected a positive number"),
        ({"learning_rates": [math.inf]}, "key 'learning_rates[0]': expected a positive number"),
        ({"seeds": [1, 1]}, "key 'seeds': expected different seeds"),
        ({"name": "../x"}, "key 'name': expected text that matches"),
        ({"schedule": {"name": "multistep", "milestones": [0.75, 0.5]}}, "key 'schedule.milestones': expected ascend"),
        ({"schedule": {"name": "multistep", "milestones": [1]}}, "key 'schedule.milestones[0]': expected a number in"),
        ({"schedule": {"name": "cosine", "milestones": [0.5]}}, "key 'schedule': 'milestones' are for multistep only"),
        ({"optimizer": {"name": "adamw", "nesterov": True}}, "key 'optimizer': nesterov needs sgd with momentum"),
        ({"optimizer": {"momentum": 0.0, "nesterov": True}}, "key 'optimizer': nesterov needs sgd with momentum"),
        ({"optimizer": {"momentum": 1.0}}, "key 'optimizer.momentum': expected a number in [0, 1)"),
        ({"measuring": {"measure": "sketchd"}}, "got 'sketchd'; did you mean 'sketched'?"),
        ({"measuring": {"measure": "sketched", "sketch_rows": 0}}, "key 'measuring.sketch_rows'"),
        ({"batch_sizes": [8, 64], "measuring": {"measure": "sketched", "sketch_rows": 127}}, "expected at least 128"),
        ({"measuring": {"measure": "exact", "sketch_rows": 512}}, "it is for 'measure: sketched' only"),
        ({"measuring": {"sketch_rows": 512}}, "key 'measuring.sketch_rows': it is for"),
        ({"measuring": {"measure": None}}, "expected one of 'exact', 'sketched', got null"),
        ({"dataset": {"name": "digit"}}, "key 'dataset.name': unknown dataset 'digit'; did you mean 'digits'?"),
        ({"dataset": {"name": "imagefolder:"}}, "key 'dataset.name': expected a folder after 'imagefolder:'"),
        ({"dataset": {"name": "mnist", "test": 0.2}}, "key 'dataset': 'test' is for digits, csv, npz and text only"),
        (
            {"dataset": {"name": "cvs:x.csv"}},
            "key 'dataset.name': unknown dataset 'cvs:x.csv'; did you mean 'csv:PATH'",
        ),
        ({"dataset": {"name": "csv:"}}, "key 'dataset.name': expected a file after 'csv:'"),
        ({"dataset": {"name": "csv:x"}}, "key 'dataset': a csv needs 'target', the column that is predicted"),
        ({"dataset": {"name": "text:x"}}, "key 'dataset': a text needs 'context', the characters of a window"),
        (
            {"dataset": {"name": "digits", "target": "x"}},
            "key 'dataset': 'target' is for csv:PATH only, not for digits",
        ),
        ({"dataset": {"name": "csv:x", "target": "y", "context": 3}}, "'context' is for text:PATH only, not for csv:x"),
        (
            {"dataset": {"name": "csv:x", "target": "y", "augmentation": "shift"}},
            "key 'dataset': 'augmentation' and 'evaluation' are for images only, not for csv:x",
        ),
        (
            {"dataset": {"name": "text:x", "context": 3, "split_seed": 1}},
            "key 'dataset': 'split_seed' does nothing to a text",
        ),
        ({"model": {"name": "gpt"}}, "key 'model': a gpt needs a depth of 1 to 1202 blocks, got None"),
        (
            {"model": {"name": "convnet", "depth": 8}},
            "key 'model': a convnet has no depth; give its widths as arguments",
        ),
        ({"model": {"name": "resnet"}}, "key 'model': a resnet needs a depth of 6n + 2"),
        ({"model": {"name": "densenet", "depth": 9}}, "key 'model': a densenet needs a depth of 6n + 2"),
        ({"model": {"name": "mlp", "depth": 8}}, "key 'model': an mlp has no depth"),
        ({"model": {"name": "rasnet", "depth": 8}}, "key 'model.name': unknown model 'rasnet'; did you mean 'resnet'"),
        ({"model": {"name": "my.module:"}}, "key 'model.name': unknown model 'my.module:'"),
    ],
)
def test_bad_task(tmp_path, changes, message):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, changes)
    assert message in str(error.value)
    line = int(str(error.value).split(":")[1])
    key = next(iter(changes))
    lines = (tmp_path / "env.yaml").read_text().splitlines()
    assert line >= 1 + next(number for number, text in enumerate(lines) if text.startswith(key))


def test_tasks_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        load_task("digits-resnet8").epochs = 3


def test_ladder_must_fit_the_training_set():
    task = load_task("digits-resnet8")
    check_ladder(task, 512)
    with pytest.raises(ConfigError, match=r"'digits-resnet8': key 'batch_sizes': .* at most 200, .* got 256, 512"):
        check_ladder(task, 200)


UNLISTED = {key: value for key, value in MINIMAL.items() if key not in {"batch_sizes", "learning_rates"}}


@pytest.mark.parametrize(
    ("optimizer", "own"),
    [({}, 0.1), ({"name": "adamw"}, 0.001), ({"name": "adamw", "lr": 0.0003}, 0.0003), ({"lr": 0.025}, 0.025)],
)
def test_where_no_rates_are_named_they_lie_around_the_optimizers_own(tmp_path, optimizer, own):
    path = tmp_path / "env.yaml"
    path.write_text(yaml.safe_dump({**UNLISTED, "optimizer": optimizer}))
    task = load_yaml(path, TaskSpec)
    times = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
    assert task.learning_rates == pytest.approx([own * each for each in times])
    assert task.learning_rates[4] == own
    assert task.batch_sizes == (8, 16, 32, 64, 128)
    info = run_task_info(task, train_size=1000, costs=None, seed=0)
    assert info.around
    again = TaskSpec.model_validate(task.model_dump(mode="json"))  # as a run directory keeps it
    assert again.around
    named = task.model_copy(update={"learning_rates": task.learning_rates[1:]})
    assert not named.around
    assert not run_task_info(named, train_size=1000, costs=None, seed=0).around


def test_an_optimizer_with_a_fault_is_all_that_is_told(tmp_path):
    path = tmp_path / "env.yaml"
    path.write_text(yaml.safe_dump({**UNLISTED, "optimizer": {"name": "adamax"}}))
    with pytest.raises(ConfigError, match=r"key 'optimizer\.name'") as raised:
        load_yaml(path, TaskSpec)
    assert "learning_rates" not in str(raised.value)


def test_a_ladder_that_nobody_names_fits_the_training_set():
    task = TaskSpec.model_validate(UNLISTED)
    assert fitting(task, 1000) is task
    assert fitting(task, 96).batch_sizes == (8, 16, 32, 64)
    with pytest.raises(ConfigError, match=r"at most 7, .* got 8, 16, 32, 64, 128"):
        fitting(task, 7)
    with pytest.raises(ConfigError, match=r"at most 15, .* got 16"):
        fitting(TaskSpec.model_validate(MINIMAL), 15)


def schedule(**keys):
    return TaskSpec(**{**MINIMAL, "schedule": keys}).schedule


def test_multistep_decays_from_the_milestone_on():
    factors = [schedule(name="multistep").schedule_factor(epoch / 320) for epoch in range(320)]
    assert factors[:160] == [1.0] * 160  # the paper: from the 161st and 241st epoch on
    assert factors[160:240] == pytest.approx([0.1] * 80)
    assert factors[240:] == pytest.approx([0.01] * 80)


@pytest.mark.parametrize("epochs", [7, 10, 24, 30, 40, 100])
@pytest.mark.parametrize("tenths", [(1, 3), (2, 7), (6, 9)])
def test_milestones_hit_whole_epochs_exactly(epochs, tenths):
    """Progress is a quotient of integers, as in a run, so a milestone of 0.3 is reached by epoch 3 of 10."""
    multistep = schedule(name="multistep", milestones=[tenth / 10 for tenth in tenths])
    for epoch in range(epochs + 1):
        reached = sum(10 * epoch >= tenth * epochs for tenth in tenths)
        assert multistep.schedule_factor((979 * epoch) / (979 * epochs)) == pytest.approx(0.1**reached)


def test_constant_and_cosine():
    assert [schedule(name="constant").schedule_factor(p) for p in (0.0, 0.6, 1.0)] == [1.0, 1.0, 1.0]
    cosine = schedule(name="cosine")
    assert [cosine.schedule_factor(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])
    assert cosine.schedule_factor(1 / 3) == pytest.approx(0.75)


@pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan])
def test_progress_out_of_range(progress):
    with pytest.raises(ValueError, match="progress must be in"):
        schedule(name="constant").schedule_factor(progress)


def test_fingerprint_says_what_makes_beacons_comparable():
    task = TaskSpec(**MINIMAL)
    payload = task.fingerprint_payload("abc", 10)
    same = {"name": "u", "batch_sizes": [4], "learning_rates": [1.0], "seeds": [9], "threads": 2}
    assert TaskSpec(**{**MINIMAL, **same}).fingerprint_payload("abc", 10) == payload
    different = [
        {"dataset": {"name": "digits", "validation": 0.4}},
        {"model": {"name": "resnet", "depth": 14}},
        {"optimizer": {"weight_decay": 0.0}},
        {"schedule": {"name": "constant"}},
        {"epochs": 3},
    ]
    payloads = [TaskSpec(**{**MINIMAL, **change}).fingerprint_payload("abc", 10) for change in different]
    payloads += [task.fingerprint_payload("abd", 10), task.fingerprint_payload("abc", 11)]
    assert all(other != payload for other in payloads)


def test_fingerprint_of_an_image_folder_leaves_its_place_out():
    one, other = (
        TaskSpec(**{**MINIMAL, "dataset": {"name": f"imagefolder:{path}"}}).fingerprint_payload("abc", 10)
        for path in ("/here", "there")
    )
    assert one == other


@pytest.mark.parametrize(
    ("dataset", "model", "message"),
    [
        (
            {"name": "csv:x", "target": "y"},
            {"name": "resnet", "depth": 8},
            "a resnet takes images or arrays; csv:x is a table, which mlp can take",
        ),
        (
            {"name": "text:x", "context": 8},
            {"name": "mlp"},
            "an mlp takes images, a table or arrays; text:x is a text, which gpt can",
        ),
        ({"name": "digits"}, {"name": "gpt", "depth": 1}, "a gpt takes a text; digits is images, which resnet and"),
    ],
)
def test_a_model_that_cannot_take_the_dataset(tmp_path, dataset, model, message):
    with pytest.raises(ConfigError, match="key 'model'") as error:
        load(tmp_path, {"dataset": dataset, "model": model})
    assert message in str(error.value)
    own = {"name": "own.models:make"}
    assert load(tmp_path, {"dataset": dataset, "model": own}).model.name == "own.models:make"


def test_a_task_of_images_reads_as_it_did_before_there_were_tables_and_texts():
    assert load_task("digits-mlp").model_dump()["dataset"].keys().isdisjoint({"target", "categorical", "context"})


def test_a_name_that_is_not_known_is_all_that_is_said_of_an_optimizer(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {"optimizer": {"name": "adamax"}})
    assert len(str(caught.value).splitlines()) == 1
    assert "key 'optimizer.name': expected one of 'sgd', 'adamw'" in str(caught.value)


def test_a_number_that_is_too_large_is_told_its_limit(tmp_path):
    with pytest.raises(
        ConfigError, match=r"key 'epochs': expected a positive integer below 2,147,483,648, got 99999999999"
    ):
        load(tmp_path, {"epochs": 99999999999})


def test_a_sketch_makes_beacons_of_its_own():
    exact, sketched, smaller = (
        TaskSpec(**MINIMAL, measuring=measuring).fingerprint_payload("data", 10)
        for measuring in ({"interval": 3}, {"measure": "sketched"}, {"measure": "sketched", "sketch_rows": 64})
    )
    assert exact == TaskSpec(**MINIMAL).fingerprint_payload("data", 10)
    assert sketched == {**exact, "measuring": {"measure": "sketched", "sketch_rows": 4096}}
    assert smaller == {**exact, "measuring": {"measure": "sketched", "sketch_rows": 64}}


def test_sgd_has_a_lower_usual_rate_for_a_quantity(tmp_path):
    quantity = {"name": "csv:x", "target": "y", "predict": "quantity"}
    facts = {"dataset": quantity, "model": {"name": "mlp"}}
    for optimizer, rate in (({}, 0.01), ({"optimizer": {"lr": 0.2}}, 0.2), ({"optimizer": {"name": "adamw"}}, 0.001)):
        task = TaskSpec(name="t", epochs=1, **facts, **optimizer)
        assert task.optimizer.base_lr == rate
        assert rate in task.learning_rates
        assert task.around
    assert TaskSpec(name="t", epochs=1, dataset={"name": "digits"}, model={"name": "mlp"}).optimizer.base_lr == 0.1
