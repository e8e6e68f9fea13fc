"""Augmentation as tensor code over a whole set or batch of uint8 images at once."""

import torch
from torch import Tensor
from torch.nn import functional as F


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Augment images, each with its own draw.

    ``pad-crop-flip`` is He et al. (2016), section 4.2: pad by 4 with zeros, crop at random, mirror one in two.
    ``shift`` pads and crops by ``shift_reach`` and never mirrors, which suits digits. Images smaller than 28
    pixels, which the paper has none of, are padded by an eighth of their side instead of by 4.

    Args:
        images: uint8, (N, C, H, W), on any device.
        kind: ``"none"``, ``"shift"`` or ``"pad-crop-flip"``.
        generator: a CPU generator, so that every device augments alike.

    Returns:
        uint8, (N, C, H, W); ``images`` itself for ``"none"``.

    Raises:
        ValueError: another kind.
    """
    if kind == "none":
        return images
    if kind == "shift":
        return _random_crop(images, shift_reach(images), generator)
    if kind == "pad-crop-flip":
        side = min(images.shape[2:])
        return _random_flip(_random_crop(images, 4 if side >= 28 else max(1, side // 8), generator), generator)
    raise ValueError(f"augmentation must be 'none', 'shift' or 'pad-crop-flip', got {kind!r}")


def shifted_views(images: Tensor) -> Tensor:
    """Return every image as it is and moved to the four corners that ``shift`` reaches.

    Args:
        images: uint8, (N, C, H, W).

    Returns:
        uint8, (5 N, C, H, W): all images as they are first, then all of them moved to one corner after another.
    """
    reach = shift_reach(images)
    height, width = images.shape[2:]
    padded = F.pad(images, (reach, reach, reach, reach))
    corners = [(down, right) for down in (0, 2 * reach) for right in (0, 2 * reach)]
    moved = [padded[:, :, down : down + height, right : right + width] for down, right in corners]
    return torch.cat([images, *moved])


def shift_reach(images: Tensor) -> int:
    """Return by how many pixels ``shift`` moves at most in each direction.

    Args:
        images: (N, C, H, W).

    Returns:
        A fourteenth of the shorter side, at least 1: 1 for the 8x8 digits, 2 for MNIST.
    """
    return max(1, min(images.shape[2:]) // 14)


def _random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    count, _, height, width = images.shape
    padded = F.pad(images, (padding, padding, padding, padding))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (N, C, offsets, offsets, H, W)
    offsets = torch.randint(2 * padding + 1, (2, count), generator=generator).to(images.device)
    return windows[torch.arange(count, device=images.device), :, offsets[0], offsets[1]]


def _random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    mirrored = torch.randint(2, (len(images), 1, 1, 1), generator=generator).to(images.device)
    return torch.where(mirrored.bool(), images.flip(3), images)
