"""The paper's experiments as data, and carrying one out: the grid of beacons, dynamic sampling, figures and claims."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from autobatch._artefacts import artefact_names, find_artefact, holds_beacons
from autobatch._errors import ConfigError, LibraryError, OutputError
from autobatch._files import naming_output, seen_in, write_whole
from autobatch._yaml import load_yaml
from autobatch.beacons import BeaconLibrary
from autobatch.beacons.storage import BEACONS
from autobatch.cells import LOCAL
from autobatch.evidence.bench import (
    EPOCHS,
    RUNS,
    BenchObserver,
    compare_policies,
    load_epochs_table,
    load_runs,
)
from autobatch.evidence.paper import Claim, claims_json, claims_markdown, paper_claims
from autobatch.policies import PolicySpec, load_policy_spec
from autobatch.report import paper_figures
from autobatch.training import RecordingObserver, TaskSpec, load_data, load_task, record_task_beacons

MARK = "experiment.yaml"
"""What tells a directory of an experiment from any other, and which one it is of."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PaperTask(_Model):
    """The task of an experiment at one size."""

    env: str = Field(min_length=1, description="Name or path of the task; its ladder, rates and seeds are the grid.")


class PaperExperiment(_Model):
    """One experiment of the paper, as ``configs/paper/NAME.yaml`` states it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="The experiment's name.")
    section: str = Field(min_length=1, description="Sections of the paper that it covers.")
    full: PaperTask = Field(description="At the paper's size.")
    reduced: PaperTask = Field(description="At a size that two processor cores can carry out.")
    policies: tuple[str, ...] = Field(
        default=(), description="Dynamic sampling of section 4.3; without any, the grid of beacons is all there is."
    )
    seeds: tuple[Seed, ...] = Field(min_length=1, description="Seeds of the runs under these policies.")

    @field_validator("policies", "seeds")
    @classmethod
    def _unique(cls, values: tuple[str | int, ...]) -> tuple[str | int, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"expected each once, got {list(values)}")
        return values

    def env(self, size: str) -> str:
        """Return the name or path of the task at a size."""
        return self.full.env if size == "full" else self.reduced.env


@dataclass(frozen=True)
class ExperimentPlan:
    """An experiment at one size, with everything looked up that it names.

    Attributes:
        experiment: the experiment.
        size: ``"full"`` or ``"reduced"``.
        task: its task.
        source: the file that the task comes from.
        policies: its policies.
        seeds: the seeds of their runs.
    """

    experiment: PaperExperiment
    size: str
    task: TaskSpec
    source: Path
    policies: tuple[PolicySpec, ...]
    seeds: tuple[int, ...]

    @property
    def beacons(self) -> int:
        """Fixed runs of the grid."""
        return len(self.task.batch_sizes) * len(self.task.learning_rates) * len(self.task.seeds)

    @property
    def runs(self) -> int:
        """Runs under the policies, the best fixed beacon's among them."""
        return (len(self.policies) + 1) * len(self.seeds) if self.policies else 0


class ReproductionObserver:
    """What watches a reproduction. Every method does nothing by default; override those you need."""

    def stage(self, number: int, stages: int, what: str) -> None:
        """Called when a stage begins."""

    def note(self, message: str) -> None:
        """Called with one line that the user should know."""

    @contextmanager
    def recording(self) -> Iterator[RecordingObserver]:
        """Give what watches the recording of the grid."""
        yield RecordingObserver()

    def comparing(self) -> BenchObserver:
        """Return what watches the runs under the policies."""
        return BenchObserver()


@dataclass(frozen=True)
class Reproduction:
    """How far a reproduction came.

    Attributes:
        out: its directory.
        figures: the pictures.
        claims: the paper's claims, each with the figures found; empty while beacons are missing.
        failed: message by name of every training that could not be carried out; the same call tries them again.
    """

    out: Path
    figures: tuple[Path, ...]
    claims: tuple[Claim, ...]
    failed: dict[str, str]


def experiment_names() -> list[str]:
    """List the experiments that ``load_paper_experiment`` finds by name, sorted, each once."""
    return artefact_names("configs/paper")


def load_paper_experiment(name_or_path: str | Path) -> PaperExperiment:
    """Load an experiment of the paper.

    Args:
        name_or_path: a name such as ``"mnist-resnet"``, looked up as ``configs/paper/NAME.yaml`` where other configs
            are, or the path of a YAML file.

    Returns:
        The experiment.

    Raises:
        UnknownNameError: no such name.
        ConfigError: the file is not a valid experiment.
    """
    return load_yaml(find_artefact("configs/paper", name_or_path), PaperExperiment)


def plan_experiment(experiment: PaperExperiment, size: str, seeds: Sequence[int] | None = None) -> ExperimentPlan:
    """Look up everything that an experiment names, before anything is trained.

    Args:
        experiment: the experiment.
        size: ``"full"`` or ``"reduced"``.
        seeds: seeds of the runs under policies, instead of the experiment's.

    Returns:
        The plan.

    Raises:
        ConfigError: the size is not known, a file is not valid, or a policy's batch sizes are not on the ladder.
        UnknownNameError: no such env or policy.
    """
    if size not in {"full", "reduced"}:
        raise ConfigError(f"size: expected 'full' or 'reduced', got {size!r}")
    env = experiment.env(size)
    task = load_task(env)
    policies = tuple(load_policy_spec(name) for name in experiment.policies)
    for policy in policies:
        missing = sorted({*policy.parameters.get("batch_sizes", ())} - {*task.batch_sizes})
        if missing:
            raise ConfigError(
                f"experiment '{experiment.name}': policy '{policy.name}' uses batch size "
                f"{', '.join(map(str, missing))}, which is not on the ladder of '{env}'"
            )
    source = find_artefact("envs", env)
    return ExperimentPlan(experiment, size, task, source, policies, tuple(seeds or experiment.seeds))


