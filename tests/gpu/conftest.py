"""Where the tests of a GPU run: on one, or, as a rehearsal at the same size, on the CPU."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _full_precision(device: torch.device) -> Iterator[None]:
    """Hold float32 products to float32: by default a GPU's convolutions are computed in TF32."""
    if device.type == "cpu":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
