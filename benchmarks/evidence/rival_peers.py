"""The published rules beside public programs of them: the same gradients, the same figures.

    pip install cockpit-for-pytorch fairscale adaptdl 'setuptools<81'   # old: better in an environment of their own
    python benchmarks/evidence/rival_peers.py
    python benchmarks/evidence/rival_peers.py --table                            # compare with the stored figures again

A small network trains on the digits for forty steps of 32 examples, in float64. At every step Cockpit says where the
norm test, the inner-product test and the orthogonality test would just pass and which batch size CABS asks for, and the
AdaScale of FairScale and the noise scale of AdaptDL take in the gradients of the single examples. What they say is kept
with the moments of our Gram matrix, in ``benchmarks/results/rival-peers.json``.

From the moments our policies then decide. The tests and CABS answer with a batch size only, so what is compared is the
parameter at which their answer changes, found by bisection; the other two set the learning rate, which is compared.
"""

import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from autobatch import FisherProbe
from autobatch.fisher import GradientMoments
from autobatch.policies import Observation, Policy, PolicySpec, TaskInfo, make_policy
from benchmarks import pages

RESULTS = pages.RESULTS / "rival-peers.json"
BATCH, STEPS, LR = 32, 40, 0.05
LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
DECAY_PER_EXAMPLE = 0.999
"""AdaptDL's: its averages decay by this to the power of the batch size."""


def main() -> None:
    """Record, if nothing else is said, and print the table."""
    parser = pages.parser_of(__doc__)
    parser.add_argument("--table", action="store_true", help="print the stored figures' table")
    if not parser.parse_args().table:
        RESULTS.write_text(json.dumps(record(), indent=1) + "\n", encoding="utf-8")
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    print(pages.heading("rule | figure | program | largest relative deviation"))
    for (rule, figure, program), deviation in deviations(stored["steps"]).items():
        print(f"| `{rule}` | {figure} | {program} {stored['versions'][program]} | {deviation:.0e} |")


# -- what the programs say ----------------------------------------------------------------------------------------


def record() -> dict[str, object]:
    """Train, and keep at every step the moments of our Gram matrix and what the programs say."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    programs = [Cockpits(model), Fairscale(model), AdaptDl(model)]
    digits = load_digits()
    images, labels = torch.from_numpy(digits.data / 16), torch.from_numpy(digits.target)
    steps = []
    for _ in range(STEPS):
        chosen = torch.randperm(len(labels))[:BATCH]
        x, y = images[chosen], labels[chosen]
        optimizer.zero_grad()
        with FisherProbe(model) as probe:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        moments = GradientMoments.of_gram(probe.gram())
        said: dict[str, float] = {}
        for program in programs:
            program.model.load_state_dict(model.state_dict())
            said |= program.say(x, y)
        steps.append({"moments": asdict(moments), "loss": loss.item(), "said": said})
        optimizer.step()
    versions = {"cockpit": "cockpit-for-pytorch", "fairscale": "fairscale", "adaptdl": "adaptdl"}
    return {"versions": {name: version(package) for name, package in versions.items()}, "steps": steps}


class Cockpits:
    """Where the tests would just pass, and the batch size of CABS at a rate of 1."""

    def __init__(self, model: nn.Module) -> None:
        from backpack import extend
        from cockpit import Cockpit, quantities

        self.model, self._loss = extend(copy.deepcopy(model)), extend(nn.CrossEntropyLoss())
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        kinds = (quantities.NormTest, quantities.InnerTest, quantities.OrthoTest, quantities.CABS)
        self._cockpit = Cockpit(self.model.parameters(), [kind(lambda _: True) for kind in kinds])
        self._step = -1

    def say(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Return the figures of a batch."""
        self._step += 1
        self._optimizer.zero_grad()
        loss = self._loss(self.model(x), y)
        with self._cockpit(self._step, info={"batch_size": len(x), "loss": loss, "optimizer": self._optimizer}):
            loss.backward()
        return {name: float(value) for name, value in self._cockpit.get_output()[self._step].items()}


