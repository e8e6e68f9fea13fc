"""The networks and batches that the benchmarks of the Fisher measure use.

Plain ``torch.nn`` modules without in-place activations, so that no library fails for the way a network is written down,
only for what it computes. Random inputs: what a step costs does not depend on them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY = 1000
CONTEXT = 64
CLASSES = 10


class ResidualUnit(nn.Module):
    """conv-BN-ReLU-conv-BN beside an identity (He et al. 2016, option A: strided and padded with zero channels)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self._stride = stride
        self._new_channels = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        if self._stride > 1:
            x = x[:, :, :: self._stride, :: self._stride]
        if self._new_channels:
            x = F.pad(x, (0, 0, 0, 0, 0, self._new_channels))
        return self.relu2(residual + x)


class ResNet(nn.Module):
    """The CIFAR type: depth 6n + 2, stacks of 16, 32, 64 channels times ``width``."""

    def __init__(self, depth: int, width: int = 1) -> None:
        super().__init__()
        channels = 16 * width
        self.conv = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        units = []
        for stack in (16 * width, 32 * width, 64 * width):
            for _ in range((depth - 2) // 6):
                units.append(ResidualUnit(channels, stack, stride=1 if channels == stack else 2))
                channels = stack
        self.units = nn.Sequential(*units)
        self.linear = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to logits."""
        return self.linear(self.units(self.relu(self.bn(self.conv(x)))).mean((2, 3)))


class DenseLayer(nn.Module):
    """BN-ReLU-conv, concatenated to its input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + growth, H, W)."""
        return torch.cat([x, self.conv(self.relu(self.bn(x)))], 1)


class DenseNet(nn.Module):
    """Huang et al. (2017) for CIFAR, without bottlenecks: depth 3n + 4."""

    def __init__(self, depth: int = 40, growth: int = 12) -> None:
        super().__init__()
        channels = 16
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
        for stack in range(3):
            if stack:
                layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1, bias=False)]
                layers.append(nn.AvgPool2d(2))
            for _ in range((depth - 4) // 3):
                layers.append(DenseLayer(channels, growth))
                channels += growth
        self.layers = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU())
        self.linear = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to logits."""
        return self.linear(self.layers(x).mean((2, 3)))


class Attention(nn.Module):
    """Multi-head self-attention of two linear layers."""

    def __init__(self, dim: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self._heads = heads
        self._causal = causal

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, dim) to (N, T, dim)."""
        split = self.qkv(x).unflatten(2, (3, self._heads, -1))
        q, k, v = (part.transpose(1, 2) for part in split.unbind(2))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=self._causal).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A transformer block with LayerNorm first."""

    def __init__(self, dim: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads, causal=causal)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, dim) to (N, T, dim)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Tiny: 4x4 patches of 32x32 pixels, class token and positions as bare parameters."""

    def __init__(self, dim: int = 192, depth: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, dim, 4, 4)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 65, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, causal=False) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, 32, 32) to logits."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class GPT(nn.Module):
    """A small one whose head is its token embedding, used in a plain matrix product."""

    def __init__(self, dim: int = 128, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, dim)
        self.positions = nn.Embedding(CONTEXT, dim)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(dim, heads, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T) token numbers to (N, T, vocabulary) logits."""
        # Every sample has its own row of positions, for some libraries cannot tell samples apart otherwise.
        where = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
        h = self.norm(self.blocks(self.tokens(x) + self.positions(where)))
        return h @ self.tokens.weight.T


def mlp() -> nn.Module:
    """784-500-500-10."""
    hidden = [nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 500), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(500, CLASSES))


@dataclass(frozen=True)
class Case:
    """A network, its batches and its loss.

    Attributes:
        name: in tables and results.
        factory: makes the network.
        shape: of one sample; token numbers where ``text``.
        text: whether a sample has a target at each of its positions; its loss is their mean.
        train: whether BatchNorm runs in train mode.
    """

    name: str
    factory: Callable[[], nn.Module]
    shape: tuple[int, ...]
    text: bool = False
    train: bool = True

    def build(self) -> nn.Module:
        """Make the network, the same every time, with running statistics that suit it."""
        torch.manual_seed(0)
        model = self.factory().train()
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        if norms:
            momenta = [norm.momentum for norm in norms]
            for norm in norms:
                norm.momentum = 1.0
            with torch.no_grad():
                model(self.batch(32)[0])
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
        return model.train(self.train)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Make inputs and targets of a batch."""
        generator = torch.Generator().manual_seed(1)
        if self.text:
            tokens = torch.randint(VOCABULARY, (2, size, *self.shape), generator=generator)
            return tokens[0], tokens[1]
        return (
            torch.randn(size, *self.shape, generator=generator),
            torch.randint(CLASSES, (size,), generator=generator),
        )

    def losses(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return each sample's loss, (N,)."""
        if self.text:
            return F.cross_entropy(output.transpose(1, 2), targets, reduction="none").mean(1)
        return F.cross_entropy(output, targets, reduction="none")

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the mean of the samples' losses as training code would write it."""
        if self.text:
            return F.cross_entropy(output.flatten(0, 1), targets.flatten())
        return F.cross_entropy(output, targets)


IMAGE = (3, 32, 32)
CASES = {
    case.name: case
    for case in (
        Case("mlp", mlp, (1, 28, 28)),
        Case("resnet20", lambda: ResNet(20), IMAGE),
        Case("resnet20-eval", lambda: ResNet(20), IMAGE, train=False),
        Case("resnet110", lambda: ResNet(110), IMAGE),
        Case("resnet110-eval", lambda: ResNet(110), IMAGE, train=False),
        Case("densenet40", DenseNet, IMAGE),
        Case("densenet40-eval", DenseNet, IMAGE, train=False),
        Case("vit-tiny", ViT, IMAGE),
        Case("gpt", GPT, (CONTEXT,), text=True),
    )
}
