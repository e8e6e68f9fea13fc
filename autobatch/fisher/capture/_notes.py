"""What is known of a measured step besides F, and the guard around everything that measuring does in the training."""

import time
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from autobatch._errors import MeasureError
from autobatch.fisher._measurement import caused
from autobatch.fisher._sums import Arrived

NOT_CALLED = (
    "the model was not called inside the body: run model(...), not model.forward(...) or a part of it alone, and"
    " backward() within it"
)


@dataclass
class Notes:
    """What a step of a model leaves besides F."""

    model: nn.Module
    # The first, if something could not be measured; it is kept, for nothing is raised into the training.
    problem: MeasureError | None = None
    bn: str = "none"  # what a column of J means under BatchNorm
    gradient_eps: float = 0.0  # machine epsilon of the gradients' arithmetic
    seconds: float = 0.0  # that measuring took within the body
    by_sample: bool = False  # whether some of it took one backward pass for each sample, which is slow
    batches: list[int] = field(default_factory=list)  # samples of each pass
    # For each pass, what is known of the gradient that each parameter got, by name.
    checks: list[dict[str, Arrived]] = field(default_factory=list)

    def describe(self, name: str, function: str = "") -> str:
        """Return a parameter and the function that uses it, in words."""
        path = name.rpartition(".")[0]
        kind = type(self.model.get_submodule(path)).__name__
        owner = f"module {path!r} ({kind})" if path else f"the model itself ({kind})"
        return f"parameter {name!r} of {owner}" + (f" in {function}()" if function else "")


@dataclass(eq=False)
class Guarded:
    """Times what measuring does within the training; what goes wrong in it is the step's problem, and nobody else's.

    What is measured is said in words, or as a parameter's name and the function that uses it, or "".
    """

    notes: Notes
    what: str
    function: str | None = None

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> bool:
        notes = self.notes
        notes.seconds += time.perf_counter() - self._start
        if not isinstance(error, Exception):
            return False
        what = self.what if self.function is None else notes.describe(self.what, self.function)
        if not isinstance(error, MeasureError):
            error = caused(what, error)
        elif self.function is not None:
            error = MeasureError(f"{what}: {error}")
        notes.problem = notes.problem or error
        return True
