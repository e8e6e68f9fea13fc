"""Rows after each other, in groups that begin at offsets: bags of words, and products with a matrix for each group."""

import itertools

import torch
from torch import Tensor

from autobatch.fisher.following._grouping import Grouping
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.gram._jacobians import BagJacobian, EmbeddingJacobian
from autobatch.fisher.layers._calls import (
    Call,
    Contribution,
    KeptInput,
    KeptTensor,
    NoRuleError,
    arguments,
    dense,
    precise,
)

_SUM, _MEAN = 0, 1


def embedding_bag(call: Call) -> list[Contribution]:
    """Return the rule of ``torch.embedding_bag``: a word gets its bag's gradient, times its own weight."""
    given = arguments(
        call, "table words offsets scale_grad_by_freq mode sparse weights include_last_offset padding", mode=_SUM
    )
    table, words, weights = given["table"], given["words"], given["weights"]
    used, mean, layout = call.weight(table), given["mode"] == _MEAN, call.output_layout(0)
    plain = used is not None and not used.transposed and table.ndim == 2 and words.ndim == 1 and len(words) > 0
    if (
        not plain
        or layout.dim != 0
        or layout.claims
        or given["scale_grad_by_freq"]
        or given["mode"] not in {_SUM, _MEAN}
    ):
        raise NoRuleError
    assert used is not None
    rows, batch, padding = len(table), call.batch, given["padding"]
    output = call.outputs[0]
    bags, samples = len(output), layout.grouped(output, batch)
    kept, starts = KeptTensor(words), KeptTensor(given["offsets"])
    shares = None if weights is None else KeptTensor(weights)

    def jacobian(gradient: Tensor) -> Jacobian:
        index = kept().long()
        first = starts()[:bags].to(index.dtype).contiguous()
        places = torch.searchsorted(first, torch.arange(len(index), device=index.device), right=True) - 1
        counted = torch.ones_like(index, dtype=torch.bool) if padding is None else index != padding % rows
        g = precise(gradient)[0]
        share = counted.to(g.dtype) if shares is None else shares().to(g.dtype) * counted
        if mean:
            share = share / torch.zeros_like(g[:, 0]).index_add_(0, places, share).clamp_(min=1.0)[places]
        each = Grouping(samples.index[places], batch)
        index, share = (each.samples_first(values, 0).view(batch, -1) for values in (index, share))
        if bags == batch and layout.grouping is None:
            return BagJacobian(index, share, g, rows)
        of_words = each.samples_first(g.index_select(0, places), 0).flatten(1, 2)
        return EmbeddingJacobian(index, of_words * share.unsqueeze(2), rows)

    return [Contribution(used, jacobian)]


def grouped_mm(call: Call) -> list[Contribution]:
    """Return what ``grouped_mm(x, weight, offs=...)`` owes to a weight (G, in, out), x being (rows, in)."""
    given = arguments(call, "mat_a mat_b offs bias")
    x, weight = given["mat_a"], given.get("mat2", given["mat_b"])
    used = call.weight(weight)
    if used is None or call.weight(x) is not None or x.ndim != 2 or weight.ndim != 3 or given["bias"] is not None:
        raise NoRuleError
    kept, ends = KeptInput(call, x), KeptTensor(given["offs"])
    if kept.layout.dim:
        raise NoRuleError

    def jacobian(gradient: Tensor) -> Jacobian:
        rows, g = precise(kept(), gradient)
        samples = kept.layout.grouped(rows, kept.batch).index
        found = rows.new_zeros(kept.batch, *weight.shape)
        for group, (start, end) in enumerate(itertools.pairwise([0, *ends().tolist()])):
            own = Grouping(samples[start:end], kept.batch)
            left, right = (own.samples_first(each[start:end], 0)[:, 0] for each in (rows, g))
            torch.bmm(left.mT, right, out=found[:, group])
        return dense(found)

    return [Contribution(used, jacobian)]
