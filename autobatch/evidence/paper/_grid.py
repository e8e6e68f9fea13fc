"""Claims on beacons alone: signatures, trends over the grid, early positions, and where the best ones lie."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autobatch.beacons import BeaconLibrary, leave_one_out
from autobatch.beacons.landscape import landscape_points
from autobatch.evidence.paper._claim import Claim, Seen
from autobatch.evidence.paper._statistics import (
    compactness,
    correlation_p,
    identify,
    rank_correlation,
    share_explained,
)
from autobatch.report.paper import Finals, Floats, beacon_curves, finals, inner_sizes, measured

EARLY = 0.05
"""Share of the training after which positions are called early; the paper's figure 1c has 3 % (10 epochs of 320)."""

_SHARES = (0.05, 0.1, 0.25, 0.5)
_LEAST = 6
_STRONG, _STABLE, _SOME = 0.9, 0.8, 0.5
_TOLD, _HINTED = 0.7, 0.4


def grid_claims(library: BeaconLibrary, ends: Finals) -> list[Claim]:
    """Return the claims that need no comparison, in the order of the paper.

    Args:
        library: the beacons.
        ends: where they end.

    Returns:
        The claims.
    """
    claims = [signatures(ends), *trends(ends), functional_relations(library)]
    claims += [stable_positions(library, ends), early_prediction(library, ends)]
    claims += [good_together(ends, finals(library, library.score)), similar_ratio(ends)]
    return [*claims, both_ends(library, ends)]


def signatures(ends: Finals) -> Claim:
    """Judge whether each configuration has a place of its own in the plane."""
    claim = Claim(
        name="unique signatures",
        section="4.1, observation 1",
        statement="every configuration ends at a place of its own in the plane",
        paper="no two overlap (by eye, Fig. 3)",
        verdict="not tested",
        sentence=f"needs {_LEAST} configurations with two seeds",
    )
    found = identify(ends.by_seed)
    if found.runs < 2 * _LEAST:
        return claim
    from scipy.stats import binomtest

    p = float(binomtest(found.correct, found.runs, found.chance, "greater").pvalue)
    accuracy, apart = found.correct / found.runs, found.apart / found.pairs
    verdict: Seen = "not seen"
    if accuracy >= _STRONG and apart >= 0.95:
        verdict = "seen"
    elif accuracy >= _SOME and p < 0.01:
        verdict = "partly"
    return replace(
        claim,
        verdict=verdict,
        sentence=f"{found.correct} of {found.runs} runs ({_percent(accuracy)}, chance {_percent(found.chance)}) end "
        f"nearest to the other seeds of their own configuration; {_percent(apart)} of {found.pairs} pairs of "
        f"configurations differ by more than the seeds (Hotelling, 5 %, pooled){_left_out(ends)}",
        figures={"accuracy": accuracy, "chance": found.chance, "runs": found.runs, "p": p, "pairs_apart": apart},
    )


def trends(ends: Finals) -> list[Claim]:
    """Judge how C̄ and L go with the batch size at a fixed rate, and with the rate at a fixed batch size."""
    sizes = ends.sizes.astype(np.float64)
    claims = []
    for side, along, fixed, section in (
        ("batch size", sizes, ends.rates, "4.1, observation 2"),
        ("rate", ends.rates, sizes, "4.1, observation 3"),
    ):
        for column, name in enumerate(("C̄", "L")):
            sign = -1 if (side, name) == ("batch size", "L") else 1
            other = "rate" if side == "batch size" else "batch size"
            claim = Claim(
                name=f"{name} and the {side}",
                section=section,
                statement=f"at a fixed {other} {name} {'grows' if sign > 0 else 'falls'} with the {side}",
                paper="by eye, Fig. 3",
                verdict="not tested",
                sentence=f"needs two lines of three points each, along the {side}",
            )
            claims.append(_trend(ends, claim, along, fixed, column=column, sign=sign))
    return claims


