"""The task: dataset, model, optimizer, schedule, ladder and budget of one ``env.yaml``."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from autobatch._artefacts import find_artefact
from autobatch._errors import ConfigError, near_names
from autobatch._yaml import load_yaml
from autobatch.control.measuring import BUDGET
from autobatch.control.rates import STEERED, steered_schedule
from autobatch.fisher._probe import SKETCH_ROWS
from autobatch.fisher.gram import LEAST_ROWS_PER_SAMPLE
from autobatch.policies.steer import usual_rates
from autobatch.training.task._names import (
    CSV_PREFIX,
    FACTORY,
    NPZ_PREFIX,
    OPTIMIZERS,
    TEXT_PREFIX,
    Form,
    dataset_problem,
    depth_problem,
    form_of,
    form_problem,
    is_factory,
    model_problem,
    optimizer_problem,
    own_prefix,
)
from autobatch.training.task._optimizers import settings_problem

DIGITS_TEST_SHARE = 2 / 9
"""Share of ``digits`` held out for testing where the task names none: 399 of its 1797 images."""

TEST_SHARE = 0.2
"""Share of a csv, npz or text held out for testing where the task names none."""

SGD_OF_QUANTITIES = 0.01
"""Base learning rate of SGD for a squared error, which diverges sooner than a cross entropy."""


def _check_ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise ValueError(f"expected ascending values, each once, got {list(values)}")
    return values


def _check_different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"expected different seeds, got {list(seeds)}")
    return seeds


def _usable(problem_of: Callable[[str], str | None]) -> AfterValidator:
    """Return what refuses a name that has a problem."""

    def check(name: str) -> str:
        if problem := problem_of(name):
            raise ValueError(problem)
        return name

    return AfterValidator(check)


Ascending = AfterValidator(_check_ascending)
PositiveInteger = Annotated[int, Field(gt=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Milestone = Annotated[float, Field(gt=0, lt=1)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


_OWN_KEYS: Final[dict[str, tuple[Form, str]]] = {
    "target": ("table", CSV_PREFIX),
    "categorical": ("table", CSV_PREFIX),
    "context": ("text", TEXT_PREFIX),
}


class DatasetSpec(_Spec):
    """Which examples a task trains on, and how they are split.

    Attributes:
        name: ``digits``, ``mnist``, ``cifar10``, ``cifar100``, ``svhn``, ``imagefolder:PATH`` for a folder with
            ``train/<class>/*`` and ``test/<class>/*`` images, ``csv:PATH`` for a table with a header, ``npz:PATH`` for
            NumPy's arrays ``inputs`` and ``targets``, or ``text:PATH`` for a UTF-8 file whose next characters are
            predicted.
        predict: ``classes``, or, of ``csv`` and ``npz``, ``quantity``: numbers, trained by the squared error in their
            standard deviations; the error is then the share of their variance that is left.
        target: ``csv`` only, and needed there: the column that is predicted.
        categorical: ``csv`` only: columns that hold categories although they look like numbers.
        context: ``text`` only, and needed there: characters of a window, which is one example.
        subset: number of training examples to draw before the validation split (stratified by class, seeded; of a
            text the first windows); all where None.
        validation: share of the training examples that becomes the validation part, in (0, 1).
        test: ``digits``, ``csv``, ``text``, and ``npz`` without ``test_inputs``, which have no test part of their own:
            share held out for testing, in (0, 1); where None, 2/9 of ``digits`` and 0.2 of the others.
        augmentation: what is done to the training images each epoch.
        evaluation: ``plain`` evaluates validation and test images as they are; ``shifts`` also moved to the four
            corners that ``shift`` reaches, five views an image, which steadies the figures of small parts.
        split_seed: seed of every split; part of the task, so that all its runs see one split.
    """

    name: Annotated[str, _usable(dataset_problem)]
    predict: Literal["classes", "quantity"] = "classes"
    target: str | None = None
    categorical: tuple[str, ...] | None = None
    context: PositiveInteger | None = None
    subset: PositiveInteger | None = None
    validation: float = Field(default=0.1, gt=0, lt=1)
    test: float | None = Field(default=None, gt=0, lt=1)
    augmentation: Literal["none", "shift", "pad-crop-flip"] = "none"
    evaluation: Literal["plain", "shifts"] = "plain"
    split_seed: Seed = 0

    @model_validator(mode="after")
    def _keys_of_this_form_only(self) -> "DatasetSpec":
        if self.test is not None and self.name != "digits" and self.form == "images":
            raise ValueError(f"'test' is for digits, csv, npz and text only; {self.name} has its own test part")
        if self.quantity and self.form not in {"table", "arrays"}:
            raise ValueError(
                f"'predict: quantity' is for {CSV_PREFIX}PATH and {NPZ_PREFIX}PATH only, not for {self.name}"
            )
        for key, (form, prefix) in _OWN_KEYS.items():
            if getattr(self, key) is not None and self.form != form:
                raise ValueError(f"'{key}' is for {prefix}PATH only, not for {self.name}")
        if self.form == "table" and self.target is None:
            raise ValueError("a csv needs 'target', the column that is predicted")
        if self.form == "text" and self.context is None:
            raise ValueError("a text needs 'context', the characters of a window")
        if self.form not in {"images", "arrays"} and (self.augmentation, self.evaluation) != ("none", "plain"):
            raise ValueError(f"'augmentation' and 'evaluation' are for images only, not for {self.name}")
        if self.form == "text" and self.split_seed:
            raise ValueError("'split_seed' does nothing to a text, whose parts lie one after the other")
        return self

    @model_serializer(mode="wrap")
    def _as_before_these_keys(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Beacons and runs of images that were kept before these keys existed do not have them.
        found = {key: value for key, value in serialise(self).items() if key not in _OWN_KEYS or value is not None}
        if not self.quantity:
            found.pop("predict", None)
        return found

    @property
    def form(self) -> Form:
        """What the dataset is."""
        return form_of(self.name)

    @property
    def examples(self) -> str:
        """What one calls its examples."""
        return {"images": "images", "table": "rows", "text": "windows", "arrays": "examples"}[self.form]

    @property
    def quantity(self) -> bool:
        """Whether numbers are predicted, not classes."""
        return self.predict == "quantity"


class ModelSpec(_Spec):
    """Which network a task trains.

    Attributes:
        name: ``resnet``, ``densenet``, ``convnet`` (no BatchNorm) and ``vit`` for images, ``mlp`` for images, tables
            and arrays, ``gpt`` for text, or ``package.module:factory`` (runs only with ``--trust-code``).
        depth: layers of a resnet or densenet, 6n + 2; blocks of a vit or gpt; None for an mlp or convnet.
        arguments: further keyword arguments of the model, such as ``{hidden: [500, 500]}`` of an mlp, ``{channels:
            [16, 32, 64]}`` of a convnet, ``{width: 64, heads: 4}`` of a gpt, and ``{patch: 4}`` beside these of a vit.
    """

    name: Annotated[str, _usable(model_problem)]
    depth: int | None = None
    arguments: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_depth(self) -> "ModelSpec":
        if problem := depth_problem(self.name, self.depth):
            raise ValueError(problem)
        return self


def _nesterov_is_usual(validated: dict[str, Any]) -> bool:
    return validated.get("name") == "sgd" and bool(validated.get("momentum"))


_WITHOUT_MOMENTUM: Final = ("adagrad", "natural-gradient")


def _is_own(validated: dict[str, Any]) -> bool:
    return is_factory(validated.get("name", ""))


def _usual_momentum(validated: dict[str, Any]) -> float | None:
    if _is_own(validated):
        return None
    return 0.0 if validated.get("name") in {"rmsprop", *_WITHOUT_MOMENTUM} else 0.9


def _usual_weight_decay(validated: dict[str, Any]) -> float | None:
    if _is_own(validated):
        return None
    return 0.0 if validated.get("name") in {"adam", "rmsprop", "adagrad"} else 1e-4


_USUAL_RATES: Final = {
    "sgd": 0.1,
    "adamw": 1e-3,
    "adam": 1e-3,
    "rmsprop": 1e-3,
    "adagrad": 1e-2,
    "prodigy": 1.0,
    "padam": 0.1,
    "mini-block-fisher": 1e-4,
    "kfac": 0.1,
    "natural-gradient": 1.0,
}

OPTIMIZER_SETTINGS: Final[dict[str, tuple[str, ...]]] = {
    "adam": ("beta2", "eps", "amsgrad"),
    "adamw": ("beta2", "eps", "amsgrad"),
    "rmsprop": ("alpha", "eps", "centered"),
    "adagrad": ("lr_decay", "initial_accumulator_value", "eps"),
    "padam": ("partial", "eps"),
    "mini-block-fisher": ("decay", "damping", "update_every", "invert_every", "largest_block", "strict"),
    "kfac": ("decay", "damping", "clip", "projection", "update_every", "invert_every", "drift", "strict"),
    "natural-gradient": ("approximation", "damping", "strict"),
}
"""What ``settings`` may have, by optimizer."""

_OptimizerName = Annotated[
    str,
    _usable(optimizer_problem),
    WithJsonSchema({
        "type": "string",
        "anyOf": [{"enum": list(OPTIMIZERS)}, {"type": "string", "pattern": f"^{FACTORY.pattern}$"}],
    }),
]


class OptimizerSpec(_Spec):
    """Which optimizer a task uses; the policy chooses the learning rate, where it does not leave it open.

    Attributes:
        name: PyTorch's ``sgd``, ``adam``, ``adamw``, ``rmsprop`` or ``adagrad``; ``prodigy``, which finds its rate
            itself (extra ``rivals``); of ``autobatch.optim`` ``padam``, ``mini-block-fisher``, ``kfac`` or
            ``natural-gradient``, which takes a network without BatchNorm and one pass through it for each class in
            every step; or ``package.module:factory`` (runs only with ``--trust-code``), called as
            ``factory(model.parameters(), lr=..., **settings)``, with ``momentum`` and ``weight_decay`` where they are
            named. It returns a ``torch.optim.Optimizer`` whose ``step()`` needs no closure and whose ``state_dict()``
            holds all that it goes by.
        momentum: momentum, or the first beta of Adam, AdamW, Prodigy and Padam, in [0, 1); by default 0.9, and 0 of
            RMSprop. Adagrad and natural gradients have none.
        nesterov: whether SGD's momentum is Nesterov's; on by default for SGD with momentum.
        weight_decay: L2 coefficient of SGD, Adam, RMSprop, Adagrad and Padam, decoupled decay of the others; by default
            0 for Adam, RMSprop and Adagrad, 0.0001 for the others.
        lr: base learning rate where the policy leaves it open; where nothing is said, 0.1 for SGD (0.01 where it
            predicts a quantity), Padam and K-FAC, 0.001 for Adam, AdamW and RMSprop, 0.01 for Adagrad, 0.0001 for
            mini-block Fisher, and 1 for natural gradients and for Prodigy, a factor on what it finds. One of your own
            needs it.
        settings: further arguments: ``beta2``, ``eps`` and ``amsgrad`` of Adam and AdamW; ``alpha``, ``eps`` and
            ``centered`` of RMSprop; ``lr_decay``, ``initial_accumulator_value`` and ``eps`` of Adagrad; those of an
            optimizer of ``autobatch.optim``, such as ``{damping: 0.01}``; whatever your own takes.
    """

    name: _OptimizerName = "sgd"
    momentum: float | None = Field(default_factory=_usual_momentum, ge=0, lt=1)
    nesterov: bool = Field(default_factory=_nesterov_is_usual)
    weight_decay: float | None = Field(default_factory=_usual_weight_decay, ge=0)
    lr: LearningRate | None = None
    settings: dict[str, JsonValue] = Field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether it is made by a factory of the user's, which may leave momentum and weight decay unsaid."""
        return is_factory(self.name)

    @property
    def adaptive(self) -> bool:
        """Whether it scales its steps by the gradients' own size; one of the user's own as if it did."""
        return self.name != "sgd"

    @property
    def base_lr(self) -> float:
        """Base learning rate where the policy leaves it open."""
        return self.lr if self.lr is not None else _USUAL_RATES[self.name]

    @field_validator("momentum", "weight_decay")
    @classmethod
    def _unsaid_of_ones_own_alone(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is None and not _is_own(info.data):
            within = "in [0, 1)" if info.field_name == "momentum" else "of at least 0"
            raise ValueError(f"expected a number {within}, got null")
        return value

    @model_validator(mode="after")
    def _settings_and_momentum_are_its_own(self) -> "OptimizerSpec":
        if self.own:
            self._check_own()
            return self
        known = OPTIMIZER_SETTINGS.get(self.name, ())
        for key in self.settings:
            if key not in known:
                raise ValueError(f"'settings' of {self.name} has no {key!r}; {near_names(key, known)}")
        if self.settings and (problem := settings_problem(self.name, self.settings)):
            raise ValueError(f"'settings' of {self.name}: {problem}")
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise ValueError("nesterov needs sgd with momentum above 0")
        if self.name in _WITHOUT_MOMENTUM and self.momentum:
            raise ValueError(f"{self.name} has no momentum: expected 0 or nothing, got {self.momentum:g}")
        return self

    def _check_own(self) -> None:
        if self.lr is None:
            raise ValueError(f"{self.name} needs 'lr', a usual learning rate of it; an optimizer of your own has none")
        if self.nesterov:
            raise ValueError("'nesterov' is for sgd only; give it to an optimizer of your own under 'settings'")
        for key in ("lr", "momentum", "weight_decay"):
            if key in self.settings:
                raise ValueError(f"{key!r} stands beside 'settings', not in it")


def _usual_milestones(validated: dict[str, Any]) -> tuple[float, ...]:
    return (0.5, 0.75) if validated.get("name") == "multistep" else ()


class ScheduleSpec(_Spec):
    """How the base learning rate decays over a training.

    Attributes:
        name: ``multistep`` (the paper's), ``constant``, ``cosine``, or ``steered``: a constant rate that falls to 0
            over the last 40 %, for tasks that leave it to the policy when the rate falls and when training ends.
        milestones: ``multistep`` only: progress values in (0, 1), ascending, from which the rate is decayed once more;
            the paper's 0.5 and 0.75 where nothing else is said.
        factor: ``multistep`` only: what each milestone multiplies the rate by, in (0, 1].
        keep: whether policies that steer the rate, such as ``steer``, must leave it to this schedule. All others do.
    """

    name: Literal["multistep", "constant", "cosine", "steered"] = "multistep"
    milestones: Annotated[tuple[Milestone, ...], Ascending] = Field(default_factory=_usual_milestones)
    factor: float = Field(default=0.1, gt=0, le=1)
    keep: bool = False

    @model_validator(mode="after")
    def _keys_of_this_schedule_only(self) -> "ScheduleSpec":
        if self.keep and self.name == STEERED:
            raise ValueError("a steered schedule is the policy's: 'keep' is for the others")
        if self.milestones and self.name != "multistep":
            raise ValueError(f"'milestones' are for multistep only, not for {self.name}")
        return self

    @property
    def milestone_factor(self) -> float | None:
        """What each milestone multiplies the rate by; None where there are none."""
        return self.factor if self.milestones else None

    def schedule_factor(self, progress: float) -> float:
        """Return what the base learning rate is multiplied by at ``progress``.

        ``multistep`` follows the paper, section 4 (a tenth from 50 % and from 75 % of the epochs on); ``cosine`` is
        Loshchilov and Hutter's half period from 1 to 0, without restarts.

        Args:
            progress: examples seen / examples of the whole training, in [0, 1]; the run asks at the start of an epoch.

        Returns:
            The factor, in [0, 1]. A milestone counts as reached at exactly its progress.

        Raises:
            ValueError: ``progress`` is outside [0, 1].
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress must be in [0, 1], got {progress}")
        if self.name == "multistep":
            return float(self.factor ** sum(progress >= milestone for milestone in self.milestones))
        if self.name == "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        return steered_schedule(progress) if self.name == STEERED else 1.0


class MeasuringSpec(_Spec):
    """How often the Fisher spectrum is measured.

    Attributes:
        interval: optimizer steps from one measured step to the next while recording beacons (the paper: 50).
        floor: samples per epoch of epochs that ``interval`` would give fewer; while recording at least so many, in a
            run as far as the budget allows.
        budget: share of training time that measuring may take in a run, in [0, 1], see
            ``MeasureWithinBudget``.
        reuse_weight_gradient: take the gradients of measured steps from what measuring computes anyway. It is faster,
            and these gradients differ in round-off from the ordinary ones; without it a run that measures is bit for
            bit one that does not, as far as the policy decides alike.
        measure: ``exact``, or ``sketched``: a random projection of the gradients, for large models on several
            processes; see ``Measuring``. Its positions are compared with those of the same ``sketch_rows`` alone.
        sketch_rows: of a sketch alone, numbers of a sample that are kept, at least two for each example of the largest
            batch.
    """

    interval: PositiveInteger = 50
    floor: PositiveInteger = 4
    budget: float = Field(default=BUDGET, ge=0, le=1)
    reuse_weight_gradient: bool = True
    measure: Literal["exact", "sketched"] = "exact"
    sketch_rows: PositiveInteger = SKETCH_ROWS

    @field_validator("sketch_rows")
    @classmethod
    def _of_a_sketch(cls, rows: int, info: ValidationInfo) -> int:
        if info.data.get("measure") == "exact" and rows != SKETCH_ROWS:
            raise ValueError("it is for 'measure: sketched' only, the exact F keeps whole gradients")
        return rows

    @property
    def sketch(self) -> dict[str, Any]:
        """What ``Measuring`` and ``FisherProbe`` are given for it; empty for the exact F."""
        return {} if self.measure == "exact" else {"measure": self.measure, "sketch_rows": self.sketch_rows}


_USUAL_SIZES = (8, 16, 32, 64, 128)


def _around_its_own(validated: dict[str, Any]) -> tuple[float, ...]:
    optimizer = validated.get("optimizer")  # absent where it has a fault of its own
    return usual_rates(optimizer.base_lr) if optimizer is not None else (0.1,)


class TaskSpec(_Spec):
    """One task, as its ``env.yaml`` states it.

    Attributes:
        name: the task's name, of letters, digits, dots, dashes and underscores; figures and libraries carry it.
        dataset: which examples, and how they are split.
        model: which network.
        optimizer: which optimizer.
        schedule: how the base learning rate decays.
        batch_sizes: the ladder, ascending: the global batch sizes a policy chooses from; by default 8 to 128, as far as
            there are examples.
        learning_rates: the base learning rates a policy chooses from, ascending; by default those around the
            optimizer's own, 0.01, 0.03, 0.1 and so on to 100 times that.
        epochs: length of a whole training.
        score: the validation figure that ranks runs; lower is better.
        measuring: how often the Fisher spectrum is measured.
        seeds: seeds of the beacons, one beacon each per configuration.
        threads: CPU threads of a run; tiny models gain nothing from many. A recording of several beacons side by side
            shares the processors among them.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    dataset: DatasetSpec
    model: ModelSpec
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec, validate_default=True)
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec)
    batch_sizes: Annotated[tuple[PositiveInteger, ...], Field(min_length=1), Ascending] = _USUAL_SIZES
    learning_rates: Annotated[tuple[LearningRate, ...], Field(min_length=1), Ascending] = Field(
        default_factory=_around_its_own
    )
    epochs: PositiveInteger
    score: Literal["validation_loss", "validation_error"] = "validation_loss"
    measuring: MeasuringSpec = Field(default_factory=MeasuringSpec)
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_check_different)] = (0, 1, 2)
    threads: int = Field(default=1, gt=0, le=1024)

    @field_validator("model")
    @classmethod
    def _takes_the_dataset(cls, model: ModelSpec, info: ValidationInfo) -> ModelSpec:
        dataset = info.data.get("dataset")  # absent where it has a fault of its own
        if dataset is not None and (problem := form_problem(model.name, dataset.name)):
            raise ValueError(problem)
        return model

    @field_validator("optimizer")
    @classmethod
    def _takes_quantities(cls, optimizer: OptimizerSpec, info: ValidationInfo) -> OptimizerSpec:
        dataset = info.data.get("dataset")  # absent where it has a fault of its own
        if dataset is not None and dataset.quantity and optimizer.name == "natural-gradient":
            raise ValueError("natural-gradient is for classes, over which it takes expectations, not for a quantity")
        if dataset is not None and dataset.quantity and optimizer.name == "sgd" and optimizer.lr is None:
            return optimizer.model_copy(update={"lr": SGD_OF_QUANTITIES})
        return optimizer

    @field_validator("measuring")
    @classmethod
    def _sketch_is_large_enough(cls, measuring: MeasuringSpec, info: ValidationInfo) -> MeasuringSpec:
        least = LEAST_ROWS_PER_SAMPLE * max(info.data.get("batch_sizes", (0,)))
        if measuring.measure == "sketched" and measuring.sketch_rows < least:
            raise ValueError(
                f"sketch_rows: expected at least {least}, {LEAST_ROWS_PER_SAMPLE} for each example of the largest "
                f"batch, got {measuring.sketch_rows}"
            )
        return measuring

    @property
    def around(self) -> bool:
        """Whether the learning rates are those around the optimizer's own."""
        return self.learning_rates == usual_rates(self.optimizer.base_lr)

    def fingerprint_payload(self, data_fingerprint: str, num_classes: int) -> dict[str, Any]:
        """Return what makes beacons of two tasks comparable, whatever the tasks are called.

        Args:
            data_fingerprint: ``Data.fingerprint`` of the loaded dataset.
            num_classes: classes of the dataset.

        Returns:
            JSON-able keys and values: dataset, model, optimizer, schedule, epochs, data fingerprint and class count;
            not the ladder, rates, seeds, measuring and threads, in which comparable tasks may differ, but for a sketch,
            whose positions are other ones. The path of a user's own data is left out, since the data fingerprint stands
            for its content.
        """
        payload = self.model_dump(mode="json", include={"dataset", "model", "optimizer", "schedule", "epochs"})
        del payload["optimizer"]["lr"], payload["schedule"]["keep"]
        if not self.optimizer.settings:  # the fingerprint that a task had before there were any
            del payload["optimizer"]["settings"]
        if self.measuring.sketch:
            payload["measuring"] = self.measuring.sketch
        if prefix := own_prefix(self.dataset.name):
            payload["dataset"]["name"] = prefix.removesuffix(":")
        return {**payload, "num_classes": num_classes, "data_fingerprint": data_fingerprint}


def load_task(name_or_path: str | Path) -> TaskSpec:
    """Load a task by name or path.

    Args:
        name_or_path: a name such as ``"digits-resnet8"``, or the path of an env folder or YAML file.

    Returns:
        The task.

    Raises:
        UnknownNameError: no such name.
        ConfigError: the file is not a valid task.
    """
    return load_yaml(find_artefact("envs", name_or_path), TaskSpec)


def fitting(task: TaskSpec, train_size: int) -> TaskSpec:
    """Return a task whose ladder fits its data: where the file names none, without the sizes that are too large.

    Args:
        task: the task.
        train_size: examples in the training part.

    Returns:
        The task.

    Raises:
        ConfigError: a batch size is larger than the training set.
    """
    fits = tuple(size for size in task.batch_sizes if size <= train_size)
    if task.batch_sizes == _USUAL_SIZES and fits and fits != task.batch_sizes:
        return task.model_copy(update={"batch_sizes": fits})
    check_ladder(task, train_size)
    return task


def below(task: TaskSpec, batch_size: int) -> TaskSpec | None:
    """Return a task whose file names no batch sizes with those below one that does not fit into memory.

    Args:
        task: the task.
        batch_size: that size.

    Returns:
        The task; None where its sizes are named, or none is below.
    """
    usual = task.batch_sizes == _USUAL_SIZES[: len(task.batch_sizes)]
    smaller = tuple(size for size in task.batch_sizes if size < batch_size)
    return task.model_copy(update={"batch_sizes": smaller}) if usual and smaller else None


def check_ladder(task: TaskSpec, train_size: int) -> None:
    """Check, once the data are known, that every batch of the ladder fits the training set.

    Args:
        task: the task.
        train_size: examples in the training part.

    Raises:
        ConfigError: a batch size is larger than the training set.
    """
    too_large = [batch_size for batch_size in task.batch_sizes if batch_size > train_size]
    if too_large:
        raise ConfigError(
            f"task {task.name!r}: key 'batch_sizes': expected batches of at most {train_size}, the size of the "
            f"training set, got {', '.join(map(str, too_large))}"
        )
