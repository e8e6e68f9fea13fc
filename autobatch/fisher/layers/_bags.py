"""Bags of words: a table whose rows are summed, or averaged, bag by bag."""

import torch
from torch import Tensor

from autobatch.fisher.following._grouping import Grouping
from autobatch.fisher.gram._gram import Jacobian
from autobatch.fisher.gram._jacobians import BagJacobian, EmbeddingJacobian
from autobatch.fisher.layers._calls import Call, Contribution, KeptTensor, NoRuleError, arguments, precise

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
