"""Optuna's successive halving for the cost of about one training, beside `steer`.

    pip install optuna
    python benchmarks/steering/optuna_halving.py TASK [--seeds 300-304] [--data-dir data]

A tuner needs trials, and one training's cost leaves it none of full length. So its trials are trainings of a quarter of
the task's epochs under the task's own schedule, drawn at random from the task's batch sizes and rates, pruned by
``SuccessiveHalvingPruner`` on the validation loss of each epoch, as many as fit into what one whole training at 32 (or
the rung next to it) and the middle rate takes by the cost table; the first is always carried out. The network of the
best trial that came to its end is the result. One line a seed goes to ``benchmarks/results/steer/TASK.jsonl`` as policy
``optuna-halving``, for the tables of ``benchmarks/steering/steer.py``.
"""

import math
import time
from pathlib import Path

import optuna  # type: ignore[import-not-found, unused-ignore]
import torch

from autobatch.beacons import BeaconLibrary
from autobatch.control import steps_per_epoch
from autobatch.policies.steer._search import start_without_scouts
from autobatch.training import RunConfig, load_data, load_task
from autobatch.training._engine import reproducible
from autobatch.training._trial import FINISHED, Trial
from autobatch.training.task import run_task_info
from benchmarks import pages
from benchmarks.pages import ENVS
from benchmarks.steering.steer import RESULTS, recorded

POLICY = "optuna-halving"
SHARE = 0.25


def tune(name: str, seed: int, data_dir: Path | None) -> pages.Row:
    """Return the figures of one study."""
    whole = load_task(ENVS / name).model_copy(update={"threads": 1})
    task = whole.model_copy(update={"epochs": max(1, round(SHARE * whole.epochs))})
    costs = BeaconLibrary.load(ENVS / name).costs
    assert costs is not None
    device = torch.device("cpu")
    data = load_data(task, data_dir, device)
    count = len(data.train_labels)
    size = start_without_scouts(run_task_info(whole, train_size=count, costs=costs, seed=seed))[0]
    budget = costs.training_seconds(size, whole.epochs * steps_per_epoch(count, size), whole.epochs)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="minimize",
        sampler=optuna.samplers.RandomSampler(seed=seed),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=4),
    )
    spent, steps, examples, best, trials = 0.0, 0, 0, None, []
    started = time.perf_counter()
    with reproducible(device, 1):
        while spent < budget:
            trial = study.ask()
            batch_size = trial.suggest_categorical("batch_size", list(task.batch_sizes))
            lr = trial.suggest_categorical("lr", list(task.learning_rates))
            training = Trial(
                RunConfig(task=task, policy={"name": "x", "kind": "fixed"}, seed=seed, measure=False),
                data=data,
                device=device,
                costs=costs,
            )
            training.decide(batch_size, lr)
            epoch_seconds = costs.training_seconds(batch_size, steps_per_epoch(count, batch_size), 1)
            state = optuna.trial.TrialState.COMPLETE
            loss = math.inf
            while not training.finished:
                if trials and spent + epoch_seconds > budget:
                    state = optuna.trial.TrialState.FAIL  # out of budget
                    break
                loss = training.period().validation_loss
                spent += epoch_seconds
                steps += steps_per_epoch(count, batch_size)
                examples += count
                if training.stopped_because != FINISHED:
                    state = optuna.trial.TrialState.FAIL
                    break
                trial.report(loss, training.controller.epoch)
                if not training.finished and trial.should_prune():
                    state = optuna.trial.TrialState.PRUNED
                    break
            complete = state == optuna.trial.TrialState.COMPLETE
            study.tell(trial, loss if complete else None, state=state)
            trials.append([batch_size, lr, training.controller.epoch, state.name])
            if complete and (best is None or loss < best["validation_loss"]):
                test_loss, test_error = training.engine.test()
                best = {"validation_loss": loss, "test_loss": test_loss, "test_error": test_error}
            if state == optuna.trial.TrialState.FAIL and spent + epoch_seconds > budget:
                break
    return {
        "policy": POLICY,
        "seed": seed,
        "stopped_because": "finished" if best is not None else "diverged: every trial",
        **(best or {"validation_loss": None, "test_loss": None, "test_error": None}),
        "modelled_seconds": spent,
        "optimizer_steps": steps,
        "examples": examples,
        "seconds": time.perf_counter() - started,
        "trials": trials,
    }


def main() -> None:
    """Carry out a command line."""
    parser = pages.parser_of(__doc__)
    parser.add_argument("task")
    parser.add_argument("--seeds", type=pages.numbers, default="300-304")
    parser.add_argument("--data-dir", type=Path, default=None)
    given = parser.parse_args()
    found = {one["seed"] for one in recorded(given.task) if one["policy"] == POLICY}
    for seed in given.seeds:
        if seed not in found:
            row = tune(given.task, seed, given.data_dir)
            pages.keep(RESULTS / f"{given.task}.jsonl", row)
            print(f"{given.task} {seed}: {row['test_loss']} after {len(row['trials'])} trials", flush=True)


if __name__ == "__main__":
    main()
