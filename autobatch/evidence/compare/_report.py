"""A comparison as a person reads it (Markdown) and as programs do (CSV, JSON)."""

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from autobatch.evidence._statistics import Estimate
from autobatch.evidence.compare._figures import PaysBack, PolicyFigures, Ratios, Spread
from autobatch.evidence.compare._runs import Recording, Target
from autobatch.evidence.compare._tables import ComparedRun
from autobatch.evidence.compare._tests import TESTS, PolicyTest
from autobatch.evidence.evaluate import UNKNOWN, cell, p_words, plain, score_words, table
from autobatch.report import count_words, percent_words, seconds_words


@dataclass(frozen=True)
class PolicyComparison:
    """What a comparison came to.

    Attributes:
        out: its directory.
        env: the task's name.
        score: the figure that the task ranks runs by.
        epochs: length of every training, in passes over the training examples.
        seeds: the seeds of every policy.
        device: kind of device of the runs.
        measure_all: whether runs measure whose policy cannot look at what is measured.
        target: the best fixed beacon, which all are compared with.
        recording: what the beacons have cost.
        policies: what each policy came to; the best fixed beacon first, then as they were named.
        tests: every policy against the best fixed beacon.
        runs: the runs, by policy and seed.
        failed: message by name of every run that could not be carried out.
    """

    out: Path
    env: str
    score: str
    epochs: int
    seeds: tuple[int, ...]
    device: str
    measure_all: bool
    target: Target
    recording: Recording
    policies: tuple[PolicyFigures, ...]
    tests: tuple[PolicyTest, ...]
    runs: tuple[ComparedRun, ...]
    failed: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain values; NaN stands for what is not known."""
        return {"format_version": 1, **asdict(self), "out": str(self.out)}

    def report(self) -> str:
        """Return the report in Markdown."""
        return markdown(self)


def markdown(comparison: PolicyComparison) -> str:
    """Return the report.

    Args:
        comparison: what came of it.

    Returns:
        Markdown.
    """
    parts = (
        _heading(comparison),
        _outcome(comparison),
        _to_target(comparison),
        _tests(comparison),
        _beacons(comparison),
        _runs(comparison),
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def csv_table(comparison: PolicyComparison) -> str:
    """Return one row a policy, with a heading.

    Args:
        comparison: what came of it.

    Returns:
        Comma-separated values; an empty cell stands for what is not known.
    """
    tests: dict[str, dict[str, float]] = {one.policy: {} for one in comparison.policies}
    names = [f"p_{figure}_{test}" for figure in dict.fromkeys(("test_error", comparison.score)) for test in TESTS]
    for one in comparison.tests:
        name = f"p_{one.figure}_{one.test}"
        tests[one.policy] |= {name: one.p, f"{name}_holm": one.p_holm}
    heading = [column for name in names for column in (name, f"{name}_holm")]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    flat = [dict(_flat(one)) for one in comparison.policies]
    writer.writerow(["env", *flat[0], *heading])
    for row, own in zip(flat, comparison.policies, strict=True):
        known = tests[own.policy]
        writer.writerow([comparison.env, *map(cell, row.values()), *(cell(known.get(one)) for one in heading)])
    return stream.getvalue()


def json_text(comparison: PolicyComparison) -> str:
    """Return all figures as JSON.

    Args:
        comparison: what came of it.

    Returns:
        JSON; null stands for what is not known.
    """
    return json.dumps(plain(comparison.to_dict()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _heading(comparison: PolicyComparison) -> str:
    best, runs = comparison.target, comparison.runs
    others = [one.policy for one in comparison.policies if not one.reference]
    lines = [
        f"# {', '.join(others) or best.policy} on {comparison.env}",
        "",
        f"{len(runs)} real trainings of {comparison.epochs} epochs, seeds {', '.join(map(str, comparison.seeds))}, on "
        f"{comparison.device}. Every policy is set beside **{best.policy}**, the best fixed beacon (seeds "
        f"{', '.join(map(str, best.seeds))} of the library), which is trained here with the same seeds as all others. "
        "Times include measuring and validation: the measured time is the clock's, the modelled time that of a cost "
        "table (steps and measured steps at their prices). Test errors are reported only: nothing was decided by them.",
    ]
    if comparison.measure_all:
        lines += ["", "All runs measure, also those of policies that cannot look at it, and all times include it."]
    shared = max((run.side_by_side for run in runs), default=1)
    if shared > 1:
        lines += ["", f"Times by the clock are shared: up to {shared} runs trained side by side."]
    ended = [run for run in runs if not run.finished]
    notes = [f"- Ended early: {run.policy} seed {run.seed}: {run.stopped_because}" for run in ended]
    notes += [f"- Failed: {name}: {message}" for name, message in comparison.failed.items()]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _outcome(comparison: PolicyComparison) -> str:
    heading = (
        "policy",
        "finished",
        "test error",
        "95 % interval",
        "validation error",
        "validation loss",
        "time ratio (range)",
        "modelled ratio",
        "measured time",
        "measuring",
        "steps",
        "examples",
    )
    rows = [
        [
            _name(one),
            _finished(one),
            _percent(one.test_error),
            _percent_interval(one.test_error),
            _percent(one.validation_error),
            _loss(one.validation_loss),
            _range(one.time_ratio),
            _ratio(one.modelled_ratio),
            seconds_words(one.seconds.mean),
            _share(one.measuring_share),
            count_words(one.optimizer_steps),
            count_words(one.examples),
        ]
        for one in comparison.policies
    ]
    return (
        "## What came of it\n\nMean ± standard deviation over the seeds that finished, and 95 % intervals of the mean "
        "by Student's t. Ratios are to the best fixed beacon: by the clock to its run with the same seed (median, "
        "least and greatest), modelled in the mean.\n\n" + table(heading, rows)
    )


def _to_target(comparison: PolicyComparison) -> str:
    target = comparison.target.validation_error
    if math.isnan(target):
        return ""
    heading = (
        "policy",
        "reached by",
        "measured time",
        "of its whole run",
        "modelled time",
        "of its whole run",
        "examples",
    )
    rows = [
        [
            _name(one),
            f"{one.to_target.reached} of {one.seeds}",
            seconds_words(one.to_target.seconds),
            _share(one.to_target.share),
            seconds_words(one.to_target.modelled_seconds),
            _share(one.to_target.modelled_share),
            count_words(one.to_target.examples),
        ]
        for one in comparison.policies
    ]
    return (
        "## Time to the best fixed beacon's error\n\nUp to the first epoch that ends with a validation error of "
        f"{percent_words(target)} or less, the mean of {comparison.target.policy} at the end of its training in the "
        "library. Means over the seeds that got there and finished, so beware where only some did; the shares are of "
        "the best fixed beacon's whole run (by the clock with the same seed, median).\n\n" + table(heading, rows)
    )


def _tests(comparison: PolicyComparison) -> str:
    others = [one for one in comparison.policies if not one.reference]
    if not others:
        return ""
    found = {(one.figure, one.policy, one.test): one for one in comparison.tests}
    parts = [
        f"## Against {comparison.target.policy}\n\nDifferences of means with 95 % intervals (below 0 the policy is "
        "better), and two-sided p-values: two-sample t-tests with equal variances (Student, as in Table 1 of the "
        "paper) and without (Welch); by seed the paired t-test and Wilcoxon's signed-rank test. In brackets after "
        "Holm's correction for all policies. A p-value above 0.05 is no proof that two policies are equal: the "
        "interval says how far apart they may be. Runs that diverged have no place in the t-tests; the signed-rank "
        "test takes them as worse than any other."
    ]
    for figure in dict.fromkeys(("test_error", comparison.score)):
        heading = (figure.replace("_", " "), "runs", "difference", "Student", "Welch", "paired t", "signed rank")
        rows = []
        for one in others:
            tests = [found[figure, one.policy, test] for test in TESTS]
            difference = one.test_difference if figure == "test_error" else one.score_difference
            rows.append([
                _name(one),
                f"{tests[0].runs} and {tests[0].reference_runs}",
                _difference(difference, figure),
                *(UNKNOWN if math.isnan(test.p) else f"{p_words(test.p)} ({p_words(test.p_holm)})" for test in tests),
            ])
        parts.append(table(heading, rows))
    return "\n\n".join(parts)


def _beacons(comparison: PolicyComparison) -> str:
    recording = comparison.recording
    text = (
        f"## What the beacons cost\n\nRecording the {recording.beacons} beacons of {comparison.env} took "
        f"{seconds_words(recording.seconds)} by the clock of the machine that did it, "
        f"{seconds_words(recording.modelled_seconds)} by the cost table, measuring included. "
    )
    rows = [
        [
            _name(one),
            _signed_seconds(one.pays_back.saved_seconds),
            _trainings(one.pays_back.trainings),
            _signed_seconds(one.pays_back.saved_modelled_seconds),
            _trainings(one.pays_back.modelled_trainings),
        ]
        for one in comparison.policies
        if one.pays_back is not None
    ]
    if not rows:
        return (
            text + "None of these policies needs them; which fixed configuration is the best is known from them alone."
        )
    heading = ("policy", "saves a training, measured", "trainings to pay back", "saves, modelled", "trainings")
    return (
        text
        + "A policy that needs them has paid them back after so many trainings, each saving the mean difference to "
        f"{comparison.target.policy}. That one's rate and batch size are known from the same beacons, which are not "
        "charged to it here.\n\n" + table(heading, rows)
    )


def _runs(comparison: PolicyComparison) -> str:
    heading = (
        "policy",
        "seed",
        "test error",
        comparison.score.replace("_", " "),
        "measured time",
        "modelled time",
        "steps",
        "to target",
        "batch sizes",
    )
    reference = comparison.target.policy
    rows = [
        [
            f"**{run.policy}**" if run.policy != reference else run.policy,
            str(run.seed),
            percent_words(run.test_error),
            score_words(getattr(run, comparison.score), comparison.score) if run.finished else run.stopped_because,
            seconds_words(run.seconds) + ("*" if run.side_by_side > 1 else ""),
            seconds_words(run.modelled_seconds),
            count_words(run.optimizer_steps),
            seconds_words(run.to_target_seconds),
            run.batch_sizes,
        ]
        for run in comparison.runs
    ]
    shared = " A star marks a time by the clock that runs side by side have shared."
    return (
        "## Every run\n\nruns.parquet has more of each, epochs.parquet all their epochs."
        + (shared if any(run.side_by_side > 1 for run in comparison.runs) else "")
        + "\n\n"
        + table(heading, rows)
    )


def _flat(figures: PolicyFigures) -> Iterator[tuple[str, Any]]:
    """Yield the figures of a policy as columns."""
    for name, value in vars(figures).items():
        if name == "pays_back":
            yield from ((f"{name}_{field.name}", getattr(value, field.name, None)) for field in fields(PaysBack))
        elif is_dataclass(value):
            yield from ((f"{name}_{key}", own) for key, own in vars(value).items())
        else:
            yield name, value


def _name(figures: PolicyFigures) -> str:
    return figures.policy if figures.reference else f"**{figures.policy}**"


def _finished(figures: PolicyFigures) -> str:
    counts = [(figures.diverged, "diverged"), (figures.failed, "failed")]
    return ", ".join([
        f"{figures.finished} of {figures.seeds}",
        *(f"{count} {what}" for count, what in counts if count),
    ])


def _percent(spread: Spread) -> str:
    if math.isnan(spread.mean):
        return UNKNOWN
    return f"{100 * spread.mean:.2f}" + ("" if math.isnan(spread.std) else f" ± {100 * spread.std:.2f}") + " %"


def _percent_interval(spread: Spread) -> str:
    return UNKNOWN if math.isnan(spread.low) else f"{100 * max(spread.low, 0.0):.2f} to {100 * spread.high:.2f} %"


def _loss(spread: Spread) -> str:
    if math.isnan(spread.mean):
        return UNKNOWN
    return f"{spread.mean:.4f}" + ("" if math.isnan(spread.std) else f" ± {spread.std:.4f}")


def _range(ratios: Ratios) -> str:
    if math.isnan(ratios.median):
        return UNKNOWN
    return f"{ratios.median:.2f} ({ratios.least:.2f} to {ratios.greatest:.2f})"


def _ratio(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.2f}"


def _share(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.1%}"


def _difference(estimate: Estimate, figure: str) -> str:
    if math.isnan(estimate.value):
        return UNKNOWN
    scale, digits, unit = (100.0, 2, " points") if figure.endswith("_error") else (1.0, 4, "")
    words = f"{scale * estimate.value:+.{digits}f}"
    if math.isfinite(estimate.low):
        words += f" [{scale * estimate.low:+.{digits}f}, {scale * estimate.high:+.{digits}f}]"
    return words + unit


def _signed_seconds(seconds: float) -> str:
    if math.isnan(seconds):
        return UNKNOWN
    return f"-{seconds_words(-seconds)}" if seconds < 0.0 else seconds_words(seconds)


def _trainings(count: float) -> str:
    return UNKNOWN if math.isnan(count) else "never" if math.isinf(count) else count_words(count)
