"""What a sample is, said by rows, by dimension or by an index: F is that of each sample's own loss."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe

INDEX = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2])  # three graphs, of 3, 1 and 4 nodes
EDGES = torch.tensor([[0, 1, 2, 2, 4, 5, 6, 7, 7], [1, 0, 0, 1, 5, 4, 7, 6, 4]])


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def error(model: nn.Module, losses: Callable[[], Sequence[Tensor]], **options: Any) -> float:
    """Measure the sum of the samples' losses, and compare with one backward pass for each."""
    parameters = list(model.parameters())
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses()]
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    probe = FisherProbe(model, loss_reduction="sum", **options)
    with probe:
        torch.stack(list(losses())).sum().backward()
    expected = jacobian @ jacobian.T
    gram = probe.gram()
    assert gram.shape == expected.shape
    return float((gram - expected).abs().max() / expected.abs().max())


class GraphNet(nn.Module):
    """Messages along edges, sums over neighbours, a sum over each graph."""

    def __init__(self, add: str) -> None:
        super().__init__()
        self.enter, self.message, self.own = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.rand(6))
        self.add = add

    def forward(self, x: Tensor, edges: Tensor, index: Tensor, graphs: int) -> Tensor:
        x = torch.tanh(self.enter(x))
        for _ in range(2):
            sent = self.message(x)[edges[0]].relu_()
            nothing = torch.zeros_like(x) if self.add == "scatter" else torch.zeros(x.shape, dtype=x.dtype)
            if self.add == "scatter":
                got = nothing.scatter_add(0, edges[1][:, None].expand_as(sent), sent)
            else:
                got = nothing.index_add_(0, edges[1], sent)
            x = self.norm(x + self.own(got)) * self.scale
        pooled = torch.zeros(graphs, 6, dtype=x.dtype).index_add(0, index, x)
        return self.head(pooled)


@pytest.mark.parametrize("add", ["scatter", "index"])
def test_graphs_by_an_index_of_nodes(add: str) -> None:
    model, x = GraphNet(add).double(), randn(8, 5)
    assert error(model, lambda: model(x, EDGES, INDEX, 3).sin().sum(1), samples=INDEX) < 1e-12
    shuffled = torch.randperm(8)
    place = shuffled.argsort()
    assert (
        error(model, lambda: model(x[shuffled], place[EDGES], INDEX[shuffled], 3).sin().sum(1), samples=INDEX[shuffled])
        < 1e-12
    )


class GraphNorm(nn.Module):
    """Nodes less their graph's mean, by the number of nodes in each graph."""

    def __init__(self, counting: str) -> None:
        super().__init__()
        self.enter, self.head, self.shift = nn.Linear(5, 6), nn.Linear(6, 3), nn.Parameter(torch.rand(6))
        self.counting = counting

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        x, nodes = torch.tanh(self.enter(x)), torch.bincount(index)
        if self.counting == "ones":
            nodes = x.new_zeros(len(nodes)).scatter_add_(0, index, x.new_ones(len(x)))
        mean = x.new_zeros(len(nodes), 6).index_add(0, index, x) / nodes.unsqueeze(1)
        x = (x - mean[index] * self.shift).relu()
        return self.head(x.new_zeros(len(nodes), 6).index_add(0, index, x) / nodes.unsqueeze(1))


@pytest.mark.parametrize("counting", ["bincount", "ones"])
def test_nodes_are_counted_by_graph(counting: str) -> None:
    model, x = GraphNorm(counting).double(), randn(8, 5)
    assert error(model, lambda: model(x, INDEX).sin().sum(1), samples=INDEX) < 1e-12
    even = torch.arange(4).repeat_interleave(2)
    assert error(model, lambda: model(x, even).sin().sum(1), samples=even) < 1e-12


def test_labels_that_are_counted_are_statistics_of_the_batch() -> None:
    class Balanced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            losses = nn.functional.cross_entropy(self.layer(x), labels, reduction="none")
            return losses / torch.bincount(labels, minlength=3)[labels]

    model, x, labels = Balanced().double(), randn(4, 5), torch.tensor([0, 2, 1, 2])
    assert error(model, lambda: model(x, labels)) < 1e-12


