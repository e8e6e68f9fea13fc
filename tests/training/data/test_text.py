"""Texts: windows, their parts, their alphabet."""

import pytest
import torch

from autobatch._errors import DataError
from autobatch.training import TaskSpec, load_data


def task(tmp_path, **dataset):
    return TaskSpec(
        name="t",
        dataset={"name": f"text:{tmp_path / 'own.txt'}", "context": 9, **dataset},
        model={"name": "gpt", "depth": 1},
        batch_sizes=[8],
        learning_rates=[0.1],
        epochs=1,
    )


def write(tmp_path, text):
    (tmp_path / "own.txt").write_text(text, encoding="utf-8")


def test_windows_lie_one_after_the_other_and_share_nothing(tmp_path):
    text = "".join(chr(97 + (7 * place * place + place // 26) % 26) for place in range(1004))
    write(tmp_path, text)
    data = load_data(task(tmp_path, validation=0.25))
    parts = [
        (data.train_inputs, data.train_labels),
        (data.validation_inputs, data.validation_labels),
        (data.test_inputs, data.test_labels),
    ]
    assert [tuple(inputs.shape) for inputs, _ in parts] == [(60, 9), (20, 9), (20, 9)]
    letters = sorted(set(text[:600]))
    assert data.num_classes == len(letters) + 1
    read = torch.cat([torch.cat([inputs, labels[:, -1:]], 1) for inputs, labels in parts])
    assert "".join(letters[number] for number in read.flatten().tolist()) == text[:1000]
    assert all(torch.equal(inputs[:, 1:], labels[:, :-1]) for inputs, labels in parts)
    assert data.mean is None
    assert torch.equal(data.to("cpu").train_inputs, data.train_inputs)


def test_the_alphabet_is_that_of_the_training_part(tmp_path):
    write(tmp_path, "ab" * 400 + "aé" * 100)
    data = load_data(task(tmp_path))
    assert data.num_classes == 3
    assert set(data.test_labels.flatten().tolist()) == {0, 2}
    assert set(data.train_labels.flatten().tolist()) == {0, 1}


def test_subset_keeps_the_first_windows(tmp_path):
    write(tmp_path, "".join(chr(97 + place // 10 % 26) for place in range(1000)))
    whole, some = load_data(task(tmp_path)), load_data(task(tmp_path, subset=10))
    assert (len(some.train_labels), len(some.validation_labels)) == (9, 1)
    assert torch.equal(some.train_inputs, whole.train_inputs[:9])
    assert len(some.test_labels) == len(whole.test_labels) == 20
    assert some.fingerprint != whole.fingerprint


@pytest.mark.parametrize(
    ("text", "dataset", "message"),
    [
        ("short", {}, "a share of 0.2 of 0 windows of 10 characters gives 0 of them to test"),
        ("x" * 30, {}, "windows of 10 characters gives 0 of them to validation"),
        ("x" * 100, {"subset": 9}, "key 'dataset.subset': expected at most 8"),
    ],
)
def test_too_short(tmp_path, text, dataset, message):
    write(tmp_path, text)
    with pytest.raises(DataError) as error:
        load_data(task(tmp_path, **({"test": 0.4} if len(text) == 30 else {}), **dataset))
    assert message in str(error.value)


def test_missing_and_not_utf8(tmp_path):
    with pytest.raises(DataError, match=r"expected a file .*own\.txt"):
        load_data(task(tmp_path))
    (tmp_path / "own.txt").write_bytes(b"abc\xff")
    with pytest.raises(DataError, match="expected UTF-8, found something else at byte 3"):
        load_data(task(tmp_path))
