"""The paper's densely connected network for small images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROWTH_RATES = (8, 10, 14)
"""New channels per dense layer in each of the three stacks (paper, section 4)."""

WIDENING = 36
"""A transition adds one channel for so many; inferred from the paper's parameter counts, see ``DenseNet``."""


class DenseLayer(nn.Module):
    """BN-ReLU-conv beside an identity; both outputs are concatenated."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Append ``growth`` new channels to the input's (N, in_channels, H, W)."""
        return torch.cat([x, self.conv(F.relu(self.bn(x), inplace=True))], 1)


class Transition(nn.Module):
    """BN-ReLU-1x1 convolution, then the mean of each 2x2 pixels."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the channels of (N, in_channels, H, W) and halve the image: (N, channels, H // 2, W // 2)."""
        return F.avg_pool2d(self.conv(F.relu(self.bn(x), inplace=True)), 2)


class DenseNet(nn.Module):
    """The densely connected network of the paper, section 4: three stacks with growth rates 8, 10 and 14.

    A 3x3 convolution, the stacks with a transition between each two, BN-ReLU, the mean over all pixels, a linear
    layer. Depth 110 has 18 dense layers a stack (the paper counts two layers for each) and 1.77 M parameters, depth 8
    one dense layer a stack and 10 k.

    The paper gives the stacks, the growth rates and these two counts. The stem's 16 channels, the order BN-ReLU-conv
    and the transitions of one 1x1 convolution are those of its published code. Whose transitions keep the number of
    channels, which makes 1.72 M with 10 classes (1.78 M with 100); here they widen it by a thirty-sixth, the smallest
    change that agrees with both of the paper's counts.

    Args:
        depth: 6n + 2 layers, n dense layers a stack.
        in_channels: channels of an image.
        num_classes: outputs.
    """

    def __init__(self, depth: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        channels = 16
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)]
        for stack, growth in enumerate(GROWTH_RATES):
            if stack:
                wider = channels + channels // WIDENING
                layers.append(Transition(channels, wider))
                channels = wider
            for _ in range((depth - 2) // 6):
                layers.append(DenseLayer(channels, growth))
                channels += growth
        self.features = nn.Sequential(*layers)
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, in_channels, H, W)."""
        x = F.relu(self.bn(self.features(x)), inplace=True)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits
