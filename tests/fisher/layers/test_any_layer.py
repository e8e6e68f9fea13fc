"""One model for each kind of layer, and for each way a bare parameter is used: F is that of one sample at a time.

Column i of J is sample i's contribution to the batch gradient of the summed loss: for each use of a parameter in the
forward pass, the vector-Jacobian product of that function with the output gradient masked to sample i's rows. Where
samples do not meet, that is the gradient of sample i alone, which is what the reference computes.
"""

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe
from tests.fisher.zoo_reference import error_of, gram_of_probe, gram_of_rows, gram_of_samples

Layer = Callable[[int, int], nn.Module]  # of positions T and channels C
Inputs = Callable[[int, int, int], tuple[Tensor, ...]]  # of B, T and C

# B, T and C: all different; all the same, where shapes tell nothing; one sample; a batch that T and C are multiples of.
SIZES = {"distinct": (3, 4, 6), "equal": (4, 4, 4), "single": (1, 4, 6), "multiples": (2, 4, 6)}


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def sequence(b: int, t: int, c: int) -> tuple[Tensor, ...]:
    return (randn(b, t, c),)


def vectors(b: int, t: int, c: int) -> tuple[Tensor, ...]:
    return (randn(b, c),)


def two_sequences(b: int, t: int, c: int) -> tuple[Tensor, ...]:
    return randn(b, t, c), randn(b, t + 1, c)


def three_sequences(b: int, t: int, c: int) -> tuple[Tensor, ...]:
    return randn(b, t, c), randn(b, t + 1, c - 1), randn(b, t + 1, c + 1)


def signals(b: int, t: int, c: int) -> tuple[Tensor, ...]:
    return (randn(b, c, t + 2),)


def images(b: int, t: int, c: int) -> tuple[Tensor, ...]:
    return (randn(b, c, t, t),)


def volumes(b: int, t: int, c: int) -> tuple[Tensor, ...]:
    return (randn(b, c, t, t, t),)


def tokens(b: int, t: int, c: int) -> tuple[Tensor, ...]:
    return (torch.randint(0, 7, (b, t)),)


def tokens_and_weights(b: int, t: int, c: int) -> tuple[Tensor, ...]:
    return torch.randint(0, 7, (b, t)), randn(b, t)


class Net(nn.Module):
    """The layer between two others, whose gradients and place of the batch it must leave right, too."""

    def __init__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        width = inputs[0].shape[-1]
        self.before = nn.Linear(width, width).double() if inputs[0].is_floating_point() else None
        self.layer = layer
        self.after = nn.Linear(self._hidden(*inputs).shape[1], 3).double()

    def _hidden(self, x: Tensor, *others: Tensor) -> Tensor:
        if self.before is not None:
            x = self.before(x).sin()
        return self.layer(x, *others).flatten(1)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.after(torch.tanh(self._hidden(*inputs)))


def loss_of(output: Tensor) -> Tensor:
    """The sum over samples of a function of each one's outputs that no symmetry makes zero."""
    return (output.reshape(len(output), -1).cumsum(1) ** 2).sum()


@dataclass(frozen=True)
class Case:
    """A kind of layer.

    Attributes:
        layer: makes it.
        inputs: makes its inputs, batch first.
        mixes: samples meet in it, as in BatchNorm: the reference is that of rows.
        training: whether it runs in train mode.
    """

    layer: Layer
    inputs: Inputs
    mixes: bool = False
    training: bool = True

    def check(self, sizes: str, bn: str = "rows") -> None:
        b, t, c = SIZES[sizes]
        if self.mixes and b == 1:
            pytest.skip("statistics of one sample")
        inputs = self.inputs(b, t, c)
        model = Net(self.layer(t, c).double().train(self.training), inputs)

        def step(samples: slice) -> Tensor:
            return loss_of(model(*(tensor[samples] for tensor in inputs)))

        gram = gram_of_probe(model, step, bn)
        expected = (gram_of_rows if self.mixes else gram_of_samples)(model, b, step)
        assert error_of(gram, expected) < 1e-9


# -- layers of torch.nn -------------------------------------------------------------------------------------------


def conv(kind: type[nn.Module], **options: object) -> Layer:
    return lambda t, c: kind(c, **({"out_channels": 2 * c, "kernel_size": 3} | options))  # type: ignore[operator]


CONVOLUTIONS = {
    "conv1d": Case(conv(nn.Conv1d), signals),
    "conv1d-stride-padding": Case(conv(nn.Conv1d, stride=2, padding=2), signals),
    "conv1d-dilation": Case(conv(nn.Conv1d, dilation=2, padding=1), signals),
    "conv1d-groups": Case(conv(nn.Conv1d, groups=2), signals),
    "conv1d-same-even-kernel": Case(conv(nn.Conv1d, kernel_size=4, padding="same"), signals),
    "conv1d-circular": Case(conv(nn.Conv1d, padding=2, padding_mode="circular"), signals),
    "conv1d-replicate": Case(conv(nn.Conv1d, padding=1, padding_mode="replicate"), signals),
    "conv2d": Case(conv(nn.Conv2d), images),
    "conv2d-patches": Case(conv(nn.Conv2d, kernel_size=2, stride=2), images),
    "conv2d-pointwise": Case(conv(nn.Conv2d, kernel_size=1), images),
    "conv2d-pointwise-stride": Case(conv(nn.Conv2d, kernel_size=1, stride=3, bias=False), images),
    "conv2d-oblong": Case(conv(nn.Conv2d, kernel_size=(3, 2), stride=(1, 3), padding=(2, 0), dilation=(2, 1)), images),
    "conv2d-depthwise": Case(lambda t, c: nn.Conv2d(c, c, 3, padding=1, groups=c), images),
    "conv2d-depthwise-multiplier": Case(lambda t, c: nn.Conv2d(c, 2 * c, 3, groups=c, stride=2, padding=1), images),
    "conv2d-groups-same": Case(conv(nn.Conv2d, groups=2, padding="same", kernel_size=(2, 3)), images),
    "conv2d-valid": Case(conv(nn.Conv2d, padding="valid", bias=False), images),
    "conv2d-circular": Case(conv(nn.Conv2d, padding=1, padding_mode="circular"), images),
    "conv2d-reflect-stride": Case(conv(nn.Conv2d, padding=(1, 2), padding_mode="reflect", stride=2), images),
    "conv3d": Case(conv(nn.Conv3d), volumes),
    "conv3d-options": Case(conv(nn.Conv3d, stride=(1, 2, 2), padding=(0, 1, 2), dilation=(1, 1, 2), groups=2), volumes),
    "conv3d-same-circular": Case(conv(nn.Conv3d, padding="same", padding_mode="circular", kernel_size=2), volumes),
    "transposed1d": Case(conv(nn.ConvTranspose1d), signals),
    "transposed1d-stride": Case(conv(nn.ConvTranspose1d, stride=3, output_padding=2, padding=1), signals),
    "transposed1d-groups": Case(conv(nn.ConvTranspose1d, groups=2, dilation=2, bias=False), signals),
    "transposed2d": Case(conv(nn.ConvTranspose2d, kernel_size=2, stride=2), images),
    "transposed2d-options": Case(
        conv(nn.ConvTranspose2d, stride=(2, 3), padding=(1, 0), output_padding=(1, 2), groups=2), images
    ),
    "transposed2d-dilation": Case(conv(nn.ConvTranspose2d, dilation=(2, 1), kernel_size=(2, 3)), images),
    "transposed2d-depthwise": Case(lambda t, c: nn.ConvTranspose2d(c, c, 3, 2, 1, 1, groups=c), images),
    "transposed2d-output-size": Case(lambda t, c: OutputSize(nn.ConvTranspose2d(c, 2, 3, 2)), images),
    "transposed3d": Case(conv(nn.ConvTranspose3d, kernel_size=2), volumes),
    "transposed3d-options": Case(
        conv(nn.ConvTranspose3d, kernel_size=(1, 2, 2), stride=2, output_padding=1, dilation=2, groups=2), volumes
    ),
}


class OutputSize(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, output_size=[2 * x.shape[2] + 2, 2 * x.shape[3] + 1])


NORMS = {
    "batch-norm-1d": Case(lambda t, c: nn.BatchNorm1d(c), vectors, mixes=True),
    "batch-norm-1d-signal": Case(lambda t, c: nn.BatchNorm1d(c), signals, mixes=True),
    "batch-norm-1d-momentum-none": Case(lambda t, c: nn.BatchNorm1d(c, momentum=None), vectors, mixes=True),
    "batch-norm-2d": Case(lambda t, c: nn.BatchNorm2d(c, eps=0.1), images, mixes=True),
    "batch-norm-2d-without-running": Case(
        lambda t, c: nn.BatchNorm2d(c, track_running_stats=False), images, mixes=True
    ),
    "batch-norm-3d": Case(lambda t, c: nn.BatchNorm3d(c), volumes, mixes=True),
    "batch-norm-1d-eval": Case(lambda t, c: warmed(nn.BatchNorm1d(c), (9, c)), vectors, training=False),
    "batch-norm-1d-signal-eval": Case(lambda t, c: warmed(nn.BatchNorm1d(c), (9, c, t)), signals, training=False),
    "batch-norm-2d-eval": Case(lambda t, c: warmed(nn.BatchNorm2d(c), (9, c, t, t)), images, training=False),
    "batch-norm-3d-eval": Case(lambda t, c: warmed(nn.BatchNorm3d(c), (9, c, t, t, t)), volumes, training=False),
    "instance-norm-1d": Case(lambda t, c: jittered(nn.InstanceNorm1d(c, affine=True)), signals),
    "instance-norm-2d": Case(lambda t, c: jittered(nn.InstanceNorm2d(c, affine=True, eps=0.1)), images),
    "instance-norm-3d": Case(lambda t, c: jittered(nn.InstanceNorm3d(c, affine=True)), volumes),
    "instance-norm-2d-running": Case(
        lambda t, c: jittered(nn.InstanceNorm2d(c, affine=True, track_running_stats=True)), images
    ),
    "instance-norm-2d-running-eval": Case(
        lambda t, c: warmed(nn.InstanceNorm2d(c, affine=True, track_running_stats=True), (9, c, t, t)),
        images,
        training=False,
    ),
    "group-norm": Case(lambda t, c: jittered(nn.GroupNorm(2, c)), images),
    "group-norm-vectors": Case(lambda t, c: jittered(nn.GroupNorm(2, c)), vectors),
    "layer-norm": Case(lambda t, c: jittered(nn.LayerNorm(c)), sequence),
    "layer-norm-vectors": Case(lambda t, c: jittered(nn.LayerNorm(c)), vectors),
    "layer-norm-two-dimensions": Case(lambda t, c: jittered(nn.LayerNorm([t, c])), sequence),
    "layer-norm-images": Case(lambda t, c: jittered(nn.LayerNorm([c, t, t], eps=0.1)), images),
    "layer-norm-no-bias": Case(lambda t, c: nn.LayerNorm(c, bias=False), sequence),
    "layer-norm-no-parameters": Case(lambda t, c: nn.LayerNorm(c, elementwise_affine=False), sequence),
    "rms-norm": Case(lambda t, c: jittered(nn.RMSNorm(c)), sequence),
    "rms-norm-two-dimensions": Case(lambda t, c: jittered(nn.RMSNorm([t, c], eps=0.1)), sequence),
    "local-response-norm": Case(
        lambda t, c: nn.Sequential(nn.Conv2d(c, c, 3), nn.LocalResponseNorm(3), nn.Conv2d(c, 2, 1)), images
    ),
    "normalised-weightless": Case(
        lambda t, c: nn.Sequential(nn.InstanceNorm2d(c), nn.Conv2d(c, c, 1), nn.InstanceNorm2d(c)), images
    ),
}


