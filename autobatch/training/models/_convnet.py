"""A plain convolutional network, without BatchNorm."""

from collections.abc import Sequence

from torch import Tensor, nn


class ConvNet(nn.Module):
    """3x3 convolutions with ReLU, halved by the largest of each 2x2 pixels between them; mean over pixels; linear.

    Args:
        channels: of each convolution.
        in_channels: channels of an image.
        num_classes: outputs.
    """

    def __init__(self, channels: Sequence[int], in_channels: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip([in_channels, *channels], channels, strict=False):
            layers += [nn.MaxPool2d(2)] if layers else []
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, in_channels, H, W)."""
        logits: Tensor = self.linear(self.layers(x).mean((2, 3)))
        return logits
