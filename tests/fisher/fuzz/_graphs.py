"""Random graphs of layers, views, in-place operations, joins and reductions, whose batch dimension is known."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZES = (2, 3, 4, 6)


@dataclass(frozen=True)
class Value:
    """A tensor, and the dimension that carries the batch; None where samples are mixed or in another order."""

    tensor: Tensor
    dim: int | None = 0

    @property
    def others(self) -> list[int]:
        """The dimensions that do not carry the batch."""
        return [dim for dim in range(self.tensor.ndim) if dim != self.dim]


class Reversed(torch.autograd.Function):
    """Reverses the samples, out of sight of every torch function."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.flip(0)

    @staticmethod
    def backward(context: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g.flip(0)


class Doubled(torch.autograd.Function):
    """A function of weights alone, such as a straight-through estimator."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(context: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * g


class Graph(nn.Module):
    """A model that draws its operations anew, and alike, in each forward pass.

    Args:
        seed: of the operations and parameters.
        batch: B.
        length: how many operations.
        mixing: how often an operation may mix samples.
    """

    def __init__(self, seed: int, batch: int, length: int, mixing: float) -> None:
        super().__init__()
        self.seed, self.batch, self.length, self.mixing = seed, batch, length, mixing
        self.weights = nn.ParameterDict()
        self.mixed = False
        self.trace: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        self.draw = random.Random(self.seed)
        self.mixed = False
        self.trace = []
        self.used = 0
        value = Value(x)
        pool = [value]
        for _ in range(self.length):
            value = self._step(value, pool)
            if value.tensor.numel() > 4000:
                value = self._selected(value)
            pool.append(value)
        if self.mixed or value.dim is None:
            self.mixed = True
            return value.tensor
        return value.tensor.movedim(value.dim, 0)

    def _step(self, value: Value, pool: Sequence[Value]) -> Value:
        if value.dim is not None and self.draw.random() < self.mixing:
            kinds: Sequence[Callable[..., Value | None]] = MIXING
        else:
            kinds = KINDS
        for _ in range(20):
            kind = self.draw.choice(kinds)
            found = kind(self, value, pool) if kind in JOINS else kind(self, value)
            if found is not None:
                self.trace.append(f"{kind.__name__.strip('_')} {tuple(found.tensor.shape)} @ {found.dim}")
                self.mixed |= found.dim is None
                return found
        return value

    def parameter(self, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return a parameter: a new one, or one that was used before."""
        kind = "" if dtype is torch.float64 else str(dtype).rpartition(".")[2]
        names = [f"{i}_{'x'.join(map(str, shape))}{kind}" for i in range(2)]
        name = self.draw.choice(names)
        if name not in self.weights:
            made = torch.Generator().manual_seed(self.seed + 17 * len(self.weights))
            self.weights[name] = nn.Parameter(0.6 * torch.randn(shape, generator=made, dtype=dtype))
        weight: Tensor = self.weights[name]
        how = self.draw.random()
        if how < 0.08:
            return weight.tanh()
        if how < 0.12:
            return Doubled.apply(weight)
        return weight

    def table(self, *shape: int) -> Tensor:
        """Return a fixed tensor that is the same for all samples."""
        self.used += 1
        made = torch.Generator().manual_seed(self.seed + self.used)
        return torch.randn(shape, generator=made, dtype=torch.float64)

    def size(self) -> int:
        """Return a small size, often B."""
        return self.draw.choice((*SIZES, self.batch, self.batch))

    def _selected(self, value: Value) -> Value:
        x, dim = value.tensor, value.dim
        for other in reversed(value.others):
            if x.numel() > 500 and x.ndim > 1:
                x = x.select(other, 0)
                dim = dim - 1 if dim is not None and dim > other else dim
        return Value(x, dim)


def _same(value: Value, x: Tensor) -> Value:
    return Value(x, value.dim)


# -- layers ---------------------------------------------------------------------------------------------------------


def _linear(m: Graph, value: Value) -> Value | None:
    x, features = value.tensor, m.size()
    if x.ndim < 2 or value.dim == x.ndim - 1:
        return None
    w = m.parameter(features, x.shape[-1])
    b = m.parameter(features)
    return _same(
        value,
        m.draw.choice((
            lambda: F.linear(x, w, b),
            lambda: F.linear(x, weight=w),
            lambda: x @ w.T + b,
            lambda: torch.matmul(x, w.t()),
            lambda: torch.einsum("...c,kc->...k", x, w) + b,
            lambda: torch.tensordot(x, w, dims=([-1], [1])),
            lambda: torch.inner(x, w) if m.draw.random() < 0.3 else F.linear(x, w, b),
        ))(),
    )


def _single(m: Graph, value: Value) -> Value | None:
    """A layer in single precision."""
    x, features = value.tensor.float(), m.size()
    if x.ndim < 2 or value.dim == x.ndim - 1:
        return None
    w = m.parameter(features, x.shape[-1], dtype=torch.float32)
    b = m.parameter(features, dtype=torch.float32)
    y = m.draw.choice((
        lambda: F.linear(x, w, b),
        lambda: x @ w.T * b,
        lambda: torch.einsum("...c,kc->...k", x, w).add_(b),
        lambda: x.double() @ w.double().T + b,
        lambda: torch.addcmul(F.linear(x, w), b, b),
    ))()
    return _same(value, y.double())


def _complex(m: Graph, value: Value) -> Value | None:
    """A layer of complex numbers."""
    x, features = value.tensor, m.size()
    if x.ndim < 2 or value.dim == x.ndim - 1:
        return None
    z = m.draw.choice((lambda: torch.complex(x, x.sin()), lambda: x * 1j, lambda: x.to(torch.complex128)))()
    w = m.parameter(features, x.shape[-1], dtype=torch.complex128)
    b = m.parameter(features, dtype=torch.complex128)
    y = m.draw.choice((
        lambda: F.linear(z, w, b),
        lambda: z @ w.mH + b,
        lambda: torch.einsum("...c,kc->...k", z, w) * b.conj(),
        lambda: F.linear(z, w).conj() / (b.abs() + 1),
        lambda: torch.tensordot(z, w, dims=([-1], [1])) - b,
        lambda: torch.fft.fft(z)[..., :1] * b.resolve_conj(),
    ))()
    y = m.draw.choice((
        lambda: y.real * y.imag,
        lambda: (y.abs() + 0.1).log(),
        lambda: torch.view_as_real(y).flatten(-2),
        lambda: (y * y.conj()).real,
        lambda: torch.fft.ifft(y).real,
    ))()
    return _same(value, y)


def _left(m: Graph, value: Value) -> Value | None:
    x = value.tensor
    if x.ndim < 2 or value.dim == x.ndim - 2:
        return None
    return _same(value, m.parameter(m.size(), x.shape[-2]) @ x)


def _scaled(m: Graph, value: Value) -> Value | None:
    x = value.tensor
    kept = m.draw.randint(0, x.ndim)
    shape = [1 if d == value.dim or m.draw.random() < 0.3 else x.shape[d] for d in range(x.ndim)][kept:]
    p = m.parameter(*shape)
    return _same(
        value,
        m.draw.choice((
            lambda: x * p,
            lambda: p + x,
            lambda: x - p,
            lambda: torch.add(x, p, alpha=2),
            lambda: torch.maximum(x, p),
            lambda: torch.where(x > 0, x, p),
            lambda: torch.lerp(x, p, 0.3),
            lambda: torch.addcmul(x, p, x.sin()),
            lambda: x.sin().mul_(p),
            lambda: x.clone().add_(p),
            lambda: x / (p.abs() + 1),
            lambda: torch.atan2(x, p),
        ))(),
    )


def _shared_table(m: Graph, value: Value) -> Value | None:
    """A layer on a fixed table, which meets the batch afterwards."""
    x = value.tensor
    if x.ndim < 2 or value.dim == x.ndim - 1:
        return None
    rows = m.size()
    hidden = m.size()
    keys = torch.tanh(F.linear(m.table(rows, hidden), m.parameter(x.shape[-1], hidden), m.parameter(x.shape[-1])))
    return _same(
        value,
        m.draw.choice((
            lambda: x @ keys.T,
            lambda: torch.einsum("...c,kc->...k", x, keys),
            lambda: F.linear(x, keys),
            lambda: torch.cdist(x, keys.expand(*x.shape[:-2], -1, -1)),
            lambda: torch.tensordot(x, keys, dims=([x.ndim - 1], [1])),
            lambda: (x.unsqueeze(-2) * keys).sum(-1),
            lambda: F.cosine_similarity(x.unsqueeze(-2), keys, dim=-1),
            lambda: x + keys.mean(0),
            lambda: x * keys[0],
        ))(),
    )


def _positions(m: Graph, value: Value) -> Value | None:
    """A table of positions, looked up or computed, added to the last two dimensions."""
    x = value.tensor
    if x.ndim < 3 or value.dim is None or value.dim >= x.ndim - 2:
        return None
    length, width = x.shape[-2:]
    table = m.parameter(6, width)
    spread = torch.linspace(-1, 1, length, dtype=torch.float64)[:, None]
    return _same(
        value,
        x
        + m.draw.choice((
            lambda: F.embedding(torch.arange(length), table),
            lambda: table[torch.arange(length)],
            lambda: table[:length],
            lambda: F.linear(spread, m.parameter(width, 1)),
            lambda: F.embedding(torch.arange(length).expand(x.shape[-3], -1), table),
            lambda: table.index_select(0, torch.arange(length)),
        ))(),
    )


def _token(m: Graph, value: Value) -> Value | None:
    x = value.tensor
    if x.ndim < 3 or value.dim != 0:
        return None
    p = m.parameter(x.shape[-1])
    shape = (x.shape[0], *x.shape[1:-2], 1, x.shape[-1])
    token = m.draw.choice((
        lambda: p.expand(shape),
        lambda: torch.zeros(shape, dtype=x.dtype) + p,
        lambda: x.new_zeros(shape) + p,
        lambda: p.repeat(*shape[:-1], 1),
    ))()
    return _same(value, torch.cat([token, x], -2))


def _norm(m: Graph, value: Value) -> Value | None:
    x = value.tensor
    if x.ndim < 2 or value.dim == x.ndim - 1 or x.shape[-1] < 2:
        return None
    width = x.shape[-1]
    return _same(
        value,
        m.draw.choice((
            lambda: F.layer_norm(x, (width,), m.parameter(width), m.parameter(width), 0.1),
            lambda: F.rms_norm(x, (width,), m.parameter(width), eps=0.1),
            lambda: F.normalize(x, dim=-1) * m.parameter(width),
            lambda: x.softmax(-1) * m.parameter(width),
        ))(),
    )


def _channels(m: Graph, value: Value) -> Value | None:
    x = value.tensor
    if x.ndim not in {3, 4} or value.dim != 0:
        return None
    c = x.shape[1]
    spatial = x.ndim - 2
    convolution = F.conv1d if spatial == 1 else F.conv2d
    transposed = F.conv_transpose1d if spatial == 1 else F.conv_transpose2d
    ones = (1,) * spatial
    return Value(
        m.draw.choice((
            lambda: convolution(x, m.parameter(m.size(), c, *ones), padding=0),
            lambda: convolution(x, m.parameter(c, 1, *[2] * spatial), m.parameter(c), padding=1, groups=c),
            lambda: transposed(x, m.parameter(c, 2, *ones)),
            lambda: F.group_norm(x, c, m.parameter(c), m.parameter(c), 0.1),
            lambda: (
                F.instance_norm(x, None, None, m.parameter(c), m.parameter(c), eps=0.1)
                if x[0, 0].numel() > 1
                else F.group_norm(x, 1, m.parameter(c), m.parameter(c), 0.1)
            ),
            lambda: F.prelu(x, m.parameter(c)),
        ))(),
        0,
    )


def _recurrent(m: Graph, value: Value) -> Value | None:
    x = value.tensor
    if x.ndim != 3 or value.dim not in {0, 1}:
        return None
    kind, gates = m.draw.choice((("gru", 3), ("lstm", 4), ("rnn_tanh", 1), ("rnn_relu", 1)))
    hidden, width, b = m.size(), x.shape[-1], x.shape[value.dim]
    layers, directions, biases = m.draw.choice((1, 1, 2)), m.draw.choice((1, 1, 2)), m.draw.random() < 0.3
    weights = []
    for place in range(layers * directions):
        inputs = width if place < directions else directions * hidden
        weights += [m.parameter(gates * hidden, inputs), m.parameter(gates * hidden, hidden)]
        weights += [m.parameter(gates * hidden) for _ in range(2 if biases else 0)]
    states = [torch.zeros(layers * directions, b, hidden, dtype=x.dtype) for _ in range(2 if kind == "lstm" else 1)]
    if m.draw.random() < 0.3:
        states = [m.parameter(len(state), 1, hidden).expand(-1, b, -1).contiguous() for state in states]
    state = states if kind == "lstm" else states[0]
    rest = (biases, layers, 0.0, True, directions == 2, value.dim == 0)
    output, *last = getattr(torch, kind)(x, state, weights, *rest)
    return _same(value, output) if m.draw.random() < 0.6 else Value(m.draw.choice(last), 1)


def _cell(m: Graph, value: Value) -> Value | None:
    x = value.tensor
    if x.ndim != 2 or value.dim != 0:
        return None
    kind, gates = m.draw.choice((("gru_cell", 3), ("lstm_cell", 4), ("rnn_tanh_cell", 1)))
    hidden, width = m.size(), x.shape[-1]
    weights = [m.parameter(gates * hidden, width), m.parameter(gates * hidden, hidden), None, None]
    if m.draw.random() < 0.5:
        weights[2:] = [m.parameter(gates * hidden), m.parameter(gates * hidden)]
    state = x[:, :1].tanh().expand(-1, hidden)
    if kind == "lstm_cell":
        found = torch.lstm_cell(x, (state, state.cos()), *weights)
        return _same(value, m.draw.choice((found[0], found[1], found[0] + found[1])))
    return _same(value, getattr(torch, kind)(x, state, *weights))


def _attention(m: Graph, value: Value) -> Value | None:
    x = value.tensor
    if x.ndim < 3 or value.dim is None or value.dim >= x.ndim - 2:
        return None
    length, width = x.shape[-2:]
    k = x @ m.parameter(width, width)
    return _same(
        value,
        m.draw.choice((
            lambda: F.scaled_dot_product_attention(x, k, x.tanh()),
            lambda: (x @ k.mT).softmax(-1) @ x,
            lambda: F.scaled_dot_product_attention(x, k, x, attn_mask=m.parameter(length, length)),
            lambda: torch.bmm(x, k.mT) if x.ndim == 3 else x @ k.mT,
        ))(),
    )


# -- what has no parameters -------------------------------------------------------------------------------------------


def _activated(m: Graph, value: Value) -> Value:
    x = value.tensor
    return _same(
        value,
        m.draw.choice((
            lambda: x.tanh(),
            lambda: F.relu(x),
            lambda: F.gelu(x),
            lambda: torch.sin(x),
            lambda: F.softplus(x),
            lambda: x.clamp(min=-1.0),
            lambda: (x.float() * 1.5).double() if m.draw.random() < 0.2 else x.exp().clamp(max=3.0),
            lambda: x.clone(memory_format=torch.contiguous_format),
            lambda: torch.where(x > 0, x, 0.1 * x),
            lambda: x.masked_fill(x > 1, 0.3),
            lambda: torch.complex(x, x.sin()).abs() if m.draw.random() < 0.3 else x.abs(),
        ))(),
    )


def _in_place(m: Graph, value: Value) -> Value | None:
    x = value.tensor
    if not x.requires_grad or x.grad_fn is None:
        return None
    x = x + 0 if m.draw.random() < 0.5 or x._is_view() is False else x  # some views are changed themselves
    if x is value.tensor and x._base is not None and (x._base.is_leaf or 0 in x.stride()):
        return None
    if 0 in x.stride():
        x = x.clone()
    other = value.others
    at = m.draw.choice(other) if other else None
    if at is None or m.draw.random() < 0.5:
        return _same(value, m.draw.choice((lambda: F.relu(x, inplace=True), lambda: x.mul_(1.5), lambda: x.tanh_()))())
    part = x.narrow(at, 0, 1)
    m.draw.choice((lambda: part.mul_(2), lambda: part.add_(1.0), lambda: part.copy_(part.detach().sin())))()
    return _same(value, x)


def _assigned(m: Graph, value: Value) -> Value | None:
    x = value.tensor
    if value.dim != 0 or x.ndim < 2:
        return None
    made = torch.zeros(x.shape, dtype=x.dtype) if m.draw.random() < 0.5 else torch.zeros_like(x)
    made[:, :1] = x[:, :1].sin()
    if x.shape[1] > 1:
        made[:, 1:] = x[:, :-1]
    if m.draw.random() < 0.3 and x.ndim > 1:
        made[:, 0] = m.parameter(*x.shape[2:])
    return _same(value, made)


def _viewed(m: Graph, value: Value) -> Value | None:
    x, dim = value.tensor, value.dim
    if dim is None:
        return _same(value, x.unsqueeze(0))
    kind = m.draw.randrange(7)
    if kind == 0:
        order = list(range(x.ndim))
        m.draw.shuffle(order)
        return Value(x.permute(order), order.index(dim))
    if kind == 1 and x.ndim > 1:
        a, b = m.draw.sample(range(x.ndim), 2)
        return Value(x.transpose(a, b), {a: b, b: a}.get(dim, dim))
    if kind == 2 and x.ndim < 4:
        new = m.draw.randint(0, x.ndim)
        return Value(x.unsqueeze(new), dim + (new <= dim))
    if kind == 3 and x.ndim > 2:
        pairs = [d for d in range(x.ndim - 1) if dim not in {d, d + 1}]
        if pairs:
            at = m.draw.choice(pairs)
            return Value(x.flatten(at, at + 1), dim - (dim > at))
    if kind == 4 and value.others:
        at = m.draw.choice(value.others)
        return Value(x.reshape(*x.shape[:at], 1, *x.shape[at:]), dim + (dim >= at))
    if kind == 5 and x.ndim < 4:
        return Value(x.expand(2, *x.shape), dim + 1)
    if kind == 6 and 1 in x.shape:
        at = x.shape.index(1)
        return Value(x.squeeze(at), dim - (dim > at)) if at != dim else None
    return None


def _merged(m: Graph, value: Value) -> Value | None:
    """A layer on the batch and its neighbour as one dimension, then taken apart again."""
    x, dim = value.tensor, value.dim
    if dim is None or x.ndim < 3 or dim >= x.ndim - 2:
        return None
    shape = x.shape
    merged = x.flatten(dim, dim + 1) if m.draw.random() < 0.5 else x.reshape(*shape[:dim], -1, *shape[dim + 2 :])
    h = F.linear(merged, m.parameter(m.size(), shape[-1]))
    if m.draw.random() < 0.5:
        h = h.tanh_()
    return Value(h.view(*shape[:-1], -1) if h.is_contiguous() else h.reshape(*shape[:-1], -1), dim)


def _turned(m: Graph, value: Value) -> Value | None:
    """A layer with positions before samples in one dimension."""
    x = value.tensor
    if x.ndim != 3 or value.dim != 0:
        return None
    b, t, _ = x.shape
    h = F.linear(x.transpose(0, 1).reshape(t * b, -1), m.parameter(m.size(), x.shape[-1]), None)
    return Value(h.view(t, b, -1), 1)


def _repeated(m: Graph, value: Value) -> Value | None:
    x = value.tensor
    if value.dim != 0 or x.ndim < 2:
        return None
    return m.draw.choice((
        lambda: Value(F.linear(torch.cat([x, x.sin()]), m.parameter(3, x.shape[-1])).view(2, *x.shape[:-1], 3), 1),
        lambda: Value(
            F.linear(x.repeat_interleave(2, 0), m.parameter(3, x.shape[-1])).view(x.shape[0], 2, *x.shape[1:-1], 3), 0
        ),
        lambda: Value(F.linear(x.repeat(2, *[1] * (x.ndim - 1)), m.parameter(3, x.shape[-1])).unflatten(0, (2, -1)), 1),
    ))()


def _reduced(m: Graph, value: Value) -> Value | None:
    x, dim = value.tensor, value.dim
    if dim is None or x.ndim < 2:
        return None
    at = m.draw.choice(value.others)
    signed = at if m.draw.random() < 0.5 else at - x.ndim
    keep = m.draw.random() < 0.5
    y = m.draw.choice((
        lambda: x.sum(signed, keepdim=keep),
        lambda: x.mean(dim=signed, keepdim=keep),
        lambda: x.amax(signed, keepdim=keep),
        lambda: x.max(signed, keepdim=keep).values,
        lambda: torch.sum(x, axis=signed, keepdims=keep),
        lambda: torch.logsumexp(x, signed, keepdim=keep),
        lambda: (x + 0.1).norm(2, dim=signed, keepdim=keep),
        lambda: (x + 0.1).norm(dim=signed, keepdim=keep),
        lambda: torch.linalg.vector_norm(x + 0.1, dim=signed, keepdim=keep),
        lambda: x.prod(signed, keepdim=keep),
    ))()
    return Value(y, dim if keep else dim - (dim > at))


def _along(m: Graph, value: Value) -> Value | None:
    x = value.tensor
    if value.dim is None or x.ndim < 2:
        return None
    at = m.draw.choice(value.others)
    at = at if m.draw.random() < 0.5 else at - x.ndim
    return _same(
        value,
        m.draw.choice((
            lambda: x.softmax(at),
            lambda: x.cumsum(at),
            lambda: x.flip(at),
            lambda: x.roll(1, at),
            lambda: x.sort(at).values,
            lambda: x.sort(axis=at).values,
            lambda: x.topk(1, dim=at).values,
            lambda: torch.cat([x, x.cos()], at),
            lambda: x.narrow(at, 0, max(1, x.shape[at] - 1)),
            lambda: x.chunk(2, at)[0],
            lambda: x.index_select(at, torch.tensor([0, 0])),
            lambda: x.gather(at, x.argsort(at)),
            lambda: F.gumbel_softmax(x.detach(), 1, dim=at) * 0 + x,
            lambda: x.repeat_interleave(2, at),
            lambda: x.cummax(at).values,
            lambda: F.normalize(x, 2.0, at, 0.1),
            lambda: torch.take_along_dim(x, x.argsort(dim=at), at),
            lambda: _in_parts(x, at),
            lambda: _windows(x.clone(memory_format=torch.contiguous_format), at % x.ndim),
        ))(),
    )


def _in_parts(x: Tensor, at: int) -> Tensor:
    buffer = x.new_empty(x.shape)
    for i in range(x.shape[at]):
        buffer.select(at, i).copy_(x.select(at, i).sin())
    return buffer


def _windows(x: Tensor, at: int) -> Tensor:
    """Two windows along a dimension, which overlap."""
    shape, stride = list(x.shape), x.stride()
    shape[at] = max(1, shape[at] - 1)
    return x.as_strided((*shape, x.shape[at] - shape[at] + 1), (*stride, stride[at])).sum(-1)


def _stacked(m: Graph, value: Value) -> Value | None:
    x, dim = value.tensor, value.dim
    if dim is None or x.ndim > 3:
        return None
    at = m.draw.randint(0, x.ndim)
    return Value(torch.stack([x, x.sin()], at), dim + (at <= dim))


def _indexed(m: Graph, value: Value) -> Value | None:
    x, dim = value.tensor, value.dim
    if dim != 0 or x.ndim < 2:
        return None
    b, n = x.shape[:2]
    rows = torch.arange(b)
    return m.draw.choice((
        lambda: Value(x[:, 0], 0),
        lambda: Value(x[:, : max(1, n - 1)], 0),
        lambda: Value(x[None], 1),
        lambda: Value(x[..., None], 0),
        lambda: Value(x[rows, x.flatten(1).argmax(1) % n], 0),
        lambda: Value(x[:, torch.tensor([0, n - 1])], 0),
        lambda: Value(x[:, torch.tensor([[0], [n - 1]])], 0),
        lambda: Value(x[rows[None, :], torch.zeros(2, 1, dtype=torch.long)], 1),
        lambda: Value(x[:, None, 0], 0),
        lambda: Value(x[rows, :, 0], 0) if x.ndim > 2 else Value(x[rows], 0),
        lambda: Value(m.table(n, 5)[:, x.flatten(1).argmax(1) % 5].T @ m.parameter(n, 2), 0),
        lambda: Value(m.parameter(5, 3)[x.flatten(1).argmax(1) % 5], 0),
        lambda: Value(F.embedding(x.flatten(1).argmax(1) % 5, m.parameter(5, 3)), 0),
    ))()


# -- joins with what came before --------------------------------------------------------------------------------------


def _joined(m: Graph, value: Value, pool: Sequence[Value]) -> Value | None:
    other = m.draw.choice(pool)
    if None in {other.dim, value.dim} or other is value:
        return None
    x, y = value.tensor, other.tensor
    from_right = x.ndim - value.dim, y.ndim - other.dim
    if from_right[0] != from_right[1]:
        return None
    try:
        shape = torch.broadcast_shapes(x.shape, y.shape)
    except RuntimeError:
        return None
    if len(shape) > 4:
        return None
    z = m.draw.choice((
        lambda: x + y,
        lambda: x * y,
        lambda: torch.where(x > 0, x, y),
        lambda: torch.maximum(x, y),
        lambda: torch.lerp(x, y, 0.5),
        lambda: x.expand(shape).clone().add_(y),
        lambda: torch.stack([x.expand(shape), y.expand(shape)], -1).mean(-1),
    ))()
    return Value(z, len(shape) - from_right[0])


def _multiplied(m: Graph, value: Value, pool: Sequence[Value]) -> Value | None:
    other = m.draw.choice(pool)
    x, y = value.tensor, other.tensor
    if value.dim != 0 or other.dim != 0 or x.ndim != 3 or y.ndim != 3 or x.shape[-1] != y.shape[-2]:
        return None
    return Value(
        m.draw.choice((lambda: x @ y, lambda: torch.bmm(x, y), lambda: torch.einsum("bij,bjk->bik", x, y)))(), 0
    )


# -- samples that meet ------------------------------------------------------------------------------------------------


def _mixed(m: Graph, value: Value) -> Value | None:
    x, dim = value.tensor, value.dim
    if dim is None:
        return None
    b = x.shape[dim]
    order = torch.arange(b).roll(1)
    turn = torch.eye(b, dtype=x.dtype).flip(0)
    front = x.movedim(dim, 0)
    flat = front.reshape(b, -1)
    pads = [0, 0] * (x.ndim - 1 - dim) + [1, -1]
    return Value(
        m.draw.choice((
            lambda: x.flip(dim),
            lambda: x.roll(1, dim),
            lambda: x.cumsum(dim),
            lambda: x - x.mean(dim, keepdim=True),
            lambda: x / (x.norm(2, dim=dim, keepdim=True) + 1),
            lambda: x / (x.norm(1, dim, keepdim=True) + 1),
            lambda: x.softmax(dim),
            lambda: 0.7 * x + 0.3 * x.flip(dim),
            lambda: torch.cat([x, x.flip(dim)], m.draw.choice(value.others)) if value.others else x.flip(dim),
            lambda: x.index_select(dim, order),
            lambda: x.sort(dim).values,
            lambda: x.sort(axis=dim).values,
            lambda: x.topk(b, dim).values,
            lambda: F.pad(x, pads),
            lambda: torch.tensordot(turn, front, dims=1),
            lambda: Reversed.apply(front),
            lambda: Reversed.apply(front) + front,
            lambda: F.embedding(order, flat) if front.ndim > 1 else front[order],
            lambda: F.gumbel_softmax(x, 1, dim=dim) if b > 1 and m.draw.random() < 0.0 else x.flip(dim),
            lambda: torch.where(x > 0, x, x.flip(dim)),
            lambda: torch.renorm(x, 2, m.draw.choice(value.others), 0.5) if value.others else x.flip(dim),
            lambda: flat @ flat.T,
            lambda: (flat @ flat.T) @ flat,
            lambda: F.layer_norm(x, x.shape),
            lambda: x.reshape(-1)[torch.arange(x.numel()).roll(1)].view(x.shape),
            lambda: front.clone().copy_(front.flip(0)),
            lambda: front.reshape(-1, b).T if front.numel() % b == 0 and front.ndim > 1 else front.flip(0),
            lambda: _assigned_backwards(front),
            lambda: _parts_backwards(front),
            lambda: x.as_strided(x.shape, x.stride()[::-1]) if len(set(x.shape)) == 1 and x.ndim > 1 else x.flip(dim),
            lambda: torch.stack(list(front.unbind(0))[::-1]),
        ))(),
        None,
    )


def _assigned_backwards(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    for i in range(len(x)):
        y[len(x) - 1 - i] = x[i]
    return y


def _parts_backwards(x: Tensor) -> Tensor:
    buffer = torch.empty_like(x)
    for i in range(len(x)):
        buffer[len(x) - 1 - i].copy_(x[i])
    return buffer


LAYERS = (
    *(
        _linear,
        _linear,
        _single,
        _complex,
        _left,
        _scaled,
        _scaled,
        _shared_table,
        _positions,
        _token,
        _norm,
        _channels,
        _recurrent,
        _cell,
    ),
    *(_attention, _merged, _turned, _repeated),
)
JOINS = (_joined, _multiplied)
KINDS = (
    *LAYERS,
    *(_activated, _activated, _in_place, _assigned, _viewed, _viewed, _reduced, _along, _along, _stacked, _indexed),
    *(_joined, _joined, _multiplied),
)
MIXING = (_mixed,)
