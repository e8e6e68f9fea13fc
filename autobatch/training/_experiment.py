"""An experiment as data: which env, which policy, which seed; and how it becomes a run's configuration."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from autobatch._artefacts import find_artefact
from autobatch._errors import ConfigError
from autobatch._yaml import apply_overrides, load_yaml, validate
from autobatch.policies import PolicySpec, load_policy_spec
from autobatch.training._run import RunConfig
from autobatch.training.task import TaskSpec, cpu_share, load_task


class ExperimentSpec(BaseModel):
    """A whole experiment, as ``configs/*.yaml`` names it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    env: str = Field(default="digits-resnet8", min_length=1, description="Name or path of the task.")
    policy: str = Field(default="beacon-follow", min_length=1, description="Name or path of the policy.")
    seed: int = Field(default=0, ge=0, description="Seeds model, permutations, augmentation and random policies.")
    device: str = Field(default="auto", description="Torch device such as 'cpu' or 'cuda'; 'auto' takes a GPU if any.")
    overrides: dict[str, Any] = Field(
        default_factory=dict, alias="set", description="Dotted keys of task and policy, and their values."
    )


def load_experiment(name_or_path: str | Path) -> ExperimentSpec:
    """Load an experiment by name or path.

    Args:
        name_or_path: a name such as ``"mnist"``, or the path of a YAML file.

    Returns:
        The experiment.

    Raises:
        UnknownNameError: no such name.
        ConfigError: the file is not a valid experiment.
    """
    return load_yaml(find_artefact("configs", name_or_path), ExperimentSpec)


def resolve(experiment: ExperimentSpec, assignments: Mapping[str, Iterable[str]] | None = None) -> RunConfig:
    """Look up what an experiment names and put the overrides on top.

    Args:
        experiment: the experiment.
        assignments: further overrides such as ``"task.epochs=1"`` or ``"policy.parameters.lr=0.2"``, by the option that
            they came with; they go on top of the experiment's own.

    Returns:
        The run's configuration; its threads are the task's as far as this process has the CPUs, unless overridden.

    Raises:
        UnknownNameError: no such env or policy.
        ConfigError: a file or an override holds something that autobatch cannot use.
    """
    own = [f"{key}={json.dumps(value)}" for key, value in experiment.overrides.items()]
    recorded = load_task(experiment.env)
    fitting = recorded.model_copy(update={"threads": min(recorded.threads, cpu_share())})
    task, policy = override(fitting, load_policy_spec(experiment.policy), {"set": own, **(assignments or {})})
    return RunConfig(
        task=task,
        task_path=find_artefact("envs", experiment.env).parent.absolute(),
        policy=policy,
        seed=experiment.seed,
        device=experiment.device,
    )


def override(
    task: TaskSpec, policy: PolicySpec, assignments: Mapping[str, Iterable[str]]
) -> tuple[TaskSpec, PolicySpec]:
    """Return a task and a policy with some keys changed.

    Args:
        task: the task.
        policy: the policy.
        assignments: overrides such as ``"task.epochs=1"``, by the option that they came with.

    Returns:
        The changed task and policy.

    Raises:
        ConfigError: a key is not known or a value does not fit.
    """
    for source, some in assignments.items():
        chosen = list(some)
        if chosen:
            follows = {"learning_rates"} if task.around else None  # from the optimizer's own, which may be changed here
            plain = {"task": task.model_dump(mode="json", exclude=follows), "policy": policy.model_dump(mode="json")}
            try:
                changed = validate(apply_overrides(plain, chosen, source), _Overridden, source)
            except ConfigError as error:
                raise ConfigError(f"{error}{_told_whole(str(error), chosen)}") from None
            task, policy = changed.task, changed.policy
    return task, policy


def _told_whole(message: str, assignments: Sequence[str]) -> str:
    """Say how to replace a whole mapping where giving its name alone has left keys that do not go with it."""
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        parent, _, last = key.strip().rpartition(".")
        if last == "name" and f"key '{parent}'" in message:
            return f"; to replace the other keys of '{parent}' too, give it whole: '{parent}={{name: {value.strip()}}}'"
    return ""


class _Overridden(BaseModel):
    model_config = ConfigDict(extra="forbid")

    task: TaskSpec
    policy: PolicySpec
