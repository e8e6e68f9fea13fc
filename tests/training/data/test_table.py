"""Tables: what a csv file becomes, and what is said of a bad one."""

import numpy as np
import pytest
import torch

from autobatch._errors import DataError
from autobatch.beacons import QUANTITY
from autobatch.training import TaskSpec, load_data
from autobatch.training.data._table import MAX_CATEGORIES, MAX_WHOLE_CLASSES
from autobatch.training.task import DatasetSpec

KINDS = ("red", "green", "blue")


def task(tmp_path, **dataset):
    return TaskSpec(
        name="t",
        dataset={"name": f"csv:{tmp_path / 'own.csv'}", "target": "kind", **dataset},
        model={"name": "mlp"},
        batch_sizes=[8],
        learning_rates=[0.1],
        epochs=1,
    )


def write(tmp_path, lines, header="size,colour,kind"):
    (tmp_path / "own.csv").write_text("\n".join([header, *lines]) + "\n")


def sound(count=60):
    return [f"{row}.5,{KINDS[row % 3]},{'ab'[row % 2]}" for row in range(count)]


def error(tmp_path, **dataset):
    with pytest.raises(DataError) as found:
        load_data(task(tmp_path, **dataset))
    assert str(tmp_path / "own.csv") in str(found.value)
    return str(found.value)


