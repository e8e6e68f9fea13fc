"""Which examples each step gets from a loader or out of a stream, and at which one a decision takes effect."""

import logging
import random
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from autobatch._errors import AutoBatchError
from autobatch.control import BatchPlan, Rates
from autobatch.control.batches._nested import examples_in, joined, part_of
from tests.control.loops import Chunks, Data, Toy, json_copy


def random_toy(rng: random.Random, **settings: Any) -> Toy:
    size = rng.choice((rng.randint(9, 30), rng.randint(30, 70)))
    ladder = tuple(sorted(rng.sample(range(1, size // 3 + 1), rng.randint(1, 3))))
    every = rng.choice((None, 0.5, rng.uniform(0.34, 1.0), rng.randint(max(1, ladder[-1]), size)))
    rates = rng.random() < 0.5
    script = [(rng.choice(ladder), rng.choice((0.1, 0.2, 0.3)) if rates else None) for _ in range(12)]
    return Toy(
        script, size=size, epochs=rng.randint(1, 3), batch_sizes=ladder, plan=BatchPlan(decide_every=every), **settings
    )


def test_the_samplers_examples_over_many_configurations() -> None:
    for seed in range(1500):
        rng = random.Random(seed)
        toy = random_toy(rng, rates=Rates(rule=rng.choice(("none", "linear", "sqrt"))))
        controller = toy.controller
        ahead = rng.choice((0, 0, 1, 4))
        while not controller.finished:
            batches, fetched = iter(controller.batch_sampler), []
            while True:
                while len(fetched) <= ahead and (indices := next(batches, None)) is not None:
                    fetched.append(indices)
                toy.note()
                if not fetched:
                    break
                place = controller.examples
                with controller.step():
                    toy.steps.append((place, fetched.pop(0), controller.lr_effective))
            controller.end_epoch()
            toy.note()
        toy.check()
        assert controller.examples == len(toy.data) * controller.epochs


def test_random_configurations_of_real_loaders() -> None:
    for seed in range(25):
        rng = random.Random(seed)
        toy = random_toy(rng, rates=Rates(rule=rng.choice(("none", "linear", "sqrt"))))
        while not toy.controller.finished:
            toy.epoch()
        toy.check()
        assert toy.controller.examples == len(toy.data) * toy.controller.epochs


def test_random_breaks_and_repeated_iterations() -> None:
    for seed in range(50):
        rng = random.Random(seed)
        toy = random_toy(rng)
        loader = toy.loader()
        while not toy.controller.finished:
            while True:
                broken = False
                for batch in loader:
                    if rng.random() < 0.1:  # left before it is trained
                        broken = True
                        break
                    toy.step(batch)
                    if rng.random() < 0.1:
                        broken = toy.controller.examples % len(toy.data) != 0
                        break
                if not broken:
                    break
            toy.controller.end_epoch()
            toy.note()
        toy.check()


@pytest.mark.parametrize(
    ("workers", "prefetch", "persistent"), [(1, 1, False), (1, 3, True), (2, 2, False), (2, 5, True)]
)
def test_workers_that_fetch_ahead(workers: int, prefetch: int, persistent: bool) -> None:
    rng = random.Random(prefetch)
    script = [rng.choice((2, 4, 8)) for _ in range(40)]
    toy = Toy(script, size=61, epochs=3, plan=BatchPlan(decide_every=12), rates="linear")
    loader = toy.loader(
        num_workers=workers,
        prefetch_factor=prefetch,
        persistent_workers=persistent,
        pin_memory=False,
        multiprocessing_context="fork",
    )
    while not toy.controller.finished:
        toy.epoch(loader)
    toy.check()
    assert len({record.batch_size for record in toy.records}) == 3
    ahead = [record.example % 61 for record in toy.records if record.example % 61]
    assert any(place > record.progress * 3 * 61 for place, record in zip(ahead, toy.records, strict=False))
    # Each record's example is the first that was trained at its size.
    sizes = {place: len(indices) for place, indices, _ in toy.steps}
    assert all(record.example in sizes for record in toy.records if record.example < 3 * 61)


def test_breaking_out_of_a_loader_with_workers_and_going_on() -> None:
    toy = Toy([4, 8, 2, 2, 4], size=41, epochs=2, plan=BatchPlan(decide_every=10))
    loader = toy.loader(num_workers=1, prefetch_factor=3, persistent_workers=True, multiprocessing_context="fork")
    for _ in range(2):
        for stop in (3, 1, 1000):
            for count, batch in enumerate(loader):
                if count == stop:
                    break
                toy.step(batch)
        toy.controller.end_epoch()
        toy.note()
    toy.check()


def test_looking_at_a_batch_first_changes_nothing() -> None:
    toy, plain = Toy([4, 8]), Toy([4, 8])
    index, x, _ = next(iter(toy.loader()))
    assert (len(index), len(x)) == (4, 4)
    for one in (toy, plain):
        one.epoch()
    assert toy.steps == plain.steps


def test_the_length_is_that_of_the_iteration_all_the_way_through() -> None:
    toy = Toy([4, 8, 2], size=26, epochs=2)
    loader = toy.loader()
    counts = []
    for epoch in range(2):
        expected = len(loader)
        count = 0
        for batch in loader:
            assert len(loader) == expected
            toy.step(batch)
            count += 1
        assert count == expected == len(loader)
        counts.append(count)
        if epoch == 0:
            toy.controller.end_epoch()
    assert counts == [7, 3]  # 26 / 4 and 26 / 8, rounded


def test_the_length_with_accumulated_parts() -> None:
    toy = Toy([4, 8], plan=BatchPlan(accumulation=2), batch_sizes=(4, 8))
    loader = toy.loader()
    assert len(loader) == 14
    for batch in loader:
        assert len(loader) == 14
        _, x, y = batch
        with toy.controller.step() as step:
            step.backward(toy.loss(x, y))
    toy.controller.end_epoch()
    assert len(loader) == 6


def test_a_stale_iterator_is_an_error_and_not_a_second_training() -> None:
    toy = Toy([4])
    stale = iter(toy.loader())
    next(stale)
    next(iter(toy.loader()))
    with pytest.raises(AutoBatchError, match="another has begun"):
        next(stale)
    toy.epoch()
    toy.check()


def test_an_iterator_ends_with_its_epoch() -> None:
    toy = Toy([4, 2], size=24)
    loader = toy.loader()
    batches = iter(loader)
    for _ in range(2):  # as loops do that go by a number of steps
        for _ in range(len(loader)):
            batch = next(batches, None)
            if batch is None:
                batches = iter(loader)
                batch = next(batches)
            toy.step(batch)
        toy.controller.end_epoch()
        toy.note()
    toy.check()
    assert toy.sizes() == [4] * 6 + [2] * 12


def test_a_stop_ends_the_loop() -> None:
    toy = Toy([4], epochs=5)
    for count, batch in enumerate(toy.loader()):
        toy.step(batch)
        if count == 2:
            toy.controller.stop("enough")
    assert len(toy.steps) == 3
    assert toy.controller.finished
    assert toy.controller.end_epoch() is None
    with pytest.raises(AutoBatchError, match="finished"):
        next(iter(toy.loader()))


# Streams -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_streams_of_random_chunks(form: str) -> None:
    for seed in range(30):
        rng = random.Random(seed)
        toy = random_toy(rng)
        while not toy.controller.finished:
            longer = rng.choice((0, 0, 17))
            for batch in toy.controller.rebatch(Chunks(toy.data, seed, len(toy.data) + longer, form)):
                toy.note()
                if form == "dict":
                    assert batch["name"] == [f"example {int(i)}" for i in batch["index"]]
                    assert batch["scale"] == 2.0
                    toy.step((batch["index"], batch["x"], batch["y"]))
                else:
                    toy.step(batch)
            toy.controller.end_epoch()
            toy.note()
        toy.check()
        order = [index for _, indices, _ in toy.steps for index in indices]
        assert order == list(range(len(toy.data))) * toy.controller.epochs


def test_a_stream_is_gone_on_with_after_the_last_trained_example() -> None:
    for seed in range(30):
        rng = random.Random(seed)
        script, size = [rng.choice((2, 4, 8)) for _ in range(9)], rng.randint(20, 60)
        toy = Toy(script, size=size, epochs=1, plan=BatchPlan(decide_every=0.4))
        steps = []
        while toy.controller.examples != size:
            for batch in toy.controller.rebatch(Chunks(toy.data, rng.randrange(9))):
                toy.step(batch)
                if rng.random() < 0.15:
                    break
            if rng.random() < 0.5 and toy.controller.examples < size:
                state = json_copy(toy.controller.state_dict())
                steps += toy.steps
                toy = Toy(script, size=size, epochs=1, plan=BatchPlan(decide_every=0.4))
                toy.controller.load_state_dict(state)
        toy.controller.end_epoch()
        assert [index for _, indices, _ in steps + toy.steps for index in indices] == list(range(size))


def test_a_stream_that_ends_early_ends_the_epoch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for there in (1, 3, 4, 12, 25):
        toy = Toy([4, 8], size=26, plan=BatchPlan(decide_every=0.5))
        caplog.clear()
        toy.epoch(toy.controller.rebatch(Chunks(toy.data, 1, there)))
        assert f"ended {26 - there} examples before dataset_size=26" in caplog.text
        assert [index for _, indices, _ in toy.steps for index in indices] == list(range(there))
        assert (toy.controller.epoch, toy.controller.examples) == (1, 26)
        toy.epoch()  # and the next one is whole
        assert len(toy.steps[-1][1]) in range(1, 13)


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_under_batch_norm_a_stream_that_ends_early_leaves_no_example_alone() -> None:
    for there in range(2, 25):
        for script in ([4], [8], [2]):
            toy = Toy(script, size=26, epochs=2, make=normed)
            toy.epoch(toy.controller.rebatch(Chunks(toy.data, 1, there)))
            assert [index for _, indices, _ in toy.steps for index in indices] == list(range(there))
            assert min(toy.sizes()) > 1
            toy.epoch(toy.controller.rebatch(Chunks(toy.data, 1)))
            assert min(toy.sizes()) > 1


@pytest.mark.parametrize(("size", "sizes", "parts"), [(65, (2, 4), 1), (37, (8, 16), 4), (33, (2, 4), 1), (9, (4,), 2)])
def test_under_batch_norm_no_part_of_a_batch_is_a_single_example(size: int, sizes: Sequence[int], parts: int) -> None:
    toy = Toy([sizes[0]], size=size, batch_sizes=sizes, epochs=2, make=normed, plan=BatchPlan(accumulation=parts))
    for _ in range(2):
        seen: list[list[int]] = []
        for indices, x, y in toy.loader():
            seen.append(indices.tolist())
            with toy.controller.step() as step:
                step.backward(toy.loss(x, y))
            if len(seen) % parts == 0:
                toy.optimizer.step()
                toy.optimizer.zero_grad()
        toy.controller.end_epoch()
        assert sorted(index for part in seen for index in part) == list(range(size))
        assert min(map(len, seen)) > 1
        assert len(seen) % parts == 0


def test_a_stream_that_gives_nothing_is_an_error_in_any_epoch() -> None:
    toy = Toy([4], size=26, epochs=3)
    once = iter(list(Chunks(toy.data, 1)))
    toy.epoch(toy.controller.rebatch(once))
    with pytest.raises(AutoBatchError, match=r"gave no example in epoch 2: is it a generator that has ended\?"):
        toy.epoch(toy.controller.rebatch(once))
    toy.epoch(toy.controller.rebatch(Chunks(toy.data, 1)))
    assert (toy.controller.epoch, toy.controller.examples) == (2, 52)


def test_a_stream_that_is_longer_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    toy = Toy([4], size=26, epochs=4)
    toy.epoch(toy.controller.rebatch(Chunks(toy.data, 1)))
    toy.epoch(toy.controller.rebatch(iter(list(Chunks(toy.data, 1, 40)))))  # whose rest comes in the next epoch
    assert "more than dataset_size" not in caplog.text
    for _ in range(2):
        toy.epoch(toy.controller.rebatch(Chunks(toy.data, 1, 27)))
    assert caplog.text.count("the stream has more than dataset_size=26 examples") == 1


def test_batches_that_cannot_be_joined_are_named() -> None:
    toy = Toy([8], size=26)
    chunks = [{"ids": torch.zeros(5, 3 + number % 2), "y": torch.zeros(5)} for number in range(6)]
    with pytest.raises(AutoBatchError, match=r"element 'ids': .* shapes \[\(5, 3\), \(5, 4\)\]; pad all of them"):
        next(toy.controller.rebatch(chunks))
    other = [{"x": torch.zeros(5)}, {"y": torch.zeros(5)}]
    with pytest.raises(AutoBatchError, match=r"their keys are \[\['x'\], \['y'\]\]"):
        next(Toy([8], size=26).controller.rebatch(other))


def test_a_stream_that_is_gone_on_with_and_then_ends_early() -> None:
    toy = Toy([4], size=26, epochs=1)
    ahead = toy.controller.rebatch(Chunks(toy.data, 1))
    fetched = [next(ahead) for _ in range(4)]
    toy.step(fetched[0])
    toy.epoch(toy.controller.rebatch(Chunks(toy.data, 2, 10)))
    assert [index for _, indices, _ in toy.steps for index in indices] == list(range(10))
    assert toy.controller.finished


def test_an_iterable_dataset_behind_a_loader_with_workers() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            data = Data(30)
            return (data[index] for index in range(30))

    toy = Toy([4, 8, 2], size=30, epochs=2, plan=BatchPlan(decide_every=0.5))
    loader = DataLoader(Stream(), batch_size=7, num_workers=1, multiprocessing_context="fork")
    for _ in range(2):
        toy.epoch(toy.controller.rebatch(loader))
    toy.check()


# Batches of any form -------------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "x y")


def nested(start: int, stop: int) -> Any:
    indices = torch.arange(start, stop)
    own: defaultdict[str, Any] = defaultdict(list)
    own.update({"pair": Pair(indices, indices[:, None] * torch.ones(2)), "ids": [str(int(i)) for i in indices]})
    return (
        own,
        OrderedDict(b=[indices.float(), indices + 1], a=tuple(f"t{int(i)}" for i in indices)),
        torch.tensor(3.0),
        torch.arange(100),
        [{"boxes": torch.zeros(int(i) % 3 + 1, 4) + i} for i in indices],
        "all",
    )


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, tuple | list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def test_nests_are_cut_and_joined() -> None:
    rng = random.Random(0)
    for _ in range(60):
        stops = sorted(rng.sample(range(2, 60), rng.randint(2, 5)))
        stops = [0, *(stop for stop, before in zip(stops, [0, *stops], strict=False) if stop - before > 1)]
        parts = [nested(start, stop) for start, stop in pairwise(stops)]
        whole = joined(parts)
        assert examples_in(whole) == stops[-1]
        assert same(whole, nested(0, stops[-1]))
        start = rng.randrange(stops[-1] - 2)
        stop = rng.randint(start + 2, stops[-1])
        assert same(part_of(whole, start, stop), nested(start, stop))


def test_a_batch_without_tensors_is_a_clear_error() -> None:
    with pytest.raises(AutoBatchError, match="no tensor with a dimension"):
        examples_in({"a": "b", "c": torch.tensor(1.0)})
