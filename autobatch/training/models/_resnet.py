"""The paper's residual network for small images."""

from torch import Tensor, nn
from torch.nn import functional as F


class ResidualUnit(nn.Module):
    """conv-BN-ReLU-conv-BN beside an identity, without a ReLU after the sum.

    The identity has no parameters: where the unit halves the image and widens the channels, it takes every second
    pixel and pads channels with zeros (He et al. 2016, option A).
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self._stride = stride
        self._new_channels = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Add the residual to the identity: (N, channels, H / stride, W / stride), rounded up."""
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self._stride > 1:
            x = x[:, :, :: self._stride, :: self._stride]
        if self._new_channels:
            x = F.pad(x, (0, 0, 0, 0, 0, self._new_channels))
        total: Tensor = residual + x
        return total


class ResNet(nn.Module):
    """The residual network of the paper, section 4: depth 6n + 2, three stacks of n units with 16, 32, 64 channels.

    A 3x3 convolution with BN and ReLU, the units (see ``ResidualUnit``), the mean over all pixels, a linear
    layer. Depth 110 has 1.73 M parameters.

    Args:
        depth: 6n + 2 layers.
        in_channels: channels of an image.
        num_classes: outputs.
    """

    def __init__(self, depth: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        widths = [width for width in (16, 32, 64) for _ in range((depth - 2) // 6)]
        self.units = nn.Sequential(
            *(
                ResidualUnit(before, width, stride=1 if before == width else 2)
                for before, width in zip([16, *widths], widths, strict=False)
            )
        )
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, in_channels, H, W)."""
        x = self.units(F.relu(self.bn(self.conv(x)), inplace=True))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits
