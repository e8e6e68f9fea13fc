"""The tiny task as an env folder, with beacons of its own."""

from pathlib import Path

import pytest
import yaml

from autobatch.envs import register_environments
from autobatch.training import TaskSpec, load_data
from tests.beacons.synthetic import Law, make_library
from tests.training.tiny import COSTS, tiny_task

register_environments()


@pytest.fixture(scope="session")
def tiny_env(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny task with beacons made from a law and a cost table, so that nothing has to be timed."""
    task = tiny_task()
    data = load_data(task)
    folder = _folder(tmp_path_factory, task)
    law = Law(train_size=len(data.train_labels), epochs=task.epochs)
    library = make_library(
        task.batch_sizes,
        task.learning_rates,
        seeds=(0,),
        law=law,
        task=task.fingerprint_payload(data.fingerprint, data.num_classes),
        task_name=task.name,
        costs=COSTS,
    )
    library.save(folder)
    return folder


@pytest.fixture(scope="session")
def bare_env(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task without beacons, one of whose learning rates no training survives."""
    return _folder(tmp_path_factory, tiny_task(name="bare", learning_rates=[0.1, 1000.0]))


def _folder(factory: pytest.TempPathFactory, task: TaskSpec) -> Path:
    folder = factory.mktemp("envs") / task.name
    folder.mkdir()
    (folder / "env.yaml").write_text(yaml.safe_dump(task.model_dump(mode="json", exclude_none=True)))
    return folder
