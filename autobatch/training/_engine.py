"""The engine: one model on one device, trained and evaluated epoch by epoch, as fast as a loop by hand."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer

from autobatch._errors import ConfigError, first_line
from autobatch.beacons import QUANTITY, chance
from autobatch.control import derive_generator, derive_seed
from autobatch.control._ranks import Ranks
from autobatch.control.measuring import is_out_of_memory
from autobatch.control.rates import is_adaptive
from autobatch.optim import NaturalGradient
from autobatch.training._checkpoint import snapshot
from autobatch.training._controller import EngineController
from autobatch.training._losses import each_loss, error_of, mean_loss, summed
from autobatch.training._own_optimizer import build_own, check_own
from autobatch.training._prodigy import build_prodigy
from autobatch.training.data import Data, augment, shifted_views
from autobatch.training.models import build_task_model
from autobatch.training.task import OptimizerSpec, TaskSpec, is_factory
from autobatch.training.task._optimizers import OF_FISHER, OF_TORCH

EVALUATION_BATCH = 512
"""Examples per forward pass of an evaluation; larger ones fall out of a CPU's cache."""

EXPLODED = 10.0
"""A training loss above this many times that of guessing ends a run; of a squared error, that above its square does."""


def resolve_device(name: str) -> torch.device:
    """Return the device of a run.

    Args:
        name: a torch device such as ``"cpu"`` or ``"cuda:0"``, or ``"auto"`` for a GPU where there is one.

    Returns:
        The device; a CUDA device has its index.

    Raises:
        ConfigError: the device is not known or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: expected 'auto', 'cpu' or a device such as 'cuda:0', got {name!r}") from None
    if device.type not in {"cpu", "cuda"}:
        raise ConfigError(f"device: expected 'cpu' or 'cuda', got {name!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ConfigError(f"device: {name!r} is not there; this machine has {count} usable GPUs")
        return torch.device("cuda", device.index if device.index is not None else torch.cuda.current_device())
    return device


@contextmanager
def reproducible(device: torch.device, threads: int) -> Iterator[None]:
    """Run with a fixed number of threads, algorithms that repeat bit by bit, and torch's global generators set apart.

    Args:
        device: the device of the run.
        threads: CPU threads.

    Yields:
        Nothing; on leaving, threads, generators and settings are as they were.
    """
    threads_before = torch.get_num_threads()
    cuda_devices = [device.index] if device.type == "cuda" else []
    cudnn = torch.backends.cudnn
    settings_before = cudnn.deterministic, cudnn.benchmark
    with torch.random.fork_rng(devices=cuda_devices):
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = True, False
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)
            cudnn.deterministic, cudnn.benchmark = settings_before


def seed_global_generators(device: torch.device, seed: int) -> None:
    """Seed the generators that layers such as dropout and initialisation draw from, on the run's devices only."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


def build_optimizer(spec: OptimizerSpec, model: nn.Module, lr: float, *, trust_code: bool = False) -> Optimizer:
    """Make a task's optimizer; ``lr`` is a first learning rate, and the controller sets it before every epoch."""
    if spec.own:
        return build_own(spec, model, lr, trust_code=trust_code)
    momentum, weight_decay = spec.momentum or 0.0, spec.weight_decay or 0.0
    given = {"lr": lr, "weight_decay": weight_decay, **spec.settings}
    if spec.name == "prodigy":
        return build_prodigy(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
    if spec.name in OF_FISHER:
        return OF_FISHER[spec.name](model, given, momentum)
    if spec.name in OF_TORCH:
        return OF_TORCH[spec.name](model.parameters(), given, momentum)
    return SGD(
        model.parameters(),
        lr=lr,
        momentum=momentum,
        nesterov=spec.nesterov,
        weight_decay=weight_decay,
        fused=True,
    )


def check_task(task: TaskSpec, data: Data, *, trust_code: bool) -> None:
    """Refuse a network or an optimizer that a run cannot rest on, before anything is trained or timed.

    Args:
        task: the task.
        data: its data.
        trust_code: allow the task to name factories to import.

    Raises:
        ConfigError: a network of the user's own cannot take the data, or an optimizer the network or the largest batch,
            or it is one of the user's own that a run cannot rest on.
    """
    if is_factory(task.model.name):
        _check_own_model(task, data, trust_code=trust_code)
    spec, lr = task.optimizer, task.optimizer.base_lr
    if spec.name == "natural-gradient":
        optimizer = build_optimizer(spec, build_task_model(task, data, trust_code=trust_code), lr)
        assert isinstance(optimizer, NaturalGradient)
        _check_natural(optimizer, task, data)
    elif spec.own:
        place = data.train_inputs.device
        models = [build_task_model(task, data, trust_code=trust_code).to(place) for _ in range(2)]
        try:
            check_own(spec, models, lambda model: build_optimizer(spec, model, lr, trust_code=trust_code))
        except ConfigError as error:
            raise ConfigError(f"task {task.name!r}: {error}") from error


def _check_own_model(task: TaskSpec, data: Data, *, trust_code: bool) -> None:
    model = build_task_model(task, data, trust_code=trust_code).to(data.train_inputs.device).eval()
    inputs, targets = data.network_inputs(data.train_inputs[:2]), data.train_labels[:2]
    own, given = f"task {task.name!r}: key 'model.name': {task.model.name}", f"{tuple(inputs.shape)} {inputs.dtype}"
    try:
        with torch.random.fork_rng(), torch.no_grad():
            outputs = model(inputs)
    except Exception as error:  # the user's code
        if is_out_of_memory(error):
            raise
        said = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(f"{own} fails on examples of shape {given}: {said}") from error
    found = tuple(outputs.shape) if isinstance(outputs, Tensor) else ()
    count = len(targets)
    if targets.is_floating_point():
        names, expected = "(N, quantities)", (count, data.outputs)
        fits = found == expected or (data.outputs == 1 and found == (count,))
    else:
        names, expected = "(N, classes)", (count, data.num_classes, *targets.shape[1:])
        names = names if targets.ndim == 1 else "(N, classes, places)"
        classes = found[1] if len(found) > 1 else 0  # more than there are do no harm
        fits = classes >= data.num_classes and found == (count, classes, *targets.shape[1:])
    if not fits:
        what = f"outputs of shape {found}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise ConfigError(f"{own} gives {what} of {count} examples, expected {names} = {expected}")


def scales_its_steps(task: TaskSpec, data: Data, *, trust_code: bool) -> bool:
    """Say whether a task's optimizer scales its steps by the gradients' own size, as a controller of it will."""
    spec = task.optimizer
    if not spec.own:
        return spec.adaptive
    model = build_task_model(task, data, trust_code=trust_code).to(data.train_inputs.device)
    return is_adaptive(build_optimizer(spec, model, spec.base_lr, trust_code=trust_code))


def check_together(task: TaskSpec, model: nn.Module) -> None:
    """Refuse a network of which several processes together cannot train a beacon of the task."""
    if norms := batch_norms(model):
        raise ConfigError(
            f"task '{task.name}': its {norms} BatchNorm layers take their statistics over each process's share of a "
            "batch, so that its beacons are trained by one process each"
        )


def batch_norms(model: nn.Module) -> int:
    """Return how many BatchNorm layers a network has."""
    return sum(isinstance(module, _BatchNorm) for module in model.modules())


def _check_natural(optimizer: NaturalGradient, task: TaskSpec, data: Data) -> None:
    optimizer.check_before(max(task.batch_sizes), data.num_classes * data.train_labels[0].numel())


class Engine:
    """A task's model, optimizer and data on one device.

    Images stay on the device as uint8. Augmentation is batched tensor code over the whole set, once an epoch; a batch
    is gathered and normalised when it is used. No step waits for the device: losses are summed up once an epoch.
    Weights and images lie channels last in memory, and the optimizer's update is fused; on a CPU, that makes the
    paper's networks 5 to 40 % faster (``benchmarks/speed/loop.py``). A network of texts has its classes in dimension
    1, as ``cross_entropy`` takes them: (N, classes, context). Losses and errors are then means over all places of all
    windows, and a measured example is a window.

    Args:
        task: the task.
        data: its data, on the device.
        device: where to train.
        seed: the run's seed.
        trust_code: allow the task to name factories to import.
        ranks: the processes that train together, each its share of every batch; None for this one alone.

    Attributes:
        model: the network.
        trained: the network as it is called in training, with the wrapper that brings gradients together.

    Raises:
        ConfigError: the task's optimizer cannot take the network, the largest batch, or several processes.
    """

    def __init__(
        self,
        task: TaskSpec,
        data: Data,
        device: torch.device,
        seed: int,
        *,
        trust_code: bool,
        ranks: Ranks | None = None,
    ) -> None:
        self.task = task
        self.data = data
        self.device = device
        self.seed = seed
        initial_seed = derive_seed(seed, "initialisation")
        model = build_task_model(task, data, seed=initial_seed, trust_code=trust_code)
        self.model = model.to(device)
        if data.mean is not None:
            self.model.to(memory_format=torch.channels_last)
        lr = task.optimizer.base_lr
        self.optimizer = build_optimizer(task.optimizer, self.model, lr, trust_code=trust_code)
        if isinstance(self.optimizer, NaturalGradient):
            _check_natural(self.optimizer, task, data)
        self._ranks = ranks if ranks is not None and ranks.size > 1 else None
        self.trained: nn.Module = self.model
        if self._ranks is not None:
            if isinstance(self.optimizer, NaturalGradient):
                raise ConfigError(
                    "optimizer: NaturalGradient takes one process: each would go by its own samples, and they drift "
                    "apart"
                )
            own = [device] if device.type == "cuda" else None
            self.trained = DistributedDataParallel(self.model, device_ids=own)
        self._seen: tuple[int, Tensor] | None = None
        self._validation = self._views(data.validation_inputs, data.validation_labels)

    @property
    def parameters(self) -> int:
        """Trainable parameters of the model."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def snapshot(self) -> dict[str, Tensor]:
        """Return copies, on the CPU, of what ``put_back`` brings back into model and optimizer."""
        return snapshot(self.model, self.optimizer, whole=self.task.optimizer.own)

    def train_period(self, controller: EngineController, after_step: Callable[[int, int], None]) -> float:
        """Train to the next decision and return the mean loss, of all processes.

        Args:
            controller: says what is trained; an epoch, or a part of one where decisions are taken within epochs.
            after_step: called after each step with those done and those in all.

        Returns:
            The mean loss of the examples trained.
        """
        epoch, part = divmod(controller.finished_periods, controller.task.periods)
        layers = "layers" if self._ranks is None or self._ranks.leads else f"layers of rank {self._ranks.rank}"
        layers += f" from part {part}" if part else ""
        seed_global_generators(self.device, derive_seed(self.seed, layers, epoch))
        examples = self._augmented_once(epoch)
        labels = self.data.train_labels
        self.model.train()
        steps = controller.period_steps
        losses, sizes = [], []
        for step, indices in enumerate(controller.batches(), start=1):
            inputs = self.normalised(examples.index_select(0, indices))
            targets = labels.index_select(0, indices)
            with controller.step() as measured:
                _, loss = self.passed(inputs, targets)
                measured.backward(loss)
            self.update(inputs, targets)
            losses.append(loss.detach())
            sizes.append(len(indices))
            after_step(step, steps)
            if controller.part_over:
                break
        weights = torch.tensor(sizes, dtype=torch.float64, device=self.device)
        total, count = self._added_up(torch.stack([torch.stack(losses).double().dot(weights), weights.sum()]))
        if self._ranks is not None:  # what BatchNorm has seen of each process's shares
            self._ranks.average([buffer for buffer in self.model.buffers() if buffer.is_floating_point()])
        return total / count

    def _added_up(self, sums: Tensor) -> list[float]:
        """Return sums over all processes of what each has."""
        if self._ranks is not None:
            self._ranks.average([sums])
            sums = sums * self._ranks.size
        return [float(value) for value in sums.tolist()]

    def passed(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the network's outputs for a batch, and the mean loss."""
        outputs = self.trained(inputs)
        return outputs, mean_loss(outputs, targets)

    def update(self, inputs: Tensor, targets: Tensor) -> None:
        """Take the optimizer's step, and forget the gradients.

        Args:
            inputs: the batch, which natural gradients pass through the network anew.
            targets: its labels.
        """
        if isinstance(self.optimizer, NaturalGradient):
            self.optimizer.step(lambda: self.passed(inputs, targets))
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()

    def _augmented_once(self, epoch: int) -> Tensor:
        """Return the examples as an epoch sees them, those of the part before where it is the same epoch."""
        if self._seen is None or self._seen[0] != epoch:
            self._seen = None  # its memory first
            self._seen = epoch, self.augmented(epoch)
        return self._seen[1]

    def augmented(self, epoch: int) -> Tensor:
        """Return the training examples, on the device, as the epoch after ``epoch`` finished ones sees them."""
        generator = derive_generator(self.seed, "augmentation", epoch)
        return augment(self.data.train_inputs, self.task.dataset.augmentation, generator)

    def normalised(self, inputs: Tensor) -> Tensor:
        """Return examples as the network takes them.

        Args:
            inputs: some examples, shape (N, ...).

        Returns:
            Of images, float32 of the same shape, channels last in memory, each channel with mean 0 and standard
            deviation 1 over the training set; others as they are.
        """
        inputs = self.data.network_inputs(inputs)
        return inputs if self.data.mean is None else inputs.contiguous(memory_format=torch.channels_last)

    def validate(self) -> tuple[float, float]:
        """Return mean loss and error (``error_of``) of the validation part, in evaluation mode."""
        return self._evaluate(*self._validation)

    def validation_losses(self) -> Tensor:
        """Return the loss of each example of the validation part, in evaluation mode.

        Returns:
            float64, shape (N,), on the CPU; where an example has several views or places, the mean over them.
        """
        self.model.eval()
        inputs, labels = self._validation
        losses = []
        with torch.inference_mode():
            for some, targets in zip(
                torch.split(inputs, EVALUATION_BATCH), torch.split(labels, EVALUATION_BATCH), strict=True
            ):
                losses.append(each_loss(self.model(self.normalised(some)), targets))
        count = len(self.data.validation_labels)
        return torch.cat(losses).double().reshape(-1, count).mean(dim=0).cpu()

    def test(self) -> tuple[float, float]:
        """Return mean loss and error (``error_of``) of the test part, in evaluation mode."""
        return self._evaluate(*self._views(self.data.test_inputs, self.data.test_labels))

    def _views(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.task.dataset.evaluation == "plain":
            return inputs, labels
        views = shifted_views(inputs)
        return views, labels.repeat(len(views) // len(labels))

    def _evaluate(self, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        rank, ranks = (0, 1) if self._ranks is None else (self._ranks.rank, self._ranks.size)
        pairs = zip(*(torch.split(part, EVALUATION_BATCH)[rank::ranks] for part in (inputs, labels)), strict=True)
        with torch.inference_mode():
            for some, targets in pairs:
                sums += torch.stack(summed(self.model(self.normalised(some)), targets))
        loss, wrong = self._added_up(sums)
        return loss / labels.numel(), error_of(wrong, labels)


def divergence(train_loss: float, validation_loss: float, num_classes: int) -> str | None:
    """Say whether an epoch's losses mean that the training has diverged.

    Args:
        train_loss: mean training loss of the epoch.
        validation_loss: mean validation loss after it.
        num_classes: K classes, or ``QUANTITY``.

    Returns:
        What was seen, or None while the training is sound. The validation loss only has to be finite: with running
        BatchNorm statistics it may be large for a few epochs without harm.
    """
    if not math.isfinite(train_loss):
        return f"the training loss became {train_loss}"
    if (seen := explosion(train_loss, num_classes)) is not None:
        return seen
    if not math.isfinite(validation_loss):
        return f"the validation loss became {validation_loss}"
    return None


def explosion(train_loss: float, num_classes: int) -> str | None:
    """Say whether an epoch's training loss is far above that of guessing among ``num_classes``; None where not."""
    times = EXPLODED**2 if num_classes == QUANTITY else EXPLODED
    limit = times * chance("train_loss", num_classes)
    if train_loss > limit:
        return f"the training loss of {train_loss:.4g} exceeds {limit:.4g}, {times:g} times that of guessing"
    return None