def _trend(ends: Finals, claim: Claim, along: Floats, fixed: Floats, *, column: int, sign: int) -> Claim:
    values, learnt = ends.plane[:, column], ends.learnt
    own = _correlations(along, fixed, values)
    if len(own) < 2:
        return claim
    able = _correlations(along[learnt], fixed[learnt], values[learnt])
    exponent = _exponent(along[learnt], fixed[learnt], values[learnt])
    figures = {"mean": own.mean(), "least": own.min(), "most": own.max(), "exponent": exponent}
    words = f"mean rank correlation {_signed(own.mean())} over {len(own)} lines"
    words += f" ({_signed(own.min())} to {_signed(own.max())})"
    on_all = on_learnt = _trend_verdict(sign * own)
    judged = own
    if not learnt.all() and len(able):
        judged, on_learnt = able, _trend_verdict(sign * able)
        figures["learnt_mean"] = able.mean()
        words += f"; {_signed(able.mean())} without the {np.sum(~learnt)} configurations that ended near guessing"
    if np.median(sign * judged) <= -_SOME:
        words += ": the opposite of the claim"
    words += f". Exponent of a power law {_signed(exponent)}"
    verdict: Seen = on_all if on_all == on_learnt else "partly"
    return replace(
        claim,
        verdict=verdict,
        sentence=words + _left_out(ends),
        figures={name: float(value) for name, value in figures.items()},
    )


def _correlations(along: Floats, fixed: Floats, values: Floats) -> Floats:
    found = [rank_correlation(along[fixed == each], values[fixed == each]) for each in np.unique(fixed)]
    return np.array([value for value in found if math.isfinite(value)])


def _exponent(along: Floats, fixed: Floats, values: Floats) -> float:
    """Exponent of the power law along one side of the grid, the other side held: least squares within its groups."""
    across = np.log10(along)
    inner_x, inner_y = across.copy(), values.copy()
    for each in np.unique(fixed):
        own = fixed == each
        inner_x[own] -= across[own].mean()
        inner_y[own] -= values[own].mean()
    squares = float(np.sum(inner_x**2))
    return float(np.sum(inner_x * inner_y) / squares) if squares else math.nan


def _trend_verdict(correlations: Floats) -> Seen:
    if not len(correlations):
        return "not seen"
    if correlations.mean() >= _STRONG and correlations.min() > 0.0:
        return "seen"
    return "partly" if np.median(correlations) >= _SOME else "not seen"


def functional_relations(library: BeaconLibrary) -> Claim:
    """Judge whether, at equal iterations, C̄ goes with the batch size and L with the rate."""
    claim = Claim(
        name="functional relations",
        section="4.2",
        statement="at equal iterations C̄ clusters by batch size and L by rate",
        paper="by eye, Fig. 4",
        verdict="not tested",
        sentence="needs three batch sizes and two rates whose iterations overlap",
    )
    rates = sorted({rate for _, rate in library.configurations})
    found = {
        (size, rate): curves
        for size in inner_sizes(library)
        for rate in rates
        if (curves := beacon_curves(library, size, rate)) is not None and measured(curves)
    }
    sizes = {size for size, _ in found}
    if len(sizes) < 3 or len({rate for _, rate in found}) < 2:
        return claim
    first = max(curves.mean("steps")[0] for curves in found.values())
    last = min(curves.mean("steps")[-1] for curves in found.values())
    if first >= last:
        return claim
    labels = np.array([size for size, _ in found]), np.array([rate for _, rate in found])
    middle = math.sqrt(first * last)
    shares = {}
    for column in ("c_bar", "l_cum"):
        values = np.array([
            np.interp(math.log(middle), np.log(curves.mean("steps")), np.log(curves.mean(column)))
            for curves in found.values()
        ])
        shares[column] = [share_explained(values, own) for own in labels]
    verdict: Seen = "not seen"
    by_size, by_rate = shares["c_bar"][0] > shares["c_bar"][1], shares["l_cum"][1] > shares["l_cum"][0]
    if by_size and by_rate:
        verdict = "seen" if min(shares["c_bar"][0], shares["l_cum"][1]) >= _SOME else "partly"
    elif by_size or by_rate:
        verdict = "partly"
    return replace(
        claim,
        verdict=verdict,
        sentence=f"at iteration {middle:.0f} (between {first:.0f} and {last:.0f}, which s{min(sizes)} to s{max(sizes)} "
        f"share) the batch size explains {_percent(shares['c_bar'][0])} of the variance of log C̄ and the rate "
        f"{_percent(shares['c_bar'][1])}; of log L {_percent(shares['l_cum'][0])} and {_percent(shares['l_cum'][1])}",
        figures={
            "iteration": middle,
            "c_bar_by_size": shares["c_bar"][0],
            "c_bar_by_rate": shares["c_bar"][1],
            "l_cum_by_size": shares["l_cum"][0],
            "l_cum_by_rate": shares["l_cum"][1],
        },
    )


