"""The one table of what is known of torch's functions."""

import collections
import itertools
from types import MethodWrapperType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import get_overridable_functions

from autobatch._errors import MeasureError
from autobatch.fisher import FisherProbe, _registry, register_keeping
from autobatch.fisher._registry import known
from autobatch.fisher.layers._functions import name_of


def test_each_function_has_one_entry() -> None:
    names = [name for key, _ in _registry._TABLE if isinstance(key, str) for name in key.split()]
    assert [name for name, count in collections.Counter(names).items() if count > 1] == []


def test_what_has_rules_for_rows_keeps_samples_and_can_be_met() -> None:
    functions = [*itertools.chain(*get_overridable_functions().values()), torch._grouped_mm]
    met = {id(known(function).rows) for function in functions}
    for key, entry in _registry._TABLE:
        if entry.rows is not None:
            assert entry.layout is not None, key
            assert id(entry.rows) in met, key
        else:
            assert not entry.claims, key
            assert not entry.tapped, key


@pytest.mark.parametrize(
    ("function", "as_well"),
    [(torch.add, Tensor.__radd__), (torch.conv2d, F.conv2d), (torch.matmul, Tensor.__matmul__), (F.linear, F.linear)],
)
def test_a_function_is_known_by_each_of_its_names(function: object, as_well: object) -> None:
    assert known(function).rows is known(as_well).rows is not None  # type: ignore[arg-type]


def test_a_property_is_known_by_its_name() -> None:
    getter = Tensor.T.__get__  # type: ignore[attr-defined]
    assert isinstance(getter, MethodWrapperType)
    assert known(getter).transposes


@pytest.mark.parametrize("function", [torch.embedding, torch.instance_norm, torch.ops.aten.linear])
def test_what_takes_other_arguments_has_samples_in_the_same_place_and_no_rule_for_rows(function: object) -> None:
    entry = known(function)  # type: ignore[arg-type]
    assert entry.layout is not None
    assert entry.rows is None


def test_nothing_is_known_of_others_whatever_they_are_called() -> None:
    def softmax(x: Tensor) -> Tensor:
        return x

    assert known(softmax).layout is None
    assert name_of(softmax) == f"{__name__}.softmax"


@torch.library.custom_op("autobatch_tests::relu", mutates_args=())
def turned(x: Tensor) -> Tensor:
    return x.flip(0)


turned.register_autograd(lambda context, gradient: gradient.flip(0))


class Behind(nn.Module):
    """A layer behind an operator that has the name of a function of torch, and does something else."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self.last(torch.ops.autobatch_tests.relu(self.first(x)))
        return last


def test_an_operator_is_not_taken_for_the_function_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_KNOWN", dict(_registry._KNOWN))

    def gram() -> Tensor:
        model = Behind()
        probe = FisherProbe(model)
        with probe:
            model(torch.randn(4, 3)).square().mean().backward()
        return probe.gram()

    with pytest.raises(
        MeasureError, match=r"through torch\.ops\.autobatch_tests\.relu\(\).*register_keeping\(torch\.ops\."
    ):
        gram()
    register_keeping(torch.ops.autobatch_tests.relu)
    assert gram().shape == (4, 4)
