"""What the weight of cost does to a policy that is learned on the surrogate: promises, and what it does.

    python benchmarks/learning/cost_weights.py --env digits-resnet8 --weights 0.02 0.05 0.1 0.2 --seeds 0 1

Everything is on the surrogate and deterministic; ``benchmarks/learning/learned_policies.py`` is about real training.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from autobatch.envs.surrogate import Dynamics, load_dynamics
from autobatch.evidence import play_policy
from autobatch.learn import LearningPlan, train_policy
from autobatch.policies import load_learned, load_policy_spec
from autobatch.policies._moves import decode
from benchmarks.pages import RESULTS, heading, parser_of


def main() -> None:
    """Learn and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--env", default="digits-resnet8")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--learn", action="store_true", help="learn anew; otherwise the kept results are printed")
    arguments = parser.parse_args()
    path = RESULTS / f"cost_weights_{arguments.env}.json"
    if arguments.learn:
        dynamics = load_dynamics(arguments.env)
        found = [figures(arguments.env, dynamics, weight, tuple(arguments.seeds)) for weight in arguments.weights]
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(heading("cost weight | promised quality | cost | seconds to learn | what it does"))
    for one in json.loads(path.read_text(encoding="utf-8")):
        print(
            f"| {one['weight']} | {one['quality']:.3f} | {one['cost']:.3f} | {one['seconds']:.0f} | {one['course']} |"
        )


def figures(env: str, dynamics: Dynamics, weight: float, seeds: tuple[int, ...]) -> dict[str, object]:
    """Learn with one weight and say what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        plan = LearningPlan(envs=(env,), seeds=seeds, cost_weight=weight)
        result = train_policy(plan, Path(folder) / "policy")
        runs = play_policy(dynamics, load_policy_spec(result.policy), range(32))
        network, _ = load_learned(str(result.policy.with_suffix("")))
    state, rungs, course = dynamics.begin(1), dynamics.moves.start, []
    for epoch in range(dynamics.epochs):
        batch_move, rate_move = decode(network.actions, network.act(dynamics.observe(state)[0]))
        moved = dynamics.moves.apply(*rungs, batch_move, rate_move)
        rungs = int(moved[0]), int(moved[1])
        size, lr = dynamics.moves.at(*rungs)
        if not course or course[-1][1:] != (size, lr):
            course.append((epoch, size, lr))
        still = np.zeros((1, dynamics.noise_size))
        state, _ = dynamics.step(state, *(np.array([rung]) for rung in rungs), np.array([-1]), still)
    return {
        "weight": weight,
        "quality": float(runs.quality.mean()),
        "cost": float(runs.cost.mean() / dynamics.reference("modelled")),
        "seconds": result.seconds,
        "course": ", ".join(f"{size} at {lr:g} from epoch {epoch + 1}" for epoch, size, lr in course),
    }


if __name__ == "__main__":
    main()
