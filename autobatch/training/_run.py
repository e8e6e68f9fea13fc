"""A run as it is configured, recorded and watched; carrying it out is in ``running``."""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticSerializationError

from autobatch._artefacts import find_artefact, found_again, portable
from autobatch._errors import AutoBatchError, CheckpointError, ConfigError
from autobatch._plain import Epochs
from autobatch._yaml import load_yaml
from autobatch.beacons import CostTable
from autobatch.control import DecisionRecord
from autobatch.control.run import CONFIG, EpochRow, Summary, is_loop, no_run
from autobatch.policies import PolicySpec
from autobatch.training.task import TaskSpec


class RunConfig(BaseModel):
    """Everything that a run depends on; saved as ``config.yaml`` in its directory."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    task: TaskSpec = Field(description="Dataset, model, optimizer, schedule, ladder and length of the training.")
    task_path: Path | None = Field(
        default=None, description="Env folder that the task came from; its beacons are the library. None: no library."
    )
    policy: PolicySpec = Field(description="Kind and parameters of the policy that chooses batch size and rate.")
    seed: int = Field(default=0, ge=0, description="Seeds model, permutations, augmentation and random policies.")
    device: str = Field(default="auto", description="Torch device such as 'cpu' or 'cuda'; 'auto' takes a GPU if any.")
    data_dir: Path | None = Field(default=None, description="Where datasets lie or are downloaded to.")
    measure: bool = Field(
        default=True, description="Whether C̄ and L are measured; what the policy asks for is, either way."
    )
    recording: bool = Field(
        default=False, description="Measure by the task's interval and floor, as beacons do, rather than by budget."
    )
    calibrate: bool = Field(default=False, description="Time this machine rather than use a recorded cost table.")
    trust_code: bool = Field(default=False, description="Allow the task to name factories to import.")
    costs: CostTable | None = Field(
        default=None, description="Seconds by batch size; filled in once at the run's start, then kept."
    )
    periods: int = Field(
        default=1, ge=1, description="Decisions taken in each epoch; filled in once at the run's start, then kept."
    )


@dataclass(frozen=True)
class RunInfo:
    """What is known when a run starts.

    Attributes:
        out: the run directory.
        device: kind of device, such as ``"cpu x86_64, 1 thread"``.
        train_size: training examples.
        validation_size: validation examples.
        test_size: test examples.
        examples: what they are: ``"images"``, ``"rows"`` of a table, ``"windows"`` of a text, or ``"examples"``.
        predicted: what of them, such as ``"10 classes"``.
        parameters: trainable parameters of the model.
        epochs: epochs of the whole training, those after the end that the policy plans left out.
        periods: decisions taken in each.
        resumed_epoch: epochs that were already done, 0 for a new run.
        beacons: beacons in the library, None where the task has no library.
        costs_source: where the cost table comes from, in words; None where none is used.
        seconds: shortest and longest time of the epochs that are left, by the cost table; None where there is none.
    """

    out: Path
    device: str
    train_size: int
    validation_size: int
    test_size: int
    examples: str
    predicted: str
    parameters: int
    epochs: int
    periods: int
    resumed_epoch: Epochs
    beacons: int | None
    costs_source: str | None
    seconds: tuple[float, float] | None = None


class RunObserver:
    """What watches a run. Every method does nothing by default; override those you need."""

    def started(self, info: RunInfo) -> None:
        """Called once, before the first epoch (or the first after a resume)."""

    def scouting(self, plan: str) -> None:
        """Called once before the first scout trains, with what will be tried and what it costs at most."""

    def scout_epoch(self, row: EpochRow, epochs: Epochs) -> None:
        """Called after every decision period of a scout, with how many epochs it trains at most."""

    def scouted(self, scout: str) -> None:
        """Called after every scout, and with what was chosen, in words."""

    def note(self, message: str) -> None:
        """Called with one line about something that takes a while or that the user should know."""

    def decided(self, record: DecisionRecord) -> None:
        """Called after every decision, the first one before the first epoch."""

    def step(self, step: int, steps: int) -> None:
        """Called after optimizer step ``step`` (from 1) of ``steps`` until the next decision; must be cheap."""

    def epoch_finished(self, row: EpochRow) -> None:
        """Called after every decision period, usually an epoch, once its line is on disk."""

    def finished(self, summary: Summary) -> None:
        """Called once, when the summary is on disk."""


def load_run_config(out: Path) -> RunConfig:
    """Read the configuration of the run in ``out``, for ``--resume``.

    Args:
        out: a run directory.

    Returns:
        The configuration.

    Raises:
        CheckpointError: ``out`` holds no run, or its ``config.yaml`` is damaged.
    """
    path = out / CONFIG
    if not path.is_file():
        begun = out.is_dir() and not any(out.iterdir())
        empty = " (it is empty: what was begun there ended before its first step, and is begun without --resume)"
        raise CheckpointError(f"{no_run(out)}{empty * begun}")
    if is_loop(out):
        raise CheckpointError(
            f"{out}: holds a run of a loop of its own, not of 'autobatch run'; that loop goes on by load_state_dict()"
        )
    try:
        config = load_yaml(path, RunConfig)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    return found_config(config, out)


def found_config(config: RunConfig, out: Path) -> RunConfig:
    """Return a kept configuration with the paths in it where they lead to now."""
    found: dict[str, Any] = {
        key: found_again(str(place), out) for key in _PLACES if (place := getattr(config, key)) is not None
    }
    if "task_path" in found and not found["task_path"].exists():  # the run was moved, or passed on
        with suppress(AutoBatchError):
            found["task_path"] = find_artefact("envs", found["task_path"].name).parent.absolute()
    weights = config.policy.parameters.get("weights")
    if isinstance(weights, str) and Path(weights).name != weights:
        parameters = {**config.policy.parameters, "weights": str(found_again(weights, out))}
        found["policy"] = config.policy.model_copy(update={"parameters": parameters})
    return config.model_copy(update=found)


_PLACES = ("task_path", "data_dir")


def kept_config(config: RunConfig, out: Path) -> dict[str, Any]:
    """Return a configuration as plain values, as a run directory keeps it: no path in it tells of the machine."""
    try:
        plain: dict[str, Any] = config.model_copy(update=dict.fromkeys(_PLACES)).model_dump(mode="json")
    except PydanticSerializationError as error:
        raise ConfigError(f"the configuration holds a name that cannot be kept, as it is not UTF-8: {error}") from None
    places = {key: os.path.abspath(place) for key in _PLACES if (place := getattr(config, key)) is not None}
    weights = config.policy.parameters.get("weights")
    if isinstance(weights, str) and Path(weights).name != weights:
        plain["policy"]["parameters"]["weights"] = os.path.abspath(weights)
    return with_kept_paths({**plain, **places}, out)


def with_kept_paths(config: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Return a kept configuration with no absolute path in it; older versions wrote some."""

    def kept(value: Any) -> Any:
        if not isinstance(value, str) or not Path(value).is_absolute():
            return value
        way = portable(Path(value), out)
        try:
            way.encode()
        except UnicodeEncodeError:
            raise ConfigError(
                f"{value}: this name is not UTF-8 and cannot be kept with a run in {out}; rename the folder, or give "
                "the run a directory beside it"
            ) from None
        return way

    policy = config["policy"]
    parameters = {key: kept(value) if key == "weights" else value for key, value in policy["parameters"].items()}
    places = {key: kept(config.get(key)) for key in _PLACES}
    return {**config, **places, "policy": {**policy, "parameters": parameters}}
