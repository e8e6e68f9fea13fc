"""A dataset before and after its task's own splits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from autobatch._errors import DataError


@dataclass(frozen=True)
class Prepared:
    """A dataset split as its task says.

    Attributes:
        tensors: ``train_inputs``, ``train_labels``, and the same of ``validation`` and ``test``, on the CPU.
        num_classes: how many classes there are, or ``QUANTITY``.
        hashed: what the fingerprint is taken over.
        deviations: of quantities: what one of each is in the file, (quantities,); else None.
    """

    tensors: dict[str, Tensor]
    num_classes: int
    hashed: dict[str, Tensor]
    deviations: Tensor | None = None


@dataclass(frozen=True)
class ImageParts:
    """The two parts that a dataset comes in.

    Attributes:
        train_images: uint8, (N, C, H, W), on the CPU.
        train_labels: int64, (N,), classes from 0.
        test_images: uint8.
        test_labels: int64.
        num_classes: how many classes there are.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int

    def check(self, name: str) -> None:
        """Check that images and labels fit each other, as damaged files may not."""
        parts = {"training": (self.train_images, self.train_labels), "test": (self.test_images, self.test_labels)}
        for part, (images, labels) in parts.items():
            problem = _problem(images, labels, self.num_classes)
            if problem:
                raise DataError(f"dataset {name!r}: the {part} part {problem}")
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise DataError(
                f"dataset {name!r}: training images are {tuple(self.train_images.shape[1:])}, "
                f"test images {tuple(self.test_images.shape[1:])}"
            )


def _problem(images: Tensor, labels: Tensor, num_classes: int) -> str | None:
    if images.dtype != torch.uint8 or images.ndim != 4 or labels.dtype != torch.int64 or labels.ndim != 1:
        return f"has images {images.dtype} {tuple(images.shape)} and labels {labels.dtype} {tuple(labels.shape)}"
    if len(images) != len(labels) or not len(images):
        return f"has {len(images)} images and {len(labels)} labels"
    if labels.min() < 0 or labels.max() >= num_classes:
        return f"has labels from {int(labels.min())} to {int(labels.max())}, expected 0 to {num_classes - 1}"
    return None
