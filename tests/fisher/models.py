"""Small models with the structures that real ones have."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(48, 20), nn.ReLU(inplace=True), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 5)
    )


class ResidualUnit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.stride = stride
        self.extra = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return y


class ResNet8(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.stages = nn.Sequential(
            ResidualUnit(width, width, 1), ResidualUnit(width, 2 * width, 2), ResidualUnit(2 * width, 4 * width, 2)
        )
        self.head = nn.Linear(4 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.avg_pool2d(F.relu(self.stages(self.stem(x))), x.shape[-1] // 4).flatten(1))


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu_(self.bn(x)))], dim=1)


class DenseNet8(nn.Module):
    def __init__(self, growth: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1, bias=False)]
        channels = 8
        for stack in range(3):
            for _ in range(2):
                layers.append(DenseLayer(channels, growth))
                channels += growth
            if stack < 2:
                layers += [
                    nn.BatchNorm2d(channels),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(channels, channels, 1),
                    nn.AvgPool2d(2),
                ]
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class TiedLanguageModel(nn.Module):
    """Token and position embeddings, one causal attention block, and a head that is the token embedding transposed."""

    def __init__(
        self,
        vocabulary: int = 11,
        width: int = 8,
        length: int = 6,
        heads: int = 2,
        tie: str = "T",
        in_place: bool = True,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width, bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)
        self.heads = heads
        self.tie = tie
        self.in_place = in_place

    def forward(self, ids: Tensor) -> Tensor:
        batch, length = ids.shape
        h = self.tokens(ids) + self.positions(torch.arange(length).expand(batch, length))
        q, k, v = self.qkv(self.norm1(h)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, -1)
        h = h + self.project(attended)
        y = self.outer(F.gelu(self.inner(self.norm2(h))))
        if self.in_place:
            y += h
            h = y
        else:
            h = y + h
        if self.tie == "linear":
            return F.linear(h, self.tokens.weight)
        if self.tie == "addmm":
            flat = h.flatten(0, 1)
            return torch.addmm(torch.zeros(()).to(h), flat, self.tokens.weight.t()).view(batch, length, -1)
        return h @ (self.tokens.weight.T if self.tie == "T" else self.tokens.weight.transpose(0, 1))
