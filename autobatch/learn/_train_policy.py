"""Learning a policy: from names of tasks and an algorithm to files that ``autobatch run --policy`` takes."""

import json
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import AsyncVectorEnv, VectorEnv

from autobatch._errors import CheckpointError, ConfigError, OutputError
from autobatch._files import alone_in, append_whole, naming_output, seen_in, write_whole
from autobatch.beacons._info import told_differences
from autobatch.cells import LOCAL, is_local, refuse_ranks
from autobatch.control.run._files import load_json
from autobatch.envs.surrogate import SteeredSettings, SurrogateVectorEnv
from autobatch.learn._beginning import Beginning, Judged, Kept, SteeredStage, choose, judge
from autobatch.learn._cells import EpisodeCells
from autobatch.learn._cem import CemSettings, CrossEntropy
from autobatch.learn._general import SEARCH, SteeredArena
from autobatch.learn._many_tasks import real_trainings
from autobatch.learn._plan import LearningPlan
from autobatch.learn._rollouts import JUDGING_SEED, MARGIN, Envs, episode_returns
from autobatch.learn._stable_baselines import train_with_sb3
from autobatch.policies._moves import STEERING
from autobatch.policies.learned import PolicyCard, PolicyTraining, save_learned
from autobatch.policies.learned._network import Network
from autobatch.training import load_task
from autobatch.training._checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from autobatch.training._versions import software_versions

PLAN, PROGRESS, CHECKPOINT, EPISODES = "plan.json", "progress.csv", "cem.safetensors", "episodes"

_KEPT_EVERY_SECONDS = 5.0
_BATCHED = 64
"""Sub-environments of a surrogate for algorithms that learn from single steps."""

NEAR = 0.1
"""Deviation of the weights around a network that the search begins with, of 1 around nothing."""

_LEG = 4
"""Episodes in a row of every sub-environment, at least, between two checkpoints: after one, all begin anew."""


@dataclass(frozen=True)
class LearningProgress:
    """Where a learning stands.

    Attributes:
        seed: the seed that is being trained.
        steps: its steps so far.
        total: its steps in all.
        score: mean return lately: of the elite (cem) or of all episodes (dqn, ppo).
        seconds: time spent on this seed.
    """

    seed: int
    steps: int
    total: int
    score: float
    seconds: float


class LearningObserver:
    """What watches a learning. Every method does nothing by default; override those you need."""

    def progressed(self, progress: LearningProgress) -> None:
        """Called now and then while a seed is trained."""

    def seed_finished(self, seed: int, score: float) -> None:
        """Called when a seed is trained, with its mean return on episodes that no seed was trained on."""


@dataclass(frozen=True)
class LearnedResult:
    """What a learning came to.

    Attributes:
        policy: the YAML of the policy that was kept.
        returns: mean return of each seed's policy on the same new episodes.
        best_seed: the seed whose policy was kept.
        seconds: training time of all seeds.
        nothing_better: whether the policy that was kept is what the search began with: another policy or, where actions
            are steered and nothing else was begun with, the rule of ``steer``.
        above_rule: where actions are steered, by how much its return is above the rule's on the same new episodes, and
            the standard error; else None.
    """

    policy: Path
    returns: Mapping[int, float]
    best_seed: int
    seconds: float
    nothing_better: bool = False
    above_rule: tuple[float, float] | None = None


