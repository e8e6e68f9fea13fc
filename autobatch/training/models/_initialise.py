"""Initial weights from an explicit generator, so that no global random state matters or moves."""

import math

import torch
from torch import nn


def initialise(model: nn.Module, seed: int) -> None:
    """Draw the weights of a model, module by module.

    Convolutions: normal with variance 2 / (kernel size x output channels), after He et al. (2015). Linear layers
    but the last: the same, with variance 2 / inputs; the last one: uniform within 1 / sqrt(inputs). Embeddings:
    standard normal. Biases are 0, scales of BatchNorm and LayerNorm 1.

    Args:
        model: made of convolutions, linear layers, embeddings and these two norms.
        seed: the same seed gives the same weights on every device.
    """
    generator = torch.Generator().manual_seed(seed)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                variance = 2 / (math.prod(module.kernel_size) * module.out_channels)
                module.weight.normal_(0, math.sqrt(variance), generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(generator=generator)
            elif isinstance(module, nn.Linear):
                if module is linears[-1]:
                    bound = 1 / math.sqrt(module.in_features)
                    module.weight.uniform_(-bound, bound, generator=generator)
                else:
                    module.weight.normal_(0, math.sqrt(2 / module.in_features), generator=generator)
                module.bias.zero_()
