"""The theory's rates."""

import pytest
import torch

from autobatch._errors import ConfigError, UnknownNameError
from autobatch.optim import isotropy
from autobatch.optim._dynamics import couplings


@pytest.mark.parametrize("layers", [1, 3, 4, 6, 7, 9, 10])
def test_tri_diagonal_blocks_by_their_inverse(layers: int) -> None:
    ones = torch.ones(layers, dtype=torch.float64)
    assert isotropy("tridiagonal", layers) == pytest.approx(float(ones @ torch.linalg.solve(couplings(layers), ones)))


@pytest.mark.parametrize("layers", [2, 5, 8])
def test_tri_diagonal_blocks_that_are_singular(layers: int) -> None:
    assert torch.linalg.matrix_rank(couplings(layers)) < layers
    with pytest.raises(ConfigError, match="singular"):
        isotropy("tridiagonal", layers)


def test_what_is_asked_for_is_needed() -> None:
    assert (isotropy("exact", 4), isotropy("layer", 4)) == (1.0, 4.0)
    assert isotropy("kfac", 3, samples=100) == 201.0
    assert isotropy("unit", 3, width=64) == 65.0
    with pytest.raises(ConfigError, match="samples"):
        isotropy("kfac", 3)
    with pytest.raises(ConfigError, match="width"):
        isotropy("unit", 3)
    with pytest.raises(UnknownNameError, match="did you mean 'tridiagonal'"):
        isotropy("tridiag", 3)
