"""The schemas that editors check YAML files by: they are what the command writes, and every file names its own."""

import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(
    path
    for pattern in ("envs/*/env.yaml", "policies/*.yaml", "configs/*.yaml", "configs/paper/*.yaml")
    for path in ROOT.glob(pattern)
)


def test_the_files_are_what_the_command_writes(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("schema", "--out", "schemas")
    assert (code, out.split()) == (0, [f"schemas/{name}.json" for name in ("env", "policy", "experiment", "paper")])
    for path in Path("schemas").iterdir():
        assert path.read_text() == (ROOT / path).read_text(), "run: autobatch schema --out schemas"
    assert call("schema", "env")[1] == (ROOT / "schemas" / "env.json").read_text()


def resolved(schema, node):
    return schema["$defs"][node["$ref"].rpartition("/")[2].replace("%20", " ")] if "$ref" in node else node


def unknown_keys(schema, node, value, place=""):
    """Keys of a value that a schema does not have, of mappings in mappings too."""
    node = resolved(schema, node)
    if not isinstance(value, dict) or "properties" not in node:
        return []
    extra = [f"{place}{key}" for key in value if key not in node["properties"]]
    known = [(key, part) for key, part in value.items() if key in node["properties"]]
    return extra + [
        one for key, part in known for one in unknown_keys(schema, node["properties"][key], part, f"{key}.")
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_file_names_its_schema_and_fits_it(path):
    first = path.read_text().splitlines()[0]
    mark = "# yaml-language-server: $schema="
    assert first.startswith(mark)
    schema = json.loads((path.parent / first.removeprefix(mark)).read_text())
    content = yaml.safe_load(path.read_text())
    assert not unknown_keys(schema, schema, content)
    assert set(schema.get("required", ())) <= content.keys()
    if "allOf" in schema:
        (chosen,) = [
            one["then"] for one in schema["allOf"] if one["if"]["properties"]["kind"]["const"] == content["kind"]
        ]
        parameters = chosen["properties"]["parameters"]
        assert not unknown_keys(schema, parameters, content.get("parameters", {}))


def test_keys_have_their_meaning():
    schema = json.loads((ROOT / "schemas" / "env.json").read_text())
    assert schema["properties"]["batch_sizes"]["description"].startswith("the ladder, ascending")
    for part in (schema, *schema["$defs"].values()):
        for key, node in part.get("properties", {}).items():
            assert node.get("description"), key


def test_mistakes_are_named(home, refused):
    assert "did you mean 'policy'?" in refused("schema", "polic")
    assert "--out DIR" in refused("schema")
