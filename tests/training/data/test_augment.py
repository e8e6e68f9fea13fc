"""Augmentation against plain loops over single images."""

import pytest
import torch
from torch.nn import functional as F

from autobatch.training import augment
from autobatch.training.data._augment import shifted_views


def images(side, count=400, channels=2):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(1, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def variants(image, padding, *, flips):
    """Every crop of a padded image, mirrored too where ``flips``, by its content."""
    padded = F.pad(image, (padding,) * 4)
    side = image.shape[-1]
    found = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[:, top : top + side, left : left + side]
            found[crop.numpy().tobytes()] = (top, left, False)
            if flips:
                found[crop.flip(2).contiguous().numpy().tobytes()] = (top, left, True)
    return found


@pytest.mark.parametrize(
    ("kind", "side", "padding", "flips"),
    [
        ("shift", 8, 1, False),
        ("shift", 28, 2, False),
        ("pad-crop-flip", 8, 1, True),
        ("pad-crop-flip", 32, 4, True),
    ],
)
def test_every_image_is_one_of_its_variants_and_all_occur(kind, side, padding, flips):
    before = images(side, count=1500 if padding == 4 else 400)
    after = augment(before, kind, torch.Generator().manual_seed(0))
    assert after.shape == before.shape
    assert after.dtype == torch.uint8
    assert after.is_contiguous()
    seen = [
        variants(old, padding, flips=flips)[new.contiguous().numpy().tobytes()]
        for old, new in zip(before, after, strict=True)
    ]
    assert len(set(seen)) == (2 * padding + 1) ** 2 * (2 if flips else 1)


def test_none_is_the_same_tensor():
    before = images(8)
    assert augment(before, "none", torch.Generator()) is before


def test_generator_decides():
    before = images(32, 50, 3)
    one, same, other = (augment(before, "pad-crop-flip", torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_unknown_kind():
    with pytest.raises(ValueError, match="augmentation must be"):
        augment(images(8), "rotate", torch.Generator())


def test_shifted_views_are_the_image_and_its_four_corner_crops():
    before = images(8, count=7)
    views = shifted_views(before)
    assert views.shape == (35, 2, 8, 8)
    assert torch.equal(views[:7], before)
    for index, image in enumerate(before):
        offsets = {variants(image, 1, flips=False)[view.numpy().tobytes()][:2] for view in views[index::7]}
        assert offsets == {(1, 1), (0, 0), (0, 2), (2, 0), (2, 2)}
