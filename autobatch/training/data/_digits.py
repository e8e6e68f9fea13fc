"""scikit-learn's handwritten digits: 1797 real 8x8 images, part of the installation."""

from functools import cache

import torch
from torch import Tensor

from autobatch.training.data._parts import ImageParts
from autobatch.training.data._splits import split_off
from autobatch.training.task import DIGITS_TEST_SHARE, DatasetSpec


def load_digits_images(spec: DatasetSpec) -> ImageParts:
    """Load the digits and hold out their test part, which scikit-learn does not define.

    The 17 grey levels 0..16 become 0..255 (level x 255 / 16, rounded), the scale of every other dataset.

    Args:
        spec: its ``test`` share and ``split_seed`` choose the test part.

    Returns:
        Both parts, images (N, 1, 8, 8).
    """
    images, labels = _digits()
    share = DIGITS_TEST_SHARE if spec.test is None else spec.test
    train, test = split_off(labels, share, spec.split_seed, "test")
    return ImageParts(images[train], labels[train], images[test], labels[test], num_classes=10)


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Return images and labels, which scikit-learn reads from text; a process does so once."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    return images, torch.from_numpy(digits.target).long()
