"""The runs of a comparison as cells: what a worker needs to train one, wherever it is."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autobatch._errors import ConfigError
from autobatch._files import naming_output, write_whole
from autobatch.cells import Cell, CellEnd, Plan, Report, Work
from autobatch.control.run import CONFIG
from autobatch.control.steps import check_divisible
from autobatch.training import Data, RunConfig, load_data
from autobatch.training._engine import resolve_device
from autobatch.training._run import found_config, kept_config
from autobatch.training._versions import code_version, software_versions
from autobatch.training.recording import train

KIND = "comparison"
_CIRCUMSTANCES = "circumstances.json"


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        env: the task's name.
        policy: the policy's name.
        seed: the run's seed.
        config: its configuration.
        out: its directory.
        weights: SHA-256 of a learned policy's weights.
        side_by_side: runs at the same time, this one included.
    """

    env: str
    policy: str
    seed: int
    config: RunConfig
    out: Path
    weights: str | None
    side_by_side: int

    @property
    def name(self) -> str:
        """Task, policy and seed in words."""
        return f"{self.env} {self.policy} seed {self.seed}"

    @property
    def cell(self) -> str:
        """Name of its cell."""
        return f"{self.env} {self.out.name}"

    def to_dict(self, home: Path) -> dict[str, Any]:
        """Return it as plain values: of its paths, none tells of the machine.

        Args:
            home: the comparison's directory.
        """
        return {
            "env": self.env,
            "policy": self.policy,
            "seed": self.seed,
            "config": kept_config(self.config, self.out),
            "out": self.out.relative_to(home).as_posix(),
            "weights": self.weights,
            "side_by_side": self.side_by_side,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], home: Path) -> "Job":
        """Read back what ``to_dict`` returned, where the comparison's directory is now."""
        out = home / values["out"]
        config = found_config(RunConfig.model_validate(values["config"]), out)
        return cls(**{**values, "out": out, "config": config})


@dataclass(frozen=True)
class ComparisonMaker:
    """Makes what trains runs; the data of the last task are kept.

    Attributes:
        home: the comparison's directory.
        device: torch device, ``"auto"`` for that which the comparison was begun with.
        data_dir: where datasets lie; None for where they lay then.
        trust_code: whether a task may name factories to import.
        ranks: processes that train each run together.
    """

    home: Path
    device: str = "auto"
    data_dir: Path | None = None
    trust_code: bool = False
    ranks: int = 1
    _data: dict[str, Data] = field(default_factory=dict, init=False, compare=False)

    def __call__(self, plan: Plan) -> Work:
        """Return what trains a run.

        Args:
            plan: the plan.

        Returns:
            The function.

        Raises:
            ConfigError: the runs were put in by other code than that here, or their batches do not divide among ranks.
        """
        plan.check(KIND, comparison_fingerprint(), self.home)
        for cell in plan.cells:
            check_divisible(Job.from_dict(cell.what, self.home).config.task.batch_sizes, self.ranks, 1)
        return self._train

    def _train(self, cell: Cell, report: Report) -> CellEnd:
        job = Job.from_dict(cell.what, self.home)
        config = job.config.model_copy(
            update={"trust_code": self.trust_code, "data_dir": self.data_dir or job.config.data_dir}
        )
        if self.device != "auto" and str(resolve_device(self.device)) != config.device:
            raise ConfigError(f"device: these runs were begun on {config.device}, and go on there, not {self.device}")
        if self.ranks == 1 and job.env not in self._data:
            self._data.clear()
            self._data[job.env] = load_data(config.task, config.data_dir, resolve_device(config.device))
        most = max(job.side_by_side, int(circumstances(job.out).get("side_by_side", 1)))
        with naming_output(job.out):
            job.out.mkdir(parents=True, exist_ok=True)
        record = {"side_by_side": most, "weights": job.weights}
        write_whole(job.out / _CIRCUMSTANCES, (json.dumps(record) + "\n").encode())
        resume = (job.out / CONFIG).exists()
        summary = train(config, job.out, report, resume=resume, data=self._data.get(job.env), ranks=self.ranks)
        return CellEnd(summary.stopped_because, summary.device)


def comparison_fingerprint() -> dict[str, Any]:
    """Return what the runs of one comparison that are trained together must agree on."""
    return {"code": code_version(), "torch": software_versions()["torch"]}


def circumstances(out: Path) -> dict[str, Any]:
    """Return what is kept of how a run was trained; empty where nothing is."""
    try:
        record = json.loads((out / _CIRCUMSTANCES).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
