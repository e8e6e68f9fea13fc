"""A comparison as a person reads it, in Markdown."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from autobatch.evidence._statistics import LEVEL
from autobatch.evidence.bench._comparison import PolicyComparison, TaskComparison
from autobatch.evidence.bench._figures import PolicyFigures
from autobatch.evidence.bench._noninferior import ALL, DIVERGED, FIGURES, OPEN, NonInferiority
from autobatch.evidence.bench._overall import AgainstBaseline, Aggregate
from autobatch.evidence.bench._tests import TESTS
from autobatch.evidence.bench.telling._words import (
    UNKNOWN,
    interval_words,
    p_words,
    range_words,
    ratio_words,
    relative_words,
    score_words,
    share_words,
    signed_seconds,
    signed_words,
    spread_interval,
    spread_words,
    table,
    trainings_words,
)
from autobatch.report import count_words, percent_words, seconds_words

Columns = Sequence[tuple[str, Callable[[Any], str]]]


def comparison_markdown(comparison: PolicyComparison) -> str:
    """Return the report: what came of each task, then over all tasks, then every run."""
    parts = [_heading(comparison)]
    for task in comparison.tasks:
        parts += [_outcome(task), _to_target(task), _tests(task), _non_inferior(task.non_inferiority), _beacons(task)]
        parts.append(_hindsight(task))
    parts += [_over_tasks(comparison.aggregates), _against(comparison.against)]
    if len(comparison.tasks) > 1:
        parts.append(_non_inferior(comparison.non_inferiority))
    parts.append(_runs(comparison))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(columns: Columns, rows: Iterable[Any]) -> str:
    return table([name for name, _ in columns], [[words(row) for _, words in columns] for row in rows])


def _heading(comparison: PolicyComparison) -> str:
    runs = [run for task in comparison.tasks for run in task.runs]
    first = comparison.tasks[0]
    judged = dict.fromkeys(one.policy for task in comparison.tasks for one in task.policies if one.judged)
    beside = [
        f"**{task.target.policy}**, the {task.target.what} of {task.env}" for task in comparison.tasks if task.target
    ]
    tables = dict.fromkeys(f"'{task.costs.device}'" for task in comparison.tasks)
    lengths = dict.fromkeys(f"{task.epochs} epochs" for task in comparison.tasks)
    lines = [
        f"# {', '.join(judged) or 'Baselines'} on {', '.join(task.env for task in comparison.tasks)}",
        "",
        f"{len(runs)} real trainings of {' and '.join(lengths)}, seeds {', '.join(map(str, comparison.seeds))}, on "
        f"{first.device}. "
        + (f"Every policy is set beside {'; '.join(beside)}, trained with the same seeds. " if beside else "")
        + "Times include measuring and validation: the measured time is the clock's, the modelled time that of the "
        f"cost table of {', '.join(tables)} (steps and measured steps at their prices). Test errors are reported only: "
        "nothing was decided by them.",
    ]
    if first.measure_all:
        lines += ["", "All runs measure, also those of policies that cannot look at it, and all times include it."]
    shared = max(run.side_by_side for run in runs)
    if shared > 1:
        lines += ["", f"Times by the clock are shared: up to {shared} runs trained side by side."]
    notes = [f"- {note}." for note in comparison.notes]
    ended = [run for run in runs if run.stopped_because != "finished"]
    notes += [f"- Ended early: {run.env} {run.policy} seed {run.seed}: {run.stopped_because}" for run in ended]
    notes += [f"- Failed: {name}: {message}" for name, message in comparison.failed.items()]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _outcome(task: TaskComparison) -> str:
    columns: Columns = (
        ("policy", lambda one: _name(one) + (f" ({one.split})" if one.split else "")),
        ("finished", _finished),
        ("test error", lambda one: spread_words(one.test_error, "error")),
        ("95 % interval", lambda one: spread_interval(one.test_error)),
        ("test loss", lambda one: spread_words(one.test_loss, "loss")),
        ("validation error", lambda one: spread_words(one.validation_error, "error")),
        ("validation loss", lambda one: spread_words(one.validation_loss, "loss")),
        ("quality", lambda one: ratio_words(one.quality)),
        ("time ratio (range)", lambda one: range_words(one.time_ratio)),
        ("modelled ratio", lambda one: ratio_words(one.modelled_ratio, 2)),
        ("measured time", lambda one: seconds_words(one.seconds.mean)),
        ("modelled time", lambda one: seconds_words(one.modelled_seconds)),
        ("measuring", lambda one: share_words(one.measuring_share)),
        ("steps", lambda one: count_words(one.optimizer_steps)),
        ("examples", lambda one: count_words(one.examples)),
    )
    reference = task.target.policy if task.target else "the best fixed beacon"
    ratios = (
        f"Ratios are to {reference}: by the clock to its run with the same seed (median, least and greatest), modelled "
        "in the mean."
    )
    if task.target is None and task.recording is None:
        ratios = (
            "There are neither ratios nor tests: without beacons they are to a fixed configuration, and none of those "
            "to compare with has come to its end with every seed (--against fixed, or the name of one)."
        )
    return (
        f"## {task.env}\n\nMean ± standard deviation over the seeds that finished, and 95 % intervals of the mean by "
        f"Student's t. Quality is 0 for guessing and 1 for {task.scale}; a diverged run has -1. {ratios}"
        "\n\n" + _table(columns, task.policies)
    )


def _to_target(task: TaskComparison) -> str:
    if task.target is None or math.isnan(task.target.validation_error):
        return ""
    columns: Columns = (
        ("policy", _name),
        ("reached by", lambda one: f"{one.to_target.reached} of {one.seeds}"),
        ("measured time", lambda one: seconds_words(one.to_target.seconds)),
        ("of its whole run", lambda one: share_words(one.to_target.share)),
        ("modelled time", lambda one: seconds_words(one.to_target.modelled_seconds)),
        ("of its whole run", lambda one: share_words(one.to_target.modelled_share)),
        ("examples", lambda one: count_words(one.to_target.examples)),
    )
    return (
        "### Time to the best fixed beacon's error\n\nUp to the first epoch that ends with a validation error of "
        f"{percent_words(task.target.validation_error)} or less, the mean of {task.target.policy} at the end of its "
        "training in the library. Means over the seeds that got there and finished, so beware where only some did; the "
        "shares are of the best fixed beacon's whole run (by the clock with the same seed, median).\n\n"
        + _table(columns, task.policies)
    )


def _tests(task: TaskComparison) -> str:
    others = [one for one in task.policies if task.target is not None and one.policy != task.target.policy]
    if not others or task.target is None:
        return ""
    found = {(one.figure, one.policy, one.test): one for one in task.tests}
    parts = [
        f"### Against {task.target.policy}\n\nDifferences of means with 95 % intervals (below 0 the policy is better), "
        "and two-sided p-values: two-sample t-tests with equal variances (Student, as in Table 1 of the paper) and "
        "without (Welch); by seed the paired t-test and Wilcoxon's signed-rank test. In brackets after Holm's "
        "correction for all policies. A p-value above 0.05 is no proof that two policies are equal: the interval says "
        "how far apart they may be. Runs that diverged have no place in the t-tests; the signed-rank test takes them "
        "as worse than any other."
    ]
    for figure in dict.fromkeys(("test_error", task.score)):
        rows = []
        for one in others:
            tests = [found[figure, one.policy, test] for test in TESTS]
            difference = one.test_difference if figure == "test_error" else one.score_difference
            rows.append([
                _name(one),
                f"{tests[0].runs} and {tests[0].reference_runs}",
                interval_words(difference, figure),
                *(UNKNOWN if math.isnan(test.p) else f"{p_words(test.p)} ({p_words(test.p_holm)})" for test in tests),
            ])
        heading = (figure.replace("_", " "), "runs", "difference", "Student", "Welch", "paired t", "signed rank")
        parts.append(table(heading, rows))
    return "\n\n".join(parts)


def _non_inferior(found: Sequence[NonInferiority]) -> str:
    if not found:
        return ""
    by_figure = {(one.policy, one.figure): one for one in found}
    rows = [
        [policy, *(words(by_figure[policy, figure]) for figure in FIGURES for words in (relative_words, _verdict))]
        for policy in dict.fromkeys(one.policy for one in found)
    ]
    heading = ["policy", *(column for figure in FIGURES for column in (figure.replace("_", " "), "verdict"))]
    pooled, margin = found[0].env == ALL, f"{100 * found[0].margin:.3g} %"
    return (
        (f"## No worse than by {margin} over all tasks?" if pooled else f"### No worse than by {margin}?")
        + "\n\nHow much higher the final test figures are than the reference's, in relation to them: ratios of means "
        "with 95 % intervals (of the logarithm, by the delta method and Welch's degrees of freedom"
        + ("; over tasks their geometric mean" if pooled else "")
        + "). A policy is non-inferior where the interval ends below the margin, a test at 2.5 %; open means that "
        "these runs cannot tell; a policy with a diverged run is not judged.\n\n" + table(heading, rows)
    )


def _verdict(one: NonInferiority) -> str:
    if one.verdict == DIVERGED:
        return f"{one.diverged} diverged"
    return one.verdict if one.verdict == OPEN else f"{one.verdict} at +{100 * one.margin:.3g} %"


def _beacons(task: TaskComparison) -> str:
    if task.recording is None:
        return ""
    columns: Columns = (
        ("policy", _name),
        ("saves a training, measured", lambda one: signed_seconds(one.pays_back.saved_seconds)),
        ("trainings to pay back", lambda one: trainings_words(one.pays_back.trainings)),
        ("saves, modelled", lambda one: signed_seconds(one.pays_back.saved_modelled_seconds)),
        ("trainings", lambda one: trainings_words(one.pays_back.modelled_trainings)),
    )
    needy = [one for one in task.policies if one.pays_back is not None]
    return (
        f"### What the beacons cost\n\nRecording the {task.recording.beacons} beacons of {task.env} took "
        f"{seconds_words(task.recording.seconds)} by the clock of the machine that did it, "
        f"{seconds_words(task.recording.modelled_seconds)} by the cost table, measuring included. "
        + (
            "A policy that needs them has paid them back after so many trainings, each saving the mean difference to "
            "the best fixed beacon. That one's rate and batch size are known from the same beacons, which are not "
            "charged to it here.\n\n" + _table(columns, needy)
            if needy
            else "None of these policies needs them; which fixed configuration is the best is known from them alone."
        )
    )


def _hindsight(task: TaskComparison) -> str:
    # Where only the best fixed beacon keeps one configuration, hindsight has nothing to choose from.
    if task.hindsight is None or not any(label.startswith("fixed s") for run in task.runs for label in run.labels):
        return ""
    columns: Columns = (
        ("policy", _name),
        ("gap of the mean score", lambda one: signed_words(one.gap, task.score)),
        ("relative", lambda one: UNKNOWN if math.isnan(one.relative_gap) else f"{one.relative_gap:+.1%}"),
    )
    others = [one for one in task.policies if one.policy != task.hindsight]
    return (
        f"### Gap to the best fixed configuration in hindsight\n\n{task.hindsight} "
        f"({score_words(task.hindsight_score, task.score)}), the fixed run with the lowest mean score on these very "
        "seeds, which nobody could have known before; a negative gap is better still.\n\n"
        + _table(columns, sorted(others, key=lambda one: (math.isnan(one.gap), one.gap)))
    )


def _over_tasks(aggregates: Sequence[Aggregate]) -> str:
    columns: Columns = (
        ("policy", lambda one: f"**{one.label}**" if one.judged else one.label),
        ("scope", lambda one: one.scope),
        ("tasks", lambda one: str(one.envs)),
        ("runs", lambda one: str(one.runs) + (f", {one.diverged} diverged" if one.diverged else "")),
        ("quality", lambda one: interval_words(one.quality)),
        ("time ratio, modelled", lambda one: interval_words(one.modelled_ratio)),
        ("time ratio, measured", lambda one: interval_words(one.measured_ratio)),
    )
    return (
        f"## Over all tasks\n\nInterquartile means with {LEVEL:.0%} intervals of a bootstrap stratified by task. "
        "'train' are the tasks that a learned policy's card names, 'unseen' all others; all seeds are new.\n\n"
        + _table(columns, aggregates)
    )


def _against(comparisons: Sequence[AgainstBaseline]) -> str:
    columns: Columns = (
        ("policy", lambda one: f"**{one.policy}**" + ("" if one.scope == ALL else f", {one.scope}")),
        ("baseline", lambda one: one.baseline),
        ("pairs", lambda one: str(one.pairs)),
        ("probability of improvement", lambda one: interval_words(one.improvement)),
        ("quality difference", lambda one: signed_words(one.quality)),
        ("p", lambda one: p_words(one.p_quality)),
        ("p (Holm)", lambda one: p_words(one.p_quality_holm)),
        ("time ratio difference", lambda one: signed_words(one.time)),
        ("p", lambda one: p_words(one.p_time)),
        ("p (Holm)", lambda one: p_words(one.p_time_holm)),
    )
    return (
        ""
        if not comparisons
        else (
            "## Against each baseline\n\nThe probability that a run of the policy has a higher quality than one of the "
            "baseline on the same task; mean differences of quality (above 0 the policy is better) and of the modelled "
            "time ratio (below 0 it is faster); two-sided p-values of Wilcoxon's signed-rank test over pairs of one "
            "task and seed, and the same after Holm's correction.\n\n" + _table(columns, comparisons)
        )
    )


def _runs(comparison: PolicyComparison) -> str:
    scores = {task.env: task.score for task in comparison.tasks}

    def score(run: Any) -> str:
        return score_words(getattr(run, scores[run.env]), scores[run.env]) if run.finished else run.stopped_because

    columns: Columns = (
        ("task", lambda run: run.env),
        ("policy", lambda run: f"**{run.policy}**" if run.judged else run.policy),
        ("seed", lambda run: str(run.seed)),
        ("test error", lambda run: percent_words(run.test_error)),
        ("score", score),
        ("quality", lambda run: ratio_words(run.quality)),
        ("measured time", lambda run: seconds_words(run.seconds) + ("*" if run.side_by_side > 1 else "")),
        ("modelled time", lambda run: seconds_words(run.modelled_seconds)),
        ("steps", lambda run: count_words(run.optimizer_steps)),
        ("to target", lambda run: seconds_words(run.to_target_seconds)),
        ("batch sizes", lambda run: run.batch_sizes),
    )
    runs = [run for task in comparison.tasks for run in task.runs]
    shared = " A star marks a time by the clock that runs side by side have shared."
    return (
        "## Every run\n\nPolicies in bold, baselines plain; runs.csv and runs.parquet have more of each, "
        "epochs.parquet all their epochs."
        + (shared if any(run.side_by_side > 1 for run in runs) else "")
        + "\n\n"
        + _table(columns, runs)
    )


def _name(figures: PolicyFigures) -> str:
    return f"**{figures.policy}**" if figures.judged else figures.policy


def _finished(figures: PolicyFigures) -> str:
    counts = [(figures.diverged, "diverged"), (figures.failed, "failed")]
    ended = [f"{count} {what}" for count, what in counts if count]
    return ", ".join([f"{figures.finished} of {figures.seeds}", *ended])
