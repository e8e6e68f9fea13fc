"""Data: digits, splits, statistics, fingerprints."""

import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from sklearn.datasets import load_digits

from autobatch._errors import DataError
from autobatch.training import TaskSpec, load_data, load_task, normalise
from autobatch.training.data._data import channel_statistics, fingerprint_tensors
from autobatch.training.data._parts import ImageParts
from autobatch.training.data._splits import draw_stratified, split_off


def task(**dataset):
    return TaskSpec(
        name="t",
        dataset=dataset,
        model={"name": "resnet", "depth": 8},
        batch_sizes=[8],
        learning_rates=[0.1],
        epochs=1,
    )


def rows(images):
    return sorted(bytes(image) for image in images.flatten(1).numpy())


def test_digits_are_scikit_learns():
    data = load_data(load_task("digits-resnet8"))
    parts = [data.train_inputs, data.validation_inputs, data.test_inputs]
    assert [len(part) for part in parts] == [979, 419, 399]
    expected = np.round(load_digits().images * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
    assert rows(torch.cat(parts)) == rows(torch.from_numpy(expected))
    labels = torch.cat([data.train_labels, data.validation_labels, data.test_labels])
    assert torch.bincount(labels).tolist() == np.bincount(load_digits().target).tolist()
    assert {part.dtype for part in parts} == {torch.uint8}
    assert data.num_classes == 10
    assert data.train_labels.dtype == torch.int64


def test_images_keep_their_labels():
    data = load_data(load_task("digits-resnet8"))
    digits = load_digits()
    known = {}
    for image, label in zip(np.round(digits.images * 255 / 16).astype(np.uint8), digits.target, strict=True):
        known.setdefault(image.tobytes(), set()).add(int(label))
    for images, labels in [
        (data.train_inputs, data.train_labels),
        (data.validation_inputs, data.validation_labels),
        (data.test_inputs, data.test_labels),
    ]:
        assert all(int(y) in known[x.numpy().tobytes()] for x, y in zip(images, labels, strict=True))


def test_splits_depend_on_the_split_seed_alone():
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    first = load_data(task(name="digits"))
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert (np.random.get_state()[1] == states[2]).all()
    again, other = load_data(task(name="digits")), load_data(task(name="digits", split_seed=1))
    assert first.fingerprint == again.fingerprint
    assert torch.equal(first.validation_inputs, again.validation_inputs)
    assert other.fingerprint != first.fingerprint
    assert rows(other.test_inputs) != rows(first.test_inputs)


def test_subset_leaves_the_test_part_alone():
    full, subset = load_data(task(name="digits")), load_data(task(name="digits", subset=500, validation=0.2))
    assert (len(subset.train_labels), len(subset.validation_labels)) == (400, 100)
    assert torch.equal(full.test_inputs, subset.test_inputs)
    assert set(rows(subset.train_inputs)).isdisjoint(rows(full.test_inputs))
    assert torch.bincount(subset.train_labels).tolist() == pytest.approx([40] * 10, abs=2)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"subset": 1399}, "'dataset.subset': expected at most 1398"),
        ({"subset": 1}, "'dataset.validation': a share of 0.1 of 1 examples gives 0"),
        ({"validation": 0.9999}, "'dataset.validation'"),
        ({"test": 0.0001}, "'dataset.test'"),
    ],
)
def test_splits_that_cannot_be(dataset, message):
    with pytest.raises(DataError, match=message.replace(".", r"\.")):
        load_data(task(name="digits", **dataset))


@pytest.mark.parametrize("count", [0, 1, 7, 50, 99, 100])
def test_stratified_draw_gives_each_class_its_share(count):
    labels = torch.tensor([0] * 60 + [1] * 25 + [3] * 15)[torch.randperm(100, generator=torch.Generator())]
    drawn = draw_stratified(labels, count, torch.Generator().manual_seed(1))
    assert len(drawn) == len(drawn.unique()) == count
    assert torch.equal(drawn, drawn.sort().values)
    by_class = torch.bincount(labels[drawn], minlength=4)
    assert (by_class - count * torch.tensor([0.6, 0.25, 0, 0.15])).abs().max() < 1


def test_stratified_draw_is_fair():
    """Each member of a class is drawn equally often: 2 of 4, over 600 seeds, within five standard deviations."""
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    draws = [draw_stratified(labels, 3, torch.Generator().manual_seed(seed)) for seed in range(600)]
    frequency = torch.bincount(torch.cat(draws), minlength=6) / 600
    assert (frequency - 0.5).abs().max() < 5 * (0.25 / 600) ** 0.5


def test_split_off_partitions():
    labels = torch.arange(1000) % 7
    stays, goes = split_off(labels, 0.3, 0, "validation")
    assert len(goes) == 300
    assert torch.equal(torch.cat([stays, goes]).sort().values, torch.arange(1000))
    assert not torch.equal(goes, split_off(labels, 0.3, 0, "test")[1])


