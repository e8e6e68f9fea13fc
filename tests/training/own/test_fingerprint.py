"""What a fingerprint of a loop sees of the data that the loop reads by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from autobatch.training.own._fingerprint import VALUES, code_fingerprint

DATA = torch.zeros(3)


def reading(data: Any) -> Callable[[], Any]:
    def loop() -> Any:
        return data

    return loop


def changed(values: int) -> torch.Tensor:
    data = torch.zeros(values)
    data[-1] = 1.0
    return data


WHOLE = TensorDataset(torch.arange(8.0), torch.arange(8))


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [
        (torch.zeros(4), torch.zeros(4), False),
        (torch.zeros(4), changed(4), True),
        (torch.zeros(4), torch.zeros(2, 2), True),
        (torch.zeros(4), torch.zeros(4, dtype=torch.float64), True),
        (torch.zeros(4, dtype=torch.bfloat16), changed(4).bfloat16(), True),
        (torch.zeros(()), torch.ones(()), True),
        (torch.zeros(0, 3), torch.zeros(0, 3), False),
        (torch.zeros(3 * VALUES + 2), changed(3 * VALUES + 2), False),  # every fourth value
        (torch.zeros(3 * VALUES + 1), torch.ones(3 * VALUES + 1), True),
        (torch.ones(4, dtype=torch.complex64).conj(), torch.ones(4, dtype=torch.complex64).conj(), False),
        (nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(4)), False),  # it is trained
        (torch.zeros(4).to_sparse(), torch.ones(4).to_sparse(), False),
        (torch.zeros(4, device="meta"), torch.ones(4, device="meta"), False),
        (np.zeros(4), np.ones(4), True),
        (np.zeros((4, 6))[:, ::2], np.zeros((4, 3)), False),
        (np.array(["a", None], dtype=object), np.array(["b", None], dtype=object), False),
        (TensorDataset(torch.zeros(4), torch.zeros(4)), TensorDataset(torch.zeros(4), changed(4)), True),
        (Subset(WHOLE, [0, 1, 2]), Subset(WHOLE, [0, 1, 3]), True),
        (Subset(WHOLE, [0, 1, 2]), Subset(WHOLE, range(3)), False),
    ],
)
def test_what_is_seen_of_data(one: Any, other: Any, told: bool) -> None:
    assert (code_fingerprint(reading(one)) != code_fingerprint(reading(other))) == told


def test_data_of_the_module_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def loop() -> Any:
        return DATA

    before = code_fingerprint(loop)
    assert code_fingerprint(loop) == before
    monkeypatch.setitem(globals(), "DATA", torch.ones(3))
    assert code_fingerprint(loop) != before