class Fairscale:
    """The gain of AdaScale, from the gradients of single examples."""

    def __init__(self, model: nn.Module) -> None:
        from fairscale.optim import AdaScale

        self.model = copy.deepcopy(model)
        inner = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self._optimizer = AdaScale(inner, world_size=1, num_gradients_to_accumulate=BATCH)

    def say(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Return the gain after a batch."""
        self._optimizer.zero_grad()
        for loss in single_losses(self.model, x, y):
            (loss / len(x)).backward()
        return {"gain": float(self._optimizer.gain())}


class AdaptDl:
    """Its averages of the variance and of the squared norm, from the gradients of single examples."""

    def __init__(self, model: nn.Module) -> None:
        from adaptdl.torch.gradient_noise_scale import GradientNoiseScale

        self.model, self._parallel = copy.deepcopy(model), SimpleNamespace(require_backward_grad_sync=False)
        optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self._noise = GradientNoiseScale(self._parallel, optimizer, num_replicas=1, accum_scale=1.0)

    def say(self, x: Tensor, y: Tensor) -> dict[str, float]:
        """Return the averages after a batch."""
        self._noise.reset_accumulation()
        for count, loss in enumerate(single_losses(self.model, x, y), start=1):
            self._parallel.require_backward_grad_sync = count == len(x)
            loss.backward()
        return {"variance": self._noise.var_avg(), "squared_norm": self._noise.sqr_avg()}


def single_losses(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Tensor]:
    """Yield the loss of each example."""
    for one in range(len(x)):
        yield F.cross_entropy(model(x[one : one + 1]), y[one : one + 1])


# -- what our policies make of the same gradients -----------------------------------------------------------------


def deviations(steps: list[dict[str, Any]]) -> dict[tuple[str, str, str], float]:
    """Return the largest relative deviation of our policies from the programs, by rule, figure and program."""
    adascale = started("adascale", batch_size=1, lr=1.0, scale=float(BATCH))
    noise = started("noise-scale", batch_size=1, lr=1.0, memory=DECAY_PER_EXAMPLE**BATCH)
    largest: dict[tuple[str, str, str], float] = {}
    for number, step in enumerate(steps, start=1):
        moments, said = GradientMoments(**step["moments"]), step["said"]
        pairs = {(*key, "cockpit"): pair for key, pair in figures_of_size(moments, step["loss"], said).items()}
        rate = adascale.decide(observed(number, moments)).lr
        pairs["adascale", "rate over base rate", "fairscale"] = (said["gain"], rate)
        decision = noise.decide(observed(number, moments))
        scale = said["variance"] / said["squared_norm"]
        assert decision.batch_size == min(LADDER, key=lambda rung: abs(math.log(rung / min(scale, LADDER[-1]))))
        best = (1 + scale) / (1 + scale / decision.batch_size)
        pairs["noise-scale", "rate over base rate", "adaptdl"] = (best, decision.lr)
        for key, (theirs, ours) in pairs.items():
            largest[key] = max(largest.get(key, 0.0), abs(ours / theirs - 1.0))
    return largest


def figures_of_size(
    moments: GradientMoments, loss: float, said: dict[str, float]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return, by rule and figure, Cockpit's and ours: the parameter at which the answer changes."""

    def size(kind: str, lr: float = 1.0, **parameters: float) -> int:
        return started(kind, **parameters).decide(observed(1, moments, lr=lr, train_loss=loss)).batch_size

    never, twice = 1e9, math.sqrt(2.0)
    inner, across = {"nu": never}, {"theta": never}
    return {
        ("norm-test", "θ that just passes"): (
            said["NormTest"],
            change(lambda theta: size("norm-test", theta=theta) == BATCH),
        ),
        ("norm-test", "θ that asks for twice the size"): (
            said["NormTest"] / twice,
            change(lambda theta: size("norm-test", theta=theta) <= 2 * BATCH),
        ),
        ("inner-product-test", "θ that just passes"): (
            said["InnerTest"],
            change(lambda theta: size("inner-product-test", theta=theta, **inner) == BATCH),
        ),
        ("inner-product-test", "ν that just passes"): (
            said["OrthoTest"],
            change(lambda nu: size("inner-product-test", nu=nu, **across) == BATCH),
        ),
        ("inner-product-test", "ν that asks for twice the size"): (
            said["OrthoTest"] / twice,
            change(lambda nu: size("inner-product-test", nu=nu, **across) <= 2 * BATCH),
        ),
        # The nearest rung changes from one to the next at the root of their product.
        ("cabs", "rate that asks for a larger size"): (
            BATCH * twice / said["CABS"],
            change(lambda lr: size("cabs", lr=lr) > BATCH),
        ),
    }


def change(answers: Callable[[float], bool]) -> float:
    """Return where an answer that is no for small parameters becomes yes."""
    low, high = 1e-6, 1e6
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if answers(middle) else (middle, high)
    return high


def started(kind: str, **parameters: float) -> Policy:
    """Return a policy at the start of a training."""
    policy = make_policy(PolicySpec(name=kind, kind=kind, parameters=parameters))
    policy.reset(TASK, None)
    policy.decide(observed(0, None))
    return policy


def observed(number: int, moments: GradientMoments | None, **changes: float) -> Observation:
    """Return an observation that tells nothing but the gradients and what is given."""
    nothing = dict.fromkeys(("lr", "c_bar", "train_loss", "validation_loss", "validation_error"), math.nan)
    size = 0 if moments is None else BATCH
    given = {"epoch": number, "progress": number / STEPS, "batch_size": size, "l_cum": 0.0, "steps": number}
    return Observation(**nothing | given | changes, gradients=moments)


TASK = TaskInfo(
    name="digits",
    batch_sizes=LADDER,
    learning_rates=(1.0,),
    epochs=STEPS,
    train_size=BATCH,
    score="validation_loss",
    milestones=(),
    seed=0,
    costs=None,
    measuring_budget=1.0,
)

if __name__ == "__main__":
    main()
