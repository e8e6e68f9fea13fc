"""An evaluation as a person reads it (Markdown) and as programs do (CSV, JSON)."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from autobatch.evidence._statistics import LEVEL, Estimate
from autobatch.evidence.evaluate._plan import TRAIN
from autobatch.evidence.evaluate._results import Instance, TaskResult, TaskSummary
from autobatch.evidence.evaluate._summary import ALL, Aggregate, Comparison
from autobatch.evidence.evaluate._words import (
    UNKNOWN,
    cell,
    p_words,
    plain,
    ratio_words,
    score_words,
    signed_score,
    table,
)
from autobatch.report import percent_words, seconds_words


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        out: its directory.
        seeds: the seeds of every policy on every task.
        tasks: runs and figures of each task.
        aggregates: every policy and baseline over all tasks, with intervals.
        comparisons: every policy against every baseline.
        notes: what was left out, and why.
        failed: message by name of every run that could not be carried out.
        device: kind of device of the runs.
    """

    out: Path
    seeds: tuple[int, ...]
    tasks: tuple[TaskResult, ...]
    aggregates: tuple[Aggregate, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    failed: dict[str, str]
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain values; NaN stands for what is not known."""
        return {"format_version": 1, **asdict(self), "out": str(self.out)}

    def report(self) -> str:
        """Return the report in Markdown."""
        return markdown(self)


def markdown(evaluation: Evaluation) -> str:
    """Return the report.

    Args:
        evaluation: what came of it.

    Returns:
        Markdown.
    """
    instances = [one for task in evaluation.tasks for one in task.instances]
    return (
        "\n\n".join(
            part
            for part in (
                _heading(evaluation, instances),
                _per_task(evaluation.tasks),
                _over_tasks(evaluation.aggregates),
                _against(evaluation.comparisons),
                _hindsight(evaluation.tasks),
                _every_run(evaluation.tasks),
            )
            if part
        )
        + "\n"
    )


def csv_table(evaluation: Evaluation) -> str:
    """Return one row a run, with a heading.

    Args:
        evaluation: what came of it.

    Returns:
        Comma-separated values; an empty cell stands for what is not known.
    """
    stream = io.StringIO()
    names = [field.name for field in fields(Instance)]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for task in evaluation.tasks:
        for one in task.instances:
            writer.writerow([cell(getattr(one, name)) for name in names])
    return stream.getvalue()


def json_text(evaluation: Evaluation) -> str:
    """Return all figures as JSON.

    Args:
        evaluation: what came of it.

    Returns:
        JSON; null stands for what is not known.
    """
    return json.dumps(plain(evaluation.to_dict()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _heading(evaluation: Evaluation, instances: Sequence[Instance]) -> str:
    judged = list(dict.fromkeys(one.policy for one in instances if one.judged))
    envs = [task.env for task in evaluation.tasks]
    seeds = ", ".join(map(str, evaluation.seeds))
    lines = [
        f"# Evaluation of {', '.join(judged) or 'the baselines'}",
        "",
        f"{len(instances)} real trainings on {', '.join(envs)}, seeds {seeds}, on {evaluation.device}. Lower scores "
        "are better; times include measuring. The modelled time is that of a cost table (steps and measured steps at "
        "their prices), the measured one is the clock's. Test errors are reported only: nothing was decided by them.",
    ]
    shared = sorted({one.side_by_side for one in instances if one.side_by_side > 1})
    if shared:
        lines += ["", f"Times by the clock are shared: up to {shared[-1]} runs trained side by side."]
    if evaluation.notes:
        lines += ["", *(f"- {note}." for note in evaluation.notes)]
    if evaluation.failed:
        lines += ["", *(f"- Failed: {name}: {message}" for name, message in evaluation.failed.items())]
    return "\n".join(lines)


def _per_task(tasks: Sequence[TaskResult]) -> str:
    parts = []
    for task in tasks:
        rows = [
            [
                _name(one.policy, judged=one.judged),
                one.split or UNKNOWN,
                f"{one.runs - one.diverged} of {one.runs}",
                _mean_and_spread(one.score, task.score),
                ratio_words(one.quality),
                _mean_and_spread(one.test_error, "test_error"),
                seconds_words(one.modelled_seconds),
                ratio_words(one.modelled_ratio),
                seconds_words(one.measured_seconds),
                ratio_words(one.measured_ratio),
                f"{one.measuring_share:.1%}",
            ]
            for one in sorted(task.summaries, key=_by_score)
        ]
        reference = f"the best fixed beacon, {task.reference}" if task.reference else "the best fixed beacon"
        heading = (
            "policy",
            "split",
            "finished",
            task.score.replace("_", " "),
            "quality",
            "test error",
            "modelled time",
            "ratio",
            "measured time",
            "ratio",
            "measuring",
        )
        parts.append(
            f"## {task.env}\n\nMean ± standard deviation over the seeds that finished. Quality is 0 for guessing and 1 "
            f"for {task.scale}; a diverged run has -1. Ratios are to {reference} (by the clock: median over seeds).\n\n"
            + table(heading, rows)
        )
    return "\n\n".join(parts)


def _over_tasks(aggregates: Sequence[Aggregate]) -> str:
    rows = [
        [
            _name(one.label, judged=one.judged),
            one.scope,
            str(one.envs),
            str(one.runs) + (f", {one.diverged} diverged" if one.diverged else ""),
            _interval(one.quality),
            _interval(one.modelled_ratio),
            _interval(one.measured_ratio),
        ]
        for one in aggregates
    ]
    heading = ("policy", "scope", "tasks", "runs", "quality", "time ratio, modelled", "time ratio, measured")
    return (
        f"## Over all tasks\n\nInterquartile means with {LEVEL:.0%} intervals of a bootstrap stratified by task. "
        f"'{TRAIN}' are the tasks that a learned policy's card names, 'unseen' all others; all seeds are new.\n\n"
        + table(heading, rows)
    )


def _against(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return ""
    rows = [
        [
            f"**{one.policy}**" + ("" if one.scope == ALL else f", {one.scope}"),
            one.baseline,
            str(one.pairs),
            _interval(one.improvement),
            _signed(one.quality),
            p_words(one.p_quality),
            p_words(one.p_quality_holm),
            _signed(one.time),
            p_words(one.p_time),
            p_words(one.p_time_holm),
        ]
        for one in comparisons
    ]
    heading = (
        "policy",
        "baseline",
        "pairs",
        "probability of improvement",
        "quality difference",
        "p",
        "p (Holm)",
        "time ratio difference",
        "p",
        "p (Holm)",
    )
    return (
        "## Against each baseline\n\nThe probability that a run of the policy has a higher quality than one of the "
        "baseline on the same task; mean differences of quality (above 0 the policy is better) and of the modelled "
        "time ratio (below 0 it is faster); two-sided p-values of Wilcoxon's signed-rank test over pairs of one task "
        "and seed, and the same after Holm's correction.\n\n" + table(heading, rows)
    )


def _hindsight(tasks: Sequence[TaskResult]) -> str:
    rows = []
    for task in tasks:
        if task.hindsight is not None:
            rows += [
                [
                    task.env,
                    f"{task.hindsight} ({score_words(task.hindsight_score, task.score)})",
                    _name(one.policy, judged=one.judged),
                    UNKNOWN if math.isnan(one.gap) else f"{signed_score(one.gap, task.score)}",
                    UNKNOWN if math.isnan(one.relative_gap) else f"{one.relative_gap:+.1%}",
                ]
                for one in sorted(task.summaries, key=_by_score)
                if one.policy != task.hindsight
            ]
    if not rows:
        return ""
    heading = ("task", "best fixed in hindsight", "policy", "gap of the mean score", "relative")
    return (
        "## Gap to the best fixed configuration in hindsight\n\nThe fixed run with the lowest mean score on these very "
        "seeds, which nobody could have known before; a negative gap is better still.\n\n" + table(heading, rows)
    )


def _every_run(tasks: Sequence[TaskResult]) -> str:
    rows = [
        [
            one.env,
            _name(one.policy, judged=one.judged),
            str(one.seed),
            score_words(one.score, task.score) if one.stopped_because == "finished" else one.stopped_because,
            ratio_words(one.quality),
            percent_words(one.test_error),
            seconds_words(one.modelled_seconds),
            ratio_words(one.modelled_ratio),
            seconds_words(one.measured_seconds) + ("*" if one.side_by_side > 1 else ""),
            f"{one.optimizer_steps:,}",
        ]
        for task in tasks
        for one in task.instances
    ]
    heading = (
        "task",
        "policy",
        "seed",
        "score",
        "quality",
        "test error",
        "modelled time",
        "ratio",
        "measured time",
        "steps",
    )
    shared = (
        " A star marks a time by the clock that runs side by side have shared."
        if any(one.side_by_side > 1 for task in tasks for one in task.instances)
        else ""
    )
    return f"## Every run\n\nPolicies in bold, baselines plain; results.csv has more of each.{shared}\n\n" + table(
        heading, rows
    )


def _by_score(summary: TaskSummary) -> tuple[bool, float]:
    return math.isnan(summary.score[0]), summary.score[0]


def _name(label: str, *, judged: bool) -> str:
    return f"**{label}**" if judged else label


def _mean_and_spread(figure: tuple[float, float], what: str) -> str:
    mean, spread = figure
    if math.isnan(mean):
        return UNKNOWN
    if what.endswith("_error"):
        return f"{100 * mean:.2f}" + ("" if math.isnan(spread) else f" ± {100 * spread:.2f}") + " %"
    return f"{mean:.4f}" + ("" if math.isnan(spread) else f" ± {spread:.4f}")


def _signed(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:+.3f}"


def _interval(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return ratio_words(estimate.value)
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