def reproduce(
    plan: ExperimentPlan,
    out: str | Path,
    *,
    jobs: int = 1,
    on: str = LOCAL,
    device: str = "auto",
    data_dir: Path | None = None,
    command: str = "",
    observer: ReproductionObserver | None = None,
) -> Reproduction:
    """Carry out an experiment of the paper, or go on with it: whatever is finished in ``out`` is not done again.

    ``out/envs/ENV`` gets the task and its beacons; those that come with the task are taken as they are where they were
    recorded from the same data, and the others are recorded. ``out/compare/ENV`` gets the runs under the policies, all
    of them measured, and their tables; ``out/figures`` our counterparts of the paper's figures; ``out/claims.md`` and
    ``claims.json`` the paper's claims beside what was found.

    Args:
        plan: the experiment.
        out: the directory; new, empty, or that of the same experiment at the same size.
        jobs: trainings side by side.
        on: what starts the workers, as for ``compare_policies``.
        device: torch device.
        data_dir: where datasets lie.
        command: the command line that asked for this, kept with the beacons.
        observer: what watches.

    Returns:
        What came of it. Where beacons failed, nothing is compared yet.

    Raises:
        ConfigError: the arguments cannot be carried out.
        OutputError: ``out`` holds something else, or cannot be written.
        LibraryError: the beacons in ``out`` are damaged or of another task.
        CheckpointError: a run in ``out`` is damaged.
        DataError: data are missing or damaged.
    """
    out, observer = Path(out).absolute(), observer or ReproductionObserver()
    stages = 3 if plan.policies else 2
    env = _prepare(plan, out)
    observer.stage(1, stages, f"the grid of {plan.beacons} beacons of {plan.task.name}")
    _take_shipped(plan, env, data_dir, observer)
    with observer.recording() as watcher:
        result = record_task_beacons(
            plan.task, env, jobs=jobs, on=on, device=device, data_dir=data_dir, command=command, observer=watcher
        )
    if result.failed:
        return Reproduction(out, (), (), result.failed)
    failed: dict[str, str] = {}
    runs = epochs = None
    if plan.policies:
        observer.stage(2, stages, f"{plan.runs} runs: {', '.join(p.name for p in plan.policies)}, best fixed beacon")
        place = out / "compare" / plan.task.name
        comparison = compare_policies(
            plan.policies,
            env,
            plan.seeds,
            out=place,
            jobs=jobs,
            on=on,
            device=device,
            data_dir=data_dir,
            measure_all=True,
            observer=observer.comparing(),
        )
        failed = comparison.failed
        runs, epochs = load_runs(place / RUNS), load_epochs_table(place / EPOCHS)
    observer.stage(stages, stages, "figures and claims")
    library = BeaconLibrary.load(env)
    figures = paper_figures(library, epochs, out / "figures")
    claims = paper_claims(library, runs, epochs)
    write_whole(out / "claims.md", claims_markdown(claims).encode())
    write_whole(out / "claims.json", claims_json(claims).encode())
    return Reproduction(out, tuple(figures), tuple(claims), failed)


def _prepare(plan: ExperimentPlan, out: Path) -> Path:
    """Make the directory of an experiment, or check that it is one; return the folder of its task, with its file."""
    mark = f"name: {plan.experiment.name}\nsize: {plan.size}\n".encode()
    folder = out / "envs" / plan.task.name
    with naming_output(out):
        found = [path.name for path in seen_in(out, "*")] if out.exists() else []
        if found and (MARK not in found or (out / MARK).read_bytes() != mark):
            what = "another experiment or size" if MARK in found else repr(found[0])
            raise OutputError(
                f"{out}: expected an empty directory or that of '{plan.experiment.name}' at {plan.size} size, found "
                f"{what} in it; choose another directory"
            )
        folder.mkdir(parents=True, exist_ok=True)
        content = plan.source.read_bytes()
    write_whole(out / MARK, mark)
    own = folder / "env.yaml"
    if own.exists() and load_task(own).fingerprint_payload("", 0) != plan.task.fingerprint_payload("", 0):
        raise OutputError(f"{own}: is another task than {plan.source} has now; choose another directory")
    write_whole(own, content)
    return folder


def _take_shipped(plan: ExperimentPlan, env: Path, data_dir: Path | None, observer: ReproductionObserver) -> None:
    """Take the beacons that come with a task, where they were recorded from the same data and none are there yet."""
    if holds_beacons(env) or not holds_beacons(plan.source.parent):
        return
    library = BeaconLibrary.load(plan.source.parent)
    data = load_data(plan.task, data_dir)
    try:
        library.check_task(plan.task.fingerprint_payload(data.fingerprint, data.num_classes))
    except LibraryError as error:
        observer.note(f"the beacons that come with the task are not taken: {error}")
        return
    BEACONS.save(BEACONS.gathered(env), library.beacons, library.info)
    observer.note(f"{len(library.beacons)} beacons come with the task")
