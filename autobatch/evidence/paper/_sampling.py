"""Tests of the claims on dynamic sampling: it travels, small to large is better, -MS limits L, and Table 1."""

import math

import numpy as np

from autobatch._arrays import Floats
from autobatch.evidence.paper._claim import Found, Seen, graded
from autobatch.evidence.paper._evidence import Evidence
from autobatch.evidence.paper._statistics import SIGNIFICANT, above_zero, welch
from autobatch.report.paper import Curves, beacon_curves, fixed_name, measured, named_stages

_SHARES = (0.05, 0.5, 1.0)
_LEAST_WAY = 0.1


def travels(on: Evidence) -> Found | None:
    """Whether dynamic sampling moves from the curve of its first batch size toward that of its last."""
    figures: dict[str, float] = {}
    words, moved = [], []
    for curves in on.curves.values():
        ways = _ways(on, curves)
        if ways is None:
            continue
        parts = []
        for column, name, key in ((0, "C̄", "c_bar"), (1, "L", "l_cum")):
            final, means = ways[-1][:, column], [float(way[:, column].mean()) for way in ways]
            p = above_zero(final)
            moved.append(means[-1] > _LEAST_WAY and p < SIGNIFICANT)
            at = zip(_SHARES, means, strict=True)
            figures |= {f"{curves.name}_{key}_at_{100 * share:g}": mean for share, mean in at}
            figures[f"{curves.name}_{key}_p"] = p
            told = ", ".join(f"{100 * mean:.0f} %" for mean in means).replace("-", "−")
            parts.append(f"{name} {told} ({_p_words(p)})")
        words.append(f"{curves.name} ({len(curves.seeds)} seeds): {'; '.join(parts)}")
    if not words:
        return None
    shares = ", ".join(f"{100 * share:g}" for share in _SHARES)
    told = f"way from the first size's beacons to the last one's, in logarithms, after {shares} % of training. "
    return Found(graded(all(moved), any(moved)), told + ". ".join(words), figures)


def _ways(on: Evidence, curves: Curves) -> list[Floats] | None:
    """Fraction of the way in (log C̄, log L) at each share, shape (seeds, 2) each."""
    if curves.stages is None or len(curves.seeds) < 2 or not measured(curves):
        return None
    first = beacon_curves(on.library, curves.stages.first, float(curves["lr"][0, 0]))
    last = beacon_curves(on.library, curves.stages.last, float(curves["lr"][0, -1]))
    if first is None or last is None:
        return None
    ways = []
    for share in _SHARES:
        here, start, end = (
            np.log10(np.stack([each.at("c_bar", share), each.at("l_cum", share)], axis=1))
            for each in (curves, first, last)
        )
        ways.append((here - start.mean(axis=0)) / (end.mean(axis=0) - start.mean(axis=0)))
    return ways


def small_to_large(on: Evidence) -> Found | None:
    """Whether growing batches end at a lower error than shrinking ones."""
    named = {stages: name for name in on.test_error if (stages := named_stages(name)) is not None}
    figures: dict[str, float] = {}
    words, verdicts = [], []
    for stages, up in named.items():
        down = named.get(stages._replace(first=stages.last, last=stages.first))
        if stages.first >= stages.last or down is None:
            continue
        ours, theirs = on.test_error[up], on.test_error[down]
        p, better = welch(ours, theirs), ours.mean() < theirs.mean()
        verdicts.append(graded(better and p < SIGNIFICANT, better))
        ratio = on.training_seconds(up)[0] / on.training_seconds(down)[0]
        figures |= {f"{up}_error": float(ours.mean()), f"{down}_error": float(theirs.mean()), f"{up}_p": p}
        figures[f"{up}_time_ratio"] = ratio
        words.append(f"{up} {spread_words(ours)}, {down} {spread_words(theirs)}, {_p_words(p)}; {ratio:.2f}")
        words[-1] += " times its time"
    return Found(_together(verdicts), ". ".join(words), figures) if verdicts else None


