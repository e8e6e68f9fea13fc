"""Seeds derived from (run seed, purpose, epoch): no generator has to travel in a checkpoint."""

import hashlib

import torch


def derive_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """Return a seed that is independent of those of every other purpose and epoch.

    Args:
        seed: the run's seed.
        purpose: what the random numbers are for, such as ``"permutation"``.
        epoch: finished epochs.

    Returns:
        A seed in [0, 2^63).
    """
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def derive_generator(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """Return a CPU generator seeded by ``derive_seed``.

    Args:
        seed: the run's seed.
        purpose: what the random numbers are for.
        epoch: finished epochs.

    Returns:
        The generator.
    """
    return torch.Generator().manual_seed(derive_seed(seed, purpose, epoch))
