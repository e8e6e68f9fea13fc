"""The data of a task, as tensors on the training device."""

import hashlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from autobatch.training.data._array_file import prepare_arrays
from autobatch.training.data._digits import load_digits_images
from autobatch.training.data._imagefolder import load_imagefolder
from autobatch.training.data._parts import ImageParts, Prepared
from autobatch.training.data._splits import draw_subset, split_off
from autobatch.training.data._table import prepare_table
from autobatch.training.data._text import prepare_text
from autobatch.training.data._torchvision import TORCHVISION_DATASETS, load_torchvision
from autobatch.training.task import IMAGEFOLDER_PREFIX, DatasetSpec, TaskSpec

DEFAULT_DATA_DIR: Final = Path("data")
"""Where datasets are looked for and downloaded to when nothing else is said: ``data/`` in the working directory."""

_STATISTICS_CHUNK: Final = 4096


@dataclass(frozen=True)
class Data:
    """A task's training, validation and test part.

    An example is an image, uint8 (C, H, W), with one label; a row of a table, float32 (features,), with one label; or a
    window of a text, int64 (context,), with a label at each place; or of arrays whatever they hold.

    Attributes:
        train_inputs: (N, ...), each part on the training device.
        train_labels: int64, (N,), of a text (N, context); classes from 0. Or float32, (N, quantities), each with mean 0
            and standard deviation 1 over the training part.
        validation_inputs: carved from the dataset's training part.
        validation_labels: as ``train_labels``.
        test_inputs: the dataset's own test part, or a share held out; for reports, never for decisions.
        test_labels: as ``train_labels``.
        mean: of images: float32, (C,), mean of the training part's grey levels, in [0, 255]; else None.
        std: of images: float32, (C,), their standard deviation; 1 for a channel without any; else None.
        num_classes: how many classes there are, or ``QUANTITY``.
        fingerprint: SHA-256 over all examples and labels, in hexadecimal.
        deviations: of quantities: float64, (quantities,), the standard deviation of each over the training part, in its
            own unit; else None.
    """

    train_inputs: Tensor
    train_labels: Tensor
    validation_inputs: Tensor
    validation_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    mean: Tensor | None
    std: Tensor | None
    num_classes: int
    fingerprint: str
    deviations: Tensor | None = None

    @property
    def outputs(self) -> int:
        """Numbers that a network gives for an example: one for each class, or quantity."""
        return self.num_classes if self.deviations is None else len(self.deviations)

    @property
    def predicted(self) -> str:
        """What is predicted, in words."""
        if self.deviations is None:
            return f"{self.num_classes} classes"
        what, whose = ("a quantity", "its") if self.outputs == 1 else (f"{self.outputs} quantities", "their")
        return f"{what} (loss: squared error in {whose} standard deviations; error: share of {whose} variance left)"

    @property
    def shares_loss(self) -> float | None:
        """Loss of one who guesses by the classes' shares in the training part, their entropy, in nats."""
        if self.deviations is not None:
            return None
        counts = torch.bincount(self.train_labels.flatten().cpu(), minlength=self.num_classes).double()
        return float(torch.special.entr(counts / counts.sum()).sum())

    def to(self, device: torch.device | str) -> "Data":
        """Return the same data on another device.

        Args:
            device: where the tensors shall lie.

        Returns:
            The data there; tensors that are there already are shared.
        """
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in own.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def network_inputs(self, inputs: Tensor) -> Tensor:
        """Return examples as the network takes them.

        Args:
            inputs: some examples, (N, ...).

        Returns:
            Images normalised, float32; others as they are.
        """
        return inputs if self.mean is None or self.std is None else normalise(inputs, self.mean, self.std)


def load_data(task: TaskSpec, data_dir: Path | None = None, device: torch.device | str = "cpu") -> Data:
    """Load the data of a task, split as the task says.

    Args:
        task: the task.
        data_dir: where datasets lie, or are downloaded to, and where decoded image folders are cached;
            ``DEFAULT_DATA_DIR`` where None.
        device: where the tensors shall lie.

    Returns:
        The data. The same task gives the same data, whatever the global seed.

    Raises:
        DataError: the dataset is absent and cannot be downloaded, is damaged, or is too small for its splits.
    """
    prepare = {
        "images": _prepare_images,
        "table": prepare_table,
        "text": prepare_text,
        "arrays": prepare_arrays,
    }[task.dataset.form]
    prepared = prepare(task.dataset, data_dir or DEFAULT_DATA_DIR)
    inputs = prepared.tensors["train_inputs"]
    mean, std = channel_statistics(inputs) if inputs.dtype == torch.uint8 else (None, None)
    data = Data(
        **prepared.tensors,
        mean=mean,
        std=std,
        num_classes=prepared.num_classes,
        fingerprint=fingerprint_tensors(prepared.hashed),
        deviations=prepared.deviations,
    )
    return data.to(device)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation of each channel.

    Args:
        images: uint8, (N, C, H, W).

    Returns:
        Mean and standard deviation, float32 (C,), in grey levels; exact sums, so independent of chunking and threads.
    """
    total = torch.zeros(images.shape[1], dtype=torch.int64)
    squares = torch.zeros_like(total)
    for chunk in torch.split(images, _STATISTICS_CHUNK):
        levels = chunk.to(torch.int32)
        total += levels.sum((0, 2, 3)).cpu()
        squares += (levels * levels).sum((0, 2, 3)).cpu()
    count = images.numel() // images.shape[1]
    mean = total.double() / count
    std = (squares.double() / count - mean * mean).clamp(min=0).sqrt()
    return mean.float(), torch.where(std > 0, std, 1.0).float()


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Turn grey levels into the network's input.

    Args:
        images: uint8, (N, C, H, W).
        mean: (C,), in grey levels.
        std: (C,), in grey levels.

    Returns:
        float32, (N, C, H, W): ``(images - mean) / std``.
    """
    shape = (1, -1, 1, 1)
    return images.to(torch.float32).sub_(mean.view(shape)).div_(std.view(shape))


def fingerprint_tensors(tensors: dict[str, Tensor]) -> str:
    """Hash named tensors: names, types, shapes and values.

    Args:
        tensors: by name.

    Returns:
        SHA-256 in hexadecimal, the same on every device.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _prepare_images(spec: DatasetSpec, data_dir: Path) -> Prepared:
    parts = _load_parts(spec, data_dir)
    images, labels = parts.train_images, parts.train_labels
    if spec.subset is not None:
        chosen = draw_subset(labels, spec.subset, spec.split_seed)
        images, labels = images[chosen], labels[chosen]
    train, validation = split_off(labels, spec.validation, spec.split_seed, "validation")
    inputs = {"train": images[train], "validation": images[validation], "test": parts.test_images}
    own = {"train": labels[train], "validation": labels[validation], "test": parts.test_labels}
    labelled = {f"{part}_labels": some for part, some in own.items()}
    return Prepared(
        {f"{part}_inputs": some for part, some in inputs.items()} | labelled,
        num_classes=parts.num_classes,
        hashed={f"{part}_images": some for part, some in inputs.items()} | labelled,
    )


def _load_parts(spec: DatasetSpec, data_dir: Path) -> ImageParts:
    if spec.name == "digits":
        parts = load_digits_images(spec)
    elif spec.name in TORCHVISION_DATASETS:
        parts = load_torchvision(spec.name, data_dir)
    else:
        parts = load_imagefolder(spec.name.removeprefix(IMAGEFOLDER_PREFIX), data_dir)
    parts.check(spec.name)
    return parts
