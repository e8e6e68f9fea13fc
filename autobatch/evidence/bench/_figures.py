"""What each policy came to on one task over its seeds, beside the reference: the best fixed beacon, if there is one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from autobatch.evidence._statistics import Estimate, finite
from autobatch.evidence.bench._compared import ComparedRun
from autobatch.evidence.bench._courses import Recording
from autobatch.evidence.bench._tests import mean_difference, mean_interval


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds that finished; NaN for what is not known.

    Attributes:
        mean: its mean.
        std: its standard deviation.
        low: lower end of the 95 % interval of the mean, by Student's t.
        high: upper end.
    """

    mean: float
    std: float
    low: float
    high: float


@dataclass(frozen=True)
class Ratios:
    """Quotients paired by seed; NaN where there is no pair.

    Attributes:
        median: the middle one.
        least: the least.
        greatest: the greatest.
    """

    median: float
    least: float
    greatest: float


@dataclass(frozen=True)
class ToTarget:
    """How soon a policy got to the best fixed beacon's validation error. Means are over the seeds that reached it.

    Attributes:
        reached: seeds that reached it.
        seconds: mean time by the clock until then, measuring included.
        modelled_seconds: mean time by the cost table until then.
        examples: mean training examples until then.
        share: the time by the clock over that of the best fixed beacon's whole run with the same seed; median.
        modelled_share: the mean modelled time over that of the best fixed beacon's whole run.
    """

    reached: int
    seconds: float
    modelled_seconds: float
    examples: float
    share: float
    modelled_share: float


@dataclass(frozen=True)
class PaysBack:
    """After how many trainings a policy has saved what the beacons have cost.

    Attributes:
        saved_seconds: mean time by the clock that a run saves beside the best fixed beacon's with the same seed; below
            0 where it takes longer.
        trainings: trainings until the recording is paid back; infinite where nothing is saved.
        saved_modelled_seconds: the time saved by the cost table.
        modelled_trainings: the same with recording and saving both by the cost table.
    """

    saved_seconds: float
    trainings: float
    saved_modelled_seconds: float
    modelled_trainings: float


@dataclass(frozen=True)
class PolicyFigures:
    """What one policy came to. Means are over the seeds that finished; NaN where none did.

    Attributes:
        policy: its name.
        reference: whether it is the one that all are compared with.
        judged: whether it is one of the policies that are asked about, not only a baseline.
        split: ``"train"`` or ``"unseen"`` for a learned policy, else empty.
        seeds: seeds that were asked for.
        finished: runs that came to an end of their own.
        diverged: runs that did not.
        failed: runs that could not be carried out.
        test_error: final test error.
        validation_error: final validation error.
        validation_loss: final validation loss.
        test_loss: final test loss.
        quality: mean quality, diverged runs included; 0 is guessing, 1 the best fixed beacon.
        gap: mean score less that of the fixed configuration that was best in hindsight; NaN where a run diverged.
        relative_gap: the gap over the score of that configuration.
        test_difference: mean test error less the best fixed beacon's, with a 95 % interval (Student's t).
        score_difference: the same of the task's score.
        seconds: time by the clock, measuring included.
        modelled_seconds: mean time by the cost table, measuring included.
        time_ratio: time by the clock over that of the best fixed beacon's run with the same seed.
        modelled_ratio: mean modelled time over the best fixed beacon's.
        measuring_share: share of the time by the clock that measuring took, over all runs.
        examples: mean training examples.
        optimizer_steps: mean steps.
        to_target: how soon it got to the best fixed beacon's validation error.
        pays_back: when the beacons are paid back; None for policies that do without them.
        batch_sizes: the batch-size paths of its runs, in words, each once.
    """

    policy: str
    reference: bool
    judged: bool
    split: str
    seeds: int
    finished: int
    diverged: int
    failed: int
    test_error: Spread
    validation_error: Spread
    validation_loss: Spread
    test_loss: Spread
    quality: float
    gap: float
    relative_gap: float
    test_difference: Estimate
    score_difference: Estimate
    seconds: Spread
    modelled_seconds: float
    time_ratio: Ratios
    modelled_ratio: float
    measuring_share: float
    examples: float
    optimizer_steps: float
    to_target: ToTarget
    pays_back: PaysBack | None
    batch_sizes: tuple[str, ...]


