"""Where the batch lies after each kind of function, and which uses of a parameter must be refused."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe
from tests.fisher.reference import gram_one_sample_at_a_time

B, T, C = 6, 6, 6  # as many positions and channels as samples: shapes tell nothing


def loss(output: Tensor, _: Tensor) -> Tensor:
    return (output.reshape(len(output), -1).cumsum(1) ** 2).sum()


class Around(nn.Module):
    """A Linear layer, something in between, a Linear layer; the output is batch-first."""

    def __init__(
        self, between: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], features: int = C
    ) -> None:
        super().__init__()
        self.first = nn.Linear(C, C)
        self.second = nn.Linear(features, 3)
        self.between = between
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.second(self.between(torch.tanh(self.first(x)))))


def written(h: Tensor) -> Tensor:
    shifted = h.new_zeros(h.shape)
    shifted[:, 1:] = h[:, :-1]
    shifted[:, 0] = 1.0
    return shifted


def by_masks(h: Tensor, even: Tensor) -> Tensor:
    result = torch.zeros_like(h)
    result[even] = h[even].sin()
    result[~even] = result[~even] + h[~even].cos()
    return result


def same(x: Tensor) -> Tensor:
    return x


FOLLOWED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "transpose": (lambda h: h.transpose(0, 1), lambda o: o.transpose(1, 0)),
    "swapaxes-by-keyword": (lambda h: h.swapaxes(axis0=0, axis1=1), lambda o: o.transpose(1, 0)),
    "permute": (lambda h: h.permute(1, 0, 2), lambda o: o.permute(1, 0, 2)),
    "permute-sequence": (lambda h: torch.permute(h, (1, 0, -1)), lambda o: o.permute(1, 0, 2)),
    "movedim": (lambda h: h.movedim(0, 1), lambda o: o.movedim(1, 0)),
    "moveaxis-many": (lambda h: torch.moveaxis(h, (0, 1), (1, 0)), lambda o: o.movedim(1, 0)),
    "mT": (lambda h: h.mT.mT, same),
    "unsqueeze": (lambda h: h.unsqueeze(0), lambda o: o.squeeze(0)),
    "unsqueeze-last-then-squeeze": (lambda h: h.unsqueeze(-1).squeeze(-1), same),
    "index-none": (lambda h: h[None, ..., :], lambda o: o[0]),
    "slice": (lambda h: h[:, 1:4], same),
    "integer": (lambda h: h[:, 2], same),
    "ellipsis": (lambda h: h.transpose(1, 2)[..., 0], same),
    "reshape": (lambda h: h.reshape(B * T, C).view(B, T * C).unflatten(1, (T, C)), same),
    "flatten": (lambda h: h.flatten(0, 1), lambda o: o.view(B, -1)),
    "stack": (lambda h: torch.stack([h, h.sin()]), lambda o: o.transpose(0, 1)),
    "cat": (lambda h: torch.cat([h, h.sin()], dim=1), same),
    "chunk": (lambda h: h.chunk(2, dim=1)[1], same),
    "split": (lambda h: h.split([2, 4], dim=1)[0], same),
    "unbind": (lambda h: h.unbind(1)[3], same),
    "select": (lambda h: h.select(1, 3), same),
    "sum-dim": (lambda h: h.sum(1), same),
    "mean-keepdim": (lambda h: h.mean((1,), keepdim=True), same),
    "amax-after-transpose": (lambda h: h.transpose(0, 1).amax(0), same),
    "expand": (lambda h: h[:, :1].expand(-1, T, -1), same),
    "repeat": (lambda h: h.repeat(1, 2, 1), same),
    "flip": (lambda h: h.flip(1), same),
    "roll": (lambda h: h.roll(1, 2), same),
    "attention": (lambda h: F.softmax(h @ h.mT, dim=-1) @ h, same),
    "einsum": (lambda h: torch.einsum("btc,bsc->tbs", h, h), lambda o: o.transpose(0, 1)),
    "elementwise-with-a-constant-of-more-dimensions": (
        lambda h: torch.ones(2, 1, 1, 1).to(h) * h,
        lambda o: o.transpose(0, 1),
    ),
    "one-batch-after-the-other": (lambda h: torch.cat([h, h.sin()]), same),
    "length-major": (lambda h: h.transpose(0, 1).reshape(B * T, C), lambda o: o.view(T, B, -1).transpose(0, 1)),
    "each-sample-twice": (lambda h: h.repeat_interleave(2, dim=0), lambda o: o.view(B, -1)),
    "whole-batch-twice": (lambda h: h.repeat(2, 1, 1), same),
    "written-into-a-new-tensor": (lambda h: written(h), same),
    "picked-positions": (lambda h: h[:, torch.tensor([0, 2, 2])], same),
    "max-of-two": (lambda h: torch.max(h, -h), same),
    "matrix-on-the-left": (lambda h: torch.eye(T).to(h) @ h, same),
    "matrices-on-the-right": (lambda h: h[:, 0] @ torch.ones(2, C, C).to(h), lambda o: o.transpose(0, 1)),
    "vector": (lambda h: h @ torch.ones(C).to(h), same),
    "gate": (lambda h: h * torch.sigmoid(h.mean(1, keepdim=True)), same),
    "dropout-off": (lambda h: F.dropout(h, 0.5, training=False), same),
    "selected-in-order": (lambda h: h.index_select(0, torch.arange(B)), same),
    "sorted-and-put-back": (lambda h: h.flip(0), lambda o: o.flip(0)),
    "in-two-parts": (lambda h: torch.cat([h[:2].sin(), h[2:].sin()]), same),
    "kth-value": (lambda h: h - h.kthvalue(2, 1, keepdim=True).values, same),
    "drawn": (
        lambda h: h * (1 + 0 * torch.multinomial(h[:, 0].softmax(1), 2, replacement=True).sum(1)[:, None, None]),
        same,
    ),
    "by-masks": (lambda h: by_masks(h, h.mean((1, 2)) > 0), same),
    "one-by-one": (lambda h: torch.stack([row.sin() @ row.mT @ row for row in h]), same),
    "views-of-one-by-one": (lambda h: torch.cat([row[None].sin() for row in h.unbind()]), same),
}


@pytest.mark.parametrize(("between", "back"), FOLLOWED.values(), ids=FOLLOWED.keys())
def test_the_batch_is_followed(between: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> None:
    class Batched(Around):
        """The reference passes one sample at a time: shapes written with B are those of its batch."""

        def forward(self, x: Tensor) -> Tensor:
            global B
            B = len(x)
            return super().forward(x)

    model, x = Batched(between, back).double(), torch.randn(B, T, C).double()
    probe = FisherProbe(model, loss_reduction="sum")
    with probe:
        loss(model(x), x).backward()
    gram = probe.gram()
    expected = gram_one_sample_at_a_time(model, x, x, loss)
    model(x)
    assert float((gram - expected).abs().max() / expected.abs().max()) < 1e-10


LOST: dict[str, Callable[[Tensor], Tensor]] = {
    "samples-reversed": lambda h: h.flip(0),
    "samples-rolled": lambda h: h.roll(1, 0),
    "samples-rolled-as-one": lambda h: h.roll(1),
    "samples-picked": lambda h: h[torch.tensor([1, 0, 2, 3, 4, 5])],
    "samples-sorted": lambda h: h.sort(dim=0).values,
    "samples-halved": lambda h: h[:3].repeat(2, 1, 1),
    "one-sample": lambda h: h[0],
    "mean-over-samples": lambda h: h.mean(0),
    "mean-over-all": lambda h: h.mean().expand(B, T, C),
    "first-dimension-of-a-pair": lambda h: (h.unsqueeze(0) - h.unsqueeze(1)).mean(2),
    "einsum-over-samples": lambda h: torch.einsum("btc,bsc->tsc", h, h),
    "mixed-by-a-matrix": lambda h: torch.eye(B) @ h[:, 0],
    "mixed-by-a-linear-map": lambda h: F.linear(h[:, 0].T, torch.eye(B)).T,
    "split-samples": lambda h: h.reshape(2, 3, T, C),
}


@pytest.mark.parametrize("between", LOST.values(), ids=LOST.keys())
def test_lost_samples_are_an_error(between: Callable[[Tensor], Tensor]) -> None:
    model, x = Around(between, same), torch.randn(B, T, C)
    probe = FisherProbe(model, loss_reduction="sum")
    with probe:
        loss(model(x), x).backward()
    lost = r"'second.weight' of module 'second' \(Linear\).*samples could not be followed"
    with pytest.raises(MeasureError, match=rf"{lost}|output of shape \(6,.* 3\) lie in another order.*samples=1"):
        probe.gram()


class Shared(nn.Module):
    """A parameter whose result is shared by the whole batch, in several disguises."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.table = nn.Embedding(T, C)
        self.head = nn.Linear(C, 3)

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(T)
        if self.how == "(T, C)":
            x = x + self.table(positions)
        elif self.how == "(1, T, C)":
            x = x + self.table(positions.unsqueeze(0))
        elif self.how == "attention bias":
            x = (x @ x.mT + self.table((positions[:, None] - positions).abs()).mean(-1)) @ x
        elif self.how == "keys":
            x = x @ self.table(positions).T
        elif self.how == "looked up":
            x = self.table(positions)[(x[..., 0] > 0).long()]
        elif self.how == "alone":
            return self.head(self.table(positions))
        elif self.how == "scalar":
            x = x + self.table(torch.tensor(1))
        return self.head(x)


@pytest.mark.parametrize("how", ["(T, C)", "(1, T, C)", "attention bias", "keys", "looked up", "scalar"])
@pytest.mark.parametrize("batch", [B, 4])
def test_a_table_shared_by_the_batch_even_if_it_is_as_long_as_the_batch(how: str, batch: int) -> None:
    model, x = Shared(how).double(), torch.randn(batch, T, C).double()
    probe = FisherProbe(model, loss_reduction="sum")
    with probe:
        loss(model(x), x).backward()
    expected = gram_one_sample_at_a_time(model, x, x, loss)
    assert float((probe.gram() - expected).abs().max() / expected.abs().max()) < 1e-10


def test_a_table_that_never_meets_the_batch_is_an_error() -> None:
    model, x = Shared("alone"), torch.randn(B, T, C)
    probe = FisherProbe(model)
    with probe:
        loss(model(x), x).backward()
    with pytest.raises(MeasureError, match=r"'table.weight' of module 'table' \(Embedding\).*does not descend from"):
        probe.gram()