def ms_limits(on: Evidence) -> Found | None:
    """Whether -MS ends at a lower L than plain dynamic sampling over the same sizes."""
    named = {own.stages: own for own in on.curves.values() if own.stages is not None and measured(own)}
    figures: dict[str, float] = {}
    words, verdicts = [], []
    for stages, plain in named.items():
        within = named.get(stages._replace(within_rates=True))
        if within is None or within is plain:
            continue
        c_bar, l_cum = ([np.log(own.at(key, 1.0)) for own in (within, plain)] for key in ("c_bar", "l_cum"))
        p = welch(*l_cum)
        c_ratio, ratio = (math.exp(float(ours.mean() - theirs.mean())) for ours, theirs in (c_bar, l_cum))
        verdicts.append(graded(ratio < 1.0 and p < SIGNIFICANT, ratio < 1.0))
        figures |= {f"{within.name}_l_ratio": ratio, f"{within.name}_c_ratio": c_ratio, f"{within.name}_p": p}
        words.append(
            f"{within.name}: final L {ratio:.2f} times that of {plain.name} ({_p_words(p)}; "
            f"{len(within.seeds)} and {len(plain.seeds)} seeds), C̄ {c_ratio:.2f} times"
        )
    return Found(_together(verdicts), ". ".join(words), figures) if verdicts else None


def table_1(on: Evidence) -> Found | None:
    """Whether dynamic sampling is faster than the best beacon at a similar error."""
    best = {kind: min(own, key=lambda name: on.score[name].mean()) for kind, own in _kinds(on).items() if own}
    beacon = best.pop("beacon", None)
    if beacon is None or not best:
        return None
    theirs = on.test_error[beacon]
    clocks = {name: float(on.clock[name].mean()) for name in (beacon, *best.values())}
    known = {name: on.training_seconds(name) for name in clocks}
    modelled = all(is_modelled for _, is_modelled in known.values())
    times = {name: seconds for name, (seconds, _) in known.items()} if modelled else clocks
    figures: dict[str, float] = {"beacon_error": float(theirs.mean())}
    words, verdicts = [f"best beacon {beacon} {spread_words(theirs)}"], []
    for kind, name in best.items():
        ours = on.test_error[name]
        p, ratio, clock = welch(ours, theirs), times[name] / times[beacon], clocks[name] / clocks[beacon]
        faster, no_worse = ratio < 1.0, not (ours.mean() > theirs.mean() and p < SIGNIFICANT)
        verdicts.append(graded(faster and no_worse, faster or no_worse))
        figures |= {f"{kind}_error": float(ours.mean()), f"{kind}_p": p, f"{kind}_time": ratio, f"{kind}_clock": clock}
        words.append(
            f"{name} {spread_words(ours)}, {_p_words(p)}, {ratio:.2f} times the time ({clock:.2f} by the clock)"
        )
    how = "training steps at the prices of the cost table" if modelled else "by the clock"
    beside = ", runs side by side" if on.side_by_side else ""
    words.append(f"Time: {how}, measuring not counted{beside}; chosen by validation")
    return Found(_together(verdicts), ". ".join(words), figures)


def _kinds(on: Evidence) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {"beacon": [], "plain": [], "ms": []}
    for name in (name for name, errors in on.test_error.items() if len(errors) > 1):
        stages = named_stages(name)
        if stages is not None:
            kinds["ms" if stages.within_rates else "plain"].append(name)
        elif fixed_name(name):
            kinds["beacon"].append(name)
    return kinds


def _together(verdicts: list[Seen]) -> Seen:
    return verdicts[0] if len(set(verdicts)) == 1 else "partly"


def spread_words(errors: Floats) -> str:
    """Return errors as ``1.05 ± 0.22 % (5 seeds)``."""
    spread = f" ± {100 * errors.std(ddof=1):.2f}" if len(errors) > 1 else ""
    return f"{100 * errors.mean():.2f}{spread} % ({len(errors)} seed{'s' if len(errors) > 1 else ''})"


def _p_words(p: float) -> str:
    return f"p = {p:.2g}" if math.isfinite(p) else "too few seeds for a test"