def train_policy(
    plan: LearningPlan,
    out: Path,
    observer: LearningObserver | None = None,
    *,
    resume: bool = False,
    data_dir: Path | None = None,
    command: str = "",
    engine: str = LOCAL,
) -> LearnedResult:
    """Learn a policy and write it to ``out``.

    Checkpoints and progress are kept in ``out`` as well; a ``KeyboardInterrupt`` passes through, and the learning can
    then be resumed. ``out/NAME.yaml`` is written last, NAME being the folder's name.

    Args:
        plan: what is learned, and how.
        out: a folder of its own.
        observer: what watches.
        resume: go on with the learning that ``out`` holds; one of ``cem`` ends as if it had not been interrupted.
        data_dir: where datasets lie, for real trainings.
        command: the command line that asked for this, kept on the card.
        engine: what starts the workers of real trainings: ``"local"``, ``"slurm"`` or ``"ray"``, with settings of its
            own after a colon, as for ``compare_policies``; any ``autobatch worker`` of ``out`` may join them.

    Returns:
        Where the policy is, and what each seed came to.

    Raises:
        ConfigError: the plan cannot be carried out.
        OutputError: ``out`` cannot be written, or holds a learning already.
        LibraryError: a task has no beacons or no branch runs.
        CheckpointError: what ``out`` holds is damaged, or of another plan.
    """
    out, observer = Path(out), observer or LearningObserver()
    begun = Beginning.of(plan)
    tasks = [load_task(env) for env in plan.envs]
    _check_place(plan, out, resume=resume)
    # What cannot be carried out is refused before anything is written.
    judges = _judges(plan, out / EPISODES, data_dir, engine)
    found: dict[int, Judged] = {}
    total, kept = 0.0, None
    try:
        with _place(plan, out, resume=resume), _at_work(judges):
            for seed in plan.seeds:
                network, seconds = _one_seed(plan, seed, out / f"seed-{seed}", observer, judges, begun=begun)
                found[seed] = _judged(plan, judges, network, begun)
                observer.seed_finished(seed, float(found[seed].returns.mean()))
                total += seconds
            best = max(found, key=lambda seed: found[seed].returns.mean())
            if plan.actions in STEERING:
                kept = _choose(plan, judges, begun, found[best])
    except BaseException:
        _abandon(judges)
        raise
    if isinstance(judges, VectorEnv):
        judges.close()
    returns = {seed: float(own.returns.mean()) for seed, own in found.items()}
    ladders = {(task.batch_sizes, task.learning_rates) for task in tasks}
    batch_sizes, learning_rates = ladders.pop() if len(tasks) == 1 and kept is None else (None, None)
    training = PolicyTraining(
        algorithm=plan.algorithm,
        tasks=tuple(task.name for task in tasks),
        steps=plan.steps,
        seeds=(best, *(seed for seed in plan.seeds if seed != best)),
        seconds=round(total, 1),
        command=command,
        versions=dict(software_versions()),
    )
    learning = {
        "on": plan.on,
        "cost": plan.cost,
        "cost_weight": plan.cost_weight,
        "pessimism": plan.pessimism,
        **({} if plan.begin is None else {"begun_with": plan.begin}),
        "mean_return": {str(seed): round(score, 4) for seed, score in returns.items()},
        **({} if kept is None else kept.told()),
    }
    network = found[best].network if kept is None else kept.network
    card = PolicyCard.of(
        network,
        training,
        batch_sizes=batch_sizes,
        learning_rates=learning_rates,
        evaluation={"learning": learning},
        margin=0.0 if kept is None else kept.margin,
        seen=None if kept is None else kept.seen,
    )
    names = " and ".join(task.name for task in tasks)
    ground = "surrogates" if plan.on == "surrogate" else "trainings"
    description = f"Learned by {plan.algorithm} on {ground} of {names}."
    if kept is not None and kept.nothing_better:
        description = f"As {plan.begin or 'steer'}: nothing better was found on {ground} of {names}."
    policy = save_learned(
        out / f"{out.absolute().name}.yaml",
        network,
        card,
        description=description,
        rule=None if begun is None else begun.rule,
    )
    if isinstance(judges, EpisodeCells):
        judges.forget()
    nothing_better = begun is not None and begun.kept_by(network)
    return LearnedResult(policy, returns, best, total, nothing_better, None if kept is None else kept.above_rule)


def _check_place(plan: LearningPlan, out: Path, *, resume: bool) -> dict[str, Any]:
    """Check that a folder is free for a plan or, to resume, of this plan; return the plan as it is kept there."""
    path, name = out / PLAN, out.absolute().name
    if not re.fullmatch(r"[\w.+-]+", name) or name == path.stem:
        raise OutputError(
            f"{out}: the policy gets the folder's name: expected letters, digits and any of '_.+-', and not "
            f"'{path.stem}', got {name!r}"
        )
    content: dict[str, Any] = json.loads(json.dumps(asdict(plan)))
    if plan.begin is None:
        del content["begin"]  # as in plans of older versions
    if path.exists():
        if not resume:
            raise OutputError(f"{out}: holds a learning already; go on with --resume, or choose another directory")
        try:
            stored = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise CheckpointError(f"{path}: damaged: not a plan in JSON") from None
        may_differ = {"jobs": None, "device": None}
        if differing := told_differences(stored | may_differ, content | may_differ):
            raise CheckpointError(f"{path}: the learning was started with another plan: {differing}")
    elif resume:
        raise CheckpointError(f"{out}: holds no learning ({PLAN} is missing)")
    elif out.exists() and (not out.is_dir() or seen_in(out, "*")):
        raise OutputError(f"{out}: expected a new or empty directory")
    return content


