"""A policy as data: the YAML that names a kind and its parameters, and where such names are looked up."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, create_model

from autobatch._artefacts import artefact_names, find_artefact
from autobatch._errors import UnknownNameError
from autobatch._yaml import load_yaml, validate
from autobatch.policies._protocol import Policy
from autobatch.policies._registry import policy_kind
from autobatch.policies.baselines import SHORTHANDS, expand_shorthand
from autobatch.policies.learned import KINDS, weights_beside


class PolicySpec(BaseModel):
    """A named policy: which kind, with which parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(min_length=1, description="Name under which runs and reports mention the policy.")
    kind: str = Field(min_length=1, description="Registered kind of policy that the parameters belong to.")
    parameters: dict[str, Any] = Field(default_factory=dict, description="Parameters of the kind; see its reference.")
    description: str = Field(default="", description="One sentence for listings.")

    @classmethod
    def fixed(cls, batch_size: int, lr: float, name: str = "fixed") -> Self:
        """Return the policy that keeps one configuration.

        Args:
            batch_size: global batch size.
            lr: base learning rate.
            name: what it is called.

        Returns:
            The policy.
        """
        return cls(name=name, kind="fixed", parameters={"batch_size": batch_size, "lr": lr})


def load_policy_spec(name_or_path: str | Path) -> PolicySpec:
    """Find and check a policy.

    A path of an existing file is taken as it is; a name is looked up as ``policies/NAME.yaml`` in the working
    directory, in ``$AUTOBATCH_PATH`` and among the shipped policies (the weights of a learned policy likewise, or
    beside a YAML that lies elsewhere); last, names such as ``s32``, ``s32-lr0.05``,
    ``s32-to-128`` and ``s32-to-128-ms`` are policies by themselves.

    Args:
        name_or_path: a name, or the path of a YAML file.

    Returns:
        The policy, its parameters checked against its kind.

    Raises:
        ConfigError: the YAML or a shorthand holds something that the policy cannot use.
        UnknownNameError: no such policy or kind.
    """
    try:
        path = find_artefact("policies", name_or_path)
    except UnknownNameError as error:
        expanded = expand_shorthand(str(name_or_path))
        if expanded is None:
            raise UnknownNameError(f"{error} (names such as {', '.join(SHORTHANDS)} need no file)") from None
        validate(expanded, _spec_model(expanded["kind"]), source=f"policy '{name_or_path}'")
        return PolicySpec(**expanded)
    spec = load_yaml(path, PolicySpec)
    try:
        with_parameters = _spec_model(spec.kind)
    except UnknownNameError as error:
        raise UnknownNameError(f"{path}: key 'kind': {error}") from None
    # Once more with the parameters checked in place, so that an error names their line.
    load_yaml(path, with_parameters)
    if spec.kind in KINDS.values():
        weights = weights_beside(spec.parameters["weights"], path)
        return spec.model_copy(update={"parameters": {**spec.parameters, "weights": weights}})
    return spec


def make_policy(spec: PolicySpec) -> Policy:
    """Build a policy.

    Args:
        spec: the policy as data.

    Returns:
        The policy, ready for ``reset``.

    Raises:
        ConfigError: a parameter is unknown or has a value that the kind cannot use.
        UnknownNameError: no such kind.
    """
    kind = policy_kind(spec.kind)
    return kind.build(validate(spec.parameters, kind.parameters, source=f"policy '{spec.name}', parameters"))


def policy_names() -> list[str]:
    """Return the names of all policies that have a YAML, sorted."""
    return sorted(artefact_names("policies"))


def _spec_model(kind: str) -> type[PolicySpec]:
    """Return ``PolicySpec`` with the parameters of one kind in place of any mapping."""
    parameters = policy_kind(kind).parameters
    # No parameters means no keys, so that the error names a key that has to be there.
    field = Field(default={}, validate_default=True)
    return create_model(f"{kind} policy", __base__=PolicySpec, parameters=(parameters, field))
