"""Episodes of real training as cells: each plays one policy on one seed, on whatever machine a worker is."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autobatch._arrays import Floats
from autobatch._artefacts import find_artefact, found_again, portable
from autobatch._errors import AutoBatchError
from autobatch._files import naming_output, write_whole
from autobatch.cells import (
    MORE_FROM,
    Cell,
    CellEnd,
    Cells,
    Crew,
    Engine,
    Event,
    Identity,
    LocalEngine,
    Report,
    Work,
    Worker,
    engine_on,
    is_local,
)
from autobatch.cells import Plan as CellsPlan
from autobatch.learn._many_tasks import ManyTasks, real_trainings
from autobatch.learn._plan import LearningPlan
from autobatch.learn._rollouts import Population, joined, range_of
from autobatch.policies._moves import STEERING
from autobatch.training import load_task
from autobatch.training._versions import code_version, software_versions
from autobatch.training.recording import worker_arguments

KIND = "episodes"


class EpisodeCells:
    """Plays episodes by workers, who stay from one generation of policies to the next.

    Args:
        plan: what is learned.
        folder: gets the cells and, for as long as they are needed, the returns.
        on: what starts the workers, as ``engine_settings`` reads it; one local worker is this process.
        data_dir: where datasets lie.
    """

    def __init__(self, plan: LearningPlan, folder: Path, on: str, data_dir: Path | None) -> None:
        self._plan, self._folder, self._on, self._data_dir = plan, folder, on, data_dir
        self._cells = Cells(folder)
        self._maker = EpisodeMaker(folder, plan.device, data_dir, side_by_side=plan.jobs if is_local(on) else 1)
        self._identity = Identity(self._cells.workers)
        self._crew: Crew | None = None
        self.run = ""
        """Tells the episodes that are played from others of the same seeds."""
        self.seen: Floats = np.zeros((0, 2))
        """Lowest and highest of each entry of the view in what was last played, where actions are steered."""

    @cached_property
    def observations(self) -> int:
        """Numbers in an observation; asked for first, it refuses what cannot be trained before anything is written."""
        shape = self._maker.env(_settings(self._plan, self._folder)).observation_space.shape
        assert shape is not None
        return shape[0]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Have workers for as long as this lasts, from the first episode on."""
        with naming_output(self._folder):
            self._identity.appear()
        with ExitStack() as entered:
            entered.callback(self._cells.abandon)
            if (engine := self._engine()) is not None:
                self._crew = entered.enter_context(Crew(engine, self._cells, self._plan.jobs))
            # Left first: workers end once nobody is there who would put more in.
            entered.enter_context(self._identity.beating(self._cells.pace.beat))
            yield

    def play(self, population: Population, seeds: Sequence[int]) -> tuple[Floats, int]:
        """Play one episode of every policy on every seed."""
        cells = {
            (policy, seed): Cell(f"{self.run}-e{seed}-p{policy}", 1.0, {"policy": policy, "seed": seed})
            for policy in range(len(population))
            for seed in seeds
        }
        work = {
            "settings": _settings(self._plan, self._folder),
            "population": population.to_dict(),
            MORE_FROM: self._identity.owner,
        }
        self._cells.put(CellsPlan(KIND, _fingerprint(), work, tuple(cells.values())))
        self._work(frozenset(cell.name for cell in cells.values()))
        returns, steps = np.zeros((len(population), len(seeds))), 0
        parts = {of: json.loads(_part(self._folder, cell).read_bytes()) for of, cell in cells.items()}
        for (policy, seed), part in parts.items():
            returns[policy, list(seeds).index(seed)] = part["return"]
            steps += int(part["steps"])
        if self._plan.actions in STEERING:
            self.seen = joined([part["seen"] for part in parts.values()])
        return returns, steps

    def forget(self) -> None:
        """Remove the returns, which a checkpoint now stands for."""
        for part in self._folder.glob("*.json"):
            part.unlink(missing_ok=True)

    def _engine(self) -> Engine | None:
        """Return what starts the workers; None for this process alone."""
        if is_local(self._on):
            return LocalEngine(self._cells, replace(self._maker)) if self._plan.jobs > 1 else None
        arguments = worker_arguments(self._plan.device, self._data_dir, trust_code=False)
        cpus = max(load_task(env).threads for env in self._plan.envs)
        return engine_on(self._on, self._cells, arguments=arguments, cpus=cpus)

    def _work(self, names: frozenset[str]) -> None:
        failed: dict[str, str] = {}

        def tell(cell: Cell, event: Event, value: object) -> None:
            if event == "failed":
                failed[cell.name] = str(value)

        if self._crew is not None:
            self._crew.work(names, tell)
        else:
            Worker(self._cells, self._maker, Identity(self._cells.workers), tell=tell, only=names).run()
        for name, message in failed.items():
            raise AutoBatchError(f"episode {name}: {message}")
        if left := sorted(name for name in names if not (self._folder / f"{name}.json").exists()):
            raise AutoBatchError(f"{self._folder}: {len(left)} episodes were not played, such as {left[0]}")


