"""Record what is decided today: ``python -m tests.golden.record`` in the repository writes all golden files anew.

``--trainings`` or ``--policies`` writes only the one half, ``--policies NAME ...`` only these. A difference in the
files is a change in what the program does; the commit that brings it says why.
"""

import argparse
import json
from pathlib import Path

from autobatch.policies import load_policy_spec, policy_kind
from tests.golden.replay import FIGURES, FOLDER, MOMENTS, ROOT, SAID, SEEN, STEERS, shipped
from tests.golden.simulate import followed, watched
from tests.golden.trainings import EPOCHS, FILE, TRAININGS, train

TASKS = ("digits-resnet8", "mnist10k-mlp")
"""Tasks of different length, ladder and rates, for every policy that runs on any."""

OWN_TASKS = {
    "learned-digits": ("digits-resnet8", "digits-mlp"),
    "learned-digits-mlp": ("digits-mlp",),
    "learned-digits-resnet8": ("digits-resnet8",),
}
"""Tasks of the learned policies, whose cards allow no others."""

WATCHED = {**OWN_TASKS, "beacon-follow": ("digits-resnet8",)}
"""Policies that go by the place in the plane are also asked beside a journey that is not theirs."""


def main() -> None:
    """Write the golden files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", nargs="*", metavar="NAME")
    parser.add_argument("--trainings", action="store_true")
    chosen = parser.parse_args()
    everything = chosen.policies is None and not chosen.trainings
    if everything or chosen.policies is not None:
        FOLDER.mkdir(exist_ok=True)
        if not chosen.policies:
            for old in FOLDER.glob("*.json"):
                old.unlink()
        for policy in chosen.policies or shipped():
            write_policy(policy)
    if everything or chosen.trainings:
        write_trainings()


def write_policy(policy: str) -> None:
    """Write the runs of one policy."""
    gradients = not policy_kind(load_policy_spec(ROOT / "policies" / f"{policy}.yaml").kind).blind
    runs = {task: followed(policy, task, gradients=gradients) for task in OWN_TASKS.get(policy, TASKS)}
    runs |= {f"{task}, watched": watched(policy, task) for task in WATCHED.get(policy, ())}
    steers = any(len(decision) > len(SAID) for rows in runs.values() for _, decision in rows)
    said = (*SAID, *STEERS) if steers else SAID
    write(
        FOLDER / f"{policy}.json",
        {"policy": policy, "seen": SEEN, "moments": MOMENTS, "said": said, "digest": ("count", "unknown", *FIGURES)},
        runs,
    )


def write_trainings() -> None:
    """Write the figures of the short trainings."""
    write(FILE, {"columns": EPOCHS}, {name: train(name) for name in TRAININGS})


def write(path: Path, head: dict, runs: dict[str, list]) -> None:
    """Write runs with a line for each epoch, so that a difference shows where it begins."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    parts = [
        f"    {json.dumps(name)}: [\n"
        + ",\n".join(f"      {json.dumps(row, ensure_ascii=False, allow_nan=False)}" for row in rows)
        + "\n    ]"
        for name, rows in runs.items()
    ]
    text = "{\n" + "\n".join(lines) + '\n  "runs": {\n' + ",\n".join(parts) + "\n  }\n}\n"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
