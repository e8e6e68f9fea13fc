"""Claims on dynamic sampling: it travels, small to large is better, -MS limits L, and Table 1."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.evidence.paper._claim import Claim, Seen
from autobatch.evidence.paper._statistics import above_zero, welch
from autobatch.report.paper import (
    Curves,
    Floats,
    beacon_curves,
    fixed_name,
    measured,
    named_stages,
    policy_curves,
)

if TYPE_CHECKING:
    import pyarrow as pa

_LEVEL = 0.05
_SHARES = (0.05, 0.5, 1.0)
_LEAST_WAY = 0.1


@dataclass(frozen=True, eq=False)
class Policies:
    """The runs of a comparison, by policy.

    Attributes:
        library: the beacons of the task.
        curves: epochs of the runs that reached the end.
        test_error: final test errors of the finished runs.
        score: their final scores.
        clock: their seconds by the clock, measuring not counted.
        side_by_side: whether runs trained beside others, so that the clock says little.
        ended_early: runs that did not finish; they are in none of the others.
    """

    library: BeaconLibrary
    curves: Mapping[str, Curves]
    test_error: Mapping[str, Floats]
    score: Mapping[str, Floats]
    clock: Mapping[str, Floats]
    side_by_side: bool
    ended_early: int

    @classmethod
    def read(cls, library: BeaconLibrary, runs: "pa.Table | None", epochs: "pa.Table | None") -> "Policies":
        """Return the runs of a comparison.

        Args:
            library: the beacons of the task.
            runs: the comparison's table of runs, or None.
            epochs: its table of epochs, or None.

        Returns:
            The runs; those that ended early are left out.
        """
        every = runs.to_pylist() if runs is not None else []
        rows = [row for row in every if row["stopped_because"] == "finished"]
        names = list(dict.fromkeys(row["policy"] for row in rows))
        own = {name: [row for row in rows if row["policy"] == name] for name in names}

        def columns(value: str) -> dict[str, Floats]:
            return {name: np.array([row[value] for row in each], dtype=np.float64) for name, each in own.items()}

        measuring = columns("measuring_seconds")
        clock = {name: each - np.nan_to_num(measuring[name]) for name, each in columns("seconds").items()}
        return cls(
            library=library,
            curves=policy_curves(epochs),
            test_error={name: errors for name, errors in columns("test_error").items() if np.isfinite(errors).all()},
            score=columns(library.score),
            clock=clock,
            side_by_side=any(row["side_by_side"] > 1 for row in rows),
            ended_early=len(every) - len(rows),
        )

    def training_seconds(self, name: str) -> tuple[float, bool]:
        """Return a policy's mean seconds of training, and whether they are modelled by the task's cost table."""
        modelled = _modelled(self.curves.get(name), self.library.costs)
        return (modelled, True) if modelled is not None else (float(self.clock[name].mean()), False)


def sampling_claims(library: BeaconLibrary, runs: "pa.Table | None", epochs: "pa.Table | None") -> list[Claim]:
    """Return the claims that need the runs of a comparison.

    Args:
        library: the beacons of the task.
        runs: the comparison's table of runs, or None.
        epochs: its table of epochs, or None.

    Returns:
        The claims, in the order of the paper.
    """
    policies = Policies.read(library, runs, epochs)
    claims = [travels(policies), small_to_large(policies), ms_limits(policies), table_1(policies)]
    if runs is None and epochs is None:
        return [replace(claim, sentence="no comparison of policies on this task") for claim in claims]
    early = f". Left out: {policies.ended_early} runs that ended early" if policies.ended_early else ""
    return [replace(claim, sentence=claim.sentence + early) for claim in claims]


def travels(policies: Policies) -> Claim:
    """Judge whether dynamic sampling moves from the curve of its first batch size toward that of its last."""
    claim = Claim(
        name="dynamic sampling travels",
        section="3.2, 4.3",
        statement="it moves C̄ and L from the beacons of its first batch size toward those of its last",
        paper="by eye, Fig. 1d, 5",
        verdict="not tested",
        sentence="needs two runs of dynamic sampling, measured, whose first and last batch size have beacons",
    )
    figures: dict[str, float] = {}
    words, moved = [], []
    for curves in policies.curves.values():
        ways = _ways(policies.library, curves)
        if ways is None:
            continue
        parts = []
        for column, name, key in ((0, "C̄", "c_bar"), (1, "L", "l_cum")):
            final = ways[-1][:, column]
            p = above_zero(final)
            moved.append(final.mean() > _LEAST_WAY and p < _LEVEL)
            figures |= {
                f"{curves.name}_{key}_at_{100 * share:g}": float(way[:, column].mean())
                for share, way in zip(_SHARES, ways, strict=True)
            }
            figures[f"{curves.name}_{key}_p"] = p
            told = ", ".join(f"{100 * way[:, column].mean():.0f} %" for way in ways).replace("-", "−")
            parts.append(f"{name} {told} ({_p_words(p)})")
        words.append(f"{curves.name} ({len(curves.seeds)} seeds): {'; '.join(parts)}")
    if not words:
        return claim
    verdict: Seen = "seen" if all(moved) else "partly" if any(moved) else "not seen"
    shares = ", ".join(f"{100 * share:g}" for share in _SHARES)
    return replace(
        claim,
        verdict=verdict,
        sentence=f"way from the first size's beacons to the last one's, in logarithms, after {shares} % of training. "
        + ". ".join(words),
        figures=figures,
    )


def _ways(library: BeaconLibrary, curves: Curves) -> list[Floats] | None:
    """Fraction of the way in (log C̄, log L) at each share, shape (seeds, 2) each."""
    if curves.stages is None or len(curves.seeds) < 2 or not measured(curves):
        return None
    first = beacon_curves(library, curves.stages.first, float(curves["lr"][0, 0]))
    last = beacon_curves(library, curves.stages.last, float(curves["lr"][0, -1]))
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


def small_to_large(policies: Policies) -> Claim:
    """Judge whether growing batches end at a lower error than shrinking ones."""
    claim = Claim(
        name="small to large",
        section="4.3",
        statement="growing the batch ends at a lower test error than shrinking it over the same sizes",
        paper="s32-to-512 5.07 ± 0.21 %, s512-to-32 5.56 ± 0.09 %, p = 0.0037 (ResNet, CIFAR-10)",
        verdict="not tested",
        sentence="needs sA-to-B and sB-to-A",
    )
    named = {stages: name for name in policies.test_error if (stages := named_stages(name)) is not None}
    pairs = [
        (name, named[mirrored])
        for stages, name in named.items()
        if stages.first < stages.last and (mirrored := stages._replace(first=stages.last, last=stages.first)) in named
    ]
    figures: dict[str, float] = {}
    words, verdicts = [], []
    for up, down in pairs:
        ours, theirs = policies.test_error[up], policies.test_error[down]
        p = welch(ours, theirs)
        better = bool(ours.mean() < theirs.mean())
        verdicts.append("seen" if better and p < _LEVEL else "partly" if better else "not seen")
        times = [policies.training_seconds(name)[0] for name in (up, down)]
        figures |= {f"{up}_error": float(ours.mean()), f"{down}_error": float(theirs.mean()), f"{up}_p": p}
        figures[f"{up}_time_ratio"] = times[0] / times[1]
        words.append(f"{up} {spread_words(ours)}, {down} {spread_words(theirs)}, {_p_words(p)}")
        words[-1] += f"; {times[0] / times[1]:.2f} times its time"
    return _judged(claim, verdicts, words, figures)


def ms_limits(policies: Policies) -> Claim:
    """Judge whether -MS ends at a lower L than plain dynamic sampling over the same sizes."""
    claim = Claim(
        name="-MS limits L",
        section="4.3",
        statement="running the sizes anew within each rate keeps L lower than running them once, at a similar C̄",
        paper="by eye, Fig. 5",
        verdict="not tested",
        sentence="needs sA-to-B and sA-to-B-ms with measured positions",
    )
    named = {
        stages: curves
        for curves in policies.curves.values()
        if (stages := curves.stages) is not None and measured(curves)
    }
    figures: dict[str, float] = {}
    words, verdicts = [], []
    for stages, plain in named.items():
        within = named.get(stages._replace(within_rates=True))
        if within is None or within is plain:
            continue
        logs = [np.log(curves.at("l_cum", 1.0)) for curves in (within, plain)]
        p = welch(*logs)
        ratio = math.exp(float(logs[0].mean() - logs[1].mean()))
        c_ratio = float(np.exp(np.mean(np.log(within.at("c_bar", 1.0))) - np.mean(np.log(plain.at("c_bar", 1.0)))))
        verdicts.append("seen" if ratio < 1.0 and p < _LEVEL else "partly" if ratio < 1.0 else "not seen")
        figures |= {f"{within.name}_l_ratio": ratio, f"{within.name}_c_ratio": c_ratio, f"{within.name}_p": p}
        words.append(
            f"{within.name}: final L {ratio:.2f} times that of {plain.name} ({_p_words(p)}; "
            f"{len(within.seeds)} and {len(plain.seeds)} seeds), C̄ {c_ratio:.2f} times"
        )
    return _judged(claim, verdicts, words, figures)


def table_1(policies: Policies) -> Claim:
    """Judge whether dynamic sampling is faster than the best beacon at a similar error."""
    claim = Claim(
        name="time and accuracy",
        section="4.3, Table 1",
        statement="dynamic sampling trains faster than the best beacon, to a similar or lower test error",
        paper="0.88 to 0.99 times the time on CIFAR and SVHN, 0.23 to 0.79 on MNIST; p of the errors 0.002 to 0.78",
        verdict="not tested",
        sentence="needs fixed runs and runs of dynamic sampling, two seeds of each",
    )
    best = {
        kind: min(own, key=lambda name: policies.score[name].mean()) for kind, own in _kinds(policies).items() if own
    }
    beacon = best.pop("beacon", None)
    if beacon is None or not best:
        return claim
    theirs = policies.test_error[beacon]
    clocks = {name: float(policies.clock[name].mean()) for name in (beacon, *best.values())}
    known = {name: policies.training_seconds(name) for name in clocks}
    modelled = all(is_modelled for _, is_modelled in known.values())
    times = {name: seconds for name, (seconds, _) in known.items()} if modelled else clocks
    figures: dict[str, float] = {"beacon_error": float(theirs.mean())}
    words, verdicts = [f"best beacon {beacon} {spread_words(theirs)}"], []
    for kind, name in best.items():
        ours = policies.test_error[name]
        p, ratio, clock = welch(ours, theirs), times[name] / times[beacon], clocks[name] / clocks[beacon]
        worse = bool(ours.mean() > theirs.mean() and p < _LEVEL)
        faster = ratio < 1.0
        verdicts.append("seen" if faster and not worse else "partly" if faster or not worse else "not seen")
        figures |= {f"{kind}_error": float(ours.mean()), f"{kind}_p": p, f"{kind}_time": ratio, f"{kind}_clock": clock}
        words.append(
            f"{name} {spread_words(ours)}, {_p_words(p)}, {ratio:.2f} times the time ({clock:.2f} by the clock)"
        )
    how = "training steps at the prices of the cost table" if modelled else "by the clock"
    beside = ", runs side by side" if policies.side_by_side else ""
    claim = _judged(claim, verdicts, words, figures)
    return replace(
        claim, sentence=f"{claim.sentence}. Time: {how}, measuring not counted{beside}; chosen by validation"
    )


def _kinds(policies: Policies) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {"beacon": [], "plain": [], "ms": []}
    for name in (name for name, errors in policies.test_error.items() if len(errors) > 1):
        stages = named_stages(name)
        if stages is not None:
            kinds["ms" if stages.within_rates else "plain"].append(name)
        elif fixed_name(name):
            kinds["beacon"].append(name)
    return kinds


def _modelled(curves: Curves | None, costs: CostTable | None) -> float | None:
    """Mean seconds of training by a cost table, without measuring; None where the table lacks a batch size."""
    if curves is None or costs is None:
        return None
    sizes = curves["batch_size"].astype(np.int64)
    if not set(np.unique(sizes).tolist()) <= set(costs.step_seconds):
        return None
    steps = np.diff(curves["steps"], axis=1, prepend=0.0).round().astype(np.int64)
    totals = [
        sum(costs.training_seconds(int(size), int(count), epochs=1) for size, count in zip(own, each, strict=True))
        for own, each in zip(sizes, steps, strict=True)
    ]
    return float(np.mean(totals))


def _judged(claim: Claim, verdicts: list[str], words: list[str], figures: dict[str, float]) -> Claim:
    if not verdicts:
        return claim
    verdict: Seen = "seen" if set(verdicts) == {"seen"} else "not seen" if set(verdicts) == {"not seen"} else "partly"
    return replace(claim, verdict=verdict, sentence=". ".join(words), figures=figures)


def spread_words(errors: Floats) -> str:
    """Return errors as ``1.05 ± 0.22 % (5 seeds)``."""
    spread = f" ± {100 * errors.std(ddof=1):.2f}" if len(errors) > 1 else ""
    return f"{100 * errors.mean():.2f}{spread} % ({len(errors)} seed{'s' if len(errors) > 1 else ''})"


def _p_words(p: float) -> str:
    return f"p = {p:.2g}" if math.isfinite(p) else "too few seeds for a test"
