"""Beacon libraries made from a known law, so that a test knows what every answer must be.

A step at progress p with batch size B and base rate r has the condition number ``c_rate`` and adds ``l_rate`` to L;
both are power laws in B and r, constant within an epoch, so that positions at epoch ends follow by summation. The final
loss is the exponential of a quadratic bowl in the (log10 C̄, log10 L) plane.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autobatch.beacons import Beacon, BeaconLibrary, CostTable, LibraryInfo, Standing

BATCH_SIZES = (8, 16, 32, 64, 128, 256, 512)
LEARNING_RATES = (0.025, 0.05, 0.1, 0.2, 0.4)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Law:
    """How C̄, L and the loss come about."""

    train_size: int = 1024
    epochs: int = 20
    best_log_c: float = 2.0
    best_log_l: float = 1.4
    least_loss: float = 0.05

    def steps_per_epoch(self, batch_size: int) -> int:
        return -(-self.train_size // batch_size)

    def c_rate(self, batch_size: int, lr: float, progress: float) -> float:
        return 6.0 * batch_size**0.8 * lr**0.3 * (1.0 + 2.0 * progress)

    def l_rate(self, batch_size: int, lr: float, progress: float) -> float:
        decay = 0.1 ** (int(progress >= 0.5) + int(progress >= 0.75))
        return 0.3 * lr**0.9 * batch_size**-0.3 * decay * (1.0 + progress)

    def loss(self, c_bar: float, l_cum: float) -> float:
        across = np.log10(c_bar) - self.best_log_c
        along = np.log10(l_cum) - self.best_log_l
        return float(self.least_loss * np.exp(0.9 * across**2 + 0.5 * along**2 + 0.3 * across * along))

    def journey(self, stages: Sequence[tuple[int, float]]) -> list[Standing]:
        """Where a run stands after each epoch, stages[e] being its (batch size, base rate) in epoch e."""
        c_sum, l_sum, steps = 0.0, 0.0, 0
        places = []
        for epoch, (batch_size, lr) in enumerate(stages):
            middle = (epoch + 0.5) / self.epochs
            own = self.steps_per_epoch(batch_size)
            steps += own
            c_sum += own * self.c_rate(batch_size, lr, middle)
            l_sum += own * self.l_rate(batch_size, lr, middle)
            places.append(Standing((epoch + 1) / self.epochs, c_sum / steps, l_sum, float(steps)))
        return places


def error_of(loss: float) -> float:
    """The share of wrong answers that goes with a loss."""
    return 0.9 * (1.0 - float(np.exp(-0.3 * loss)))


def make_beacon(
    batch_size: int, lr: float, seed: int, law: Law = Law(), noise: float = 0.03, diverged_after: int | None = None
) -> Beacon:
    """One beacon of the law; ``noise`` is the seeds' relative spread in C̄, L and loss."""
    generator = np.random.default_rng([batch_size, round(lr * 1e6), seed])
    c_factor, l_factor, loss_factor = np.exp(noise * generator.standard_normal(3))
    places = law.journey([(batch_size, lr)] * law.epochs)[: diverged_after or law.epochs]
    final = law.journey([(batch_size, lr)] * law.epochs)[-1]
    end_loss = law.loss(final.c_bar, final.l_cum) * loss_factor
    records: list[dict[str, Any]] = []
    for epoch, place in enumerate(places, start=1):
        loss = end_loss * (1.0 + 3.0 * (1.0 - place.progress))
        records.append({
            "epoch": epoch,
            "progress": place.progress,
            "lr_effective": lr,
            "c_bar": place.c_bar * c_factor,
            "l_cum": place.l_cum * l_factor,
            "steps": int(place.steps),
            "samples": 4 * epoch,
            "examples": law.train_size * epoch,
            "train_loss": 0.5 * loss,
            "validation_loss": loss,
            "validation_error": error_of(loss),
            "seconds": 0.011 * place.steps + 0.1 * epoch,
            "measuring_seconds": 0.1 * epoch,
        })
    if diverged_after is None:
        return Beacon.from_records(
            batch_size, lr, seed, records, test_error=error_of(end_loss), test_loss=1.1 * end_loss
        )
    records[-1] |= {"c_bar": float("nan"), "train_loss": float("inf"), "validation_loss": float("nan")}
    nan = float("nan")
    return Beacon.from_records(
        batch_size, lr, seed, records, test_error=nan, test_loss=nan, stopped_because="diverged: loss is not finite"
    )


def make_info(**changes: Any) -> LibraryInfo:
    """Common facts of a synthetic library."""
    facts: dict[str, Any] = {
        "task": {"dataset": {"name": "synthetic", "validation": 0.3}, "model": {"name": "law"}, "num_classes": 10},
        "task_name": "synthetic",
        "score": "validation_loss",
        "bn": "rows",
        "sampling_interval": 50,
        "versions": {"autobatch": "0.1.0", "torch": "2.9.0"},
        "commands": ("autobatch beacons record --env synthetic",),
        "costs": make_costs(),
    }
    return LibraryInfo(**facts | changes)


def make_costs(batch_sizes: Sequence[int] = BATCH_SIZES) -> CostTable:
    """Seconds by batch size: a fixed share a step and a share an example."""
    return CostTable(
        device="cpu synthetic, 1 thread",
        step_seconds={size: 0.010 + 1e-5 * size for size in batch_sizes},
        measuring_seconds={size: 0.005 + 2e-5 * size for size in batch_sizes},
        epoch_seconds=0.05,
    )


def make_library(
    batch_sizes: Sequence[int] = BATCH_SIZES,
    lrs: Sequence[float] = LEARNING_RATES,
    seeds: Sequence[int] = SEEDS,
    law: Law = Law(),
    noise: float = 0.03,
    diverged: Collection[tuple[int, float, int]] = (),
    **info: Any,
) -> BeaconLibrary:
    """A library of the whole grid; ``diverged`` names the (batch size, rate, seed) that end after a quarter."""
    beacons = [
        make_beacon(size, lr, seed, law, noise, law.epochs // 4 if (size, lr, seed) in diverged else None)
        for size in batch_sizes
        for lr in lrs
        for seed in seeds
    ]
    return BeaconLibrary(tuple(beacons), make_info(**info))