def stable_positions(library: BeaconLibrary, ends: Finals) -> Claim:
    """Judge whether early positions are ordered as the final ones."""
    claim = Claim(
        name="stable positions",
        section="1, 3.1",
        statement="relative positions are stable from the first epochs on",
        paper="by eye, Fig. 1c, 2",
        verdict="not tested",
        sentence=f"needs {_LEAST} configurations",
    )
    if len(ends.value) < _LEAST:
        return claim
    figures: dict[str, float] = {}
    words = {}
    own = list(zip(ends.sizes.tolist(), ends.rates.tolist(), strict=True))
    for share in _SHARES:
        points = landscape_points(library, max(share, _first_row(library)))
        chosen = [points.configurations.index(each) for each in own]
        pair = [rank_correlation(points.plane[chosen, column], ends.plane[:, column]) for column in (0, 1)]
        figures |= {f"c_bar_at_{100 * share:g}": pair[0], f"l_cum_at_{100 * share:g}": pair[1]}
        words[share] = pair
    least, most = sorted(words[EARLY])
    verdict: Seen = "seen" if least >= _STABLE else "partly" if most >= _STABLE or least >= _SOME else "not seen"
    told = ", ".join(f"{pair[0]:.2f} and {pair[1]:.2f} at {100 * share:g} %" for share, pair in words.items())
    return replace(
        claim,
        verdict=verdict,
        sentence=f"rank correlation of C̄ and of L with their final values over {len(own)} configurations: {told} of "
        f"the training; {100 * EARLY:g} % are {_steps_words(library)}",
        figures=figures,
    )