def test_statistics_and_normalise():
    images = torch.randint(256, (9000, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 2] = 7
    mean, std = channel_statistics(images)
    reference = images.double().transpose(0, 1).flatten(1)
    assert mean.double().tolist() == pytest.approx(reference.mean(1).tolist(), rel=1e-6)
    assert std[:2].double().tolist() == pytest.approx(reference[:2].std(1, correction=0).tolist(), rel=1e-6)
    assert std[2] == 1
    normalised = normalise(images, mean, std)
    assert normalised.dtype == torch.float32
    assert normalised.mean((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert normalised[:, :2].std((0, 2, 3)).tolist() == pytest.approx([1, 1], rel=1e-4)


def test_fingerprint_sees_every_change():
    tensors = {"a": torch.arange(6, dtype=torch.uint8), "b": torch.arange(6)}
    changed = tensors["a"].clone()
    changed[5] += 1
    others = [
        {**tensors, "a": changed},
        {**tensors, "a": tensors["a"].view(2, 3)},
        {"a": tensors["b"], "b": tensors["a"]},
        {"c": tensors["a"], "b": tensors["b"]},
        {**tensors, "a": tensors["a"].to(torch.int16)},
    ]
    prints = [fingerprint_tensors(each) for each in [tensors, *others]]
    assert len(set(prints)) == len(prints)
    strided = torch.stack([tensors["a"], tensors["a"]], 1)[:, 0]
    assert fingerprint_tensors({**tensors, "a": strided}) == prints[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": torch.tensor([0, 1, 2])}, "training part has 2 images and 3 labels"),
        ({"train_labels": torch.tensor([0, 5])}, "labels from 0 to 5, expected 0 to 2"),
        ({"test_images": torch.zeros(0, 1, 4, 4, dtype=torch.uint8)}, "test part has 0 images"),
        ({"test_images": torch.zeros(2, 1, 5, 4, dtype=torch.uint8)}, "test images"),
        ({"test_images": torch.zeros(2, 1, 4, 4)}, "images torch.float32"),
    ],
)
def test_parts_that_do_not_fit(change, message):
    images, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 2])
    good = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels}
    ImageParts(**good, num_classes=3).check("x")
    with pytest.raises(DataError, match=message):
        ImageParts(**{**good, **change}, num_classes=3).check("x")


def write_mnist(folder: Path, *, cut: int = 0) -> dict[str, np.ndarray]:
    """Write MNIST's four files with small random images, the training images ``cut`` bytes too short."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    written = {}
    for part, count in [("train", 40), ("t10k", 20)]:
        images = generator.integers(256, size=(count, 28, 28), dtype=np.uint8)
        content = struct.pack(">4i", 0x803, count, 28, 28) + images.tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(content[: len(content) - cut * (part == "train")])
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + labels.tobytes())
        written[part] = images
    return written


@pytest.fixture
def offline(monkeypatch):
    """Fail every download at once, as without a network."""
    import torchvision.datasets.mnist

    def refuse(*_args, **_kwargs):
        raise OSError("no network")

    for module in (torchvision.datasets.mnist, torchvision.datasets.cifar, torchvision.datasets.svhn):
        for name in ("download_url", "download_and_extract_archive"):
            monkeypatch.setattr(module, name, refuse, raising=False)


@pytest.mark.usefixtures("offline")
def test_mnist_files(tmp_path):
    written = write_mnist(tmp_path)
    data = load_data(task(name="mnist", validation=0.25), tmp_path)
    assert (len(data.train_labels), len(data.validation_labels), len(data.test_labels)) == (30, 10, 20)
    assert rows(torch.cat([data.train_inputs, data.validation_inputs])) == rows(torch.from_numpy(written["train"]))
    assert torch.equal(data.test_inputs[:, 0], torch.from_numpy(written["t10k"]))


@pytest.mark.usefixtures("offline")
def test_svhn_joins_train_and_extra(tmp_path):
    generator = np.random.default_rng(0)
    written = {}
    for part, count in [("train", 12), ("extra", 8), ("test", 10)]:
        written[part] = generator.integers(256, size=(32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1).astype(np.uint8).reshape(-1, 1)  # SVHN calls the zero ten
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", {"X": written[part], "y": labels})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.datasets.svhn.check_integrity", lambda *_: True)
        data = load_data(task(name="svhn", validation=0.25), tmp_path)
    everything = np.concatenate([written["train"], written["extra"]], axis=3).transpose(3, 2, 0, 1)
    images = torch.cat([data.train_inputs, data.validation_inputs])
    assert rows(images) == rows(torch.from_numpy(everything.copy()))
    assert data.test_labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "svhn"])
def test_absent_dataset_says_where_and_how(tmp_path, name):
    with pytest.raises(DataError) as error:
        load_data(task(name=name), tmp_path)
    for said in (repr(name), str(tmp_path), "--data-dir", "could not be downloaded"):
        assert said in str(error.value)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("cut", [1, 40 * 28 * 28, 40 * 28 * 28 + 15])
def test_damaged_mnist(tmp_path, cut):
    write_mnist(tmp_path, cut=cut)
    with pytest.raises(DataError, match="'mnist'"):
        load_data(task(name="mnist"), tmp_path)


@pytest.mark.skipif(
    not (Path(os.environ.get("AUTOBATCH_DATA", "")) / "MNIST" / "raw").is_dir(),
    reason="AUTOBATCH_DATA names no folder with MNIST/raw",
)
def test_real_mnist():
    data = load_data(task(name="mnist", subset=10_000), Path(os.environ["AUTOBATCH_DATA"]))
    assert data.train_inputs.shape == (9000, 1, 28, 28)
    assert torch.bincount(data.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert float(data.mean) == pytest.approx(0.1307 * 255, rel=0.02)  # as usually given for all 60,000
    assert float(data.std) == pytest.approx(0.3081 * 255, rel=0.02)
