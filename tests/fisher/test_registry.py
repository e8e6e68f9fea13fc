"""The one table of what is known of torch's functions."""

import collections
from types import MethodWrapperType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import get_overridable_functions

from autobatch.fisher import _registry
from autobatch.fisher._registry import known


def test_each_function_has_one_entry() -> None:
    names = [name for key, _ in _registry._TABLE if isinstance(key, str) for name in key.split()]
    assert [name for name, count in collections.Counter(names).items() if count > 1] == []


def test_what_has_rules_for_rows_keeps_samples_and_can_be_met() -> None:
    met = {id(entry.rows) for functions in get_overridable_functions().values() for entry in map(known, functions)}
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


def test_nothing_is_known_of_others() -> None:
    assert known(lambda x: x).layout is None
