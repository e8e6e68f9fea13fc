"""Grouped matrix products: rows after each other, each group of them times a matrix of its own, such as an expert's."""

import itertools

import torch
from torch import Tensor

from autobatch.fisher.following._grouping import Grouping
from autobatch.fisher.gram._gram import Jacobian
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