def test_graphs_that_send_to_each_other_are_refused() -> None:
    model, x = GraphNet("index").double(), randn(8, 5)
    across = torch.cat([EDGES, torch.tensor([[0], [7]])], 1)
    with pytest.raises(MeasureError, match=r"through index_add_\(\)"):
        error(model, lambda: model(x, across, INDEX, 3).sin().sum(1), samples=INDEX)


def test_batch_norm_over_nodes_is_rows() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).double()
    probe = FisherProbe(model, samples=INDEX)
    with probe:
        model(randn(8, 5)).square().mean().backward()
    assert probe.gram().shape == (3, 3)
    assert probe.spectrum().bn == "rows"


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.PReLU(4), nn.Conv2d(4, 2, 2)),
        (nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4).eval(), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 3)),
        (nn.ConvTranspose2d(3, 2, 2), nn.InstanceNorm2d(2, affine=True), nn.Tanh(), nn.Flatten(1), nn.LayerNorm(50)),
        (nn.Flatten(2), nn.Linear(16, 3), nn.Flatten(), nn.Bilinear(9, 9, 2)),
    ],
)
def test_images_of_each_sample(layers: tuple[nn.Module, ...]) -> None:
    """As many crops of each sample as it has, in any order."""
    index = torch.tensor([2, 0, 1, 0, 2, 2, 0, 0])

    class Crops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = layer(x, x.cos()) if isinstance(layer, nn.Bilinear) else layer(x)
            return x.flatten(1)

    model, x = Crops().double(), randn(8, 3, 4, 4)

    def losses() -> list[Tensor]:
        each = model(x).sin().sum(1)
        return [(each * (index == i)).sum() for i in range(3)]

    assert error(model, losses, samples=index) < 1e-9


def test_embeddings_of_words_of_texts_of_any_length() -> None:
    class Texts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.shift, self.head = nn.Embedding(9, 4), nn.Parameter(torch.rand(4)), nn.Linear(4, 2)

        def forward(self, words: Tensor, index: Tensor) -> Tensor:
            h = self.table(words) + self.shift
            return self.head(torch.zeros(3, 4, dtype=h.dtype).index_add(0, index, h))

    model, words = Texts().double(), torch.randint(9, (8,))
    assert error(model, lambda: model(words, INDEX).sin().sum(1), samples=INDEX) < 1e-12


@pytest.mark.parametrize("views", [2, torch.arange(3).repeat_interleave(2), torch.arange(3).repeat(2)])
def test_two_views_of_each_sample(views: Any) -> None:
    first = isinstance(views, Tensor) and views[1] == 1
    model, x = nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 4)).double(), randn(6, 5)

    def losses() -> list[Tensor]:
        z = model(x)
        pairs = (z[:3], z[3:]) if first else (z[::2], z[1::2])
        return list(pairs[0].sin().sum(1) + (pairs[0] * pairs[1].cos()).sum(1))

    assert error(model, losses, samples=views) < 1e-12


def test_a_contrastive_loss_of_views_is_rows() -> None:
    model, x = nn.Linear(5, 4).double(), randn(6, 5)
    probe = FisherProbe(model, samples=torch.arange(3).repeat(2))
    with probe:
        z = torch.nn.functional.normalize(model(x))
        torch.nn.functional.cross_entropy(z[:3] @ z[3:].T, torch.arange(3)).backward()
    assert probe.gram().shape == (3, 3)
    assert probe.spectrum().bn == "rows"


def test_a_call_with_what_the_model_made_before() -> None:
    model, x = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5)).double(), randn(4, 5)
    assert error(model, lambda: model(model(x)).sin().sum(1), samples=1) < 1e-12
    assert error(model, lambda: model(model(x).flip(0)).flip(0).sin().sum(1), samples=1) < 1e-12
    assert error(model, lambda: model(x).sin().sum(1) + model(x + x.flip(0)).cos().sum(1), samples=1) < 1e-12
    with pytest.raises(MeasureError, match=r"'0.weight'.*through cumsum\(\)"):
        error(model, lambda: model(model(x).cumsum(0)).sin().sum(1), samples=1)


def test_several_calls_before_one_backward_pass() -> None:
    model, x, y = nn.Sequential(nn.Linear(5, 4), nn.Tanh()).double(), randn(3, 5), randn(3, 5)
    assert error(model, lambda: (model(x) * model(y).cos()).sum(1), samples=1) < 1e-12
    with pytest.raises(MeasureError, match=r"called twice.*say samples=\.\.\., 1 for one row"):
        error(model, lambda: (model(x) * model(y)).sum(1))
    with pytest.raises(MeasureError, match="called with 3 samples, and then with 2"):
        error(model, lambda: model(x).sum(1) + model(y[:2]).sum(), samples=1)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("use", ["outputs", "last"])
def test_packed_sequences(kind: type[nn.Module], use: str) -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.layer, self.head = nn.Linear(5, 4), kind(4, 3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(self.embed(x), lengths, batch_first=True, enforce_sorted=False)
            output, last = self.layer(packed)
            if use == "outputs":
                return self.head(nn.utils.rnn.pad_packed_sequence(output, batch_first=True)[0]).flatten(1)
            return self.head(last[0][-1] if isinstance(last, tuple) else last[-1])

    model, x, lengths = Packed().double(), randn(4, 3, 5), torch.tensor([2, 3, 1, 3])
    for samples in (None, 1):
        assert error(model, lambda: model(x, lengths).sin().sum(1), samples=samples) < 1e-12


@pytest.mark.parametrize("gradients", ["library", "rows"])
@pytest.mark.parametrize("how", ["index", "in-place", "mask", "sorted", "where", "bank"])
@pytest.mark.parametrize("length", [3, 4])
def test_rows_that_are_chosen_and_put_back(how: str, length: int, gradients: str) -> None:
    class Routed(nn.Module):
        """A sparse mixture of experts, one of which gets nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(5, 3)
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4)) for _ in range(3))
            if how == "bank":
                self.experts, self.bank = nn.ModuleList(), nn.Parameter(torch.randn(3, 4, 5))

        def forward(self, x: Tensor) -> Tensor:
            rows = x.flatten(0, 1)
            scores = self.gate(rows).softmax(-1)
            chosen = scores[:, :2].argmax(1)
            out = torch.zeros(len(rows), 4, dtype=x.dtype)
            if how == "sorted":
                order = chosen.argsort(stable=True)
                parts = rows[order].split(torch.bincount(chosen, minlength=3).tolist())
                moved = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
                return self._shaped(x, moved[order.argsort()] * scores.gather(1, chosen[:, None]))
            if how == "bank":
                took = F.one_hot(chosen, 3).T
                for (i,) in (took.sum(-1) > 0).nonzero():
                    where = torch.where(took[i])[0]
                    out.index_add_(0, where, F.linear(rows[where], self.bank[i]) * scores[where, i, None])
            for i, expert in enumerate(self.experts):
                mask = chosen == i
                where = torch.where(mask)[0] if how == "where" else mask.nonzero().squeeze(1)
                if how == "mask":
                    out[mask] = out[mask] + expert(rows[mask]) * scores[mask, i : i + 1]
                elif how == "index":
                    out = out.index_add(0, where, expert(rows[where]) * scores[where, i : i + 1])
                else:
                    out.index_add_(0, where, expert(rows[where]) * scores[where, i : i + 1])
            return self._shaped(x, out)

        def _shaped(self, x: Tensor, rows: Tensor) -> Tensor:
            return rows.view(*x.shape[:2], 4).flatten(1)

    model, x = Routed().double(), randn(4, length, 5)
    for samples in (None, 1):
        assert error(model, lambda: model(x).sin().sum(1), samples=samples, gradients=gradients) < 1e-12


def test_bags_of_words_by_offsets() -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.EmbeddingBag(9, 4), nn.Linear(4, 2)

        def forward(self, words: Tensor, offsets: Tensor) -> Tensor:
            return self.head(self.table(words, offsets))

    model, words, offsets = Bags().double(), torch.randint(0, 9, (8,)), torch.tensor([0, 3, 4])
    assert error(model, lambda: model(words, offsets).sin().sum(1), samples=INDEX) < 1e-12


class Lists(nn.Module):
    """A list of tensors of any size, one or several of each sample."""

    def __init__(self, layer: nn.Module, joined: Callable[[nn.Module, list[Tensor]], Tensor], width: int) -> None:
        super().__init__()
        self.layer, self.joined, self.head = layer, joined, nn.Linear(width, 2)

    def forward(self, items: list[Tensor]) -> Tensor:
        return self.head(self.joined(self.layer, items))


def pooled(layer: nn.Module, images: list[Tensor]) -> Tensor:
    return torch.cat([F.adaptive_avg_pool2d(layer(image[None]).relu_(), 2).flatten(1) for image in images])


LISTS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, list[Tensor]], Tensor], int]] = {
    "sets": (lambda: nn.Linear(5, 4), lambda f, xs: torch.stack([f(x).sin().mean(0) for x in xs]), 4),
    "largest": (lambda: nn.Linear(5, 4), lambda f, xs: torch.stack([f(x).amax(0) for x in xs]), 4),
    "padded": (lambda: nn.Linear(5, 4), lambda f, xs: f(pad_sequence(xs, batch_first=True)).sin().sum(1), 4),
    "padded-time-major": (lambda: nn.Linear(5, 4), lambda f, xs: pad_sequence([f(x) for x in xs]).sin().sum(0), 4),
    "joined": (
        lambda: nn.Linear(5, 4),
        lambda f, xs: torch.stack([h.mean(0) for h in f(torch.cat(xs)).sin().split([len(x) for x in xs])]),
        4,
    ),
    "images": (lambda: nn.Conv2d(3, 4, 3), pooled, 16),
    "stacked": (lambda: nn.Conv2d(3, 4, 3), lambda f, xs: f(torch.stack([x[:, :5, :5] for x in xs])).amax((2, 3)), 4),
}


@pytest.mark.parametrize("gradients", ["library", "rows"])
@pytest.mark.parametrize(("layer", "joined", "width"), LISTS.values(), ids=LISTS.keys())
def test_lists_of_tensors(
    layer: Callable[[], nn.Module], joined: Callable[[nn.Module, list[Tensor]], Tensor], width: int, gradients: str
) -> None:
    """The rows of a list are those of its tensors, one after the other, also where it has as many tensors as rows."""
    model = Lists(layer(), joined, width).double()
    images = isinstance(model.layer, nn.Conv2d)
    items = [randn(3, 5, 7), randn(3, 6, 5), randn(3, 5, 6)] if images else [randn(3, 5), randn(1, 5), randn(4, 5)]
    index = torch.arange(3).repeat_interleave(torch.tensor([len(item) for item in items]))
    options = {"samples": index, "gradients": gradients}
    assert error(model, lambda: model(items).sin().sum(1), **options) < 1e-12
    assert error(model, lambda: model(items[::-1]).sin().sum(1).flip(0), **options | {"samples": index.flip(0)}) < 1e-12


def test_sequences_of_several_samples_are_refused() -> None:
    model = Lists(
        nn.Linear(5, 4), lambda f, xs: pad_sequence(f(torch.cat(xs)).split([4, 4]), batch_first=True).sum(1), 4
    )
    probe = FisherProbe(model, samples=INDEX)
    with probe:
        model([torch.randn(3, 5), torch.randn(1, 5), torch.randn(4, 5)]).square().sum().backward()
    with pytest.raises(MeasureError, match=r"through pad_sequence\(\)"):
        probe.gram()


class Images(nn.Module):
    """Features of images written over some of the words' embeddings, and handed out image by image as well."""

    def __init__(self) -> None:
        super().__init__()
        self.see, self.words, self.head = nn.Linear(5, 4), nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, words: Tensor, images: Tensor) -> tuple[Tensor, ...]:
        seen, embedded = self.see(images).flatten(0, 1), self.words(words)
        places = (words == 0).unsqueeze(-1).expand_as(embedded)
        return self.head(embedded.masked_scatter(places, seen)), *seen.split(2)