def jittered(layer: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
    return layer


def warmed(layer: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Give a layer running statistics unlike those of the batch."""
    jittered(layer)(1.0 + 2.0 * torch.randn(shape))
    return layer


SIMPLE = {
    "linear": Case(lambda t, c: nn.Linear(c, 5), vectors),
    "linear-3d": Case(lambda t, c: nn.Linear(c, 5), sequence),
    "linear-4d": Case(lambda t, c: nn.Linear(t, 5, bias=False), images),
    "linear-5d": Case(lambda t, c: nn.Linear(t, 2), volumes),
    "bilinear": Case(lambda t, c: Twofold(nn.Bilinear(c, c, 5)), sequence),
    "bilinear-3d-no-bias": Case(
        lambda t, c: nn.Bilinear(c, c + 1, 5, bias=False), lambda b, t, c: (randn(b, t, c), randn(b, t, c + 1))
    ),
    "prelu": Case(lambda t, c: nn.PReLU(), images),
    "prelu-channels": Case(lambda t, c: jittered(nn.PReLU(c)), images),
    "prelu-vectors": Case(lambda t, c: jittered(nn.PReLU(c)), vectors),
    "embedding": Case(lambda t, c: nn.Embedding(7, c), tokens),
    "embedding-padding": Case(lambda t, c: nn.Embedding(7, c, padding_idx=2), tokens),
    "embedding-padding-negative": Case(lambda t, c: nn.Embedding(7, c, padding_idx=-2), tokens),
    "embedding-of-vectors": Case(lambda t, c: First(nn.Embedding(7, c)), tokens),
    "embedding-bag": Case(lambda t, c: nn.EmbeddingBag(7, c, mode="sum"), tokens),
    "embedding-bag-mean": Case(lambda t, c: nn.EmbeddingBag(7, c), tokens),
    "embedding-bag-max": Case(lambda t, c: nn.EmbeddingBag(7, c, mode="max"), tokens),
    "embedding-bag-padding": Case(lambda t, c: nn.EmbeddingBag(7, c, mode="sum", padding_idx=3), tokens),
    "embedding-bag-mean-padding": Case(lambda t, c: nn.EmbeddingBag(7, c, padding_idx=3), tokens),
    "embedding-bag-weights": Case(lambda t, c: Weighted(nn.EmbeddingBag(7, c, mode="sum")), tokens_and_weights),
}


class Twofold(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, 0], x[:, 1])


class First(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, 0])


class Weighted(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return self.layer(x, per_sample_weights=weights)


# -- attention ----------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """nn.MultiheadAttention on batch-first inputs, whichever way it wants them."""

    def __init__(self, width: int, mask: str = "none", need_weights: bool = False, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, **options)  # type: ignore[arg-type]
        self.need_weights = need_weights
        self.mask = mask

    def forward(self, *inputs: Tensor) -> Tensor:
        query, key, value = inputs if len(inputs) == 3 else (inputs[0], inputs[-1], inputs[-1])
        if not self.attention.batch_first:
            # As models do: the same tensor three times where it is self-attention.
            moved = {id(tensor): tensor.transpose(0, 1) for tensor in inputs}
            query, key, value = (moved[id(tensor)] for tensor in (query, key, value))
        options: dict[str, Tensor] = {}
        length = inputs[-1].shape[1]
        if self.mask == "causal":
            options["attn_mask"] = torch.ones(length, length).triu(1).bool()
        elif self.mask == "each":
            options["attn_mask"] = (
                torch.linspace(-1, 1, length * length).view(1, length, length).double().repeat(2 * len(inputs[0]), 1, 1)
            )
        elif self.mask == "padding":
            options["key_padding_mask"] = inputs[-1][..., 0] > 0.6
        output, weights = self.attention(query, key, value, need_weights=self.need_weights, **options)
        if not self.attention.batch_first:
            output = output.transpose(0, 1)
        return torch.cat([output.flatten(1), weights.flatten(1)], 1) if self.need_weights else output


def attention(**options: object) -> Layer:
    return lambda t, c: biased(Attention(c, **options))  # type: ignore[arg-type]


def biased(layer: nn.Module) -> nn.Module:
    """Give the biases, which start as zeros, values."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "bias" in name:
                parameter.normal_()
    return layer


ATTENTION = {
    "self": Case(attention(batch_first=True), sequence),
    "self-weights": Case(attention(batch_first=True, need_weights=True), sequence),
    "self-no-bias": Case(attention(batch_first=True, bias=False), sequence),
    "self-causal": Case(attention(batch_first=True, mask="causal"), sequence),
    "self-mask-for-each-sample": Case(attention(batch_first=True, mask="each"), sequence),
    "self-padding": Case(attention(batch_first=True, mask="padding"), sequence),
    "self-eval": Case(attention(batch_first=True), sequence, training=False),
    "self-length-first": Case(attention(), sequence),
    "self-length-first-weights": Case(attention(need_weights=True), sequence),
    "self-bias-kv": Case(attention(batch_first=True, add_bias_kv=True), sequence),
    "self-bias-kv-zero-weights": Case(
        attention(batch_first=True, add_bias_kv=True, add_zero_attn=True, need_weights=True), sequence
    ),
    "self-bias-kv-length-first-causal": Case(attention(add_bias_kv=True, mask="causal"), sequence),
    "cross": Case(attention(batch_first=True), two_sequences),
    "cross-weights": Case(attention(batch_first=True, need_weights=True), two_sequences),
    "cross-length-first": Case(attention(), two_sequences),
    "cross-padding": Case(attention(batch_first=True, mask="padding"), two_sequences),
    "three-widths": Case(lambda t, c: biased(Attention(c, kdim=c - 1, vdim=c + 1, batch_first=True)), three_sequences),
    "three-widths-length-first-bias-kv": Case(
        lambda t, c: biased(Attention(c, kdim=c - 1, vdim=c + 1, add_bias_kv=True, need_weights=True)), three_sequences
    ),
}


class LengthFirst(nn.Module):
    """A layer that wants (T, B, C) for every input."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.layer(*(tensor.transpose(0, 1) for tensor in inputs)).transpose(0, 1)


def encoder_layer(c: int, **options: object) -> nn.Module:
    return nn.TransformerEncoderLayer(c, 2, 8, dropout=0.0, **options)  # type: ignore[arg-type]


def decoder_layer(c: int, **options: object) -> nn.Module:
    return nn.TransformerDecoderLayer(c, 2, 8, dropout=0.0, **options)  # type: ignore[arg-type]


class Queries(nn.Module):
    """A decoder whose queries are parameters: its self-attention sees no sample at all."""

    def __init__(self, t: int, c: int, how: str) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(t, c))
        self.decoder = nn.TransformerDecoder(decoder_layer(c, batch_first=True), 2)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        b, (t, c) = len(x), self.queries.shape
        if self.how == "expand":
            return self.decoder(self.queries.expand(b, t, c), x)
        if self.how == "repeat":
            return self.decoder(self.queries.unsqueeze(0).repeat(b, 1, 1), x)
        return self.decoder(torch.zeros(b, t, c).to(x) + self.queries, x)


def with_stack(kind: type[nn.Module], layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nested tensors are off with norm_first
        return kind(layer, 2)


TRANSFORMERS = {
    "encoder-layer": Case(lambda t, c: encoder_layer(c, batch_first=True), sequence),
    "encoder-layer-eval": Case(lambda t, c: encoder_layer(c, batch_first=True), sequence, training=False),
    "encoder-layer-norm-first": Case(lambda t, c: encoder_layer(c, batch_first=True, norm_first=True), sequence),
    "encoder-layer-length-first": Case(lambda t, c: LengthFirst(encoder_layer(c, activation="gelu")), sequence),
    "encoder": Case(lambda t, c: with_stack(nn.TransformerEncoder, encoder_layer(c, batch_first=True)), sequence),
    "encoder-eval": Case(
        lambda t, c: with_stack(nn.TransformerEncoder, encoder_layer(c, batch_first=True)), sequence, training=False
    ),
    "decoder-layer": Case(lambda t, c: decoder_layer(c, batch_first=True), two_sequences),
    "decoder-layer-norm-first": Case(lambda t, c: decoder_layer(c, batch_first=True, norm_first=True), two_sequences),
    "decoder-layer-length-first": Case(lambda t, c: LengthFirst(decoder_layer(c)), two_sequences),
    "decoder": Case(lambda t, c: nn.TransformerDecoder(decoder_layer(c, batch_first=True), 2), two_sequences),
    "transformer": Case(lambda t, c: nn.Transformer(c, 2, 1, 1, 8, dropout=0.0, batch_first=True), two_sequences),
    "transformer-length-first-norm-first": Case(lambda t, c: with_norm_first(c), two_sequences),
    "queries-expanded": Case(lambda t, c: Queries(t, c, "expand"), sequence),
    "queries-repeated": Case(lambda t, c: Queries(t, c, "repeat"), sequence),
    "queries-added": Case(lambda t, c: Queries(t, c, "add"), sequence),
}


def with_norm_first(c: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return LengthFirst(nn.Transformer(c, 2, 1, 1, 8, dropout=0.0, norm_first=True))


# -- recurrent layers ---------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """A recurrent layer on batch-first inputs; ``use``: which outputs go on; ``state``: where the first one is from."""

    def __init__(
        self, kind: type[nn.Module], width: int, use: str = "output", state: str = "none", **o: object
    ) -> None:
        super().__init__()
        self.layer = kind(width, 5, **o)
        self.use = use
        self.state = state
        directions = self.layer.num_layers * (1 + self.layer.bidirectional)
        sizes = [self.layer.proj_size or 5, 5] if kind is nn.LSTM else [5]
        self.first = nn.ParameterList(
            nn.Parameter(torch.randn(directions, 1, size)) for size in sizes if state == "learned"
        )
        self.sizes = [(directions, size) for size in sizes]

    def forward(self, x: Tensor, *states: Tensor) -> Tensor:
        b = len(x)
        given = {
            "none": [],
            "zeros": [torch.zeros(d, b, size, dtype=x.dtype) for d, size in self.sizes],
            "learned": [parameter.expand(-1, b, -1).contiguous() for parameter in self.first],
            "of-the-sample": [x[:, 0, :1].T.repeat(d, 1).unsqueeze(2).repeat(1, 1, size) for d, size in self.sizes],
        }[self.state]
        if not self.layer.batch_first:
            x = x.transpose(0, 1)
        state = tuple(given) if len(given) == 2 else given[0] if given else None
        output, last = self.layer(x, state)
        if not self.layer.batch_first:
            output = output.transpose(0, 1)
        ends = last if isinstance(last, tuple) else (last,)
        if self.use == "output":
            return output
        ended = torch.cat([end.transpose(0, 1).flatten(1) for end in ends], 1)
        return ended if self.use == "last" else torch.cat([output.flatten(1), ended], 1)


def recurrent(kind: type[nn.Module], **options: object) -> Case:
    return Case(lambda t, c: Recurrent(kind, c, **options), sequence)  # type: ignore[arg-type]


class Cells(nn.Module):
    """A cell run over time: each weight is used T times."""

    def __init__(self, cell: nn.Module, state: bool = False) -> None:
        super().__init__()
        self.cell = cell
        self.state = state

    def forward(self, x: Tensor) -> Tensor:
        h = None
        if self.state:
            h = torch.zeros(len(x), self.cell.hidden_size).to(x)
            h = (h, h) if isinstance(self.cell, nn.LSTMCell) else h
        outputs = []
        for step in x.unbind(1):
            h = self.cell(step, h)
            outputs.append(h[0] if isinstance(h, tuple) else h)
        return torch.stack(outputs, 1)


RECURRENT = {
    "rnn": recurrent(nn.RNN, batch_first=True),
    "rnn-relu": recurrent(nn.RNN, nonlinearity="relu", use="both"),
    "rnn-no-bias": recurrent(nn.RNN, bias=False, num_layers=2, batch_first=True, use="last"),
    "lstm": recurrent(nn.LSTM, batch_first=True),
    "lstm-length-first": recurrent(nn.LSTM),
    "lstm-last": recurrent(nn.LSTM, batch_first=True, use="last"),
    "lstm-both": recurrent(nn.LSTM, batch_first=True, use="both"),
    "lstm-two-layers": recurrent(nn.LSTM, batch_first=True, num_layers=2, use="both"),
    "lstm-two-layers-bidirectional": recurrent(nn.LSTM, num_layers=2, bidirectional=True, use="both"),
    "lstm-projected": recurrent(nn.LSTM, batch_first=True, proj_size=3, use="both"),
    "lstm-projected-bidirectional": recurrent(nn.LSTM, num_layers=2, bidirectional=True, proj_size=3),
    "lstm-zeros": recurrent(nn.LSTM, batch_first=True, state="zeros", use="both"),
    "lstm-of-the-sample": recurrent(nn.LSTM, batch_first=True, num_layers=2, state="of-the-sample", use="both"),
    "lstm-learned": recurrent(nn.LSTM, state="learned", bidirectional=True, use="both"),
    "lstm-no-bias": recurrent(nn.LSTM, batch_first=True, bias=False),
    "gru": recurrent(nn.GRU, batch_first=True),
    "gru-length-first-last": recurrent(nn.GRU, use="last"),
    "gru-two-layers-bidirectional": recurrent(nn.GRU, batch_first=True, num_layers=2, bidirectional=True, use="both"),
    "gru-of-the-sample": recurrent(nn.GRU, state="of-the-sample"),
    "gru-learned": recurrent(nn.GRU, batch_first=True, state="learned", num_layers=2),
    "rnn-cell": Case(lambda t, c: Cells(nn.RNNCell(c, 5)), sequence),
    "rnn-cell-relu-zeros": Case(lambda t, c: Cells(nn.RNNCell(c, 5, nonlinearity="relu"), state=True), sequence),
    "lstm-cell": Case(lambda t, c: Cells(nn.LSTMCell(c, 5)), sequence),
    "lstm-cell-zeros": Case(lambda t, c: Cells(nn.LSTMCell(c, 5), state=True), sequence),
    "gru-cell": Case(lambda t, c: Cells(nn.GRUCell(c, 5)), sequence),
    "gru-cell-zeros-no-bias": Case(lambda t, c: Cells(nn.GRUCell(c, 5, bias=False), state=True), sequence),
    "lstm-then-gru": Case(
        lambda t, c: nn.Sequential(Recurrent(nn.LSTM, c), Recurrent(nn.GRU, 5, batch_first=True)), sequence
    ),
}


# -- parametrizations ---------------------------------------------------------------------------------------------


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


class LowRank(nn.Module):
    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rows, 2))
        self.b = nn.Parameter(torch.randn(2, columns))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.a @ self.b


def with_parametrization(layer: nn.Module, parametrization: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", parametrization)
    return layer


def old(normalise: Callable[..., nn.Module], layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are deprecated, and still everywhere
        return normalise(layer)


def called_twice(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.Tanh(), layer)


PARAMETRIZED = {
    "weight-norm": Case(lambda t, c: parametrizations.weight_norm(nn.Linear(c, 5)), sequence),
    "weight-norm-vectors": Case(lambda t, c: parametrizations.weight_norm(nn.Linear(c, 5), dim=1), vectors),
    "weight-norm-convolution": Case(lambda t, c: parametrizations.weight_norm(nn.Conv1d(c, 5, 3)), signals),
    "weight-norm-transposed": Case(lambda t, c: parametrizations.weight_norm(nn.ConvTranspose1d(c, 5, 3)), signals),
    "weight-norm-twice": Case(lambda t, c: called_twice(parametrizations.weight_norm(nn.Linear(c, c))), sequence),
    "weight-norm-cached": Case(
        lambda t, c: Cached(called_twice(parametrizations.weight_norm(nn.Linear(c, c)))), sequence
    ),
    "weight-norm-lstm": Case(
        lambda t, c: Recurrent(WeightNormLSTM, c, batch_first=True),
        sequence,  # type: ignore[arg-type]
    ),
    "old-weight-norm": Case(lambda t, c: old(nn.utils.weight_norm, nn.Linear(c, 5)), sequence),
    "old-weight-norm-convolution": Case(lambda t, c: old(nn.utils.weight_norm, nn.Conv2d(c, 5, 3)), images),
    "spectral-norm": Case(lambda t, c: parametrizations.spectral_norm(nn.Linear(c, 5)), sequence),
    "spectral-norm-eval": Case(lambda t, c: parametrizations.spectral_norm(nn.Conv2d(c, 5, 3)), images, training=False),
    "old-spectral-norm": Case(lambda t, c: old(nn.utils.spectral_norm, nn.Conv2d(c, 5, 3)), images),
    "orthogonal": Case(lambda t, c: parametrizations.orthogonal(nn.Linear(c, c)), sequence),
    "orthogonal-householder": Case(lambda t, c: parametrizations.orthogonal(nn.Linear(c, 3)), sequence),
    "orthogonal-cayley": Case(
        lambda t, c: parametrizations.orthogonal(nn.Linear(c, c), orthogonal_map="cayley"), vectors
    ),
    "symmetric": Case(lambda t, c: with_parametrization(nn.Linear(c, c), Symmetric()), sequence),
    "low-rank": Case(lambda t, c: with_parametrization(nn.Linear(c, 5), LowRank(5, c)), sequence),
    "pruned": Case(lambda t, c: prune.l1_unstructured(nn.Linear(c, 5), "weight", 0.4), sequence),
}


class Cached(nn.Module):
    """The parametrization runs once; its result is used by each call."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with parametrize.cached():
            return self.layer(x)


class WeightNormLSTM(nn.LSTM):
    def __new__(cls, *args: object, **options: object) -> nn.Module:  # type: ignore[misc]
        layer = nn.LSTM(*args, **options)  # type: ignore[arg-type]
        return parametrizations.weight_norm(layer, "weight_hh_l0")


# -- bare parameters ----------------------------------------------------------------------------------------------


class Bare(nn.Module):
    """Parameters of the given shapes, and a function of the module and its input."""

    def __init__(self, run: Callable[..., Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
        self.run = run

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.run(self, *inputs)


def bare(run: Callable[..., Tensor], inputs: Inputs = sequence, **shapes: str) -> Case:
    """A case whose parameters have shapes written in t and c, such as "1 t c"."""

    def layer(t: int, c: int) -> nn.Module:
        sizes = {"t": t, "c": c}
        return Bare(
            run,
            **{name: tuple(sizes.get(size) or int(size) for size in shape.split()) for name, shape in shapes.items()},
        )

    return Case(layer, inputs)


def assigned(m: nn.Module, x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0] = m.p
    return x


def filled(m: nn.Module, x: Tensor) -> Tensor:
    out = x.new_zeros(len(x), x.shape[1] + 1, x.shape[2])
    out[:, :1] = m.p
    out[:, 1:] = x
    return out


def mixed(m: nn.Module, x: Tensor) -> Tensor:
    weights = (x[..., :1] > 0).to(x)
    return x * (1 - weights) + m.p.expand(len(x), x.shape[1], -1) * weights


def twice(m: nn.Module, x: Tensor) -> Tensor:
    scale = F.softplus(m.p)
    return (x * scale).sin() * scale


def straight_through(w: Tensor) -> Tensor:
    return w + (w.round() - w).detach()


def masked_tail(m: nn.Module) -> Tensor:
    bias = m.p.clone()
    bias[2:].zero_()
    return bias


def dropped(p: Tensor) -> Tensor:
    torch.manual_seed(3)
    return F.dropout(p, 0.5)


def without_gradient(run: Callable[[], Tensor]) -> Tensor:
    with torch.no_grad():
        return run()


ELEMENTWISE = {
    "x-times-p": bare(lambda m, x: x * m.p, p="c"),
    "p-times-x": bare(lambda m, x: m.p * x, p="c"),
    "scalar": bare(lambda m, x: m.p * x, p=""),
    "one-element": bare(lambda m, x: x * m.p, p="1"),
    "channels-of-images": bare(lambda m, x: x * m.p, images, p="c 1 1"),
    "channels-unsqueezed": bare(lambda m, x: x * m.p[:, None, None], images, p="c"),
    "channels-viewed": bare(lambda m, x: x + m.p.view(1, -1, 1, 1), images, p="c"),
    "in-place-product": bare(lambda m, x: x.sin().mul_(m.p), p="c"),
    "in-place-operator": bare(lambda m, x: x.sin().__imul__(m.p), p="c"),
    "in-place-sum": bare(lambda m, x: x.sin().add_(m.p, alpha=0.5), p="t c"),
    "in-place-by-other-names": bare(
        lambda m, x: x.sin().multiply_(m.p).subtract_(m.q).divide_(1 + m.p.exp()).neg_(), p="c", q="t c"
    ),
    "sum": bare(lambda m, x: x + m.p, p="t c"),
    "sum-with-leading-one": bare(lambda m, x: m.p + x, p="1 t c"),
    "sum-with-slice": bare(lambda m, x: x + m.p[:, : x.shape[1]], p="1 9 c"),
    "sum-with-alpha": bare(lambda m, x: torch.add(x, m.p, alpha=3), p="c"),
    "sum-with-expanded": bare(lambda m, x: x + m.p.expand(len(x), -1, -1), p="1 t c"),
    "sum-with-expanded-positions": bare(lambda m, x: x + m.p.expand(x.shape[1], -1), p="1 c"),
    "sum-with-repeated-positions": bare(lambda m, x: x + m.p.repeat(x.shape[1], 1), p="c"),
    "difference": bare(lambda m, x: m.p - x, p="c"),
    "difference-reversed": bare(lambda m, x: torch.rsub(x, m.p), p="c"),
    "quotient": bare(lambda m, x: x / m.p.exp(), p="c"),
    "quotient-of-p": bare(lambda m, x: m.p / (1 + x * x), p="c"),
    "power": bare(lambda m, x: (1 + x * x) ** m.p, p="c"),
    "power-of-p": bare(lambda m, x: m.p.exp() ** x, p="c"),
    "maximum": bare(lambda m, x: torch.maximum(x, m.p), p="c"),
    "clamp": bare(lambda m, x: torch.clamp(x, min=m.p), p="c"),
    "where": bare(lambda m, x: torch.where(x > 0, x, m.p), p="c"),
    "where-method": bare(lambda m, x: m.p.where(x > 0, x), p="t c"),
    "lerp": bare(lambda m, x: torch.lerp(x, m.p, m.q.sigmoid()), p="c", q=""),
    "lerp-weight": bare(lambda m, x: x.lerp(x.sin(), m.p.sigmoid()), p="c"),
    "addcmul": bare(lambda m, x: torch.addcmul(m.p, m.q, x, value=2), p="c", q="c"),
    "addcdiv": bare(lambda m, x: torch.addcdiv(x, m.p, 2 + x.sin()), p="c"),
    "atan2": bare(lambda m, x: torch.atan2(x, m.p), p="c"),
    "softplus": bare(lambda m, x: F.softplus(m.p) * x, p="c"),
    "exponential-scale": bare(lambda m, x: x * m.p.exp().clamp(max=2.0), p=""),
    "swish": bare(lambda m, x: x * torch.sigmoid(m.p * x), p="c"),
    "snake": bare(lambda m, x: x + (m.p * x).sin().pow(2) / (m.p.abs() + 1e-3), p="c"),
    "gate-between": bare(lambda m, x: m.p.sigmoid() * x.sin() + (1 - m.p.sigmoid()) * x.cos(), p="1"),
    "outer": bare(lambda m, x: x.unsqueeze(-1) * m.p, p="3"),
    "softmax-mixture": bare(lambda m, x: (torch.stack([x, x.sin(), x.cos()], -1) * m.p.softmax(0)).sum(-1), p="3"),
    "unbound-scales": bare(lambda m, x: sum(a * x.sin() ** i for i, a in enumerate(m.p.unbind(0))), p="2 c"),
    "chunked": bare(lambda m, x: x * m.p.chunk(2)[0] + m.p.chunk(2)[1], p="2 c"),
    "film": bare(lambda m, x: x * (1 + m.p[0]) + m.p[1], p="2 c"),
    "relu-of-sum": bare(lambda m, x: F.relu(x.sin() + m.p, inplace=True), p="c"),
    "one-of-the-list": bare(lambda m, x: sum(m.p[i] * x.sin() ** i for i in range(3)), p="3"),
    "same-twice": bare(lambda m, x: (x * m.p).sin() * m.p + m.p, p="c"),
    "derived-twice": bare(twice, p="c"),
    "raw-and-derived": bare(lambda m, x: x * m.p + m.p.exp(), p="c"),
    "detached-and-not": bare(lambda m, x: x * m.p + m.p.detach() * x.sin(), p="c"),
    "masked-tail": bare(lambda m, x: x + masked_tail(m), p="c"),
    "dropped-out": bare(lambda m, x: x + dropped(m.p), p="t c"),
    "used-without-gradient": bare(lambda m, x: x * m.p + without_gradient(lambda: x.sin() * m.p), p="c"),
    "cast": bare(lambda m, x: x * m.p.float().double(), p="c"),
    "normalised": bare(lambda m, x: x * F.normalize(m.p, dim=0), p="c"),
    "standardised": bare(lambda m, x: x * (m.p - m.p.mean()) / m.p.std(), p="c"),
    "sorted": bare(lambda m, x: x * m.p.sort().values, p="c"),
    "cumulated": bare(lambda m, x: x * m.p.cumsum(0).flip(0), p="c"),
    "layer-norm-of-torch": bare(lambda m, x: torch.layer_norm(x, [x.shape[-1]], m.p, m.q), p="c", q="c"),
    "rms-norm-of-torch": bare(lambda m, x: torch.rms_norm(x, [x.shape[-1]], m.p), p="c"),
    "group-norm-of-torch": bare(lambda m, x: torch.group_norm(x, 1, m.p, m.q), p="t", q="t"),
    "layer-norm-plus-one": bare(lambda m, x: F.layer_norm(x, x.shape[-1:], 1 + m.p, m.q), p="c", q="c"),
}

JOINED = {
    "class-token-expanded": bare(lambda m, x: torch.cat([m.p.expand(len(x), -1, -1), x], 1), p="1 1 c"),
    "class-token-expand-as": bare(lambda m, x: torch.cat([m.p.expand_as(x[:, :1]), x], 1), p="1 1 c"),
    "class-token-repeated": bare(lambda m, x: torch.cat([x, m.p.repeat(len(x), 1, 1)], 1), p="1 1 c"),
    "class-token-broadcast": bare(
        lambda m, x: torch.cat([torch.broadcast_to(m.p, (len(x), 1, x.shape[2])), x], 1), p="c"
    ),
    "class-token-tiled": bare(lambda m, x: torch.concat([m.p.tile(len(x), 1, 1), x], dim=1), p="1 c"),
    "class-token-interleaved": bare(lambda m, x: torch.cat([m.p.repeat_interleave(len(x), 0), x], 1), p="1 2 c"),
    "class-token-on-zeros": bare(
        lambda m, x: torch.cat([torch.zeros(len(x), 1, x.shape[2], dtype=x.dtype) + m.p, x], 1), p="c"
    ),
    "class-token-on-new-zeros": bare(lambda m, x: torch.cat([x.new_zeros(len(x), 1, x.shape[2]) + m.p, x], 1), p="c"),
    "class-token-stacked": bare(lambda m, x: torch.cat([torch.stack([m.p] * len(x)), x], 1), p="1 c"),
    "class-token-of-zeros-like": bare(lambda m, x: torch.cat([torch.zeros_like(x[:, :1]) + m.p, x], 1), p="c"),
    "as-many-tokens-as-positions": bare(lambda m, x: torch.cat([m.p.expand(len(x), -1, -1), x], 1), p="t c"),
    "registers-and-positions": bare(
        lambda m, x: torch.cat([m.p.expand(len(x), -1, -1), x], 1) + m.q[: x.shape[1] + 2], p="2 c", q="9 c"
    ),
    "token-and-its-position": bare(
        lambda m, x: torch.cat([(m.p + m.q).expand(len(x), -1, -1), x], 1), p="1 c", q="1 c"
    ),
    "prefix-of-channels": bare(
        lambda m, x: torch.cat([x, m.p.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])], 1), images, p="3"
    ),
    "stacked-with-x": bare(lambda m, x: torch.stack([x, m.p.expand_as(x)], 2), p="t c"),
    "assigned": bare(assigned, p="c"),
    "filled": bare(filled, p="1 c"),
    "mask-token": bare(lambda m, x: torch.where((x[..., :1] > 0), m.p.to(x.dtype), x), p="1 1 c"),
    "masked-with-weights": bare(mixed, p="1 1 c"),
    "padded-rows": bare(lambda m, x: F.pad(x, (0, 0, 1, 0)) + F.pad(m.p, (0, 0, 0, 1)), p="t c"),
}

PRODUCTS = {
    "matrix-on-the-right": bare(lambda m, x: x @ m.p, p="c 5"),
    "matrix-transposed": bare(lambda m, x: x @ m.p.T, p="5 c"),
    "matrix-by-name": bare(lambda m, x: F.linear(input=x, weight=m.p), vectors, p="5 c"),
    "matrix-by-mm": bare(lambda m, x: torch.mm(x, m.p), vectors, p="c 5"),
    "matrix-on-the-left": bare(lambda m, x: m.p @ x, p="5 t"),
    "matrix-by-rmatmul": bare(lambda m, x: m.p.__rmatmul__(x), p="c c"),
    "matrix-on-the-left-by-rmatmul": bare(lambda m, x: x.__rmatmul__(m.p), p="t t"),
    "matrix-on-the-left-square": bare(lambda m, x: torch.matmul(m.p, x), p="t t"),
    "matrix-on-the-left-softmax": bare(lambda m, x: m.p.softmax(-1) @ x, p="t t"),
    "matrix-on-the-left-of-columns": bare(lambda m, x: (m.p @ x.T).T, vectors, p="5 c"),
    "matrices": bare(lambda m, x: x.unsqueeze(1) @ m.p, p="2 c 5"),
    "heads-on-the-left": bare(lambda m, x: m.p @ x.unsqueeze(1), p="2 5 t"),
    "batched-matrix": bare(lambda m, x: torch.bmm(x, m.p.expand(len(x), -1, -1)), p="c 5"),
    "batched-matrix-repeated": bare(lambda m, x: torch.bmm(m.p.repeat(len(x), 1, 1), x), p="1 5 t"),
    "batched-sum": bare(
        lambda m, x: torch.baddbmm(m.q.expand(len(x), -1, -1), x, m.p.expand(len(x), -1, -1), beta=0.5),
        p="c 5",
        q="1 5",
    ),
    "groups-by-bmm": bare(lambda m, x: torch.bmm(x.transpose(0, 1), m.p).transpose(0, 1), p="t c 5"),
    "vector-on-the-right": bare(lambda m, x: x @ m.p, p="c"),
    "vector-by-mv": bare(lambda m, x: torch.mv(x, m.p).unsqueeze(1), vectors, p="c"),
    "vector-on-the-left": bare(lambda m, x: m.p @ x, p="t"),
    "addmm": bare(lambda m, x: torch.addmm(m.q, x, m.p), vectors, p="c 5", q="5"),
    "addmm-scaled": bare(lambda m, x: torch.addmm(m.q, x, m.p, beta=2, alpha=0.5), vectors, p="c 5", q="5"),
    "addmm-in-place": bare(lambda m, x: x.new_zeros(len(x), 5).addmm_(x, m.p), vectors, p="c 5"),
    "input-of-a-layer-of-the-sample": bare(lambda m, x: F.linear(m.p, x.flatten(1)[:, :4]).T.unsqueeze(1), p="3 4"),
    "image-under-filters-of-the-sample": bare(
        lambda m, x: F.conv1d(m.p, x.flatten(1)[:, :4].view(-1, 2, 2), padding=1).transpose(0, 1), p="3 2 4"
    ),
    "no-derivative-beside-one": bare(lambda m, x: F.hinge_embedding_loss(x, m.p, reduction="none"), p="c"),
    "addmm-flat": bare(lambda m, x: torch.addmm(m.q, x.flatten(0, 1), m.p).view(*x.shape[:2], -1), p="c 5", q="5"),
    "einsum": bare(lambda m, x: torch.einsum("btc,cd->btd", x, m.p), p="c 5"),
    "einsum-parameter-first": bare(lambda m, x: torch.einsum("dc,btc->bdt", m.p, x), p="5 c"),
    "einsum-token-mixing": bare(lambda m, x: torch.einsum("st,b t c->bsc", m.p, x), p="5 t"),
    "einsum-each-position": bare(lambda m, x: torch.einsum("btc,tcd->btd", x, m.p), p="t c 5"),
    "einsum-heads": bare(lambda m, x: torch.einsum("btc,hcd->bhtd", x, m.p), p="2 c 3"),
    "einsum-ellipsis": bare(lambda m, x: torch.einsum("...c,cd->...d", x, m.p), p="c 5"),
    "einsum-implicit": bare(lambda m, x: torch.einsum("btc,c", x, m.p), p="c"),
    "einsum-three": bare(lambda m, x: torch.einsum("btc,cr,rd->btd", x, m.p, m.q), p="c 2", q="2 5"),
    "einsum-bilinear": bare(lambda m, x: torch.einsum("btc,cd,bsd->bts", x, m.p, x), p="c c"),
    "tensordot": bare(lambda m, x: torch.tensordot(x, m.p, dims=1), p="c 5"),
    "tensordot-of-dimensions": bare(lambda m, x: torch.tensordot(x, m.p, dims=([1, 2], [0, 1])), p="t c 5"),
    "linear-sliced": bare(lambda m, x: F.linear(x, m.p[1:4]), p="5 c"),
    "linear-reshaped": bare(lambda m, x: F.linear(x, m.p.reshape(5, -1)), p="c 5"),
    "linear-of-two": bare(lambda m, x: F.linear(x, torch.cat([m.p, m.q])), p="2 c", q="3 c"),
    "linear-of-three-biases": bare(
        lambda m, x: F.linear(x, m.p, torch.cat([m.q, torch.zeros(2, dtype=x.dtype), m.r])), p="6 c", q="2", r="2"
    ),
    "linear-of-sum": bare(lambda m, x: F.linear(x, m.p.T + m.p.T), p="c 5"),
    "linear-straight-through": bare(lambda m, x: F.linear(x, straight_through(m.p)), p="5 c"),
    "linear-of-product": bare(lambda m, x: F.linear(x, m.p @ m.q), p="5 2", q="2 c"),
    "linear-of-kronecker": bare(lambda m, x: F.linear(x, torch.kron(m.p, m.q)), p="2 1", q="3 c"),
    "linear-bias-derived": bare(lambda m, x: F.linear(x, m.p, m.q.exp()), p="5 c", q="5"),
    "lora": bare(lambda m, x: x @ torch.ones(x.shape[-1], 5).to(x) + (x @ m.a @ m.b) * 0.5, a="c 2", b="2 5"),
    "convolution-standardised": bare(
        lambda m, x: F.conv2d(x, m.p - m.p.mean((1, 2, 3), keepdim=True)), images, p="5 c 3 3"
    ),
    "convolution-standardised-by-batch-norm": bare(
        lambda m, x: F.conv2d(x, F.batch_norm(m.p.reshape(1, 5, -1), None, None, training=True).reshape_as(m.p)),
        images,
        p="5 c 3 3",
    ),
    "linear-distances": bare(lambda m, x: torch.cdist(x, m.p.expand(len(x), -1, -1)), p="5 c"),
    "distances-by-difference": bare(lambda m, x: (x.unsqueeze(2) - m.p).pow(2).sum(-1), p="5 c"),
    "cosine": bare(lambda m, x: F.linear(F.normalize(x, dim=-1), F.normalize(m.p, dim=-1)), p="5 c"),
    "cosine-similarity": bare(lambda m, x: F.cosine_similarity(x.unsqueeze(2), m.p, dim=-1), p="5 c"),
    "bilinear-derived": bare(lambda m, x: F.bilinear(x, x.sin(), m.p * 2), p="5 c c"),
    "prelu-derived": bare(lambda m, x: F.prelu(x, m.p.sigmoid()), images, p="c"),
    "attention-bias": bare(lambda m, x: F.scaled_dot_product_attention(*[x.unsqueeze(1)] * 3, attn_mask=m.p), p="t t"),
    "attention-bias-of-table": bare(
        lambda m, x: F.scaled_dot_product_attention(
            *[x.unsqueeze(1).expand(-1, 2, -1, -1)] * 3,
            attn_mask=m.p[(torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])).abs()].permute(2, 0, 1)[None],
        ),
        p="9 2",
    ),
    "attention-bias-added": bare(lambda m, x: (x @ x.mT + m.p).softmax(-1) @ x, p="t t"),
    "attention-to-memory": bare(
        lambda m, x: F.scaled_dot_product_attention(x, m.p.expand(len(x), -1, -1), m.q.expand(len(x), -1, -1)),
        p="5 c",
        q="5 c",
    ),
    "attention-of-queries": bare(
        lambda m, x: F.scaled_dot_product_attention(m.p.expand(len(x), -1, -1), x, x), p="5 c"
    ),
    "keys": bare(lambda m, x: x @ m.p.T @ m.q, p="5 c", q="5 2"),
    "relative-position-logits": bare(lambda m, x: x @ m.p.transpose(0, 1) * 0.5, p="5 c"),
}