@contextmanager
def _place(plan: LearningPlan, out: Path, *, resume: bool) -> Iterator[None]:
    """Begin a learning in a folder, or go on with it, and keep other processes out of it."""
    with naming_output(out):
        out.mkdir(parents=True, exist_ok=True)
    with alone_in(out, busy="another process learns here; wait for it, or choose another directory"):
        content = _check_place(plan, out, resume=resume)  # another may have come and gone since that was asked
        if not (out / PLAN).exists():
            write_whole(out / PLAN, (json.dumps(content, indent=1) + "\n").encode())
        yield


def _one_seed(
    plan: LearningPlan,
    seed: int,
    folder: Path,
    observer: LearningObserver,
    judges: Envs | SteeredStage,
    *,
    begun: Beginning | None,
) -> tuple[Network, float]:
    """Train one seed, or take up where it stopped; return its network and the time it took."""
    with naming_output(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if isinstance(judges, EpisodeCells):
        judges.run = f"s{seed}"
        return _by_cem(plan, seed, folder, judges, observer, begun=begun)
    if isinstance(judges, SteeredArena):
        return _by_cem(plan, seed, folder, _arena(plan), observer, begun=begun)
    # Real trainings are judged as they are learned from, and each of their processes holds the data.
    envs = judges if plan.on == "train" else _surrogates(plan)
    try:
        if plan.algorithm == "cem":
            return _by_cem(plan, seed, folder, envs, observer, begun=begun)
        return _by_sb3(plan, seed, folder, envs, observer)
    finally:
        if envs is not judges:
            envs.close()


def _by_cem(
    plan: LearningPlan,
    seed: int,
    folder: Path,
    envs: Envs | SteeredStage,
    observer: LearningObserver,
    *,
    begun: Beginning | None,
) -> tuple[Network, float]:
    method = CrossEntropy(
        envs,
        actions=plan.actions,
        steps=plan.steps,
        seed=seed,
        hidden=plan.hidden,
        settings=_cem_settings(plan),
        begin=None if begun is None else begun.network,
        margin=MARGIN if begun is None else begun.margin,
        seen=None if begun is None else begun.seen,
    )
    path = folder / CHECKPOINT
    before = _restored(method, path)
    started = kept = time.perf_counter()
    record = _progress_table(folder)
    while not method.finished:
        score = method.generation()
        now = time.perf_counter()
        record(method.steps, score)
        observer.progressed(LearningProgress(seed, method.steps, plan.steps, score, before + now - started))
        if now - kept > _KEPT_EVERY_SECONDS or method.finished or plan.on == "train":
            _keep(method, path, before + now - started)
            kept = now
            if isinstance(envs, EpisodeCells):
                envs.forget()
    played = 128 if plan.actions in STEERING else 64
    if plan.on == "train":
        played = 2 if plan.begin is None else 4
    return method.network(played)[0], before + time.perf_counter() - started


def _by_sb3(
    plan: LearningPlan, seed: int, folder: Path, envs: Envs, observer: LearningObserver
) -> tuple[Network, float]:
    started = time.perf_counter()
    path = folder / "seconds.json"
    before = load_json(path, "learning", float) if path.exists() else 0.0
    record = _progress_table(folder)
    longest = max(plan.epochs or load_task(env).epochs for env in plan.envs)

    def observe(steps: int, score: float) -> None:
        seconds = before + time.perf_counter() - started
        record(steps, score)
        write_whole(path, json.dumps(seconds).encode())
        observer.progressed(LearningProgress(seed, steps, plan.steps, score, seconds))

    network = train_with_sb3(
        plan.algorithm,
        envs,
        steps=plan.steps,
        seed=seed,
        out=folder,
        observe=observe,
        hidden=plan.hidden,
        checkpoint_every=max(math.ceil(plan.steps / 10), _LEG * envs.num_envs * longest),
        resume=True,
    )
    return network, before + time.perf_counter() - started


def _judges(plan: LearningPlan, folder: Path, data_dir: Path | None, engine: str) -> Envs | SteeredStage:
    """Return where a plan's policies are compared, checked as far as it can be."""
    refuse_ranks(engine, "episodes")
    if plan.on == "train" and plan.algorithm == "cem":
        cells = EpisodeCells(plan, folder, engine, data_dir)
        cells.observations  # noqa: B018  (refuses what cannot be trained)
        return cells
    if not is_local(engine):
        raise ConfigError(
            f"engine: {engine!r} is for whole episodes of real training, which 'cem' has with on='train'; dqn and ppo "
            "learn from single steps, and surrogates take no time"
        )
    if plan.on == "surrogate":
        optimist = replace(plan, pessimism=0.0)
        return _arena(optimist) if plan.actions in STEERING else _surrogates(optimist)
    make = partial(
        real_trainings,
        plan.envs,
        actions=plan.actions,
        cost=plan.cost,
        cost_weight=plan.cost_weight,
        epochs=plan.epochs,
        device=plan.device,
        data_dir=data_dir,
        threads=1 if plan.jobs > 1 else None,
    )
    return AsyncVectorEnv([make] * plan.jobs, context="spawn")


def _at_work(judges: Envs | SteeredStage) -> AbstractContextManager[None]:
    return judges.at_work() if isinstance(judges, EpisodeCells) else nullcontext()


def _abandon(envs: Envs | SteeredStage) -> None:
    """Close environments without waiting for trainings that are under way in processes."""
    if not isinstance(envs, VectorEnv):  # workers of cells have been ended
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Gymnasium's, of a step that is under way
        envs.close(**({"terminate": True} if isinstance(envs, AsyncVectorEnv) else {}))


def _surrogates(plan: LearningPlan) -> Envs:
    settings = _cem_settings(plan)
    return SurrogateVectorEnv(
        settings.population * settings.episodes if plan.algorithm == "cem" else _BATCHED,
        env=plan.envs,
        actions=plan.actions,
        cost=plan.cost,
        cost_weight=plan.cost_weight,
        pessimism=plan.pessimism,
    )


def _arena(plan: LearningPlan) -> SteeredArena:
    weighed = {name: getattr(plan, name) for name in ("cost", "cost_weight", "pessimism")}
    forks = plan.actions == "forked"
    return SteeredArena(SteeredSettings(plan.envs, start="scouts", vary=True, forks=forks, **weighed))


def _cem_settings(plan: LearningPlan) -> CemSettings:
    # A real training takes seconds, a surrogate one a fraction of a millisecond.
    steered = plan.actions in STEERING
    settings = SEARCH if steered else CemSettings()
    if plan.on == "train":
        settings = replace(settings, population=16, episodes=1, elite=0.25)
    if plan.begin is None:
        return settings
    near = NEAR * settings.deviation
    return replace(settings, deviation=near, extra=near)


def _judging_seeds(plan: LearningPlan) -> range:
    """Return the seeds of episodes that nothing is trained on, the same for all seeds of a learning."""
    episodes = 4 if plan.on == "train" else 1024 if plan.actions in STEERING else 128
    return range(JUDGING_SEED, JUDGING_SEED + episodes)


def _judged(plan: LearningPlan, envs: Envs | SteeredStage, network: Network, begun: Beginning | None) -> Judged:
    """Play a network on episodes that nothing was trained on."""
    seeds = _judging_seeds(plan)
    if isinstance(envs, VectorEnv):
        returns, _ = episode_returns(envs, lambda observations, _: network.act(observations), 1, seeds)
        return Judged(network, returns[0])
    return judge(envs, begun, network, seeds)


def _choose(plan: LearningPlan, stage: Envs | SteeredStage, begun: Beginning | None, found: Judged) -> Kept:
    """Keep what was found where it is better than what the search began with."""
    assert begun is not None
    assert not isinstance(stage, VectorEnv)
    if isinstance(stage, EpisodeCells):
        stage.run = "begun"
    return choose(stage, begun, found, _judging_seeds(plan))


def _keep(method: CrossEntropy, path: Path, seconds: float) -> None:
    state = method.state_dict()
    tensors = {name: torch.from_numpy(values.copy()) for name, values in state.pop("arrays").items()}
    write_checkpoint(path, Checkpoint(tensors, {**state, "seconds": seconds}))


def _restored(method: CrossEntropy, path: Path) -> float:
    """Go back to a checkpoint where there is one; return the seconds that it stands at."""
    if not path.exists():
        return 0.0
    checkpoint = read_checkpoint(path)
    try:
        arrays = {name: tensor.numpy() for name, tensor in checkpoint.tensors.items()}
        method.load_state_dict({**checkpoint.record, "arrays": arrays})
        return float(checkpoint.record["seconds"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged: {error!r}") from None


def _progress_table(folder: Path) -> Callable[[int, float], None]:
    """Return what appends (steps, mean return) to a table; what is trained again after a sudden end comes twice."""
    path = folder / PROGRESS
    if not path.exists():
        append_whole(path, b"steps,mean_return\n")
    return lambda steps, score: append_whole(path, f"{steps},{score!r}\n".encode())
