"""What a learned policy was promised and what it got, round by round, as its own journeys correct the surrogate.

    python benchmarks/learning/policy_rounds.py --env digits-resnet8 --out runs/rounds --rounds 5

Each round learns a policy on the surrogate, trains it for real a few times (with one epoch in five at another
configuration, as ``autobatch beacons branch --follow`` does), and adds these journeys to the branch runs that the next
round's surrogate is fitted to. Rounds that are finished in ``--out`` are not done again. The table of the rounds is
kept in ``benchmarks/results``; without ``--out`` it is printed.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from autobatch import BeaconLibrary, Branches, load_policy_spec, load_task
from autobatch._artefacts import find_artefact
from autobatch.envs.surrogate import load_dynamics
from autobatch.evidence import play_policy
from autobatch.learn import LearningPlan, train_policy
from autobatch.training import record_task_branches
from benchmarks.pages import RESULTS, heading, parser_of

FIRST_SEED = 20_000


def main() -> None:
    """Carry out the rounds that are missing, or print what is there."""
    parser = parser_of(__doc__)
    parser.add_argument("--env", default="digits-resnet8")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--pessimism", type=float, default=0.02)
    parser.add_argument("--journeys", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    path = RESULTS / f"policy_rounds_{arguments.env}.json"
    if arguments.out is not None:
        rounds = [carry_out(arguments, number) for number in range(1, arguments.rounds + 1)]
        settings = {key: getattr(arguments, key) for key in ("env", "algo", "steps", "pessimism", "journeys")}
        path.write_text(json.dumps({**settings, "rounds": rounds}, indent=1) + "\n", encoding="utf-8")
    if path.exists():
        print(table(json.loads(path.read_text(encoding="utf-8"))))


def carry_out(arguments: argparse.Namespace, number: int) -> dict[str, object]:
    """Return the figures of one round."""
    place = arguments.out / arguments.env / f"round-{number}"
    done = place / "round.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    before = arguments.out / arguments.env / f"round-{number - 1}" / arguments.env
    source = before if number > 1 else find_artefact("envs", arguments.env).parent
    env = place / arguments.env
    if not env.exists():
        shutil.copytree(source, env)
    policy = place / "policy" / "policy.yaml"
    if not policy.exists():
        discrete = arguments.algo == "dqn"
        plan = LearningPlan(
            envs=(str(env),),
            algorithm=arguments.algo,
            steps=arguments.steps,
            seeds=(number,),
            hidden=(32,) if arguments.algo != "cem" else (16,),
            pessimism=arguments.pessimism,
            actions="discrete" if discrete else "multidiscrete",
        )
        train_policy(plan, place / "policy", resume=(place / "policy" / "plan.json").exists())
    dynamics, spec = load_dynamics(env), load_policy_spec(policy)
    promised = play_policy(dynamics, spec, range(32))
    task, library = load_task(env), BeaconLibrary.load(env)
    seed = FIRST_SEED + 1000 * number
    record_task_branches(
        task, env, library, targets=0, journeys=arguments.journeys, follow=spec, seed=seed, jobs=arguments.jobs
    )
    real = [own for own in Branches.load(env).journeys if own.kind == "journey" and seed <= own.seed < seed + 1000]
    figures = [float(own.rows[task.score][-1]) if own.finished else float("nan") for own in real]
    result = {
        "round": number,
        "promised_quality": float(promised.quality.mean()),
        "promised_cost": float(promised.cost.mean() / dynamics.reference("modelled")),
        "real_quality": [float(value) for value in np.atleast_1d(dynamics.quality(np.array(figures)))],
        "journeys": sum(own.kind == "journey" for own in Branches.load(source).journeys),
    }
    done.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(json.dumps(result), flush=True)
    return result


def table(found: dict) -> str:
    """Return the rounds in Markdown."""
    lines = [
        f"{found['env']}, {found['algo']}, {found['steps']} steps a round, pessimism {found['pessimism']}:",
        "",
        heading("round | journeys fitted to | promised quality | real quality, exploring | promised cost"),
    ]
    for one in found["rounds"]:
        real = np.array(one["real_quality"])
        lines.append(
            f"| {one['round']} | {one['journeys']} | {one['promised_quality']:.3f} | {real.mean():.3f} ± "
            f"{real.std(ddof=1):.3f} | {one['promised_cost']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
