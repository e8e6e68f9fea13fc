"""Small transformers: of characters, and of the patches of an image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Self-attention and a perceptron, each with LayerNorm before it and an identity beside it."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self._heads = heads
        self._causal = causal

    def forward(self, x: Tensor) -> Tensor:
        """Add to each place of (N, places, width) what it attends to, and what a perceptron makes of the sum."""
        split = self.qkv(self.norm1(x)).unflatten(2, (3, self._heads, -1))
        query, key, value = (part.transpose(1, 2) for part in split.unbind(2))
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=self._causal)
        x = x + self.mix(attended.transpose(1, 2).flatten(2))
        total: Tensor = x + self.mlp(self.norm2(x))
        return total


class _Blocks(nn.Module):
    """Learned positions, the blocks, a last LayerNorm."""

    def __init__(self, places: int, width: int, heads: int, depth: int, *, causal: bool) -> None:
        super().__init__()
        self.positions = nn.Embedding(places, width)
        self.blocks = nn.Sequential(*(Block(width, heads, causal=causal) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, places, width) to the same shape."""
        places = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        total: Tensor = self.norm(self.blocks(x + self.positions(places)))
        return total


class GPT(nn.Module):
    """A transformer that predicts each next character of a text from those before it.

    Args:
        depth: blocks.
        context: characters of a window.
        num_classes: characters that there are.
        width: numbers that stand for a character; a multiple of ``heads``.
        heads: of each attention.
    """

    def __init__(self, depth: int, context: int, num_classes: int, width: int, heads: int) -> None:
        super().__init__()
        self.characters = nn.Embedding(num_classes, width)
        self.body = _Blocks(context, width, heads, depth, causal=True)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of each next character.

        Args:
            x: int64, (N, context).

        Returns:
            (N, num_classes, context): classes in dimension 1, as ``cross_entropy`` takes them.
        """
        logits: Tensor = self.linear(self.body(self.characters(x)))
        return logits.transpose(1, 2)


class ViT(nn.Module):
    """A transformer over the square patches of an image; mean over patches; linear.

    Args:
        depth: blocks.
        in_channels: channels of an image.
        image_size: height and width of an image, multiples of ``patch``.
        num_classes: outputs.
        width: numbers that stand for a patch; a multiple of ``heads``.
        heads: of each attention.
        patch: pixels of a patch's side.
    """

    def __init__(
        self,
        *,
        depth: int,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        width: int,
        heads: int,
        patch: int,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, patch, patch)
        places = (image_size[0] // patch) * (image_size[1] // patch)
        self.body = _Blocks(places, width, heads, depth, causal=False)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, in_channels, H, W)."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        logits: Tensor = self.linear(self.body(patches).mean(1))
        return logits