def policy_figures(
    policy: str,
    runs: Sequence[ComparedRun],
    *,
    reference: Sequence[ComparedRun],
    seeds: int,
    score: str,
    recording: Recording | None,
    judged: bool = True,
    split: str = "",
    hindsight_score: float = math.nan,
) -> PolicyFigures:
    """Sum one policy up."""
    done = [run for run in runs if run.finished]
    base = [run for run in reference if run.finished]
    pairs = _pairs(done, base)
    modelled, modelled_base = (_mean([run.modelled_seconds for run in some]) for some in (done, base))
    whole = sum(run.seconds for run in runs)
    gap = _mean([getattr(run, score) for run in done]) - hindsight_score if len(done) == len(runs) else math.nan
    return PolicyFigures(
        policy=policy,
        reference=policy in {run.policy for run in reference},
        judged=judged,
        split=split,
        seeds=seeds,
        finished=len(done),
        diverged=len(runs) - len(done),
        failed=seeds - len(runs),
        test_error=_spread([run.test_error for run in done]),
        validation_error=_spread([run.validation_error for run in done]),
        validation_loss=_spread([run.validation_loss for run in done]),
        test_loss=_spread([run.test_loss for run in done]),
        quality=_mean([run.quality for run in runs]),
        gap=gap,
        relative_gap=gap / hindsight_score if hindsight_score > 0.0 else math.nan,
        test_difference=_difference(done, base, "test_error"),
        score_difference=_difference(done, base, score),
        seconds=_spread([run.seconds for run in done]),
        modelled_seconds=modelled,
        time_ratio=_ratios([run.seconds / other.seconds for run, other in pairs]),
        modelled_ratio=_mean([run.modelled_ratio for run in done]) if not base else modelled / modelled_base,
        measuring_share=sum(run.measuring_seconds for run in runs) / whole if whole else math.nan,
        examples=_mean([run.examples for run in done]),
        optimizer_steps=_mean([run.optimizer_steps for run in done]),
        to_target=_to_target(done, pairs, modelled_base),
        pays_back=None if recording is None else _pays_back(recording, pairs, modelled_base - modelled),
        batch_sizes=tuple(dict.fromkeys(run.batch_sizes for run in runs)),
    )


def _to_target(
    done: Sequence[ComparedRun], pairs: Sequence[tuple[ComparedRun, ComparedRun]], modelled_base: float
) -> ToTarget:
    def over(figure: Callable[[ComparedRun], float | None]) -> float:
        return _mean([value for run in done if (value := figure(run)) is not None])

    modelled = over(lambda run: run.to_target_modelled_seconds)
    return ToTarget(
        reached=sum(run.to_target_examples is not None for run in done),
        seconds=over(lambda run: run.to_target_seconds),
        modelled_seconds=modelled,
        examples=over(lambda run: run.to_target_examples),
        share=_ratios([
            run.to_target_seconds / other.seconds for run, other in pairs if run.to_target_seconds is not None
        ]).median,
        modelled_share=modelled / modelled_base,
    )


def _pays_back(
    recording: Recording, pairs: Sequence[tuple[ComparedRun, ComparedRun]], saved_modelled: float
) -> PaysBack:
    saved = _mean([other.seconds - run.seconds for run, other in pairs])
    return PaysBack(
        saved_seconds=saved,
        trainings=_trainings(recording.seconds, saved),
        saved_modelled_seconds=saved_modelled,
        modelled_trainings=_trainings(recording.modelled_seconds, saved_modelled),
    )


def _trainings(cost: float, saved: float) -> float:
    if math.isnan(cost) or math.isnan(saved):
        return math.nan
    return math.ceil(cost / saved) if saved > 0.0 else math.inf


def _pairs(runs: Sequence[ComparedRun], reference: Sequence[ComparedRun]) -> list[tuple[ComparedRun, ComparedRun]]:
    by_seed = {run.seed: run for run in reference}
    return [(run, by_seed[run.seed]) for run in runs if run.seed in by_seed]


def _difference(done: Sequence[ComparedRun], base: Sequence[ComparedRun], figure: str) -> Estimate:
    return mean_difference(*(finite(getattr(run, figure) for run in some) for some in (done, base)))


def _spread(values: Sequence[float]) -> Spread:
    known = finite(values)
    interval = mean_interval(known)
    return Spread(interval.value, stdev(known) if len(known) > 1 else math.nan, interval.low, interval.high)


def _ratios(values: Sequence[float]) -> Ratios:
    return Ratios(median(values), min(values), max(values)) if values else Ratios(math.nan, math.nan, math.nan)


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan
