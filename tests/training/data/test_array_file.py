"""NumPy's arrays as a dataset, and what is said of bad ones."""

import numpy as np
import pytest
import torch

from autobatch._errors import ConfigError, DataError
from autobatch.beacons import QUANTITY
from autobatch.training import TaskSpec, build_task_model, load_data


def task(tmp_path, model="mlp", **dataset):
    return TaskSpec(
        name="t",
        dataset={"name": f"npz:{tmp_path / 'own.npz'}", **dataset},
        model={"name": model, **({"depth": 8} if model == "resnet" else {})},
        batch_sizes=[8],
        learning_rates=[0.1],
        epochs=1,
    )


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape)


def classes(count=60, kinds=3):
    return np.arange(count) % kinds


def test_numbers_stay_as_they_are_beside_their_targets(tmp_path):
    inputs, targets = numbers(60, 5, 2), classes()
    inputs[:, 0, 0] = targets
    np.savez(tmp_path / "own.npz", inputs=inputs, targets=targets)
    data = load_data(task(tmp_path, validation=0.25))
    assert data.train_inputs.dtype == torch.float32
    assert [len(part) for part in (data.train_labels, data.validation_labels, data.test_labels)] == [36, 12, 12]
    assert data.num_classes == data.outputs == 3
    everything = torch.cat([data.train_inputs, data.validation_inputs, data.test_inputs])
    labels = torch.cat([data.train_labels, data.validation_labels, data.test_labels])
    assert torch.equal(everything[:, 0, 0].long(), labels)
    assert np.allclose(np.sort(everything.numpy(), axis=0), np.sort(inputs.astype(np.float32), axis=0))
    assert torch.bincount(data.validation_labels).tolist() == [4, 4, 4]


def test_a_test_part_of_its_own_is_left_alone(tmp_path):
    arrays = {
        "inputs": numbers(40, 3),
        "targets": classes(40),
        "test_inputs": numbers(7, 3),
        "test_targets": classes(7),
    }
    np.savez(tmp_path / "own.npz", **arrays)
    data = load_data(task(tmp_path, subset=30, validation=0.2))
    assert np.array_equal(data.test_inputs.numpy(), arrays["test_inputs"].astype(np.float32))
    assert data.test_labels.tolist() == arrays["test_targets"].tolist()
    assert (len(data.train_labels), len(data.validation_labels)) == (24, 6)
    with pytest.raises(DataError, match=r"key 'dataset.test': .*own.npz has a test part of its own"):
        load_data(task(tmp_path, test=0.1))


