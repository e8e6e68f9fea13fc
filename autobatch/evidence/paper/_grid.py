"""Tests of the claims on beacons alone: signatures, trends over the grid, early positions, where the best ones lie."""

import math

import numpy as np
from numpy.typing import NDArray

from autobatch._arrays import Floats
from autobatch.beacons import BeaconLibrary, leave_one_out
from autobatch.beacons.landscape import landscape_points
from autobatch.beacons.predict._held_out import first_progress
from autobatch.evidence.paper._claim import Found, graded
from autobatch.evidence.paper._evidence import Evidence
from autobatch.evidence.paper._statistics import (
    SIGNIFICANT,
    compactness,
    correlation_p,
    identify,
    rank_correlation,
    share_explained,
)
from autobatch.report.paper import Finals, finals, inner_sizes, measured_curves

EARLY = 0.05
"""Share of the training after which positions are called early; the paper's figure 1c has 3 % (10 epochs of 320)."""

LEAST = 6
"""Configurations that it takes to say something of all."""

_SHARES = (0.05, 0.1, 0.25, 0.5)
_STRONG, _STABLE, _SOME = 0.9, 0.8, 0.5
_TOLD, _HINTED = 0.7, 0.4


def signatures(on: Evidence) -> Found | None:
    """Whether each configuration has a place of its own in the plane."""
    from scipy.stats import binomtest

    found = identify(on.ends.by_seed)
    if found.runs < 2 * LEAST:
        return None
    p = float(binomtest(found.correct, found.runs, found.chance, "greater").pvalue)
    accuracy, apart = found.correct / found.runs, found.apart / found.pairs
    return Found(
        graded(accuracy >= _STRONG and apart >= 0.95, accuracy >= _SOME and p < 0.01),
        f"{found.correct} of {found.runs} runs ({_percent(accuracy)}, chance {_percent(found.chance)}) end "
        f"nearest to the other seeds of their own configuration; {_percent(apart)} of {found.pairs} pairs of "
        f"configurations differ by more than the seeds (Hotelling, 5 %, pooled){_left_out(on.ends)}",
        {"accuracy": accuracy, "chance": found.chance, "runs": found.runs, "p": p, "pairs_apart": apart},
    )


def trend(on: Evidence, *, side: str, figure: str, sign: int) -> Found | None:
    """How C̄ or L goes with a side of the grid, the other held; the claim is that it grows (sign 1) or falls (-1)."""
    ends, learnt = on.ends, on.ends.learnt
    along, fixed = (ends.sizes, ends.rates) if side == "batch size" else (ends.rates, ends.sizes)
    values = ends.plane[:, ("C̄", "L").index(figure)]
    own = _correlations(along, fixed, values)
    if len(own) < 2:
        return None
    able = _correlations(along[learnt], fixed[learnt], values[learnt])
    exponent = _exponent(along[learnt], fixed[learnt], values[learnt])
    figures = {"mean": own.mean(), "least": own.min(), "most": own.max(), "exponent": exponent}
    words = f"mean rank correlation {_signed(own.mean())} over {len(own)} lines"
    words += f" ({_signed(own.min())} to {_signed(own.max())})"
    judged = [own]
    if not learnt.all() and len(able):
        judged.append(able)
        figures["learnt_mean"] = able.mean()
        words += f"; {_signed(able.mean())} without the {np.sum(~learnt)} configurations that ended near guessing"
    if np.median(sign * judged[-1]) <= -_SOME:
        words += ": the opposite of the claim"
    words += f". Exponent of a power law {_signed(exponent)}{_left_out(ends)}"
    verdicts = {
        graded(both.mean() >= _STRONG and both.min() > 0.0, np.median(both) >= _SOME)
        for both in (sign * each for each in judged)
    }
    verdict = verdicts.pop() if len(verdicts) == 1 else "partly"
    return Found(verdict, words, {name: float(value) for name, value in figures.items()})


def _correlations(along: NDArray[np.generic], fixed: NDArray[np.generic], values: Floats) -> Floats:
    found = [rank_correlation(along[fixed == each], values[fixed == each]) for each in np.unique(fixed)]
    return np.array([value for value in found if math.isfinite(value)])


def _exponent(along: NDArray[np.generic], fixed: NDArray[np.generic], values: Floats) -> float:
    """Exponent of the power law along one side of the grid, the other side held: least squares within its groups."""
    x, y = np.log10(along.astype(np.float64)), values.copy()
    for each in np.unique(fixed):
        x[fixed == each] -= x[fixed == each].mean()
        y[fixed == each] -= y[fixed == each].mean()
    squares = float(np.sum(x**2))
    return float(np.sum(x * y) / squares) if squares else math.nan