TABLES = {
    "table-by-index": bare(lambda m, x: m.p[x], tokens, p="7 c"),
    "table-by-index-select": bare(lambda m, x: m.p.index_select(0, x.flatten()).view(*x.shape, -1), tokens, p="7 c"),
    "table-by-embedding-of-two": bare(lambda m, x: F.embedding(x, torch.cat([m.p, m.q])), tokens, p="5 c", q="2 c"),
    "table-by-one-hot": bare(lambda m, x: F.one_hot(x, 7).to(m.p) @ m.p, tokens, p="7 c"),
    "table-by-gather": bare(lambda m, x: m.p.gather(1, x.T).T.unsqueeze(-1), tokens, p="t 7"),
    "table-by-torch-embedding": bare(lambda m, x: torch.embedding(m.p, x), tokens, p="7 c"),
    "table-by-take": bare(lambda m, x: torch.take(m.p, x).unsqueeze(-1), tokens, p="7"),
    "positions-by-embedding": bare(
        lambda m, x: F.embedding(x, m.p) + F.embedding(torch.arange(x.shape[1]), m.q), tokens, p="7 c", q="9 c"
    ),
    "positions-of-one-row": bare(
        lambda m, x: F.embedding(x, m.p) * F.embedding(torch.arange(x.shape[1])[None], m.q), tokens, p="7 c", q="9 c"
    ),
    "positions-of-each-sample": bare(
        lambda m, x: F.embedding(x, m.p) + F.embedding(torch.arange(x.shape[1]).expand_as(x), m.q),
        tokens,
        p="7 c",
        q="9 c",
    ),
    "positions-by-counting": bare(
        lambda m, x: F.embedding(x, m.p) + F.embedding(torch.ones_like(x).cumsum(1), m.q), tokens, p="7 c", q="9 c"
    ),
    "positions-over-length-first": bare(
        lambda m, x: (F.embedding(x.T, m.p) + F.embedding(torch.arange(x.shape[1])[:, None], m.q)).transpose(0, 1),
        tokens,
        p="7 c",
        q="9 c",
    ),
    "shifted-tokens": bare(lambda m, x: F.embedding(x, m.p) * F.embedding(shifted(x), m.p), tokens, p="7 c"),
    "shifted-tokens-only": bare(lambda m, x: F.embedding(shifted(x), m.p), tokens, p="7 c"),
    "type-of-zeros": bare(
        lambda m, x: F.embedding(x, m.p) + F.embedding(torch.zeros_like(x), m.q), tokens, p="7 c", q="2 c"
    ),
    "type-of-fresh-zeros": bare(
        lambda m, x: F.embedding(x, m.p) + F.embedding(torch.zeros(x.shape, dtype=torch.long), m.q),
        tokens,
        p="7 c",
        q="2 c",
    ),
    "interpolated-positions": bare(
        lambda m, x: x + F.interpolate(m.p, size=x.shape[2:], mode="bilinear"), images, p="1 c 3 3"
    ),
    "network-of-coordinates": bare(
        lambda m, x: x + F.linear(F.relu(F.linear(torch.linspace(-1, 1, x.shape[1])[:, None].to(x), m.p)), m.q),
        p="5 1",
        q="c 5",
    ),
    "convolution-of-coordinates": bare(
        lambda m, x: x + F.conv2d(torch.linspace(-1, 1, x.shape[2] ** 2).view(1, 1, *x.shape[2:]).to(x), m.p),
        images,
        p="c 1 1 1",
    ),
    # Twelve places: a multiple of every batch size here.
    "network-of-places-by-index": bare(
        lambda m, x: (x @ x.mT + places(m)[distances_of(x) % 12].permute(2, 0, 1)[0]).softmax(-1) @ x, p="5 1", q="2 5"
    ),
    "network-of-places-as-mask": bare(
        lambda m, x: F.scaled_dot_product_attention(
            *[x.unsqueeze(1).expand(-1, 2, -1, -1)] * 3, attn_mask=places(m)[distances_of(x)].permute(2, 0, 1)[None]
        ),
        p="5 1",
        q="2 5",
    ),
    "network-of-places-on-average": bare(lambda m, x: x * places(m).mean(0)[0], p="5 1", q="2 5"),
    "network-of-places-one": bare(lambda m, x: x * places(m)[2, 1], p="5 1", q="2 5"),
    "network-of-places-turned": bare(lambda m, x: x + places(m).T.reshape(-1)[: x.shape[1], None], p="5 1", q="2 5"),
    "network-of-places-as-weight": bare(
        lambda m, x: F.linear(x, places(m)[:, :1].expand(-1, x.shape[2])), p="5 1", q="2 5"
    ),
    "norm-of-token": bare(
        lambda m, x: torch.cat([F.layer_norm(m.p, m.p.shape[-1:], m.q).expand(len(x), -1, -1), x], 1),
        p="1 c",
        q="c",
    ),
}