@dataclass(frozen=True)
class EpisodeMaker:
    """Makes what plays episodes; a process makes each environment once.

    Attributes:
        folder: gets the returns.
        device: torch device, ``"auto"`` for that of the learning.
        data_dir: where datasets lie.
        trust_code: whether a task may name factories to import.
        side_by_side: workers on this machine, which share its cores.
    """

    folder: Path
    device: str = "auto"
    data_dir: Path | None = None
    trust_code: bool = False
    side_by_side: int = 1
    _envs: dict[str, ManyTasks] = field(default_factory=dict, init=False, compare=False)

    def __call__(self, plan: CellsPlan) -> Work:
        """Return what plays the episodes of a plan; ConfigError where they are of other code than that here."""
        plan.check(KIND, _fingerprint(), self.folder)
        population = Population.from_dict(plan.work["population"])
        env = self.env(plan.work["settings"])

        def work(cell: Cell, report: Report) -> CellEnd:
            if _part(self.folder, cell).exists():
                return CellEnd("was there")
            total, views, over = 0.0, [], False
            observation, _ = env.reset(seed=cell.what["seed"])
            while not over:
                views.append(observation)
                action = population(observation[None], np.array([cell.what["policy"]]))[0]
                observation, reward, terminated, truncated, _ = env.step(action)
                total, over = total + float(reward), terminated or truncated
                report(len(views) / (len(views) + 1.0))
            report(1.0)
            played = {"return": total, "steps": len(views), "seen": range_of(views).tolist()}
            write_whole(_part(self.folder, cell), json.dumps(played).encode(), shared=True)
            return CellEnd("finished")

        return work

    def env(self, settings: Mapping[str, Any]) -> ManyTasks:
        """Return the environment of real trainings that a learning has described, made on first use."""
        key = json.dumps(settings, sort_keys=True)
        if key not in self._envs:
            device = settings["device"] if self.device == "auto" else self.device
            self._envs[key] = real_trainings(
                [found_again(env, self.folder) for env in settings["envs"]],
                **{name: settings[name] for name in ("actions", "cost", "cost_weight", "epochs")},
                device=device,
                data_dir=self.data_dir,
                threads=1 if self.side_by_side > 1 else None,
                trust_code=self.trust_code,
            )
        return self._envs[key]


def _settings(plan: LearningPlan, folder: Path) -> dict[str, Any]:
    """Return what the environments of a learning are made with; its tasks as they are found from the folder."""
    return {
        "envs": [portable(find_artefact("envs", env).parent, folder) for env in plan.envs],
        "actions": plan.actions,
        "cost": plan.cost,
        "cost_weight": plan.cost_weight,
        "epochs": plan.epochs,
        "device": plan.device,
    }


def _fingerprint() -> dict[str, Any]:
    return {"code": code_version(), "torch": software_versions()["torch"]}


def _part(folder: Path, cell: Cell) -> Path:
    return folder / f"{cell.name}.json"