def functional_relations(on: Evidence) -> Found | None:
    """Whether, at equal iterations, C̄ goes with the batch size and L with the rate."""
    found = {
        (size, rate): curves
        for size in inner_sizes(on.library)
        for rate in sorted({rate for _, rate in on.library.configurations})
        if (curves := measured_curves(on.library, size, rate)) is not None
    }
    sizes = {size for size, _ in found}
    if len(sizes) < 3 or len({rate for _, rate in found}) < 2:
        return None
    first = max(curves.mean("steps")[0] for curves in found.values())
    last = min(curves.mean("steps")[-1] for curves in found.values())
    if first >= last:
        return None
    middle = math.sqrt(first * last)
    figures = {"iteration": middle}
    for column in ("c_bar", "l_cum"):
        values = np.array([
            np.interp(math.log(middle), np.log(curves.mean("steps")), np.log(curves.mean(column)))
            for curves in found.values()
        ])
        for at, label in enumerate(("size", "rate")):
            figures[f"{column}_by_{label}"] = share_explained(values, [own[at] for own in found])
    c_by_size, c_by_rate, l_by_size, l_by_rate = list(figures.values())[1:]
    by_size, by_rate = c_by_size > c_by_rate, l_by_rate > l_by_size
    return Found(
        graded(by_size and by_rate and min(c_by_size, l_by_rate) >= _SOME, by_size or by_rate),
        f"at iteration {middle:.0f} (between {first:.0f} and {last:.0f}, which s{min(sizes)} to s{max(sizes)} "
        f"share) the batch size explains {_percent(c_by_size)} of the variance of log C̄ and the rate "
        f"{_percent(c_by_rate)}; of log L {_percent(l_by_size)} and {_percent(l_by_rate)}",
        figures,
    )


def stable_positions(on: Evidence) -> Found | None:
    """Whether early positions are ordered as the final ones."""
    ends = on.ends
    if len(ends.value) < LEAST:
        return None
    figures: dict[str, float] = {}
    words = {}
    own = list(zip(ends.sizes.tolist(), ends.rates.tolist(), strict=True))
    for share in _SHARES:
        points = landscape_points(on.library, max(share, first_progress(on.library)))
        chosen = [points.configurations.index(each) for each in own]
        words[share] = [rank_correlation(points.plane[chosen, column], ends.plane[:, column]) for column in (0, 1)]
        figures |= {f"{key}_at_{100 * share:g}": words[share][at] for at, key in enumerate(("c_bar", "l_cum"))}
    least, most = sorted(words[EARLY])
    told = ", ".join(f"{pair[0]:.2f} and {pair[1]:.2f} at {100 * share:g} %" for share, pair in words.items())
    return Found(
        graded(least >= _STABLE, most >= _STABLE or least >= _SOME),
        f"rank correlation of C̄ and of L with their final values over {len(own)} configurations: {told} of "
        f"the training; {100 * EARLY:g} % are {_steps_words(on.library)}",
        figures,
    )


def early_prediction(on: Evidence) -> Found | None:
    """Whether a configuration's final score follows from its early position and the other configurations."""
    library, count = on.library, len(on.ends.value)
    if count < 2 * LEAST:
        return None
    figures, words = {}, []
    for share in (*_SHARES, 1.0):
        found = leave_one_out(library, max(share, first_progress(library)), "nearest").rank_correlation
        figures[f"nearest_at_{100 * share:g}"] = found
        words.append(f"{found:.2f} at {100 * share:g} %")
    early = figures[f"nearest_at_{100 * EARLY:g}"]
    p, rival = correlation_p(early, count), _early_score(library)
    process = leave_one_out(library, max(EARLY, first_progress(library))).rank_correlation
    figures |= {"p_early": p, "early_score": rival, "gaussian_process_early": process}
    score = library.score.replace("_", " ")
    return Found(
        graded(p < SIGNIFICANT and early >= _TOLD, p < SIGNIFICANT and early >= _HINTED),
        f"leaving each of {count} configurations out, rank correlation of its final {score} with "
        f"that of the five nearest others is {', '.join(words)} of the training. At {100 * EARLY:g} % a Gaussian "
        f"process instead has {process:.2f}, and the {score} at that time {rival:.2f}",
        figures,
    )


def _early_score(library: BeaconLibrary) -> float:
    pairs = []
    for beacons in library.by_configuration.values():
        if all(beacon.finished for beacon in beacons):
            epoch = max(1, round(EARLY * len(beacons[0].rows["epoch"])))
            early = np.mean([beacon.rows[library.score][epoch - 1] for beacon in beacons])
            pairs.append((early, np.mean([beacon.final(library.score) for beacon in beacons])))
    known = np.array([pair for pair in pairs if np.isfinite(pair).all()]).reshape(-1, 2)
    return rank_correlation(known[:, 0], known[:, 1])


def _steps_words(library: BeaconLibrary) -> str:
    """How many steps an early position rests on: the largest batches have very few on a small set."""
    taken = [
        int(beacon.rows["steps"][max(1, round(EARLY * len(beacon.rows["epoch"]))) - 1])
        for beacon in library.beacons
        if beacon.finished
    ]
    return f"{min(taken)} to {max(taken)} steps"