def early_prediction(library: BeaconLibrary, ends: Finals) -> Claim:
    """Judge whether a configuration's final score follows from its early position and the other configurations."""
    claim = Claim(
        name="early prediction",
        section="1, 3.1",
        statement="early positions tell how well a new configuration will end",
        paper="stated, no figure",
        verdict="not tested",
        sentence=f"needs {2 * _LEAST} configurations",
    )
    if len(ends.value) < 2 * _LEAST:
        return claim
    figures, words = {}, []
    for share in (*_SHARES, 1.0):
        found = leave_one_out(library, max(share, _first_row(library)), "nearest").rank_correlation
        figures[f"nearest_at_{100 * share:g}"] = found
        words.append(f"{found:.2f} at {100 * share:g} %")
    early = figures[f"nearest_at_{100 * EARLY:g}"]
    p, rival = correlation_p(early, len(ends.value)), _early_score(library)
    process = leave_one_out(library, max(EARLY, _first_row(library))).rank_correlation
    figures |= {"p_early": p, "early_score": rival, "gaussian_process_early": process}
    verdict: Seen = "not seen"
    if p < 0.05:
        verdict = "seen" if early >= _TOLD else "partly" if early >= _HINTED else "not seen"
    score = library.score.replace("_", " ")
    return replace(
        claim,
        verdict=verdict,
        sentence=f"leaving each of {len(ends.value)} configurations out, rank correlation of its final {score} with "
        f"that of the five nearest others is {', '.join(words)} of the training. At {100 * EARLY:g} % a Gaussian "
        f"process instead has {process:.2f}, and the {score} at that time {rival:.2f}",
        figures=figures,
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


def _first_row(library: BeaconLibrary) -> float:
    return max(float(beacon.rows["progress"][0]) for beacon in library.beacons)


def good_together(ends: Finals, scored: Finals) -> Claim:
    """Judge whether the best configurations lie close together in the plane."""
    claim = Claim(
        name="the good lie together",
        section="1, Fig. 1b",
        statement="the five configurations with the lowest error lie together in one optimum region of the plane",
        paper="by eye, Fig. 1b, 3",
        verdict="not tested",
        sentence=f"needs {2 * _LEAST} configurations that learnt",
    )
    if ends.learnt.sum() < 2 * _LEAST:
        return claim
    chosen, places = _chosen(ends), _scaled(ends.plane[ends.learnt])
    grid = _scaled(np.log2(np.stack([ends.sizes[ends.learnt], ends.rates[ends.learnt]], axis=1)))
    ratio, p = compactness(places, chosen)
    grid_ratio, grid_p = compactness(grid, chosen)
    score_ratio, score_p = compactness(places, _chosen(scored))
    across, along = places[chosen].mean(axis=0)
    verdict: Seen = "seen" if p < 0.05 else "partly" if p < 0.2 else "not seen"
    words = (
        f"by {ends.words}, the five lowest of {len(places)} are {ratio:.2f} times as far apart in the plane as five "
    )
    words += f"drawn at random (p = {p:.2g}), in the grid of batch size and rate {grid_ratio:.2f} times "
    words += f"(p = {grid_p:.2g}); by {scored.words}, {score_ratio:.2f} times in the plane (p = {score_p:.2g}). Their "
    words += f"middle is at {across:.2f} of the range of log C̄ and {along:.2f} of that of log L{_collapsed(ends)}"
    return replace(
        claim,
        verdict=verdict,
        sentence=words,
        figures={
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


def both_ends(library: BeaconLibrary, ends: Finals) -> Claim:
    """Judge whether training loss rises toward small C̄ and large L, and the gap to validation toward the other end."""
    claim = Claim(
        name="two bad ends",
        section="4.1, observation 4",
        statement="toward small C̄ and large L the training converges poorly, toward large C̄ and small L it generalizes "
        "poorly",
        paper="by eye, Fig. 3",
        verdict="not tested",
        sentence=f"needs training and validation losses of {_LEAST} configurations on either side of the best five",
    )
    train, validation = finals(library, "train_loss").value, finals(library, "validation_loss").value
    known = ends.learnt & np.isfinite(train) & np.isfinite(validation)
    if not known.any() or (train[known] <= 0).any() or (validation[known] <= 0).any():
        return claim
    lean = ends.plane[:, 1] - ends.plane[:, 0]
    middle = float(np.median(lean[ends.top]))
    upper, lower = known & (lean > middle), known & (lean < middle)
    if min(upper.sum(), lower.sum()) < _LEAST:
        return claim
    gap = np.log(validation / np.where(known, train, 1.0))
    poorly = rank_correlation(lean[upper], train[upper])
    apart, under = rank_correlation(-lean[lower], gap[lower]), rank_correlation(-lean[lower], train[lower])
    found = [
        value >= _SOME and correlation_p(value, int(side.sum())) < 0.05
        for value, side in ((poorly, upper), (apart, lower))
    ]
    verdict: Seen = "seen" if all(found) else "partly" if any(found) else "not seen"
    short = ": at that end it is the training that falls short here" if under >= _SOME and not found[1] else ""
    return replace(
        claim,
        verdict=verdict,
        sentence=f"beyond the best five toward large L, rank correlation of that way with the training loss "
        f"{_signed(poorly)} ({upper.sum()} configurations); toward large C̄, with validation over training loss "
        f"{_signed(apart)}, and with the training loss itself {_signed(under)} ({lower.sum()}){short}"
        f"{_collapsed(ends)}",
        figures={"train_loss_up": poorly, "gap_down": apart, "train_loss_down": under},
    )


def similar_ratio(ends: Finals) -> Claim:
    """Judge whether the best configurations have similar ratios of rate to batch size."""
    claim = Claim(
        name="similar rate over batch size",
        section="4.1",
        statement="the five with the lowest error have similar ratios of rate to batch size",
        paper="in its supplement",
        verdict="not tested",
        sentence=f"needs {2 * _LEAST} configurations that learnt",
    )
    if ends.learnt.sum() < 2 * _LEAST:
        return claim
    ratios = np.log2(ends.rates[ends.learnt] / ends.sizes[ends.learnt])
    chosen = _chosen(ends)
    closeness, p = compactness(ratios[:, None], chosen)
    low, high = 2.0 ** ratios[chosen].min(), 2.0 ** ratios[chosen].max()
    verdict: Seen = "seen" if p < 0.05 else "partly" if p < 0.2 else "not seen"
    return replace(
        claim,
        verdict=verdict,
        sentence=f"their ratios lie between {low:.2g} and {high:.2g} ({closeness:.2f} times as far apart, in "
        f"logarithms, as those of five drawn at random, p = {p:.2g}); all {len(ratios)} between "
        f"{2.0 ** ratios.min():.2g} and {2.0 ** ratios.max():.2g}",
        figures={"distance_ratio": closeness, "p": p, "least": float(low), "greatest": float(high)},
    )


def _chosen(ends: Finals) -> NDArray[np.intp]:
    """The best configurations, counted among those that learnt."""
    return np.array([int(ends.learnt[:index].sum()) for index in ends.top if ends.learnt[index]], dtype=np.intp)


def _scaled(values: Floats) -> Floats:
    span = np.ptp(values, axis=0)
    return np.asarray((values - values.min(axis=0)) / np.where(span > 0.0, span, 1.0))


def _left_out(ends: Finals) -> str:
    return f". Left out: {len(ends.diverged)} that diverged" if ends.diverged else ""


def _collapsed(ends: Finals) -> str:
    count = int(np.sum(~ends.learnt))
    text = f". Left out: {count} that ended near guessing" if count else ""
    return text + (f"{' and' if text else '. Left out:'} {len(ends.diverged)} that diverged" if ends.diverged else "")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−") if math.isfinite(value) else "unknown"