def test_numbers_are_standardised_and_categories_one_hot_by_the_training_part(tmp_path):
    write(tmp_path, sound())
    data = load_data(task(tmp_path, validation=0.25))
    assert [len(part) for part in (data.train_labels, data.validation_labels, data.test_labels)] == [36, 12, 12]
    assert data.num_classes == 2
    size, *colours = data.train_inputs.T
    assert float(size.mean()) == pytest.approx(0, abs=1e-6)
    assert float(size.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert len(colours) == 3
    everything = torch.cat([data.train_inputs, data.validation_inputs, data.test_inputs])
    assert torch.equal(everything[:, 1:].sum(1), torch.ones(60))
    # Undone, every part has the file's own values, each beside its own colour and class.
    values = np.arange(60) + 0.5
    labels = torch.cat([data.train_labels, data.validation_labels, data.test_labels])
    order = everything[:, 0].argsort()
    scaled = everything[order, 0].double().numpy()
    assert np.allclose((scaled - scaled.mean()) / scaled.std(), (values - values.mean()) / values.std(), atol=1e-5)
    assert labels[order].tolist() == [0, 1] * 30
    assert everything[order, 1:].argmax(1).tolist() == [sorted(KINDS).index(KINDS[row % 3]) for row in range(60)]


def test_what_is_outside_the_training_part_moves_nothing_in_it(tmp_path):
    write(tmp_path, sound())
    before = load_data(task(tmp_path))
    held_out = before.test_inputs[:, 0].argmax()  # the largest of the test part becomes larger still
    row = sorted(torch.cat([before.train_inputs, before.validation_inputs, before.test_inputs])[:, 0].tolist()).index(
        float(before.test_inputs[held_out, 0])
    )
    changed = sound()
    changed[row] = f"5000,violet,{'ab'[row % 2]}"
    write(tmp_path, changed)
    after = load_data(task(tmp_path))
    assert torch.equal(before.train_inputs, after.train_inputs)
    assert float(after.test_inputs[held_out, 0]) > 100
    assert after.test_inputs[held_out, 1:].tolist() == [0, 0, 0]  # violet is a colour that training does not know
    assert after.fingerprint != before.fingerprint


def test_splits_and_fingerprint_follow_seed_and_content_alone(tmp_path, monkeypatch):
    write(tmp_path, sound())
    first, other = load_data(task(tmp_path)), load_data(task(tmp_path, split_seed=1))
    assert first.fingerprint != other.fingerprint
    monkeypatch.chdir(tmp_path)
    named = task(tmp_path, name="csv:own.csv")
    assert load_data(named).fingerprint == first.fingerprint
    there = load_data(task(tmp_path, name="csv:own.csv"), tmp_path)
    assert there.fingerprint == first.fingerprint
    assert named.fingerprint_payload("f", 2) == task(tmp_path).fingerprint_payload("f", 2)
    small = load_data(task(tmp_path, subset=20))
    assert torch.equal(small.test_inputs[:, 1:], first.test_inputs[:, 1:])
    assert len(small.train_labels) + len(small.validation_labels) == 20


def test_a_missing_number_is_the_mean_and_says_so(tmp_path):
    lines = sound()
    lines[3:50] = [f"{'NA' if row % 5 == 0 else row},{KINDS[row % 3]},{'ab'[row % 2]}" for row in range(3, 50)]
    write(tmp_path, lines)
    data = load_data(task(tmp_path))
    missing = data.train_inputs[:, 1] == 1
    assert 0 < int(missing.sum()) < len(missing)
    assert data.train_inputs[missing, 0].abs().max() == 0
    assert data.train_inputs.shape[1] == 5
    assert float(data.train_inputs[~missing, 0].std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_a_missing_category_is_one(tmp_path):
    write(tmp_path, [line.replace("green", "") for line in sound()])
    data = load_data(task(tmp_path))
    assert data.train_inputs.shape[1] == 4
    assert torch.equal(data.train_inputs[:, 1:].sum(1), torch.ones(len(data.train_labels)))


def test_numbers_that_are_categories(tmp_path):
    write(tmp_path, [f"{row % 4},{KINDS[row % 3]},{row % 2}" for row in range(60)])
    assert load_data(task(tmp_path)).train_inputs.shape[1] == 4
    assert load_data(task(tmp_path, categorical=("size",))).train_inputs.shape[1] == 7


def test_a_constant_column_is_zero(tmp_path):
    write(tmp_path, [f"0.1,{KINDS[row % 3]},{row % 2}" for row in range(60)])
    assert load_data(task(tmp_path)).train_inputs[:, 0].abs().max() < 1e-6


def test_classes_of_numbers_are_in_the_order_of_their_values(tmp_path):
    write(tmp_path, [f"{(7, 10, 100)[row % 3]},red,{(7, 10, 100)[row % 3]}" for row in range(60)])
    data = load_data(task(tmp_path))
    means = [float(data.train_inputs[data.train_labels == label, 0].mean()) for label in range(3)]
    assert means == sorted(means)


@pytest.mark.parametrize(
    ("lines", "dataset", "message"),
    [
        (sound(), {"target": "kinds"}, "key 'dataset.target': no column 'kinds'; did you mean 'kind'?"),
        (sound(), {"categorical": ("colors",)}, "key 'dataset.categorical': no column 'colors'; did you mean 'colour'"),
        ([*sound(), "3,red,"], {}, "line 62, column 'kind': expected a class, found a missing value"),
        ([*sound(), "3,red"], {}, "line 62: expected 3 cells, found 2"),
        ([*sound(), "", "x3,red,a"], {}, "line 63, column 'size': expected a number as in 60 other rows, got 'x3'"),
        ([*sound(), "inf,red,a"], {}, "line 62, column 'size': expected a number within 1e100, got 'inf'"),
        ([*sound(), '3,"red,a'], {}, "line 62"),
        ([], {}, "found 3 columns and 0 rows"),
        (sound(3), {}, "key 'dataset.validation': a share of 0.1 of 2 examples"),
        ([f"{row},red,a" for row in range(60)], {}, "column 'kind': expected 2 to 1000 classes, found 1"),
        ([f"{row},red,{row}.5" for row in range(60)], {}, "to predict a quantity, say 'predict: quantity'"),
        (
            [f"{row},red,{row}" for row in range(MAX_WHOLE_CLASSES + 1)],
            {},
            "to predict a quantity, say 'predict: quantity'",
        ),
        ([f",{KINDS[row % 3]},{row % 2}" for row in range(60)], {"categorical": ()}, "column 'size': expected values"),
        (
            [f"1,w{row},{row % 2}" for row in range(3 * MAX_CATEGORIES)],
            {},
            f"column 'colour': expected at most {MAX_CATEGORIES} categories",
        ),
    ],
)
def test_bad_file(tmp_path, lines, dataset, message):
    write(tmp_path, lines)
    if "a share of" in message:
        with pytest.raises(DataError, match="of 2 examples gives 0 of them to validation"):
            load_data(task(tmp_path, **dataset))
    else:
        assert message in error(tmp_path, **dataset)


def test_bad_header_and_missing_file(tmp_path):
    assert "expected a file" in error(tmp_path)
    write(tmp_path, sound(), header="size,size,kind")
    assert "line 1: expected different column names, found 'size' twice" in error(tmp_path)
    (tmp_path / "own.csv").write_bytes(b"kind,size\n\xff,3\n")
    assert "expected UTF-8, found something else at byte 10" in error(tmp_path)


def test_a_quantity_is_measured_in_standard_deviations_of_the_training_part(tmp_path):
    write(tmp_path, [f"{row % 7},{KINDS[row % 3]},{100 + 3 * (row * row % 31)}" for row in range(80)])
    data = load_data(task(tmp_path, predict="quantity", validation=0.25))
    assert data.num_classes == QUANTITY
    assert data.outputs == 1
    assert data.shares_loss is None
    assert data.train_labels.dtype == torch.float32
    assert data.train_labels.shape == (48, 1)
    train = data.train_labels.double()
    assert float(train.mean()) == pytest.approx(0, abs=1e-6)
    assert float(train.square().mean()) == pytest.approx(1, abs=1e-6)  # what one who guesses the mean comes to
    everything = torch.cat([data.train_labels, data.validation_labels, data.test_labels]).double()[:, 0]
    assert data.deviations is not None
    own = everything * data.deviations
    values = np.array([100 + 3 * (row * row % 31) for row in range(80)], dtype=np.float64)
    assert np.allclose(np.sort(own.numpy() - own.numpy().mean()), np.sort(values - values.mean()), atol=1e-4)
    assert load_data(task(tmp_path, predict="quantity", validation=0.25)).fingerprint == data.fingerprint
    assert load_data(task(tmp_path, predict="quantity", validation=0.25, split_seed=1)).fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("1 2 x", "line 4, column 'kind': expected a number within 1e100, found 'x'"),
        ("1  2", "line 3, column 'kind': expected a number within 1e100, found a missing value"),
        ("1 inf 2", "line 3, column 'kind': expected a number within 1e100, found 'inf'"),
        ("1 1 1", "column 'kind': expected a quantity that differs, found the same throughout the training part"),
        ("1 2_3 2", "line 3, column 'kind': expected a number within 1e100, found '2_3'"),
    ],
)
def test_bad_quantities(tmp_path, cells, message):
    write(tmp_path, [f"{row},red,{cells.split(' ')[row % 3]}" for row in range(60)])
    assert message in error(tmp_path, predict="quantity")


def test_a_quantity_is_that_of_a_table_or_of_arrays():
    with pytest.raises(ValueError, match="'predict: quantity' is for csv:PATH and npz:PATH only, not for digits"):
        DatasetSpec(name="digits", predict="quantity")
    for unset in (False, True):  # the fingerprints of what was recorded before
        assert "predict" not in DatasetSpec(name="digits").model_dump(exclude_unset=unset)