def good_together(on: Evidence) -> Found | None:
    """Whether the best configurations lie close together in the plane."""
    ends = on.ends
    if ends.learnt.sum() < 2 * LEAST:
        return None
    chosen, places = _chosen(ends), _scaled(ends.plane[ends.learnt])
    grid = _scaled(np.log2(np.stack([ends.sizes[ends.learnt], ends.rates[ends.learnt]], axis=1)))
    (ratio, p), (grid_ratio, grid_p) = compactness(places, chosen), compactness(grid, chosen)
    score_ratio, score_p = compactness(places, _chosen(on.scored))
    across, along = places[chosen].mean(axis=0)
    return Found(
        graded(p < SIGNIFICANT, p < 0.2),
        f"by {ends.words}, the five lowest of {len(places)} are {ratio:.2f} times as far apart in the plane as five "
        f"drawn at random (p = {p:.2g}), in the grid of batch size and rate {grid_ratio:.2f} times "
        f"(p = {grid_p:.2g}); by {on.scored.words}, {score_ratio:.2f} times in the plane (p = {score_p:.2g}). Their "
        f"middle is at {across:.2f} of the range of log C̄ and {along:.2f} of that of log L{_collapsed(ends)}",
        {
            "distance_ratio": ratio,
            "p": p,
            "grid_distance_ratio": grid_ratio,
            "grid_p": grid_p,
            "score_distance_ratio": score_ratio,
            "score_p": score_p,
            "middle_c_bar": float(across),
            "middle_l_cum": float(along),
        },
    )


def both_ends(on: Evidence) -> Found | None:
    """Whether training loss rises toward small C̄ and large L, and the gap to validation toward the other end."""
    ends = on.ends
    train, validation = (finals(on.library, figure).value for figure in ("train_loss", "validation_loss"))
    known = ends.learnt & np.isfinite(train) & np.isfinite(validation)
    if not known.any() or (train[known] <= 0).any() or (validation[known] <= 0).any():
        return None
    lean = ends.plane[:, 1] - ends.plane[:, 0]
    middle = float(np.median(lean[ends.top]))
    upper, lower = known & (lean > middle), known & (lean < middle)
    if min(upper.sum(), lower.sum()) < LEAST:
        return None
    gap = np.log(validation / np.where(known, train, 1.0))
    poorly = rank_correlation(lean[upper], train[upper])
    apart, under = rank_correlation(-lean[lower], gap[lower]), rank_correlation(-lean[lower], train[lower])
    found = [
        value >= _SOME and correlation_p(value, int(side.sum())) < SIGNIFICANT
        for value, side in ((poorly, upper), (apart, lower))
    ]
    short = ": at that end it is the training that falls short here" if under >= _SOME and not found[1] else ""
    return Found(
        graded(all(found), any(found)),
        f"beyond the best five toward large L, rank correlation of that way with the training loss "
        f"{_signed(poorly)} ({upper.sum()} configurations); toward large C̄, with validation over training loss "
        f"{_signed(apart)}, and with the training loss itself {_signed(under)} ({lower.sum()}){short}"
        f"{_collapsed(ends)}",
        {"train_loss_up": poorly, "gap_down": apart, "train_loss_down": under},
    )


def similar_ratio(on: Evidence) -> Found | None:
    """Whether the best configurations have similar ratios of rate to batch size."""
    ends = on.ends
    if ends.learnt.sum() < 2 * LEAST:
        return None
    ratios, chosen = np.log2(ends.rates[ends.learnt] / ends.sizes[ends.learnt]), _chosen(ends)
    closeness, p = compactness(ratios[:, None], chosen)
    low, high = float(2.0 ** ratios[chosen].min()), float(2.0 ** ratios[chosen].max())
    return Found(
        graded(p < SIGNIFICANT, p < 0.2),
        f"their ratios lie between {low:.2g} and {high:.2g} ({closeness:.2f} times as far apart, in "
        f"logarithms, as those of five drawn at random, p = {p:.2g}); all {len(ratios)} between "
        f"{2.0 ** ratios.min():.2g} and {2.0 ** ratios.max():.2g}",
        {"distance_ratio": closeness, "p": p, "least": low, "greatest": high},
    )


def _chosen(ends: Finals) -> NDArray[np.intp]:
    """The best configurations, counted among those that learnt."""
    return np.array([int(ends.learnt[:index].sum()) for index in ends.top if ends.learnt[index]], dtype=np.intp)


def _scaled(values: Floats) -> Floats:
    span = np.ptp(values, axis=0)
    return np.asarray((values - values.min(axis=0)) / np.where(span > 0.0, span, 1.0))


def _left_out(ends: Finals, collapsed: int = 0) -> str:
    told = [f"{collapsed} that ended near guessing"] if collapsed else []
    told += [f"{len(ends.diverged)} that diverged"] if ends.diverged else []
    return f". Left out: {' and '.join(told)}" if told else ""


def _collapsed(ends: Finals) -> str:
    return _left_out(ends, int(np.sum(~ends.learnt)))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if math.isfinite(value) else "unknown"
