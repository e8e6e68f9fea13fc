"""The paper's multi-layer perceptron."""

import math
from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected layers with ReLU between them: 784-500-500-10 on MNIST (paper, section 4.4).

    With 28x28 images it has 0.65 M parameters; the paper's 0.77 M are those of images padded to 32x32.

    Args:
        image_shape: channels, height and width of an image.
        hidden: widths of the hidden layers.
        num_classes: outputs.
    """

    def __init__(self, image_shape: Sequence[int], hidden: Sequence[int], num_classes: int) -> None:
        super().__init__()
        widths = [math.prod(image_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, width in zip(widths, hidden, strict=False):
            layers += [nn.Linear(before, width), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, C, H, W)."""
        logits: Tensor = self.layers(x)
        return logits
