"""Folders of images: decoded once, read from the cache after that, damaged files named."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autobatch._errors import DataError
from autobatch.training.data import _imagefolder as _data_imagefolder
from autobatch.training.data._imagefolder import load_imagefolder


@pytest.fixture
def folder(tmp_path):
    """Two classes, 3 + 2 training and 1 + 1 test images of 4x6 pixels, as PNG, so exact."""
    root = tmp_path / "images"
    generator = np.random.default_rng(0)
    for name in ("train/cat/a", "train/cat/b", "train/cat/c", "train/dog/a", "train/dog/b", "test/cat/a", "test/dog/a"):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(256, size=(4, 6, 3), dtype=np.uint8)).save(path)
    return root


def load(folder):
    return load_imagefolder(str(folder), folder.parent / "data")


def equal(one, other):
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("train_images", "test_images"))


def test_pixels_and_labels(folder):
    (folder / "train" / "cat" / "notes.txt").write_text("not an image")
    (folder / "train" / ".hidden").mkdir()
    parts = load(folder)
    assert parts.train_images.shape == (5, 3, 4, 6)
    assert parts.train_labels.tolist() == [0, 0, 0, 1, 1]
    assert parts.test_labels.tolist() == [0, 1]
    assert parts.num_classes == 2
    expected = np.asarray(Image.open(folder / "train" / "dog" / "b.png")).transpose(2, 0, 1)
    assert torch.equal(parts.train_images[4], torch.from_numpy(expected.copy()))


def test_second_load_decodes_nothing(folder, monkeypatch):
    first = load(folder)
    monkeypatch.setattr(_data_imagefolder, "_decode", None)
    assert equal(load(folder), first)


def test_changed_file_is_decoded_again(folder):
    first = load(folder)
    path = folder / "train" / "cat" / "a.png"
    Image.fromarray(np.zeros((4, 6, 3), dtype=np.uint8)).save(path)
    os.utime(path, ns=(1, 1))
    second = load(folder)
    assert not equal(first, second)
    assert second.train_images[0].sum() == 0


def test_damaged_cache_is_rebuilt(folder):
    first = load(folder)
    (cache,) = (folder.parent / "data" / ".cache").iterdir()
    for content in (b"", b"x" * 1000, cache.read_bytes()[:-50]):
        cache.write_bytes(content)
        assert equal(load(folder), first)


def test_unwritable_cache_is_no_error(folder, caplog):
    (folder.parent / "data").write_text("a file where the folder should be")
    assert len(load(folder).train_labels) == 5
    assert "not cached" in caplog.text


def test_relative_folder_lies_here_or_in_the_data_dir(folder, monkeypatch, tmp_path_factory):
    direct = load(folder)
    monkeypatch.chdir(folder.parent)
    assert equal(load_imagefolder("images", Path("data")), direct)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert equal(load_imagefolder("images", folder.parent), direct)


def test_grey_images_have_one_channel(folder):
    for path in folder.glob("*/*/*.png"):
        Image.open(path).convert("L").save(path)
    grey = load(folder)
    assert grey.train_images.shape == (5, 1, 4, 6)
    path = folder / "train" / "cat" / "a.png"
    Image.open(path).convert("RGB").save(path)
    os.utime(path, ns=(1, 1))
    mixed = load(folder)
    assert mixed.train_images.shape == (5, 3, 4, 6)
    assert torch.equal(mixed.train_images, grey.train_images.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("content", [b"", b"no image", b"half"])
def test_damaged_image_is_named(folder, content):
    path = folder / "test" / "dog" / "a.png"
    path.write_bytes(path.read_bytes()[:60] if content == b"half" else content)
    with pytest.raises(DataError, match=r"test.dog.a\.png: is not an image that can be read"):
        load(folder)


def test_odd_one_out_is_named(folder):
    Image.new("RGB", (5, 5)).save(folder / "train" / "dog" / "z.png")
    with pytest.raises(DataError, match=r"z\.png: is 5x5 pixels, but .* is 6x4; expected one size"):
        load(folder)
    Image.fromarray(np.zeros((4, 6), dtype=np.uint16)).save(folder / "train" / "dog" / "z.png")
    with pytest.raises(DataError, match=r"z\.png: has pixels of mode 'I;16'; expected 8 bits"):
        load(folder)


def test_folders_that_are_no_dataset(folder):
    with pytest.raises(DataError, match="expected folders train/ and test/ in"):
        load(folder / "train")
    with pytest.raises(DataError, match="expected folders train/ and test/ in"):
        load_imagefolder("x" * 5000, folder)
    (folder / "test" / "cow").mkdir()
    with pytest.raises(DataError, match="cow: expected images"):
        load(folder)
    Image.new("RGB", (6, 4)).save(folder / "test" / "cow" / "a.png")
    with pytest.raises(DataError, match="class 'cow' is not in"):
        load(folder)
    (folder / "train" / "dog").rename(folder / "dog")
    with pytest.raises(DataError, match="at least two classes, found 1"):
        load(folder)
