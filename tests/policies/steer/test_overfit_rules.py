"""Rules for going back that are replayed on trainings (``benchmarks/steering/overfit_rules.py``)."""

import pytest

from benchmarks.steering import overfit_rules as script

RISING = [2.1, 1.4, 1.1, 0.9, 1.3, 1.3, 1.7, 1.7, 2.1, 2.1, 2.5]
"""Lowest in the mean of three after epoch 5, by 0.73 less than after 9 and 0.87 less than after 10, the last but one;
second differences of 0.4 make a standard error of 1.4826 / sqrt(6) * 0.4 * sqrt(2 / 3) = 0.198."""


@pytest.mark.parametrize(("falls_from", "once_it_falls", "both"), [(2, (104, 10), (104, 10)), (7, (11, 11), (104, 11))])
def test_rules_end_a_training_as_by_hand(
    falls_from: int, once_it_falls: tuple[int, int], both: tuple[int, int]
) -> None:
    row = {
        "epochs": 16,
        "falls_from": falls_from,
        "validation_losses": RISING,
        "test_losses": list(range(1, 12)),  # whose epoch's weights they are
        "went_back": {"4": 104},
    }
    assert script.overfits(row)
    assert script.BEFORE(row) == (11, 11)
    assert [rule(row) for rule in script.RULES.values()] == [
        *((11, 11), (4, 11), (4, 7), (4, 9)),
        *((104, 10), once_it_falls, (104, 11), both),
    ]
