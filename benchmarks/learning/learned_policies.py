"""Do learned policies help? Real training on fresh seeds beside beacon-follow and the baselines.

    python benchmarks/learning/learned_policies.py --out runs/learned

trains every policy and baseline of the plan below on every seed (``autobatch compare`` does the work: a run that is
finished is not run again, so the script can be stopped at any time), keeps the report and the table of runs of each
task in ``benchmarks/results``, and notes the figures on the cards of the learned policies. Without ``--out`` it prints
the tables of the results that are there.
"""

import shutil
from pathlib import Path

from autobatch.evidence import compare_policies
from benchmarks.pages import RESULTS, parser_of

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
    arguments = parser.parse_args()
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


if __name__ == "__main__":
    main()