def places(m: nn.Module) -> Tensor:
    """A network of twelve coordinates: (12, 2)."""
    return F.linear(F.relu(F.linear(torch.linspace(-1, 1, 12, dtype=m.p.dtype)[:, None], m.p)), m.q)


def distances_of(x: Tensor) -> Tensor:
    positions = torch.arange(x.shape[1])
    return (positions[:, None] - positions).abs()


def shifted(x: Tensor) -> Tensor:
    """Tokens shifted to the right, as encoder-decoder models do it."""
    result = x.new_zeros(x.shape)
    result[:, 1:] = x[:, :-1].clone()
    result[:, 0] = 1
    return result


# -- modules --------------------------------------------------------------------------------------------------------


class TiedHead(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, c)
        self.inner = nn.Linear(c, c)
        self.head = nn.Linear(c, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(self.embedding(x))))


class Lists(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.scales = nn.ParameterList(nn.Parameter(torch.randn(c)) for _ in range(3))
        self.table = nn.ParameterDict({"shift": torch.randn(c), "gain": torch.randn(1)})
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(c, c), nn.ReLU(inplace=True)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block, scale in zip(self.blocks, self.scales, strict=False):
            x = x + scale * block(x)
        x += self.table["shift"]
        return x * self.table["gain"]


class Partly(nn.Module):
    """Some parameters frozen, one unused, one used but detached, one used in its layer and outside."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(c, c).requires_grad_(False)
        self.biased = nn.Linear(c, c)
        self.biased.weight.requires_grad_(False)
        self.unused = nn.Linear(c, c)
        self.detached = nn.Parameter(torch.randn(c))
        self.layer = nn.Linear(c, c)
        self.a = nn.Parameter(torch.randn(c, 2))
        self.b = nn.Parameter(torch.randn(2, c))

    def forward(self, x: Tensor) -> Tensor:
        x = self.frozen(x) + x @ self.a @ self.b
        return self.layer(self.biased(x).sin() * self.detached.detach()) * self.layer.bias + self.layer.weight[0]


class Checkpointed(nn.Module):
    def __init__(self, c: int, reentrant: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(c, c), nn.Tanh(), nn.LayerNorm(c))
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=self.reentrant)


class Residual(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)
        self.norm = nn.GroupNorm(2, c)
        self.squeeze = nn.Conv2d(c, 2, 1)
        self.excite = nn.Conv2d(2, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.norm(self.conv(x)))
        y = y * torch.sigmoid(self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1)), inplace=True)))
        y += x
        return y


class Siamese(nn.Module):
    """Both views go through the encoder as one batch: rows of a sample lie B apart (two blocks of the batch)."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(c, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.encoder(x[:, 0]), self.encoder(x[:, 1])], 1)


class Experts(nn.Module):
    """A dense mixture of experts."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gate = nn.Linear(c, 3)
        self.experts = nn.ModuleList(nn.Linear(c, 5) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1)
        return torch.stack([expert(x) for expert in self.experts], -2).mul(weights.unsqueeze(-1)).sum(-2)


class Modulated(nn.Module):
    """A convolution whose filters each sample scales for itself, all samples in one call, as in StyleGAN2."""

    def __init__(self, c: int, *, transposed: bool) -> None:
        super().__init__()
        self.scale = nn.Linear(c, c)
        self.weight = nn.Parameter(torch.randn(*((c, 5) if transposed else (5, c)), 3, 3))
        self.bias = nn.Linear(c, 5)
        self.transposed = transposed

    def forward(self, x: Tensor) -> Tensor:
        b, c, *size = x.shape
        style = self.scale(x.mean((2, 3)))[:, None, :, None, None]
        weight = self.weight * (style.transpose(1, 2) if self.transposed else style)
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1).rsqrt()
        convolve = F.conv_transpose2d if self.transposed else F.conv2d
        bias = self.bias(x.amax((2, 3))).flatten()
        joined = convolve(x.reshape(1, b * c, *size), weight.flatten(0, 1), bias, padding=1, groups=b)
        return joined.view(b, 5, *size)


class Hyper(nn.Module):
    """Weights made from the sample itself: each has its own."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.maker = nn.Linear(c, 2 * c)
        self.c = c

    def forward(self, x: Tensor) -> Tensor:
        weights = self.maker(x[:, 0]).view(-1, self.c, 2)
        return torch.bmm(x, weights)


MODULES = {
    "tied-head": Case(lambda t, c: TiedHead(c), tokens),
    "lists": Case(lambda t, c: Lists(c), sequence),
    "partly-trainable": Case(lambda t, c: Partly(c), sequence),
    "called-twice": Case(lambda t, c: called_twice(nn.Linear(c, c)), sequence),
    "convolution-called-twice": Case(lambda t, c: called_twice(nn.Conv2d(c, c, 3, padding=1)), images),
    "norm-called-twice": Case(lambda t, c: called_twice(jittered(nn.LayerNorm(c))), sequence),
    "squeeze-and-excite": Case(lambda t, c: Residual(c), images),
    "siamese": Case(lambda t, c: Siamese(c), sequence),
    "experts": Case(lambda t, c: Experts(c), sequence),
    "modulated-convolution": Case(lambda t, c: Modulated(c, transposed=False), images),
    "modulated-transposed-convolution": Case(lambda t, c: Modulated(c, transposed=True), images),
    "hyper-network": Case(lambda t, c: Hyper(c), sequence),
    "overwritten-in-part": Case(lambda t, c: OverwrittenInPart(c), sequence),
    "normalised-by-hand": Case(
        lambda t, c: nn.Sequential(Centred(), Bare(lambda m, x: x * m.p + m.q, p=(c,), q=(c,))), sequence, mixes=True
    ),
}


class OverwrittenInPart(nn.Module):
    """A layer's output is changed in place through a view of it."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.layer = nn.Linear(c, 5)
        self.gain = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y[:, 1].mul_(2)
        y[:, 0] *= self.gain
        return y


class Centred(nn.Module):
    """BatchNorm's first half written out: sample i's row of the result is its own, though others act on it."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / x.std(0)


# -- layers without parameters --------------------------------------------------------------------------------------


class Unpooled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y, indices = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(y, indices, 2)


class Function(nn.Module):
    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def function(run: Callable[[Tensor], Tensor], inputs: Inputs = sequence) -> Case:
    return Case(lambda t, c: Function(run), inputs)


def free(layer: nn.Module, inputs: Inputs = images) -> Case:
    return Case(lambda t, c: layer, inputs)


def well_posed(size: int) -> Tensor:
    return torch.ones(size, size, dtype=torch.float64).tril() + 3 * torch.eye(size, dtype=torch.float64)


def written(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[:, ::2] = x[:, ::2].sin()
    y[:, 1::2].copy_(x[:, 1::2].cos())
    return y


def written_by_sample(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    for i in range(len(x)):
        y[i] = x[i].sin()
    return y


ACTIVATIONS = (
    *(nn.ELU(), nn.Hardshrink(0.1), nn.Hardsigmoid(), nn.Hardtanh(), nn.Hardswish(), nn.LeakyReLU(), nn.LogSigmoid()),
    *(nn.ReLU(), nn.ReLU6(), nn.SELU(), nn.CELU(), nn.GELU(), nn.Sigmoid(), nn.SiLU(), nn.Mish(), nn.Softplus()),
    *(nn.Softshrink(0.1), nn.Softsign(), nn.Tanhshrink(), nn.Threshold(0.1, 0.2), nn.GLU(), nn.Softmin(-1)),
    *(nn.Softmax(-1), nn.LogSoftmax(-1), nn.Identity(), nn.Dropout(0.0), nn.AlphaDropout(0.0)),
    *(nn.ReLU(inplace=True), nn.ELU(inplace=True), nn.SiLU(inplace=True)),
)

FREE = {
    "max-pool": free(nn.MaxPool2d(2)),
    "max-pool-1d": free(nn.MaxPool1d(2), signals),
    "max-unpool": free(Unpooled()),
    "average-pool": free(nn.AvgPool2d(2, ceil_mode=True)),
    "adaptive-average-pool": free(nn.AdaptiveAvgPool2d(1)),
    "adaptive-max-pool": free(nn.AdaptiveMaxPool3d((1, 2, 2)), volumes),
    "power-average-pool": free(nn.LPPool2d(2, 2)),
    "upsample": free(nn.Upsample(scale_factor=2)),
    "upsample-bilinear": free(nn.Upsample(size=(5, 7), mode="bilinear", align_corners=True)),
    "upsample-cubic": free(nn.Upsample(scale_factor=1.5, mode="bicubic")),
    "pixel-unshuffle-and-back": free(nn.Sequential(nn.PixelUnshuffle(2), nn.Tanh(), nn.PixelShuffle(2))),
    "channel-shuffle": free(nn.ChannelShuffle(2)),
    "unfold": free(nn.Unfold(2)),
    "unfold-and-fold": free(nn.Sequential(nn.Unfold(2, stride=2), nn.Sigmoid(), nn.Fold(4, 2, stride=2))),
    "reflection-pad": free(nn.ReflectionPad2d((1, 2, 0, 1))),
    "circular-pad": free(nn.CircularPad2d(1)),
    "zero-pad": free(nn.ZeroPad2d(1)),
    "softmax-2d": free(nn.Softmax2d()),
    "dropout-2d-off": free(nn.Dropout2d(0.0)),
    "unflatten": free(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, -1)), nn.Softmax(2))),
    "cosine-similarity": function(lambda x: F.cosine_similarity(x[:, :2], x[:, 2:4], dim=2)),
    "pairwise-distance": function(lambda x: F.pairwise_distance(x[:, 0], x[:, 1]).unsqueeze(1)),
    "normalize": function(lambda x: F.normalize(x, dim=-1)),
    "distances": function(lambda x: torch.cdist(x, x.cos())),
    "cumulated": function(lambda x: x.cumsum(1)),
    "sorted": function(lambda x: x.sort(1)[0]),
    "topk": function(lambda x: x.topk(2, dim=-1).values),
    "gathered": function(lambda x: x.gather(1, x.argsort(1))),
    "taken": function(lambda x: torch.take_along_dim(x, x.argsort(2, descending=True), 2)),
    "picked": function(lambda x: x[:, torch.tensor([2, 0, 0])]),
    "last-of-each": function(lambda x: x[torch.arange(len(x)), (x[..., 0] > 0).sum(1) - 1]),
    "index-select": function(lambda x: x.index_select(2, torch.tensor([1, 0]))),
    "masked-fill": function(lambda x: x.masked_fill(x > 0.5, 0.1)),
    "lower-triangle": function(lambda x: (x @ x.mT).tril()),
    "fourier": function(lambda x: torch.fft.rfft(x, dim=1).abs()),
    "differences": function(lambda x: torch.diff(x, dim=1)),
    "windows": function(lambda x: x.unfold(1, 2, 1)),
    "diagonal": function(lambda x: x.diagonal(dim1=1, dim2=2)),
    "repeat-interleave": function(lambda x: x.repeat_interleave(2, 1)),
    "roll-and-flip": function(lambda x: x.roll((1, 2), (1, 2)).flip(-1)),
    "log-sum-exp": function(lambda x: torch.logsumexp(x, 1, keepdim=True) - x.logcumsumexp(1)),
    "norm": function(lambda x: x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)),
    "whitened": function(lambda x: (x - x.mean((1, 2), keepdim=True)) / x.var((1, 2), keepdim=True).sqrt()),
    "grid-sample": function(
        lambda x: F.grid_sample(
            x, F.affine_grid(x[:, 0, :2, :3], list(x.shape), align_corners=False), align_corners=False
        ),
        images,
    ),
    "windows-of-images": function(
        lambda x: (
            x
            .view(len(x), -1, x.shape[2] // 2, 2, x.shape[3] // 2, 2)
            .permute(0, 2, 4, 3, 5, 1)
            .reshape(-1, 4, x.shape[1])
            .softmax(1)
            .view(len(x), -1, x.shape[1])
        ),
        images,
    ),
    "heads-in-the-batch": function(
        lambda x: (
            x
            .view(len(x), -1, 2, x.shape[2] // 2)
            .transpose(1, 2)
            .reshape(2 * len(x), -1, x.shape[2] // 2)
            .softmax(1)
            .view(len(x), 2, -1, x.shape[2] // 2)
            .transpose(1, 2)
        )
    ),
    "short-fourier": function(
        lambda x: torch.stft(x.flatten(1), 8, 4, window=torch.hann_window(8).double(), return_complex=True).abs()
    ),
    "short-fourier-and-back": function(
        lambda x: torch.istft(
            torch.stft(x.flatten(1), 8, 2, window=torch.hann_window(8).double(), return_complex=True),
            *(8, 2),
            window=torch.hann_window(8).double(),
        )
    ),
    "triangular": function(lambda x: torch.linalg.solve_triangular(well_posed(x.shape[1]), x, upper=False)),
    "triangular-of-columns": function(
        lambda x: torch.linalg.solve_triangular(well_posed(x.shape[2]), x.flatten(0, 1).T, upper=False).T.view(x.shape)
    ),
    "triangular-on-the-right": function(
        lambda x: torch.linalg.solve_triangular(well_posed(x.shape[2]), x.flatten(0, 1), upper=False, left=False).view(
            x.shape
        )
    ),
    "triangular-of-each": function(
        lambda x: torch.linalg.solve_triangular(well_posed(x.shape[1]) + (x @ x.mT).tril(), x, upper=False)
    ),
    "batch-norm-of-each": function(
        lambda x: F.batch_norm(x.flatten(1).unsqueeze(0), None, None, training=True).view(x.shape)
    ),
    "length-first-and-back": function(lambda x: (x.transpose(0, 1).contiguous() * 2).softmax(0).permute(1, 0, 2)),
    "written": function(written),
    "mean-of-samples-subtracted": Case(
        lambda t, c: nn.Sequential(Centred(), nn.Linear(c, 3), Centred()), sequence, mixes=True
    ),
} | {f"activation-{i}-{type(layer).__name__}": free(layer) for i, layer in enumerate(ACTIVATIONS)}

KINDS = {
    "convolution": CONVOLUTIONS,
    "norm": NORMS,
    "simple": SIMPLE,
    "attention": ATTENTION,
    "transformer": TRANSFORMERS,
    "recurrent": RECURRENT,
    "parametrized": PARAMETRIZED,
    "elementwise": ELEMENTWISE,
    "joined": JOINED,
    "product": PRODUCTS,
    "table": TABLES,
    "module": MODULES,
    "free": FREE,
}
CASES = {f"{kind}-{name}": case for kind, cases in KINDS.items() for name, case in cases.items()}


def worthwhile(name: str, sizes: str) -> bool:
    """Whether sizes can matter to a kind of layer: more than these say nothing new, and there are many layers."""
    kind = name.partition("-")[0]
    if sizes == "single":
        return kind not in {"elementwise", "parametrized", "free"}
    if sizes == "multiples":
        return kind in {"attention", "transformer", "recurrent", "joined", "table", "module"}
    return sizes == "equal" or "activation" not in name


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(
    ("sizes", "name"), [(sizes, name) for name in CASES for sizes in SIZES if worthwhile(name, sizes)]
)
def test_any_layer(name: str, sizes: str) -> None:
    CASES[name].check(sizes)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "batch-norm" in name and not case.training])
def test_batch_norm_asked_for_with_running_statistics(name: str) -> None:
    CASES[name].check("distinct", bn="eval")


# -- what may be refused, or must be ----------------------------------------------------------------------------------


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, p: Tensor) -> Tensor:
        context.save_for_backward(x, p)
        return x * p * p

    @staticmethod
    def backward(context: Any, g: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, p = context.saved_tensors
        return g * p * p, (2 * g * x * p).sum((0, 1))


class Energy(nn.Module):
    """An energy whose derivative is the output: the weights act through a backward pass."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.layer = nn.Linear(c, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.autograd.grad(torch.tanh(self.layer(x)).sum(), x, create_graph=True)[0]


class Unbatched(nn.Module):
    """A layer called on one sample after the other, without a batch dimension."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(sample) for sample in x])


class Views(nn.Module):
    """Both views go through the encoder as one batch of 2 B: a sample's rows do not lie together."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(c, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self.encoder(torch.cat([x[:, 0], x[:, 1]])).chunk(2), 1)


class Packed(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.layer = nn.LSTM(c, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        lengths = 1 + (x[:, 1:, 0] > 0).sum(1)
        packed, _ = self.layer(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])[0]


class Traced(nn.Module):
    def __init__(self, t: int, c: int) -> None:
        super().__init__()
        self.layer = nn.Linear(c, 5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.traced = torch.jit.trace(self.layer.double(), randn(1, t, c))

    def forward(self, x: Tensor) -> Tensor:
        return self.traced(x)


class Routed(nn.Module):
    """A sparse mixture of experts: each expert gets the rows that chose it."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gate = nn.Linear(c, 2)
        self.experts = nn.ModuleList(nn.Linear(c, 5) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        scores, choice = self.gate(rows).softmax(-1).max(-1)
        out = torch.zeros(len(rows), 5, dtype=x.dtype)
        for i, expert in enumerate(self.experts):
            where = (choice == i).nonzero().squeeze(1)
            out.index_add_(0, where, expert(rows[where]) * scores[where, None])
        return out.view(*x.shape[:2], 5)


def sorted_rows(m: nn.Module, x: Tensor) -> Tensor:
    order = x[:, 0, 0].argsort()
    return (x[order] * m.p)[order.argsort()]


# Samples are independent in these, so a reference exists, but the package may say that it cannot follow them.
HARD = {
    "checkpointed": Case(lambda t, c: Checkpointed(c, reentrant=False), sequence),
    "checkpointed-reentrant": Case(lambda t, c: Checkpointed(c, reentrant=True), sequence),
    "custom-function": bare(lambda m, x: Squared.apply(x, m.p), p="c"),
    "custom-function-and-another-use": bare(lambda m, x: Squared.apply(x, m.p) + x.sin() * m.p, p="c"),
    "custom-function-of-derived": bare(lambda m, x: Squared.apply(x, m.p.exp()), p="c"),
    "energy": Case(lambda t, c: Energy(c), sequence),
    "two-views-as-one-batch": Case(lambda t, c: Views(c), sequence),
    "packed-sequences": Case(lambda t, c: Packed(c), sequence),
    "traced": Case(Traced, sequence),
    "routed": Case(lambda t, c: Routed(c), sequence),
    "samples-sorted-and-back": bare(sorted_rows, p="c"),
    "samples-flipped-and-back": bare(lambda m, x: (x.flip(0) * m.p).flip(0), p="c"),
    "samples-one-by-one": bare(lambda m, x: torch.stack([x[i] * m.p for i in range(len(x))]), p="c"),
    "samples-without-a-batch-dimension": Case(lambda t, c: Unbatched(nn.Conv1d(c, 2, 3)), signals),
    "samples-unbound": bare(lambda m, x: torch.stack([sample @ m.p for sample in x]), p="c 5"),
    "samples-split": bare(lambda m, x: torch.cat([part * m.p for part in x.split(1)]), p="c"),
    "samples-written": bare(lambda m, x: written_by_sample(x) * m.p, p="c"),
    "samples-written-with-p": bare(lambda m, x: written_by_sample(x * m.p), p="c"),
    "vectorised-map": bare(lambda m, x: torch.func.vmap(lambda sample: sample * m.p)(x), p="c"),
    "vectorised-map-of-rows": bare(lambda m, x: torch.func.vmap(lambda s, p: s @ p, (0, None))(x, m.p), p="c 5"),
    "functional-call": Case(lambda t, c: Called(c), sequence),
    "fourier-filter": bare(
        lambda m, x: torch.fft.irfft(
            torch.fft.rfft(x, dim=1, norm="ortho") * torch.view_as_complex(m.p)[: x.shape[1] // 2 + 1],
            n=x.shape[1],
            dim=1,
        ),
        p="9 c 2",
    ),
    "complex-gain": bare(lambda m, x: (x * torch.complex(m.p, m.q)).abs(), p="c", q="c"),
    "batch-in-the-features": bare(lambda m, x: (x.permute(1, 2, 0) * m.p).permute(2, 0, 1), p="c 1"),
    "batch-in-the-last-dimension": bare(lambda m, x: F.linear(m.p, x).T, vectors, p="5 c"),
    "batch-as-weight": bare(lambda m, x: F.linear(m.p[:, : x[0].numel()], x.flatten(1)).T, p="5 24"),
    "samples-as-filters": bare(
        lambda m, x: F.conv2d(
            m.p.unsqueeze(0).repeat(1, len(x), 1, 1), x.mean(1, keepdim=True), groups=len(x)
        ).transpose(0, 1),
        images,
        p="1 9 9",
    ),
    "expanded-and-summed": bare(lambda m, x: x * m.p.expand(4, -1).sum(0), p="c"),
    "expanded-and-averaged": bare(lambda m, x: x + m.p.expand(len(x), -1, -1).mean(0), p="t c"),
    "all-pairs-of-positions": bare(lambda m, x: ((x.unsqueeze(1) - x.unsqueeze(2)).abs() @ m.p).sum(1), p="c 5"),
    "scan": Case(lambda t, c: Scan(c), sequence),
    "filter-for-each-sample": bare(
        lambda m, x: F.conv2d(
            x.reshape(1, -1, *x.shape[2:]), (x.mean((2, 3))[:, None, :, None, None] * m.p).flatten(0, 1), groups=len(x)
        ).view(len(x), -1, x.shape[2] - 1, x.shape[3] - 1),
        images,
        p="5 1 2 2",
    ),
}


class Called(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.layer = nn.Linear(c, 5)

    def forward(self, x: Tensor) -> Tensor:
        weights = {name: 2 * parameter for name, parameter in self.layer.named_parameters()}
        return torch.func.functional_call(self.layer, weights, (x,))


class Scan(nn.Module):
    """A linear state-space layer: a diagonal recurrence whose first state is a parameter."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.randn(c))
        self.state = nn.Parameter(torch.randn(c))
        self.out = nn.Linear(c, 5)

    def forward(self, x: Tensor) -> Tensor:
        h, states = self.state, []
        for step in x.unbind(1):
            h = torch.sigmoid(self.decay) * h + step
            states.append(h)
        return self.out(torch.stack(states, 1))


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("sizes", SIZES)
def test_never_silently_wrong(name: str, sizes: str) -> None:
    with suppress(MeasureError):
        HARD[name].check(sizes)


def backwards(x: Tensor) -> Tensor:
    return torch.arange(len(x)).flip(0)


def assigned_backwards(x: Tensor, y: Tensor) -> Tensor:
    for i in range(len(x)):
        y[len(x) - 1 - i] = x[i]
    return y


def assigned_by_index(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y[backwards(x)] = x
    return y


def assigned_whole(x: Tensor) -> Tensor:
    y = x.clone()
    y[:] = x.flip(0)
    return y


def reversal(x: Tensor) -> Tensor:
    """The matrix that reverses the samples."""
    return torch.eye(len(x), dtype=x.dtype).flip(0)


# Samples change places, in the same shape: whatever comes next has another sample's row at each place.
MOVED: dict[str, Callable[[Tensor], Tensor]] = {
    "flip-up-down": torch.flipud,
    "rotation": lambda x: x.rot90(2, (0, 1)),
    "reversed": lambda x: reversed(x),
    "fourier-shift": lambda x: torch.fft.fftshift(x, dim=0),
    "roll": lambda x: x.roll(x[0].numel()),
    "index": lambda x: x[backwards(x)],
    "index-of-two": lambda x: x[backwards(x)[:, None], torch.arange(x.shape[1])],
    "list": lambda x: x[list(range(len(x)))[::-1]],
    "gather": lambda x: x.gather(0, backwards(x)[:, None, None].expand_as(x)),
    "take": lambda x: x.flip(1, 2).take(torch.arange(x.numel()).flip(0)).view(x.shape),
    "put": lambda x: torch.zeros_like(x).put(torch.arange(x.numel()).flip(0).view(x.shape), x.flip(1, 2)),
    "index-copy": lambda x: torch.zeros_like(x).index_copy(0, backwards(x), x),
    "index-add": lambda x: torch.zeros_like(x).index_add(0, backwards(x), x),
    "index-add-in-place": lambda x: torch.zeros_like(x).index_add_(0, backwards(x), x),
    "index-put": lambda x: torch.zeros_like(x).index_put((backwards(x),), x),
    "scatter": lambda x: torch.zeros_like(x).scatter(0, backwards(x)[:, None, None].expand_as(x), x),
    "masked-scatter": lambda x: torch.zeros_like(x).masked_scatter(x == x, x.flip(0)),
    "copied": lambda x: torch.zeros_like(x).copy_(x.flip(0)),
    "copied-into-a-clone": lambda x: x.clone().copy_(x.flip(0)),
    "assigned-to-zeros": lambda x: assigned_backwards(x, torch.zeros(x.shape, dtype=x.dtype)),
    "assigned-to-zeros-like": lambda x: assigned_backwards(x, torch.zeros_like(x)),
    "assigned-by-index": assigned_by_index,
    "assigned-whole": assigned_whole,
    "split": lambda x: torch.cat(x.split(1)[::-1]),
    "stacked": lambda x: torch.stack(list(x)[::-1]),
    "stacked-vertically": lambda x: torch.vstack(torch.tensor_split(x, len(x))[::-1]),
    "padded-sequences": lambda x: nn.utils.rnn.pad_sequence(list(x)[::-1], batch_first=True),
    "matrix-product": lambda x: reversal(x) @ x.flatten(1),
    "addmm": lambda x: torch.addmm(torch.zeros(1, dtype=x.dtype), reversal(x), x.flatten(1)),
    "multi-dot": lambda x: torch.linalg.multi_dot([reversal(x), x.flatten(1)]),
    "tensordot": lambda x: torch.tensordot(reversal(x), x, dims=1),
    "einsum": lambda x: torch.einsum("ij,jtc->itc", reversal(x), x),
    "sparse-product": lambda x: torch.sparse.mm(reversal(x).to_sparse(), x.flatten(1)),
    "solution": lambda x: torch.linalg.solve(reversal(x), x.flatten(1)),
    "convolution-over-samples": lambda x: F.conv1d(x.transpose(0, 1), reversal(x).unsqueeze(2)).transpose(0, 1),
    "convolution-without-a-batch": lambda x: F.conv1d(x.flatten(1), reversal(x).unsqueeze(2)),
    "shifted-by-repeating": lambda x: x.repeat(2, 1, 1)[1 : 1 + len(x)],
    "shifted-by-joining": lambda x: torch.cat([x[1:], x[:1]]),
}


def joined(m: nn.Module, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """A product of both as one batch."""
    out = torch.cat([first, second]) @ m.p
    return out[: len(first)], out[len(first) :]


def against_a_bank(m: nn.Module, x: Tensor) -> Tensor:
    ours, bank = joined(m, x, torch.linspace(-1, 1, 4 * x.shape[1], dtype=x.dtype).view(4, -1))
    return ours @ bank.T


def against_others(m: nn.Module, x: Tensor) -> Tensor:
    ours, others = joined(m, x, x.flip(0))
    return ours * others.flip(0)


# With as many rows of a parameter as samples, shapes tell nothing about the result.
TURNED = {
    "distances": bare(lambda m, x: torch.cdist(m.p, x).T, vectors, p="4 c"),
    "inner": bare(lambda m, x: torch.inner(m.p, x).T, vectors, p="4 c"),
    "outer": bare(lambda m, x: torch.outer(m.p, x[:, 0]).T, vectors, p="4"),
    "kronecker": bare(lambda m, x: torch.kron(x, m.p), vectors, p="1 3"),
    "matrix-product": bare(lambda m, x: torch.mm(m.p, x.T).T, vectors, p="4 c"),
    "addmm": bare(lambda m, x: torch.addmm(m.q, m.p, x.T).T, vectors, p="4 c", q="4 1"),
    "linear": bare(lambda m, x: F.linear(m.p, x).T, vectors, p="4 c"),
    "einsum": bare(lambda m, x: torch.einsum("kc,bc->kb", m.p, x).T, vectors, p="4 c"),
    "tensordot": bare(lambda m, x: torch.tensordot(m.p, x, dims=([1], [1])).T, vectors, p="4 c"),
    "tensordot-3d": bare(lambda m, x: torch.tensordot(m.p, x, dims=([1], [2])).permute(1, 2, 0), p="4 c"),
    "differences": bare(lambda m, x: (m.p[:, None] - x).pow(2).sum(-1).T, vectors, p="4 c"),
    "grid": bare(lambda m, x: sum(torch.meshgrid(x[:, 0], m.p, indexing="xy")).sin().T, vectors, p="4"),
    "grid-ij": bare(lambda m, x: sum(torch.meshgrid(x[:, 0], m.p, indexing="ij")).sin(), vectors, p="4"),
    "broadcast": bare(lambda m, x: torch.broadcast_tensors(x, m.p)[1] * x, p="c"),
    "bank": bare(against_a_bank, vectors, p="c 3"),
    "bank-of-parameters": bare(lambda m, x: torch.cat([x, m.p])[len(x) :] @ x.T, vectors, p="4 c"),
    "negatives": bare(against_others, vectors, p="c 3"),
}


class Direct(nn.Module):
    """A layer, with one before it or none; its output is the model's."""

    def __init__(self, layer: nn.Module, before: nn.Module) -> None:
        super().__init__()
        self.before = before
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.before(x).sin())


@pytest.mark.parametrize("layer_before", [True, False])
@pytest.mark.parametrize("sizes", ["distinct", "equal"])
@pytest.mark.parametrize("name", [f"moved-{name}" for name in MOVED] + [f"turned-{name}" for name in TURNED])
def test_samples_that_change_places(name: str, sizes: str, layer_before: bool) -> None:
    """Sample i's column is its own gradient, wherever its rows are; or the package says that it lost them."""
    kind, _, name = name.partition("-")
    case = bare(lambda m, x: (y := MOVED[name](x)) * m.p[: y.shape[-1]], p="24") if kind == "moved" else TURNED[name]
    b, t, c = SIZES[sizes]
    (x,) = case.inputs(b, t, c)
    model = Direct(case.layer(t, c), nn.Linear(c, c) if layer_before else nn.Identity()).double()

    def step(samples: slice) -> Tensor:
        return loss_of(model(x[samples]))

    with suppress(MeasureError):
        assert error_of(gram_of_probe(model, step), gram_of_samples(model, b, step)) < 1e-9


# Here no row of some use belongs to one sample, so "rows" has no meaning for it.
MEANINGLESS = {
    "mean-over-samples": bare(lambda m, x: x + x.mean(0) * m.p, p="c"),
    "mean-over-samples-first": bare(lambda m, x: x + m.p * x.mean(0, keepdim=True), p="c"),
    "mean-over-all": bare(lambda m, x: x + x.mean() * m.p, p="c"),
    "standard-deviation-channel": bare(lambda m, x: torch.cat([x, (x.std(0) * m.p).expand_as(x)], 1), p="c"),
    "linear-of-the-mean": bare(lambda m, x: x + F.linear(x.mean(0), m.p), p="c c"),
    "contrast": bare(lambda m, x: (x.flatten(1) @ x.flatten(1).T) * m.p.exp(), p=""),
    "samples-mixed-by-a-parameter": bare(lambda m, x: m.p[: len(x), : len(x)] @ x.flatten(1), p="4 4"),
    "samples-as-tokens": Case(lambda t, c: nn.Sequential(Function(lambda x: x[:, 0]), TokensOfOne(c)), sequence),
}


class TokensOfOne(nn.Module):
    """Attention over the batch: (B, C) is one sequence without a batch dimension."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(c, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def measured(case: Case, sizes: str, step: Callable[[nn.Module, Tensor], Tensor]) -> FisherProbe:
    inputs = case.inputs(*SIZES[sizes])
    model = Net(case.layer(*SIZES[sizes][1:]).double(), inputs)
    probe = FisherProbe(model, loss_reduction="sum")
    with probe:
        step(model, inputs[0]).backward()
    return probe


@pytest.mark.parametrize("name", MEANINGLESS)
@pytest.mark.parametrize("sizes", ["distinct", "equal", "multiples"])
def test_parameters_of_the_whole_batch_are_refused(name: str, sizes: str) -> None:
    probe = measured(MEANINGLESS[name], sizes, lambda model, x: loss_of(model(x)))
    with pytest.raises(MeasureError, match=r"'layer\."):
        probe.gram()


@pytest.mark.parametrize(
    "step",
    [
        lambda model, x: loss_of(model(x)) * model.layer.p.exp(),
        lambda model, x: loss_of(model(x)).div(model.layer.p) + model.layer.p.log(),
        lambda model, x: loss_of(model(x)).square() + model.layer.p.pow(2),
    ],
    ids=["scaled-loss", "uncertainty", "squared-loss"],
)
def test_parameters_in_the_summed_loss_are_refused(step: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """What is left of the loss has no rows."""
    case = bare(lambda m, x: x * m.p.exp(), p="")
    with pytest.raises(
        MeasureError, match=r"'layer\.p'.*(a sum over them such as a mean loss|not be followed through)"
    ):
        measured(case, "distinct", step).gram()


PENALTIES: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "squares": lambda model, loss: loss + 0.1 * sum(p.pow(2).sum() for p in model.parameters()),
    "distance-to-start": lambda model, loss: 0.1 * (model.layer.p - 1).abs().sum() + loss,
    "subtracted": lambda model, loss: torch.sub(loss, model.after.weight.norm(), alpha=0.3),
    "rate": lambda model, loss: (loss / 2 + (model.layer.p.sigmoid().mean() - 0.1).square()) * 2 + model.layer.q,
    "in-place": lambda model, loss: (loss * 1).add_(model.layer.p.exp().sum()),
    "parameter-itself": lambda model, loss: -(model.layer.q - loss),
}


@pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize("b", [1, 3])
def test_a_term_of_parameters_alone_is_in_equal_parts_each_samples(
    penalty: Callable[[nn.Module, Tensor], Tensor], b: int
) -> None:
    """A sum of losses and a penalty is the sum of each loss and its part of the penalty."""
    model = Net(Bare(lambda m, x: x * m.p, p=(6,), q=()).double(), (randn(b, 4, 6),))
    x = randn(b, 4, 6)

    def whole(samples: slice) -> Tensor:
        return penalty(model, loss_of(model(x[samples])))

    def of_one(samples: slice) -> Tensor:
        loss, nothing = loss_of(model(x[samples])), torch.zeros((), dtype=torch.float64)
        return loss + penalty(model, nothing) / b

    probed, expected = gram_of_probe(model, whole), gram_of_samples(model, b, of_one)
    assert error_of(probed, expected) < 1e-9


def test_a_sum_with_a_parameter_that_meets_samples_again_is_no_loss() -> None:
    case = bare(lambda m, x: x * (x.mean() + m.p), p="")
    with pytest.raises(MeasureError, match="meets single samples again in"):
        measured(case, "distinct", lambda model, x: loss_of(model(x))).gram()


def test_a_parameter_in_the_loss_of_each_sample() -> None:
    """Each sample's loss is still a row."""
    b, (t, c) = 3, (4, 6)
    model = Net(Bare(lambda m, x: x * m.p, p=(c,), temperature=()).double(), (randn(b, t, c),))
    x, y = randn(b, t, c), torch.tensor([0, 2, 1])

    def step(samples: slice) -> Tensor:
        losses = F.cross_entropy(model(x[samples]) * model.layer.temperature.exp(), y[samples], reduction="none")
        return (losses / (model.layer.temperature**2 + 1) + model.layer.temperature).sum()

    assert error_of(gram_of_probe(model, step), gram_of_samples(model, b, step)) < 1e-9


def test_adaptive_softmax() -> None:
    """Samples are sorted by the cluster of their target: never silently wrong."""
    model = nn.AdaptiveLogSoftmaxWithLoss(16, 9, [2, 5]).double()
    x, y = randn(5, 16), torch.tensor([8, 0, 3, 1, 6])

    def step(samples: slice) -> Tensor:
        return -model(x[samples], y[samples]).output.sum()

    with suppress(MeasureError):
        assert error_of(gram_of_probe(model, step), gram_of_samples(model, 5, step)) < 1e-9
