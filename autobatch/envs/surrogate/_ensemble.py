"""What an epoch comes to by what the law says of it: an ensemble of small networks, fitted to many tasks at once.

Each task has a few numbers of its own, which are fitted with the networks; everything else is shared. Each member is
fitted to most trainings of each task, so that every training has a member that has not seen it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch.envs.surrogate._law import INPUTS

Singles = NDArray[np.float32]

OUTPUTS = 5
_WIDTH = 32
_OWN = 4
"""Numbers that a task has of its own."""

_BATCH = 256
_STEPS = 800, 3000
"""Fewest and most steps of the fit; between them, an eighth of the epochs recorded."""

_RATE = 0.02
_DECAY = 0.01
_OWN_DECAY = 0.1
_FURTHEST = 4.0
_SEED = 20180101


@dataclass(frozen=True, eq=False)
class Table:
    """What an ensemble is fitted to.

    Attributes:
        inputs: what the law says of each epoch, shape (n, INPUTS).
        targets: what it came to, relative to its task, shape (n, OUTPUTS).
        weights: what it counts, shape (n,).
        task: index of its task, shape (n,).
        fold: the member that does not see it, shape (n,).
    """

    inputs: Floats
    targets: Floats
    weights: Floats
    task: NDArray[np.int64]
    fold: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """The networks as one task sees them, run by matrix products alone.

    Attributes:
        mean: mean of the inputs, shape (INPUTS,).
        deviation: their standard deviation, likewise.
        first: weights of the first layer, all members side by side, shape (INPUTS, members * width).
        first_bias: with what the task has of its own, shape (members * width,).
        second: shape (members, width, width).
        second_bias: shape (members, 1, width).
        third: shape (members, width, OUTPUTS), scaled to the targets.
        third_bias: shape (members, 1, OUTPUTS).
    """

    mean: Floats
    deviation: Floats
    first: Singles
    first_bias: Singles
    second: Singles
    second_bias: Singles
    third: Singles
    third_bias: Singles

    @property
    def members(self) -> int:
        """How many networks there are."""
        return len(self.second)

    def standardised(self, inputs: Floats) -> Singles:
        """Return inputs as the networks take them, cut off where nothing was recorded, shape (n, INPUTS)."""
        scaled = ((inputs - self.mean) / self.deviation).astype(np.float32)
        return np.clip(scaled, -_FURTHEST, _FURTHEST, out=scaled)

    def __call__(self, standardised: Singles) -> Singles:
        """Return what each member says, shape (members, n, OUTPUTS)."""
        wide = standardised @ self.first
        wide += self.first_bias
        hidden = _silu(wide).reshape(len(wide), self.members, -1).transpose(1, 0, 2)
        hidden = _silu(np.matmul(hidden, self.second) + self.second_bias)
        said: Singles = np.matmul(hidden, self.third) + self.third_bias
        return said


def fit_ensembles(table: Table, tasks: int, members: int) -> list[Ensemble]:
    """Fit an ensemble to the epochs of some tasks.

    Args:
        table: the epochs.
        tasks: how many tasks there are.
        members: members of the ensemble.

    Returns:
        The ensemble as each task sees it; the same arguments give the same ensembles.
    """
    import torch  # only fitting needs it, and importing it takes seconds
    from torch.nn.functional import silu, smooth_l1_loss

    mean, deviation = table.inputs.mean(axis=0), table.inputs.std(axis=0) + 1e-6
    scaled = np.clip((table.inputs - mean) / deviation, -_FURTHEST, _FURTHEST)
    middle, spread = table.targets.mean(axis=0), table.targets.std(axis=0) + 1e-6
    inputs, targets = (torch.tensor(own, dtype=torch.float32) for own in (scaled, (table.targets - middle) / spread))
    weights = torch.tensor(table.weights / table.weights.mean(), dtype=torch.float32)
    index = torch.tensor(table.task)
    seen = [torch.tensor(np.flatnonzero(table.fold != member)) for member in range(members)]
    generator = torch.Generator().manual_seed(_SEED)

    def drawn(*shape: int, scale: float) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * scale).requires_grad_()

    first = drawn(members, INPUTS + _OWN, _WIDTH, scale=(INPUTS + _OWN) ** -0.5)
    second, third = (
        drawn(members, _WIDTH, _WIDTH, scale=_WIDTH**-0.5),
        drawn(members, _WIDTH, OUTPUTS, scale=_WIDTH**-0.5),
    )
    biases = [drawn(members, 1, width, scale=0.1) for width in (_WIDTH, _WIDTH, OUTPUTS)]
    own = drawn(members, tasks, _OWN, scale=0.3)
    steps = int(np.clip(len(inputs) // 8, *_STEPS))
    groups = [
        {"params": [first, second, third, *biases], "weight_decay": _DECAY},
        {"params": [own], "weight_decay": _OWN_DECAY},
    ]
    optimizer = torch.optim.AdamW(groups, lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    member = torch.arange(members)[:, None]
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.stack([known[torch.randint(len(known), (_BATCH,), generator=generator)] for known in seen])
            hidden = torch.cat([inputs[rows], own[member, index[rows]]], dim=2)
            hidden = silu(torch.baddbmm(biases[0], hidden, first))
            hidden = silu(torch.baddbmm(biases[1], hidden, second))
            misses = smooth_l1_loss(torch.baddbmm(biases[2], hidden, third), targets[rows], reduction="none")
            loss = (weights[rows] * misses.mean(dim=2)).mean(dim=1).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    arrays = [part.detach().numpy() for part in (first, second, third, *biases, own)]
    return [_seen_by(task, arrays, (mean, deviation), (middle, spread)) for task in range(tasks)]


def _seen_by(
    task: int, arrays: Sequence[Singles], inputs: tuple[Floats, Floats], targets: tuple[Floats, Floats]
) -> Ensemble:
    """Return the ensemble as one task sees it: its own numbers are added to the biases of the first layer."""
    first, second, third, first_bias, second_bias, third_bias, own = arrays
    folded = first_bias[:, 0] + np.einsum("mo,mow->mw", own[:, task], first[:, INPUTS:])
    middle, spread = (part.astype(np.float32) for part in targets)
    return Ensemble(
        *inputs,
        first=np.ascontiguousarray(first[:, :INPUTS].transpose(1, 0, 2).reshape(INPUTS, -1)),
        first_bias=folded.reshape(-1),
        second=second,
        second_bias=second_bias,
        third=third * spread,
        third_bias=third_bias * spread + middle,
    )


def _silu(values: Singles) -> Singles:
    shares = np.minimum(-values, 80.0)
    np.exp(shares, out=shares)
    shares += 1.0
    np.divide(values, shares, out=shares)
    return shares
