"""The Parquet files and the picture of a comparison."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autobatch import LibraryError
from autobatch.evidence import ComparedRun, load_comparison, load_epochs_table, load_runs, table_facts, tables_by_task
from autobatch.evidence._statistics import Estimate
from autobatch.evidence.bench._overall import Aggregate
from autobatch.evidence.bench._tables import save_tables
from autobatch.evidence.bench.telling._picture import TaskLine, overall_figure, task_figure
from autobatch.training import EpochRow

NAN = float("nan")
STORED = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
RUN = replace(
    ComparedRun("tiny", "s8", 1, "8 ×2", "finished", 0.1, 0.02, 0.03, NAN, 2.0, 0.5, 1.5, 160, 20, 3, 1, 1.0, 0.7, 80),
    labels=("s8", "fixed s8"),
)
ENDED = ComparedRun(
    "tiny", "wild", 1, "8 ×1", "diverged", NAN, NAN, NAN, NAN, 1.0, 0.0, 1.0, 80, 9, 0, 2, None, None, None
)
ROWS = [
    EpochRow(at, at / 2, 8, 0.1, 0.1, NAN, 0.5 * at, 10 * at, at, 80 * at, 0.4, 0.3, 0.02, 1.0 * at, 0.2 * at)
    for at in (1, 2)
]


@pytest.fixture
def out(tmp_path):
    save_tables(tmp_path, {"seeds": [1], "tasks": {"tiny": {}}}, [RUN, ENDED], [ROWS, ROWS[:1]])
    return tmp_path


def test_tables_come_back_as_they_were(out):
    runs, epochs = load_runs(out), load_epochs_table(out / "epochs.parquet")
    assert table_facts(runs) == table_facts(epochs) == {"format_version": 2, "env": "tiny", "seeds": [1]}
    assert repr(runs.drop_columns("state").to_pylist()) == repr([
        asdict(run) | {"labels": [*run.labels]} for run in (RUN, ENDED)
    ])
    assert runs.column("state").to_pylist() == ["finished", "diverged"]
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
    newer = {"autobatch": json.dumps({"format_version": 3})}
    refused(table.replace_schema_metadata(newer), "has format version 3; this autobatch reads 1 to 2")
    refused(table.drop_columns(["seconds"]), "expected one column 'seconds', found 0")
    at = table.schema.get_field_index("seed")
    refused(table.set_column(at, "seed", pa.array([0.1, 0.2])), "column 'seed' must be int64, got double")
    refused(table.set_column(at, "seed", pa.array([1, None], pa.int64())), "column 'seed' has no value in 1 rows")


def test_what_has_come_to_a_run_since_an_older_file_lacks(out):
    pq.write_table(load_runs(out).drop_columns(["state", "quality"]), out / "runs.parquet")
    runs = load_runs(out)
    assert "quality" not in runs.column_names
    assert runs.column("seconds").to_pylist() == [2.0, 1.0]


def test_tasks_are_told_apart(tmp_path):
    other = replace(RUN, env="other", policy="s16")
    facts = {"seeds": [1], "tasks": {"tiny": {"score": "validation_loss"}, "other": {"score": "validation_error"}}}
    save_tables(tmp_path, facts, [RUN, other, ENDED], [ROWS, ROWS[:1], ROWS[:1]])
    runs, epochs = tables_by_task(load_runs(tmp_path)), tables_by_task(load_epochs_table(tmp_path))
    assert list(runs) == list(epochs) == ["tiny", "other"]
    assert runs["tiny"].column("policy").to_pylist() == ["s8", "wild"]
    assert runs["other"].column("policy").to_pylist() == epochs["other"].column("policy").to_pylist() == ["s16"]
    assert table_facts(runs["other"])["score"] == "validation_error"
    assert table_facts(epochs["tiny"])["env"] == "tiny"
    assert list(table_facts(load_runs(tmp_path))["tasks"]) == ["tiny", "other"]


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in STORED.glob("*/*/comparison.json")),
    ids=lambda path: f"{path.parent.name}-{path.name}",
)
def test_comparisons_of_the_first_version_are_read(folder):
    (task,) = load_comparison(folder).values()
    assert task["env"] == folder.name
    assert {"seeds", "score", "target", "recording", "policies", "tests", "runs"} <= task.keys()
    runs, epochs = load_runs(folder), load_epochs_table(folder)
    assert table_facts(runs)["env"] == folder.name
    assert tables_by_task(runs)[folder.name] is runs
    assert {row["policy"] for row in task["runs"]} == set(runs.column("policy").to_pylist())
    assert epochs.num_rows >= runs.num_rows


def test_a_damaged_comparison_is_named(tmp_path):
    for text, words in (
        (None, "cannot be read"),
        ("{", "was not written by 'autobatch compare', or is damaged"),
        ('{"env": "tiny"}', "was not written by 'autobatch compare', or is damaged"),
        ('{"format_version": 3}', "has format version 3; this autobatch reads 1 to 2"),
    ):
        if text is not None:
            (tmp_path / "comparison.json").write_text(text)
        with pytest.raises(LibraryError, match=words):
            load_comparison(tmp_path)


def test_the_picture_names_every_policy_and_nothing_overlaps():
    curve = ([1.0, 2.0, 3.0], [0.5, 0.1, 0.03])
    policies = [
        TaskLine("s32-lr0.05", (0.03, 0.03, 0.04), (0.033, 0.02, 0.045), 0, (1.0, 1.0, 1.0), 1.0, curve),
        *(
            TaskLine(f"a-policy-with-a-name-{at}", (0.04,), (0.04, NAN, NAN), at % 2, (0.5, 0.4, 9.0), 0.6, curve)
            for at in range(9)
        ),
        TaskLine("lost", (), (NAN, NAN, NAN), 3, (NAN, NAN, NAN), NAN, ([], [])),
        TaskLine("far-off", (0.8,), (0.8, NAN, NAN), 1, (1.0, 1.0, 1.0), 1.0, curve),
        TaskLine("slow", (0.05,), (0.05, NAN, NAN), 0, (20.0, 18.0, 21.0), 19.0, ([30.0, 60.0], [0.4, 0.05])),
    ]
    figure = task_figure("digits-resnet8, 20 epochs, 5 seeds", policies, "s32-lr0.05", 0.03)
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


def overall(label, judged, quality, time, scope="all"):
    return Aggregate(label, judged, scope, 1, 5, 0, Estimate(*quality), Estimate(*time), Estimate(NAN, NAN, NAN))


def test_the_picture_over_all_tasks_names_every_policy_without_overlaps():
    bars = [
        overall("a-policy-with-quite-a-long-name", True, (0.9, 0.8, 1.0), (0.2, 0.1, 0.3), scope="unseen"),
        *(overall(f"fixed s{2**power}", False, (0.9, NAN, NAN), (8.0 / power, NAN, NAN)) for power in range(1, 9)),
        overall("far below", False, (-0.5, -1.0, 0.2), (1.0, NAN, NAN)),
        overall("nobody", False, (NAN, NAN, NAN), (NAN, NAN, NAN)),
    ]
    figure = overall_figure("digits-resnet8, digits-mlp; 10 seeds", bars)
    figure.draw_without_rendering()
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names[0] == "a-policy-with-quite-a-long-name, unseen"
    assert figure.axes[0].get_xlim()[0] > -0.5  # what is far below is told in words rather than squash the rest
    assert "-0.50 [-1.00, 0.20]" in {text.get_text() for text in figure.axes[0].texts}
    for axes in figure.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            boxes = [label.get_window_extent() for label in labels if label.get_visible() and label.get_text()]
            assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])
            assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
