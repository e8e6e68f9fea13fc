"""Whatever bytes a file holds, reading it gives a library or a LibraryError that names the file."""

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autobatch._errors import LibraryError
from autobatch.beacons import BeaconLibrary
from tests.beacons.synthetic import make_library


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_library(batch_sizes=(8, 16), lrs=(0.1,), seeds=(0, 1)).save(tmp_path_factory.mktemp("sound"))


def mutated(content, generator):
    """Truncate, flip, overwrite, or scramble the footer, where the structure is."""
    damaged = bytearray(content)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    kind = generator.randrange(6)
    if kind == 0:
        return bytes(damaged[: generator.randrange(len(damaged))])
    if kind == 1:
        damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
    if kind == 2:
        damaged[generator.randrange(footer, len(damaged))] ^= 1 << generator.randrange(8)
    if kind == 3:
        start = generator.randrange(len(damaged))
        damaged[start : start + generator.randrange(1, 200)] = generator.randbytes(generator.randrange(200))
    if kind == 4:
        start = generator.randrange(footer, len(damaged) - 8)
        damaged[start : start + 4] = generator.choice([b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", bytes(4)])
    if kind == 5:
        start, end = sorted(generator.sample(range(len(damaged)), 2))
        del damaged[start:end]
    return bytes(damaged)


def test_two_hundred_mutated_files_give_the_truth_or_a_library_error(sound, tmp_path):
    truth = [(beacon.key, beacon.rows["c_bar"].tolist()) for beacon in BeaconLibrary.load(sound).beacons]
    file = tmp_path / "beacons.parquet"
    refusals = []
    for number in range(200):
        file.write_bytes(mutated(sound.read_bytes(), random.Random(number)))
        library = loaded_or_refused(file, refusals)
        if library is not None:
            assert [(beacon.key, beacon.rows["c_bar"].tolist()) for beacon in library.beacons] == truth
    assert 150 < len(refusals) < 200
    assert all(str(file) in refusal for refusal in refusals)


def loaded_or_refused(file, refusals):
    try:
        return BeaconLibrary.load(file)
    except LibraryError as error:
        refusals.append(str(error))
        return None


@given(content=st.binary(max_size=300), wrapped=st.booleans())
@settings(max_examples=100)
def test_arbitrary_bytes_are_refused(tmp_path_factory, content, wrapped):
    file = tmp_path_factory.getbasetemp() / "arbitrary.parquet"
    file.write_bytes(b"PAR1" + content + b"PAR1" if wrapped else content)
    with pytest.raises(LibraryError, match=r"arbitrary\.parquet"):
        BeaconLibrary.load(file)


@given(text=st.text(max_size=30), key=st.sampled_from(["task", "versions", "commands", "costs", "sampling_interval"]))
@settings(max_examples=100)
def test_arbitrary_metadata_is_read_or_refused(tmp_path_factory, sound, text, key):
    file = tmp_path_factory.getbasetemp() / "metadata.parquet"
    rewrite(sound, file, metadata={f"autobatch:{key}": text})
    refusals = []
    assert (loaded_or_refused(file, refusals) is None) == bool(refusals)
    assert all("metadata.parquet" in refusal for refusal in refusals)


def rewrite(source, target, column=None, values=None, drop=None, metadata=None, only=None):
    """Write a file again with one thing changed."""
    table = pq.read_table(source)
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()} | (metadata or {})
    if column is not None:
        table = table.set_column(table.schema.get_field_index(column), column, values(table.column(column)))
    if drop is not None:
        table = table.drop_columns([drop])
    if only is not None:
        table = only(table)
    pq.write_table(table.replace_schema_metadata({k: v for k, v in facts.items() if v is not None}), target)


def first_replaced(value):
    return lambda column: pa.array([value, *column.to_pylist()[1:]], type=column.type)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "c_bar"}, "column 'c_bar' is missing"),
        ({"column": "steps", "values": lambda own: own.cast(pa.float64())}, "column 'steps' must be int64, got double"),
        (
            {"column": "c_bar", "values": lambda own: own.cast(pa.string())},
            "column 'c_bar' must be float64, got string",
        ),
        ({"column": "c_bar", "values": first_replaced(None)}, "column 'c_bar' has no value in 1 rows"),
        ({"column": "c_bar", "values": first_replaced(np.nan)}, "beacon b8-lr0.1-s0: column 'c_bar' must be finite"),
        ({"column": "progress", "values": first_replaced(0.5)}, "beacon b8-lr0.1-s0: column 'progress' must rise"),
        ({"column": "test_error", "values": first_replaced(0.5)}, "'test_error' must be the same in all its rows"),
        ({"column": "seed", "values": first_replaced(9)}, "beacon b8-lr0.1-s0: column 'epoch' must count"),
        ({"only": lambda table: pa.concat_tables([table, table])}, "column 'epoch' must count 1, 2, ... once each"),
        ({"only": lambda table: table.slice(0, 0)}, "no beacons are recorded"),
        ({"only": lambda table: table.slice(0, 70)}, "must end at progress 1"),
        ({"metadata": {"autobatch:format": None}}, "is no beacon library"),
        ({"metadata": {"autobatch:format": "99"}}, "format version '99' and this autobatch reads version 1"),
        ({"metadata": {"autobatch:task": "[1]"}}, "'autobatch:task' must be a JSON dict"),
        ({"metadata": {"autobatch:task": "{"}}, "'autobatch:task' is not JSON"),
        ({"metadata": {"autobatch:task": "[" * 100000}}, "'autobatch:task' is not JSON"),
        ({"metadata": {"autobatch:bn": None}}, "has no 'autobatch:bn'"),
        ({"metadata": {"autobatch:score": "luck"}}, "'score' must be one of"),
        ({"metadata": {"autobatch:sampling_interval": "0"}}, "'sampling_interval' must be at least 1"),
        ({"metadata": {"autobatch:costs": json.dumps({"device": "cpu"})}}, "cost table is damaged"),
        (
            {
                "metadata": {
                    "autobatch:costs": json.dumps({
                        "device": "",
                        "step_seconds": {"8": 10**400},
                        "measuring_seconds": {},
                        "epoch_seconds": 0,
                    })
                }
            },
            "metadata is damaged",
        ),
    ],
)
def test_what_is_wrong_is_named(sound, tmp_path, change, message):
    file = tmp_path / "beacons.parquet"
    rewrite(sound, file, **change)
    with pytest.raises(LibraryError) as caught:
        BeaconLibrary.load(file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


def test_foreign_parquet_is_refused(tmp_path):
    file = tmp_path / "weather.parquet"
    pq.write_table(pa.table({"rain": [1.0]}), file)
    with pytest.raises(LibraryError, match=r"weather\.parquet: this Parquet file is no beacon library"):
        BeaconLibrary.load(file)


def test_more_rows_than_any_library_are_not_unpacked(sound, tmp_path):
    file = tmp_path / "bomb.parquet"
    rewrite(sound, file, only=lambda table: pa.concat_tables([table] * 26_000).combine_chunks())
    assert file.stat().st_size < 2_000_000
    with pytest.raises(LibraryError, match="more than any beacon library holds"):
        BeaconLibrary.load(file)
