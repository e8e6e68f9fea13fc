"""The Parquet files and the picture of a comparison."""

import json
import math
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autobatch import LibraryError
from autobatch.evidence import ComparedRun, load_epochs_table, load_runs, table_facts
from autobatch.evidence.compare._picture import CompareLine, compare_figure
from autobatch.evidence.compare._tables import save_tables
from autobatch.training import EpochRow

NAN = float("nan")
RUN = ComparedRun("tiny", "s8", 1, "8 ×2", "finished", 0.1, 0.02, 0.03, NAN, 2.0, 0.5, 1.5, 160, 20, 3, 1, 1.0, 0.7, 80)
ENDED = ComparedRun(
    "tiny", "wild", 1, "8 ×1", "diverged", NAN, NAN, NAN, NAN, 1.0, 0.0, 1.0, 80, 9, 0, 2, None, None, None
)
ROWS = [
    EpochRow(at, at / 2, 8, 0.1, 0.1, NAN, 0.5 * at, 10 * at, at, 80 * at, 0.4, 0.3, 0.02, 1.0 * at, 0.2 * at)
    for at in (1, 2)
]


@pytest.fixture
def out(tmp_path):
    save_tables(tmp_path, {"env": "tiny", "seeds": [1]}, [RUN, ENDED], [ROWS, ROWS[:1]])
    return tmp_path


def test_tables_come_back_as_they_were(out):
    runs, epochs = load_runs(out), load_epochs_table(out / "epochs.parquet")
    assert table_facts(runs) == table_facts(epochs) == {"format_version": 1, "env": "tiny", "seeds": [1]}
    assert repr(runs.to_pylist()) == repr([asdict(RUN), asdict(ENDED)])
    assert [(row["policy"], row["epoch"]) for row in epochs.to_pylist()] == [("s8", 1), ("s8", 2), ("wild", 1)]
    assert epochs.column("examples").to_pylist() == [80, 160, 80]
    assert math.isnan(epochs.column("c_bar").to_pylist()[0])
    for name in ("runs.parquet", "epochs.parquet"):
        stored = pq.ParquetFile(out / name).metadata
        assert stored.num_row_groups == 1
        assert stored.row_group(0).column(0).compression == "ZSTD"


def test_damage_is_named(out):
    path = out / "runs.parquet"
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place])
        with pytest.raises(LibraryError, match=r"runs\.parquet: "):
            load_runs(path)
    path.write_bytes(whole[:200] + bytes([whole[200] ^ 0x10]) + whole[201:])
    with pytest.raises(LibraryError, match=r"runs\.parquet: the rows are damaged"):
        load_runs(path)
    path.unlink()
    with pytest.raises(LibraryError, match=r"no such file; 'autobatch compare' writes it"):
        load_runs(out)
    with pytest.raises(LibraryError, match=r"cannot be read|not a readable Parquet file"):
        load_runs("/dev/null")


def test_foreign_tables_are_refused(out):
    table = load_runs(out)
    path = out / "runs.parquet"

    def refused(changed, words):
        pq.write_table(changed, path)
        with pytest.raises(LibraryError, match=words):
            load_runs(path)

    refused(table.replace_schema_metadata(None), "was not written by 'autobatch compare'")
    newer = {"autobatch": json.dumps({"format_version": 2})}
    refused(table.replace_schema_metadata(newer), "has format version 2; this autobatch reads version 1")
    refused(table.drop_columns(["seconds"]), "expected one column 'seconds', found 0")
    at = table.schema.get_field_index("seed")
    refused(table.set_column(at, "seed", pa.array([0.1, 0.2])), "column 'seed' must be int64, got double")
    refused(table.set_column(at, "seed", pa.array([1, None], pa.int64())), "column 'seed' has no value in 1 rows")


def test_the_picture_names_every_policy_and_nothing_overlaps():
    curve = ([1.0, 2.0, 3.0], [0.5, 0.1, 0.03])
    policies = [
        CompareLine("s32-lr0.05", (0.03, 0.03, 0.04), (0.033, 0.02, 0.045), 0, (1.0, 1.0, 1.0), 1.0, curve),
        *(
            CompareLine(f"a-policy-with-a-name-{at}", (0.04,), (0.04, NAN, NAN), at % 2, (0.5, 0.4, 9.0), 0.6, curve)
            for at in range(9)
        ),
        CompareLine("lost", (), (NAN, NAN, NAN), 3, (NAN, NAN, NAN), NAN, ([], [])),
        CompareLine("far-off", (0.8,), (0.8, NAN, NAN), 1, (1.0, 1.0, 1.0), 1.0, curve),
        CompareLine("slow", (0.05,), (0.05, NAN, NAN), 0, (20.0, 18.0, 21.0), 19.0, ([30.0, 60.0], [0.4, 0.05])),
    ]
    figure = compare_figure("digits-resnet8, 20 epochs, 5 seeds", policies, 0.03)
    figure.draw_without_rendering()
    error, time, curves = (axes for part in figure.subfigs for axes in part.axes)
    assert [label.get_text() for label in error.get_yticklabels()] == [line.label for line in policies]
    assert {"not known", "3 diverged", "1 diverged, 80.0 % →"} <= {text.get_text() for text in error.texts}
    assert error.get_xlim()[1] < 10.0  # what is far off is told in words rather than squash the rest
    looks = {(line.get_color(), line.get_linestyle()) for line in curves.get_legend().get_lines()}
    assert len(looks) == len(policies)  # all but the lost one, and the target
    labels = [error.xaxis.label, time.xaxis.label, *error.get_yticklabels()]
    boxes = [label.get_window_extent() for label in labels]
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[:at])
    for box in (*boxes, curves.get_legend().get_window_extent()):
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