@pytest.mark.parametrize("length", [3, 4])
def test_images_among_words(length: int) -> None:
    model, images = Images().double(), randn(4, 2, 5)
    words = torch.randint(1, 9, (4, length))
    words[:, 1:3] = 0
    assert error(model, lambda: model(words, images)[0].sin().sum((1, 2))) < 1e-12
    shared = images.flatten(0, 1)[:7]  # features that do not descend from the batch
    words[0, 1] = 1
    assert error(model, lambda: model(words, shared)[0].sin().sum((1, 2))) < 1e-12
    words[0, 1], words[1, 1] = 0, 1  # of seven for eight places each image but the first is another sample's
    probe = FisherProbe(model)
    with probe:
        words[3, 0] = 0
        model(words, images)[0].square().sum().backward()
    with pytest.raises(MeasureError, match=r"through masked_scatter\(\)"):
        probe.gram()


@pytest.mark.parametrize("pick", [lambda h: h[1:], lambda h: h[:1].expand(4, -1), lambda h: h[[2, 0, 1, 3]]])
def test_outputs_that_are_not_all_samples_in_order(pick: Callable[[Tensor], Tensor]) -> None:
    class Picked(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return pick(super().forward(x))

    probe = FisherProbe(model := Picked(5, 2))
    with probe:
        model(torch.randn(4, 5)).square().sum().backward()
    with pytest.raises(MeasureError, match=r"output of shape .* lie in another order .* or some are left out"):
        probe.gram()


def test_following_an_index_leaves_buffers_alone() -> None:
    x, model = torch.randn(4, 5), nn.Linear(5, 2)
    with FisherProbe(nn.Sequential(model), samples=1):
        buffer = torch.empty(4, 5)
        model.register_forward_pre_hook(
            lambda _, args: torch.index_select(args[0], 0, torch.tensor([3, 1, 0, 2]), out=buffer)
        )
        model(x)
    assert torch.equal(buffer, x[[3, 1, 0, 2]])


@pytest.mark.parametrize("steps", [3, 4])
def test_time_major_data(steps: int) -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.GRU(5, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x)[0])

    model, x = Steps().double(), randn(steps, 3, 5)
    assert error(model, lambda: model(x).sin().sum((0, 2)), batch_dim=1) < 1e-12