def test_several_quantities_each_in_its_standard_deviations(tmp_path):
    targets = numbers(50, 2) * [3.0, 1e-4] + [7.0, 0.0]
    np.savez(tmp_path / "own.npz", inputs=numbers(50, 3), targets=targets)
    data = load_data(task(tmp_path, predict="quantity", validation=0.2))
    assert data.num_classes == QUANTITY
    assert data.outputs == 2
    assert torch.allclose(data.train_labels.double().mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(data.train_labels.double().std(0, correction=0), torch.ones(2, dtype=torch.float64))
    assert data.deviations is not None
    assert data.deviations.tolist() == pytest.approx([3.0, 1e-4], rel=0.4)


def test_images_of_bytes_are_normalised_and_whole_numbers_stay_whole(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", inputs=images, targets=classes(40))
    data = load_data(task(tmp_path, model="resnet"))
    assert data.train_inputs.shape[1:] == (1, 6, 6)
    seen = data.network_inputs(data.train_inputs)
    assert float(seen.mean()) == pytest.approx(0, abs=1e-5)
    assert build_task_model(task(tmp_path, model="resnet"), data)(seen).shape == (len(seen), 3)
    np.savez(tmp_path / "own.npz", inputs=numbers(40, 9).astype(np.int32), targets=np.stack([classes(40)] * 9, axis=1))
    data = load_data(task(tmp_path))
    assert data.train_inputs.dtype == torch.int64
    assert data.train_labels.shape == data.train_inputs.shape
    with pytest.raises(ConfigError, match="an mlp takes float32 numbers or uint8 images"):
        build_task_model(task(tmp_path), data)


def test_a_network_gets_the_shape_of_an_example(tmp_path):
    np.savez(tmp_path / "own.npz", inputs=numbers(40, 5, 2), targets=numbers(40, 4))
    own = task(tmp_path, predict="quantity")
    data = load_data(own)
    assert build_task_model(own, data)(data.train_inputs).shape == (len(data.train_inputs), 4)
    with pytest.raises(ConfigError, match=r"a resnet takes images, \(N, C, H, W\); the examples are of shape \(5, 2\)"):
        build_task_model(task(tmp_path, model="resnet", predict="quantity"), data)


@pytest.mark.parametrize(
    ("arrays", "dataset", "message"),
    [
        ({"inputs": numbers(40, 3)}, {}, "expected an array 'targets', found inputs"),
        ({"input": numbers(40, 3), "targets": classes(40)}, {}, "unknown array 'input'; did you mean 'inputs'"),
        ({"inputs": numbers(40, 3), "targets": classes(39)}, {}, "as many inputs as targets, found 40 and 39"),
        ({"inputs": numbers(40), "targets": classes(40)}, {}, "array 'inputs': expected shape (N, ...), got (40,)"),
        ({"inputs": numbers(0, 3), "targets": classes(0)}, {}, "expected at least one example, got shape (0, 3)"),
        ({"inputs": np.full((40, 3), np.nan), "targets": classes(40)}, {}, "found another in example 0"),
        ({"inputs": np.full((40, 3), 1e39), "targets": classes(40)}, {}, "found another in example 0"),
        ({"inputs": np.full((40, 3), "a"), "targets": classes(40)}, {}, "array 'inputs': expected numbers, got <U1"),
        (
            {"inputs": np.zeros((40, 8, 8, 3), np.uint8), "targets": classes(40)},
            {},
            "expected uint8 images (N, C, H, W) or (N, H, W), got (40, 8, 8, 3)",
        ),
        ({"inputs": numbers(40, 3), "targets": numbers(40)}, {}, "for quantities say 'predict: quantity'"),
        (
            {"inputs": numbers(40, 3), "targets": classes(40) - 1},
            {},
            "expected classes from 0 on, at least two, got -1",
        ),
        (
            {"inputs": numbers(40, 3), "targets": classes(40) * 1000},
            {},
            "expected classes 0 to K - 1, got 2000 among 40",
        ),
        (
            {"inputs": numbers(40, 3), "targets": np.where(classes(40) == 1, np.inf, 0.5)},
            {"predict": "quantity"},
            "found another in example 1",
        ),
        ({"inputs": numbers(40, 3), "targets": numbers(40, 2, 2)}, {"predict": "quantity"}, "or (N, quantities), got"),
        (
            {
                "inputs": numbers(40, 3),
                "targets": classes(40),
                "test_inputs": numbers(9, 2),
                "test_targets": classes(9),
            },
            {},
            "expected 'test_inputs' as 'inputs'",
        ),
        (
            {"inputs": numbers(40, 3), "targets": classes(40), "test_inputs": numbers(9, 3)},
            {},
            "expected an array 'test_targets'",
        ),
    ],
)
def test_bad_arrays(tmp_path, arrays, dataset, message):
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(DataError) as found:
        load_data(task(tmp_path, **dataset))
    assert message in str(found.value)
    assert str(tmp_path / "own.npz") in str(found.value)


def test_images_of_bytes_are_moved_about_and_a_column_of_classes_is_one(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", inputs=images, targets=classes(40)[:, None])
    data = load_data(task(tmp_path, augmentation="shift", evaluation="shifts"))
    assert data.train_labels.ndim == 1


def test_bad_files(tmp_path):
    path = tmp_path / "own.npz"
    for content in (b"", b"nothing", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"own.npz: expected a file of numpy.savez"):
            load_data(task(tmp_path))
    with path.open("wb") as file:
        np.save(file, numbers(4, 2))
    with pytest.raises(DataError, match=r"expected a file of numpy.savez with 'inputs' and 'targets', found another"):
        load_data(task(tmp_path))
    np.savez_compressed(path, inputs=numbers(400, 3), targets=classes(400))
    damaged = bytearray(path.read_bytes())
    damaged[300:320] = bytes(20)
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="cannot be read as a file of"):
        load_data(task(tmp_path))
    np.savez(path, inputs=np.array([{"code": 1}] * 9, dtype=object), targets=classes(9))
    with pytest.raises(DataError, match=r"cannot be read as a file of numpy.savez: Object arrays cannot be loaded"):
        load_data(task(tmp_path))
    path.unlink()
    with pytest.raises(DataError, match="expected a file"):
        load_data(task(tmp_path))
