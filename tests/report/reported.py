"""Runs made up for tests of pages: finished, unfinished, diverged, unmeasured, and with text that wants to be code."""

import math
from dataclasses import replace
from pathlib import Path

from autobatch.beacons import BeaconLibrary
from autobatch.control import DecisionRecord
from autobatch.policies import Candidate, PolicySpec
from autobatch.report import RunRecord
from autobatch.training import EpochRow, RunConfig, Summary, load_task

SIZES = (16, 16, 64, 128, 128, 256)
EVIL = "</script><script>document.title='broken'</script><b>bold</b> & \"quoted\" \u2028"


def make_rows(library: BeaconLibrary) -> list[EpochRow]:
    """Epochs that follow the mean of two beacons' positions."""
    rows, steps = [], 0
    for epoch, size in enumerate(SIZES, start=1):
        steps += 1024 // size
        place = library.at(64, 0.1, epoch / len(SIZES))
        rows.append(
            EpochRow(
                epoch=epoch,
                progress=epoch / len(SIZES),
                batch_size=size,
                lr=0.1,
                lr_effective=0.1 if epoch < 4 else 0.01,
                c_bar=place.c_bar,
                l_cum=place.l_cum,
                steps=steps,
                samples=2 * epoch,
                examples=1024 * epoch,
                train_loss=1.0 / epoch,
                validation_loss=0.5 / epoch,
                validation_error=0.1 / epoch,
                seconds=1.5 * epoch,
                measuring_seconds=0.1 * epoch,
            )
        )
    return rows


def make_decisions(
    rows: list[EpochRow], reason: str = "because of {}", *, epochs: int = len(SIZES)
) -> list[DecisionRecord]:
    """One decision before every one of the first epochs."""
    decisions = []
    for epoch, size in enumerate(SIZES[:epochs]):
        before = rows[epoch - 1] if epoch else None
        weighed = tuple(
            Candidate(other, 0.1, 100.0, 10.0, 0.05 + 0.001 * other, 0.002, 100.0 / other, known=other != 512)
            for other in (16, 64, 128, 512)
        )
        decisions.append(
            DecisionRecord(
                epoch=epoch,
                progress=epoch / len(SIZES),
                requested_batch_size=size,
                requested_lr=0.1,
                batch_size=size,
                lr=0.1,
                lr_effective=0.1,
                changed=epoch == 0 or size != SIZES[epoch - 1],
                reason=reason.format(size),
                limit=None,
                c_bar=before.c_bar if before else math.nan,
                l_cum=before.l_cum if before else 0.0,
                validation_loss=0.5,
                validation_error=0.1,
                target=(100.0, 10.0),
                alternatives=weighed,
            )
        )
    return decisions


def make_summary(**changes) -> Summary:
    figures = {
        "task": "synthetic",
        "policy": "beacon-follow",
        "seed": 0,
        "device": "test",
        "epochs": len(SIZES),
        "stopped_because": "finished",
        "test_error": 0.0123,
        "test_loss": 0.05,
        "validation_error": 0.02,
        "validation_loss": 0.05,
        "train_loss": 0.04,
        "c_bar": 80.0,
        "l_cum": 12.0,
        "examples": 6144,
        "optimizer_steps": 164,
        "samples": 12,
        "seconds": 9.0,
        "measuring_seconds": 0.6,
        "measuring_share": 0.07,
        "measuring_share_modelled": 0.019,
        "measuring_budget": 0.1,
        "batch_sizes": {16: 2, 64: 1, 128: 2, 256: 1},
        "best_beacon": {"batch_size": 16},
    }
    return Summary.model_validate(figures | changes)


def make_record(beacons: BeaconLibrary, seed: int = 0, **changes) -> RunRecord:
    """A finished run; ``changes`` replace fields of the record."""
    rows = make_rows(beacons)
    config = RunConfig(
        task=load_task("digits-resnet8"),
        policy=PolicySpec(name="beacon-follow", kind="beacon-follow"),
        seed=seed,
        costs=beacons.costs,
    )
    record = RunRecord(Path(f"runs/follow-{seed}"), config, rows, make_decisions(rows), make_summary(), beacons)
    return replace(record, **changes)


def unmeasured(rows: list[EpochRow]) -> list[EpochRow]:
    return [replace(row, c_bar=math.nan, l_cum=0.0, samples=0, measuring_seconds=0.0) for row in rows]


def broken(rows: list[EpochRow]) -> list[EpochRow]:
    """The epochs of a run that diverged in its fourth."""
    nan = math.nan
    last = replace(rows[3], c_bar=nan, l_cum=math.inf, train_loss=nan, validation_loss=nan, validation_error=nan)
    return [*rows[:3], last]
