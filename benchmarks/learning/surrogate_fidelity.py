"""How far can the surrogate of a task be trusted? What branch runs and journeys add to beacons, and held-out journeys.

    python benchmarks/learning/surrogate_fidelity.py --envs digits-resnet8 digits-mlp

Every journey is predicted by dynamics that were not fitted to it (four folds). The figures are deterministic.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from autobatch import BeaconLibrary, Branches, load_task
from autobatch._artefacts import find_artefact
from autobatch.envs.surrogate import Dynamics, tabulate
from autobatch.evidence import measure_fidelity
from autobatch.training import task_info

FOLDS = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=["digits-resnet8", "digits-mlp"])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    found = {env: measure(env) for env in arguments.envs}
    for env, figures in found.items():
        fidelity = figures["fidelity"]
        print(f"\n{env}: {figures['beacons']} beacons, {figures['branches']} branches, {figures['journeys']} journeys")
        print(f"fitted in {figures['fit_seconds']:.2f} s\n")
        print("| validation loss, one epoch ahead, held-out journeys | root mean square | median |")
        print("| --- | --- | --- |")
        for name, (rms, median) in figures["one_step"].items():
            print(f"| {name} | {rms:.3f} | {median:.3f} |")
        print("\n| final validation loss from the schedule alone | error | rank correlation |")
        print("| --- | --- | --- |")
        print(f"| surrogate | {fidelity['whole']:.3f} (bias {fidelity['bias']:+.3f}) | {fidelity['rank']:.2f} |")
        print(f"| forecast and landscape | {fidelity['landscape']:.3f} | {fidelity['landscape_rank']:.2f} |")
        print(f"| mean of the other journeys | {fidelity['constant']:.3f} | - |")
        print(
            f"\n90 % interval holds {fidelity['coverage']:.0%}; final C̄ missed by {fidelity['position'][0]:.3f}, L by "
            f"{fidelity['position'][1]:.3f} (natural logarithms)"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def measure(env: str) -> dict[str, object]:
    """Return the figures of one task."""
    folder = find_artefact("envs", env).parent
    library, branches = BeaconLibrary.load(folder), Branches.load(folder)
    task = task_info(load_task(folder), library)
    started = time.perf_counter()
    Dynamics.fit(library, branches, task)
    fit_seconds = time.perf_counter() - started
    whole = [own for own in branches.journeys if own.kind == "journey" and own.finished]
    single = tuple(own for own in branches.journeys if own.kind == "branch")
    errors: dict[str, list[np.ndarray]] = {}
    for fold in range(FOLDS):
        held = whole[fold::FOLDS]
        others = tuple(own for own in branches.journeys if not any(own is other for other in held))
        for name, runs in (("beacons only", ()), ("beacons and branches", single), ("all", others)):
            dynamics = _fitted(library, branches, runs, task)
            table = tabulate([(own.rows, True) for own in held], dynamics.guessing, dynamics.factors)
            errors.setdefault(name, []).append((dynamics.predict(table.situation) - table.outcome)[:, 0])
            if name == "all":
                still = table.situation.figures[:, 0] - table.outcome[:, 0]
                errors.setdefault("nothing changes", []).append(still)
    return {
        "beacons": len(library.beacons),
        "branches": len(single),
        "journeys": len(whole),
        "fit_seconds": fit_seconds,
        "one_step": {
            name: [float(np.sqrt(np.mean(np.concatenate(parts) ** 2))), float(np.median(np.abs(np.concatenate(parts))))]
            for name, parts in errors.items()
        },
        "fidelity": asdict(measure_fidelity(library, branches, task)),
    }


def _fitted(library: BeaconLibrary, branches: Branches, runs: tuple, task: object) -> Dynamics:
    chosen = Branches(runs, branches.info) if runs else _NoBranches()
    return Dynamics.fit(library, chosen, task)


class _NoBranches:
    journeys = ()


if __name__ == "__main__":
    main()
