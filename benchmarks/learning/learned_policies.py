"""Do learned policies help? Real training on fresh seeds beside beacon-follow and the baselines.

    python benchmarks/learning/learned_policies.py --out runs/learned

trains every policy and baseline of the plan below on every seed (``autobatch compare`` does the work: a run that is
finished is not run again, so the script can be stopped at any time), keeps the report and the table of runs of each
task in ``benchmarks/results``, and notes the figures on the cards of the learned policies. Without ``--out`` it prints
the tables of the results that are there.

    python benchmarks/learning/learned_policies.py --promised

plays the shipped policies on the surrogates as they are now, beside the returns on their cards, which are of the
surrogates that they were learned on. It trains nothing.
"""

import shutil
from pathlib import Path

import numpy as np

from autobatch.envs.surrogate import SurrogateVectorEnv
from autobatch.evidence import compare_policies
from autobatch.learn._rollouts import JUDGING_SEED, episode_returns
from autobatch.policies import load_learned
from benchmarks.pages import RESULTS, heading, parser_of

SHIPPED = ("learned-digits-resnet8", "learned-digits-mlp", "learned-digits")
EPISODES = 128

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
    parser = parser_of(__doc__)
    parser.add_argument("--envs", nargs="+", default=list(PLAN), choices=list(PLAN))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--promised", action="store_true")
    arguments = parser.parse_args()
    if arguments.promised:
        promised()
        return
    for env in arguments.envs:
        path = RESULTS / f"learned_policies_{env}.md"
        if arguments.out is not None:
            policies, against, seeds = PLAN[env]
            place = arguments.out / env
            compare_policies(
                policies, env, list(seeds), out=place, against=against, jobs=arguments.jobs, note_cards=True
            )
            shutil.copyfile(place / "comparison.md", path)
            shutil.copyfile(place / "runs.csv", path.with_suffix(".csv"))
        if path.exists():
            print(path.read_text(encoding="utf-8"))


def promised() -> None:
    """Print the returns of the shipped policies on the surrogates of now."""
    print(heading("policy | return on its card | on the surrogates of now"))
    for name in SHIPPED:
        network, card = load_learned(name)
        learning = (card.evaluation or {})["learning"]
        weight, seed = learning["cost_weight"], card.training.seeds[0]
        envs = SurrogateVectorEnv(EPISODES, env=list(card.training.tasks), actions=card.actions, cost_weight=weight)
        seeds = range(JUDGING_SEED, JUDGING_SEED + EPISODES)
        returns, _ = episode_returns(envs, lambda seen, _, network=network: network.act(seen), 1, seeds)
        error = returns.std(ddof=1) / np.sqrt(EPISODES)
        print(f"| {name} | {learning['mean_return'][str(seed)]:.3f} | {returns.mean():.3f} ± {error:.3f} |")


if __name__ == "__main__":
    main()
