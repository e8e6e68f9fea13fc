"""Do learned policies help? Real training on fresh seeds beside beacon-follow and the baselines.

    python benchmarks/learned_policies.py --out runs/learned

trains every policy and baseline of the plan below on every seed (``autobatch eval-policy`` does the work: a run that is
finished is not run again, so the script can be stopped at any time), keeps the report and the table of runs of each
task in ``benchmarks/results``, and notes the figures on the cards of the learned policies. Without ``--out`` it prints
the tables of the results that are there.
"""

import argparse
import math
import shutil
from pathlib import Path

from autobatch._artefacts import find_artefact
from autobatch.evidence import Evaluation, evaluate_policies
from autobatch.policies import load_card, load_policy_spec, save_card

RESULTS = Path(__file__).parent / "results"
ALL = ["fixed", "random", "stages", "beacon-follow", "bandit"]

PLAN = {
    "digits-resnet8": (["learned-digits-resnet8", "learned-digits"], ALL, range(100, 110)),
    "digits-mlp": (["learned-digits-mlp", "learned-digits"], ALL, range(100, 105)),
    # An architecture that no policy was trained on; s32-lr0.025 is the best fixed beacon of digits-resnet8, s16-lr0.2
    # that of this task.
    "digits-densenet8": (
        ["learned-digits-resnet8", "learned-digits", "s32-lr0.025", "s16-lr0.2"],
        ["beacon-follow"],
        range(100, 110),
    ),
}


def main() -> None:
    """Train what is missing, or print what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=list(PLAN), choices=list(PLAN))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    for env in arguments.envs:
        path = RESULTS / f"learned_policies_{env}.md"
        if arguments.out is not None:
            policies, baselines, seeds = PLAN[env]
            place = arguments.out / env
            evaluation = evaluate_policies(
                policies, [env], list(seeds), out=place, baselines=baselines, jobs=arguments.jobs
            )
            shutil.copyfile(place / "report.md", path)
            shutil.copyfile(place / "results.csv", path.with_suffix(".csv"))
            for policy in policies:
                if load_policy_spec(policy).kind == "learned":
                    note_on_card(policy, env, evaluation)
        if path.exists():
            print(path.read_text(encoding="utf-8"))


def note_on_card(policy: str, env: str, evaluation: Evaluation) -> None:
    """Write the figures of a policy on one task on its card."""
    path = find_artefact("policies", policy).with_suffix(".json")
    card = load_card(path)
    own = next(one for one in evaluation.aggregates if one.label == policy and one.scope == "all")
    against = {
        one.baseline: {
            "quality": _rounded(one.quality),
            "p_holm": _rounded(one.p_quality_holm),
            "time_ratio": _rounded(one.time),
            "probability_of_improvement": _rounded(one.improvement.value),
        }
        for one in evaluation.comparisons
        if one.policy == policy and one.scope == "all"
    }
    figures = {
        "split": "train" if env in card.training.tasks else "unseen",
        "seeds": list(evaluation.seeds),
        "quality": [_rounded(value) for value in (own.quality.value, own.quality.low, own.quality.high)],
        "time_ratio": [
            _rounded(value) for value in (own.modelled_ratio.value, own.modelled_ratio.low, own.modelled_ratio.high)
        ],
        "difference_to": against,
        "verdict": verdict(against["beacon-follow"]),
    }
    trained = dict(card.evaluation or {})
    trained["real_training"] = {**trained.get("real_training", {}), env: figures}
    save_card(path, card.model_copy(update={"evaluation": trained}))


def verdict(against: dict[str, float | None]) -> str:
    """Say in a sentence how a policy did against beacon-follow; qualities within 0.02 (8 % of the loss) are equal."""
    quality, time, p = against["quality"] or 0.0, against["time_ratio"] or 0.0, against["p_holm"]
    better, worse = quality > 0.02, quality < -0.02
    words = "better than" if better else "worse than" if worse else "as good as"
    gain = "gain" if not worse and (better or time < -0.02) else "no gain"
    return (
        f"{gain}: {words} beacon-follow (quality {quality:+.3f}, p = {p if p is None else round(p, 3)}), time ratio "
        f"{time:+.2f}"
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


if __name__ == "__main__":
    main()
