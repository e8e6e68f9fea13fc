"""JSON schemas of the YAML files, by which editors complete keys, say what they mean and mark mistakes."""

import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

DRAFT = "http://json-schema.org/draft-07/schema#"

_ATTRIBUTE = re.compile(r"^    (\w+): ", flags=re.MULTILINE)


def schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of each kind of file by name: ``env``, ``policy``, ``experiment`` and ``paper``."""
    from autobatch.evidence import PaperExperiment
    from autobatch.training import ExperimentSpec, TaskSpec

    return {
        "env": _schema(TaskSpec, "A task: envs/NAME/env.yaml"),
        "policy": _policy_schema(),
        "experiment": _schema(ExperimentSpec, "An experiment: configs/NAME.yaml"),
        "paper": _schema(PaperExperiment, "An experiment of the paper: configs/paper/NAME.yaml"),
    }


def as_text(schema: Mapping[str, Any]) -> str:
    """Return a schema as its file holds it."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    schema = model.model_json_schema()
    for name, part in [(model.__name__, schema), *schema.get("$defs", {}).items()]:
        _describe(part, _meanings(_model_of(model, name)))
    return {"$schema": DRAFT, **schema, "title": title}


def _policy_schema() -> dict[str, Any]:
    from autobatch.policies import PolicySpec, policy_kind
    from autobatch.policies._registry import policy_kinds

    schema = _schema(PolicySpec, "A policy: policies/NAME.yaml")
    schema["properties"]["kind"]["enum"] = policy_kinds()
    definitions: dict[str, Any] = {}
    choices = []
    for kind in policy_kinds():
        parameters = policy_kind(kind).parameters.model_json_schema(ref_template="#/$defs/{model}")
        definitions |= parameters.pop("$defs", {})
        definitions[f"{kind} parameters"] = parameters
        choices.append({
            "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
            "then": {"properties": {"parameters": {"$ref": f"#/$defs/{kind.replace(' ', '%20')}%20parameters"}}},
        })
    return {**schema, "allOf": choices, "$defs": {**schema.get("$defs", {}), **definitions}}


def _describe(part: dict[str, Any], meanings: Mapping[str, str]) -> None:
    """Give each key the sentence that its model's docstring has for it, and leave out the docstring itself."""
    if "description" in part:
        part["description"] = part["description"].partition("\n\n")[0]
    for key, node in part.get("properties", {}).items():
        if key in meanings and "description" not in node:
            node["description"] = meanings[key]


def _meanings(model: type | None) -> dict[str, str]:
    section = (inspect.getdoc(model) or "").partition("Attributes:\n")[2] if model is not None else ""
    names = list(_ATTRIBUTE.finditer(section))
    ends = (*(name.start() for name in names[1:]), len(section))
    return {name[1]: " ".join(section[name.end() : end].split()) for name, end in zip(names, ends, strict=False)}


def _model_of(model: type[BaseModel], name: str) -> type | None:
    """Return the model of a name among those that a model is made of."""
    if model.__name__ == name:
        return model
    for field in model.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if inspect.isclass(part) and issubclass(part, BaseModel) and (found := _model_of(part, name)) is not None:
                return found
    return None
