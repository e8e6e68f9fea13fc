"""YAML loading: every bad file is a ConfigError that names place, key and expectation."""

from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from autobatch._artefacts import find_artefact
from autobatch._errors import ConfigError, UnknownNameError
from autobatch._yaml import apply_overrides, load_yaml, validate
from autobatch.training.task._task import TaskSpec


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    count: int = Field(default=1, gt=0)
    rates: tuple[float, ...] = ()
    flag: bool = False
    limit: float | None = Field(default=None, ge=0, le=1)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    kind: Literal["alpha", "beta"] = "alpha"
    inner: Inner = Inner()
    either: str | Inner = "text"
    free: dict[str, int] = {}


def load(tmp_path: Path, text: str | bytes, overrides: tuple[str, ...] = ()) -> Outer:
    path = tmp_path / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_yaml(path, Outer, overrides)


def test_plain_file(tmp_path):
    text = "name: no\nkind: 'beta'\ninner: {count: 3, rates: [1e-4, 1, .5, 2.e+1], flag: true, limit: null}\n# end\n"
    spec = load(tmp_path, text)
    assert spec.name == "no"  # text in YAML 1.2, false in YAML 1.1
    assert spec.kind == "beta"
    assert spec.inner == Inner(count=3, rates=(1e-4, 1.0, 0.5, 20.0), flag=True)


def test_agrees_with_pyyaml_on_what_pyyaml_writes(tmp_path):
    values = {"name": "a: 'b' \"c\"\n\u00e9 #", "inner": {"count": 7, "rates": [1e-07, 1e22, -0.5, 3.0], "limit": 0.25}}
    assert load(tmp_path, yaml.safe_dump(values)) == Outer.model_validate(values)
    assert load(tmp_path, yaml.safe_dump(values, default_flow_style=True)) == Outer.model_validate(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\ninner:\n  count: abc", ":3: key 'inner.count': expected a positive integer, got 'abc'"),
        ("name: x\ninner:\n  count: 0", ":3: key 'inner.count': expected a positive integer, got 0"),
        ("name: x\ninner: {count: 1.0}", ":2: key 'inner.count': expected a positive integer, got 1.0"),
        ("name: x\ninner: {count: '3'}", ":2: key 'inner.count': expected a positive integer, got '3'"),
        ("name: x\ninner: {count: true}", ":2: key 'inner.count': expected a positive integer, got True"),
        ("name: x\ninner: {flag: yes}", ":2: key 'inner.flag': expected true or false, got 'yes'"),
        ("name: x\ninner: {limit: 2}", ":2: key 'inner.limit': expected a number in [0, 1], got 2"),
        ("name: x\ninner:\n rates:\n - 1\n - x", ":5: key 'inner.rates[1]': expected a finite number, got 'x'"),
        ("name: x\ninner: {rates: [.nan]}", "key 'inner.rates[0]': expected a finite number, got nan"),
        ("name: x\ninner: {rates: [-.inf]}", "key 'inner.rates[0]': expected a finite number, got -inf"),
        ("name: x\ninner: {rates: 1}", "key 'inner.rates': expected a list, each item a finite number, got 1"),
        (
            "name: x\n\nkind: alhpa",
            ":3: key 'kind': expected one of 'alpha', 'beta', got 'alhpa'; did you mean 'alpha'?",
        ),
        ("name: x\ninnr: {}", ":2: key 'innr': unknown key; did you mean 'inner'"),
        ("name: x\ninner: {conut: 1}", ":2: key 'inner.conut': unknown key; did you mean 'count'?"),
        ("name: x\nfree: {a: b}", ":2: key 'free.a': expected an integer, got 'b'"),
        ("name: x\neither: {count: -1}", ":2: key 'either.count': expected a positive integer, got -1"),
        ("kind: beta", ":1: key 'name': missing; expected text"),
        ("name: 3", ":1: key 'name': expected text, got 3"),
        ("name: x\nkind: beta\nname: y", ":3: key 'name': given twice, first at"),
        ("", "expected keys with values (such as 'name: ...'), got nothing"),
        ("- name", ":1: expected keys with values (such as 'name: ...'), got ['name']"),
        ("name", ":1: expected keys with values"),
        ("name: [", "not valid YAML"),
        ("name: x\n\tkind: y", ":2: not valid YAML"),
        ("name: x\n---\nname: y", ":2: expected one document"),
        ("? [a]\n: b", ":1: expected a name as key"),
        ("name: !!python/object/apply:os.getcwd []", ":1: tags ("),
        ("name: &x a\nkind: *x", ":1: anchors (&) and aliases (*) are not supported"),
        ("name: " + "[" * 5000, ":1: expected at most 32 levels of nesting"),
        ("name: x\nfree: {a: " + "9" * 6000 + "}", "key 'free.a': expected an integer"),
        ('name: "\\UFFFFFFFF"', "not valid YAML"),
        ('name: "\\ud800"', "expected plain values"),
        (b"name: x\nkind: \xff\xfe", ":2: expected UTF-8 text, got byte 0xff"),
        (b"name: x\nkind: \x00", ":2: not valid YAML: character"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), ":1: expected UTF-8 text"),
        ("name: " + "x" * 1_000_001, "at most 1000000 bytes"),
    ],
)
def test_bad_file(tmp_path, text, message):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert str(error.value).startswith(str(tmp_path / "file.yaml"))
    assert message in str(error.value)