def test_the_index_of_each_step() -> None:
    model = nn.Linear(5, 2)
    probe = FisherProbe(model)
    for index in (INDEX, torch.tensor([0, 1, 1, 0])):
        probe.samples = index
        with probe:
            model(torch.randn(len(index), 5)).square().sum().backward()
        assert len(probe.gram()) == int(index.max()) + 1


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (0, "samples=0: expected how many rows"),
        (True, "samples=True"),
        (torch.rand(8), "expected .* integers .* got torch.float32"),
        (torch.zeros(2, 2, dtype=torch.long), r"of shape \(2, 2\)"),
        (torch.tensor([0, -1]), "the index of a sample is negative"),
        (torch.zeros(5, dtype=torch.long), r"the index has 5 rows, but no tensor .* dimension 0: \[\(8, 5\)\]"),
        (3, "samples=3: the model's first tensor has 8 rows, which is no multiple"),
    ],
)
def test_what_is_no_sample(samples: Any, message: str) -> None:
    model = nn.Linear(5, 2)

    def run() -> None:
        probe = FisherProbe(model, samples=samples)
        with probe:
            model(torch.randn(8, 5)).square().sum().backward()
        probe.gram()

    with pytest.raises(MeasureError, match=message):
        run()


def test_what_does_not_go_together() -> None:
    with pytest.raises(MeasureError, match='do not go with bn="exact"'):
        FisherProbe(nn.Linear(2, 2), bn="exact", samples=2)
    with pytest.raises(MeasureError, match="batch_dim=-1: expected the dimension"):
        FisherProbe(nn.Linear(2, 2), batch_dim=-1)
