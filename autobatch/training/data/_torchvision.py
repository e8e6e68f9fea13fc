"""The paper's datasets through torchvision: found in the data directory, else downloaded into it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from autobatch._errors import DataError
from autobatch.training.data._parts import ImageParts

TORCHVISION_DATASETS: Final = {
    "mnist": ("MNIST", 10),
    "cifar10": ("CIFAR10", 10),
    "cifar100": ("CIFAR100", 100),
    "svhn": ("SVHN", 10),
}
"""torchvision's class and the number of classes, by our name."""

_LAYOUT: Final = {
    "mnist": "MNIST/raw/train-images-idx3-ubyte and its three companions",
    "cifar10": "cifar-10-batches-py/",
    "cifar100": "cifar-100-python/",
    "svhn": "train_32x32.mat, extra_32x32.mat and test_32x32.mat",
}


def load_torchvision(name: str, data_dir: Path) -> ImageParts:
    """Load a dataset, downloading what is not there yet.

    ``svhn`` joins its ``train`` and ``extra`` parts for training, which makes the paper's 600,000 images. torchvision
    unpickles CIFAR files, but only after their MD5 sums have been found right.

    Args:
        name: one of ``TORCHVISION_DATASETS``.
        data_dir: torchvision's root.

    Returns:
        Both parts; MNIST (N, 1, 28, 28), the others (N, 3, 32, 32).

    Raises:
        DataError: the dataset is absent and cannot be downloaded, or is damaged.
    """
    import torchvision

    class_name, num_classes = TORCHVISION_DATASETS[name]
    dataset_class = getattr(torchvision.datasets, class_name)
    arguments: list[list[dict[str, Any]]] = (
        [[{"split": "train"}, {"split": "extra"}], [{"split": "test"}]]
        if name == "svhn"
        else [[{"train": True}], [{"train": False}]]
    )
    try:
        (train, test) = [_join([_open(dataset_class, data_dir, chosen) for chosen in part]) for part in arguments]
    except Exception as error:  # torchvision raises whatever a damaged file or a lost connection leads to
        raise DataError(
            f"dataset {name!r} is not complete in {data_dir} and could not be downloaded there "
            f"({type(error).__name__}: {error}); put {_LAYOUT[name]} into {data_dir}, or name the folder that has it "
            f"with --data-dir"
        ) from error
    return ImageParts(*train, *test, num_classes=num_classes)


def is_missing(name: str, data_dir: Path) -> bool:
    """Say whether a dataset is one of torchvision's that would be downloaded."""
    if name not in TORCHVISION_DATASETS:
        return False
    import torchvision

    dataset_class = getattr(torchvision.datasets, TORCHVISION_DATASETS[name][0])
    part: dict[str, Any] = {"split": "test"} if name == "svhn" else {"train": False}
    try:
        dataset_class(root=str(data_dir), download=False, **part)
    except RuntimeError:
        return True
    return False


def _open(dataset_class: Callable[..., Any], data_dir: Path, chosen: dict[str, Any]) -> Any:
    try:
        return dataset_class(root=str(data_dir), download=False, **chosen)
    except RuntimeError:  # not found, or not as its checksum says
        return dataset_class(root=str(data_dir), download=True, **chosen)


def _join(datasets: list[Any]) -> tuple[Tensor, Tensor]:
    images = torch.cat([_images(dataset.data) for dataset in datasets])
    labels = [torch.as_tensor(getattr(dataset, "targets", getattr(dataset, "labels", None))) for dataset in datasets]
    return images, torch.cat(labels).long()


def _images(data: Tensor | np.ndarray) -> Tensor:
    """Return images as (N, C, H, W): MNIST comes as (N, H, W), CIFAR as (N, H, W, 3), SVHN as (N, 3, H, W)."""
    images = torch.as_tensor(data)
    if images.ndim == 3:
        return images.unsqueeze(1)
    return images.permute(0, 3, 1, 2).contiguous() if images.shape[-1] == 3 else images