def test_all_errors_at_once(tmp_path):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "name: 1\nkind: 2\ninner: {count: 0}")
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == [
        "key 'name'",
        "key 'kind'",
        "key 'inner.count'",
    ]


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_yaml(tmp_path / "none.yaml", Outer)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_yaml(tmp_path, Outer)


def test_overrides_replace_and_are_named_in_errors(tmp_path):
    text = "name: x\ninner: {count: 3, rates: [1]}"
    spec = load(tmp_path, text, ("inner.count=5", "inner.rates=[1e-3, 2]", "kind=beta", "name='a=b'"))
    assert spec == Outer(name="a=b", kind="beta", inner=Inner(count=5, rates=(1e-3, 2.0)))
    with pytest.raises(ConfigError, match=r"^--set inner\.count=x: key 'inner\.count': expected a positive integer"):
        load(tmp_path, text, ("inner.count=x",))
    with pytest.raises(ConfigError, match=r"^--set iner\.count=1: key 'iner': unknown key; did you mean 'inner'"):
        load(tmp_path, text, ("iner.count=1",))
    with pytest.raises(ConfigError, match=r"file\.yaml:1: key 'name'"):
        load(tmp_path, "name: 1", ("inner.count=1",))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("name", "expected key=value"),
        ("=1", "expected key=value"),
        ("a..b=1", "expected key=value"),
        ("name.x=1", "key 'name': expected a mapping, got 'x'"),
        ("name=[", "not valid YAML"),
        ("name=!!python/name:os.getcwd", "tags"),
        ("name=1\nother: 2", "expected one value"),
    ],
)
def test_bad_assignment(assignment, message):
    with pytest.raises(ConfigError) as error:
        apply_overrides({"name": "x"}, [assignment])
    assert str(error.value).startswith("--set ")
    assert message in str(error.value)


def test_apply_overrides_leaves_its_input_alone():
    before = {"inner": {"count": 1}}
    assert apply_overrides(before, ["inner.count=2", "inner.flag=true", "new.key="]) == {
        "inner": {"count": 2, "flag": True},
        "new": {"key": None},
    }
    assert before == {"inner": {"count": 1}}


def test_validate_names_its_source():
    assert validate({"name": "x"}, Outer, "here") == Outer(name="x")
    with pytest.raises(ConfigError, match=r"^here: key 'inner\.count': expected a positive integer, got '1'$"):
        validate({"name": "x", "inner": {"count": "1"}}, Outer, "here")
    with pytest.raises(ConfigError, match=r"^here: expected plain values"):
        validate({"name": object()}, Outer, "here")


NASTY = st.sampled_from([
    *"\0\t\n :-{}[]'\"|>%#~0",
    *("&a", "*a", "<<: ", "? ", "---", "...", "null", "-1", "1e-4", "1e999", ".nan", "-.inf", "9" * 5000),
    *("!!python/name:os.system", "\u00e9", "\\ud800"),
])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A shipped task, with pieces inserted, replaced, cut and bytes flipped."""
    text = draw(st.sampled_from(["digits-resnet8", "digits-mlp", "mnist-resnet8"]))
    content = find_artefact("envs", text).read_bytes()
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(content)))
        until = min(len(content), at + draw(st.integers(0, 8)))
        piece = draw(st.one_of(NASTY.map(str.encode), st.binary(max_size=3)))
        content = content[:at] + piece + content[until:]
    return content


@settings(max_examples=200)
@given(content=mutated())
def test_mutated_tasks_raise_nothing_else(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "mutated.yaml"
    path.write_bytes(content)
    try:
        task = load_yaml(path, TaskSpec)
    except (ConfigError, UnknownNameError) as error:
        message = str(error)
    else:
        assert TaskSpec.model_validate_json(task.model_dump_json(), strict=True) == task
        return
    assert message.startswith(str(path))
