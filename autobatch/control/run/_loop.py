"""What a run directory says of a loop of one's own, in place of a task with an ``env.yaml``."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from autobatch._artefacts import found_again, portable
from autobatch._errors import CheckpointError, ConfigError
from autobatch._files import write_whole
from autobatch._yaml import dump_yaml, load_yaml
from autobatch.beacons import CostTable
from autobatch.control.run._records import CONFIG
from autobatch.policies import PolicySpec

_MARK = "loop: true"


class LoopTask(BaseModel):
    """What a controller knows of its task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="The task's name.")
    dataset_size: int = Field(description="Training examples.")
    epochs: int = Field(description="Length of the whole training.")
    batch_sizes: tuple[int, ...] = Field(description="The ladder.")
    learning_rates: tuple[float, ...] = Field(description="The base learning rates to choose from.")
    score: str = Field(description="The figure that ranks runs.")
    facts: dict[str, Any] = Field(description="What can be seen of the loop: parameters, optimizer, sizes.")

    def fingerprint_payload(self, data_fingerprint: str, num_classes: int) -> dict[str, Any]:
        """Return what makes runs of two loops comparable; data and classes cannot be seen."""
        del data_fingerprint, num_classes
        return {"loop": self.facts}


class LoopConfig(BaseModel):
    """What a run of a loop of one's own depends on, as far as its controller knows; saved as ``config.yaml``."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    loop: Literal[True] = Field(default=True, description="Tells such a run from those of 'autobatch run'.")
    task: LoopTask = Field(description="What is known of the task.")
    policy: PolicySpec = Field(description="The policy; of one that was given as an object, what it is called.")
    seed: int = Field(description="Seeds permutations and random policies.")
    device: str = Field(description="Torch device.")
    planned_epochs: int = Field(description="Epochs after which the policy plans to end the training.")
    advise: int = Field(default=0, description="The loop's own batch size, where it is only advised; else 0.")
    library: str | None = Field(default=None, description="Where the beacons lie, from the run directory; or None.")
    costs: CostTable | None = Field(default=None, description="Seconds by batch size, where they are known.")

    def save(self, out: Path) -> None:
        """Write ``config.yaml`` into a run directory."""
        write_whole(out / CONFIG, dump_yaml(self.model_dump(mode="json")).encode())

    def library_path(self, out: Path) -> Path | None:
        """Return where the beacons lie; None where there are none, or it is not known."""
        return None if self.library is None else found_again(self.library, out)


def is_loop(out: Path) -> bool:
    """Say whether a run directory holds a readable run of a loop of one's own."""
    try:
        with (out / CONFIG).open(encoding="utf-8") as file:
            return file.readline().strip() == _MARK
    except (OSError, UnicodeDecodeError):
        return False


def load_loop_config(out: Path) -> LoopConfig:
    """Read the configuration of a run that a controller has written."""
    try:
        return load_yaml(out / CONFIG, LoopConfig)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def from_run(library: str | Path | None, out: Path) -> str | None:
    """Return a path as seen from a run directory, which may be passed on."""
    if library is None:
        return None
    place = portable(Path(library), out)
    return place if place.isprintable() else None  # a name that is not UTF-8 cannot be kept
