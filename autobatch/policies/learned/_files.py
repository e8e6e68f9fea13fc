"""Learned policies as files: NAME.yaml names the policy, NAME.safetensors has its weights, NAME.json is its card.

Nothing in them is ever executed: the weights are safetensors, the card is JSON, and what looks like a pickle is refused
by its first bytes.
"""

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, PositiveFloat, PositiveInt

from autobatch._artefacts import artefact_roots, expand_home
from autobatch._errors import CheckpointError, ConfigError, UnknownNameError, near_names
from autobatch._files import naming_output, seen_in, write_whole
from autobatch._yaml import validate
from autobatch.policies._moves import STEERING
from autobatch.policies._protocol import TaskInfo
from autobatch.policies.view import SCHEMA

if TYPE_CHECKING:
    from autobatch.policies.learned._network import Network

FORMAT_VERSION = 1
"""Version of the card; a reader refuses any other."""

STEERED_SCHEMA = 2
"""Version of the flat view without a library, see ``policies.general``."""

KINDS = {"multidiscrete": "learned", "discrete": "learned"} | dict.fromkeys(STEERING, "learned-general")
"""Kind of policy by kind of actions."""

WEIGHTS, CARD = ".safetensors", ".json"
_MAX_BYTES = 64 * 2**20
_PICKLES = (b"\x80", b"PK\x03\x04")
"""First bytes of a pickle of protocol 2 or later, and of a zip archive such as torch.save writes."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Layout(_Part):
    """How the network is built."""

    layers: tuple[PositiveInt, ...] = Field(
        min_length=2, description="Width of the view, of every hidden layer, and number of logits."
    )
    activation: Literal["tanh", "relu"] = Field(description="Activation after every layer but the last.")


class PolicyTraining(_Part):
    """How a policy was learned."""

    algorithm: str = Field(min_length=1, description="Algorithm, such as cem, dqn or ppo.")
    tasks: tuple[str, ...] = Field(description="Tasks that it was trained on.")
    steps: int = Field(ge=0, description="Steps in the environment, one per epoch of a training.")
    seeds: tuple[int, ...] = Field(description="Seeds that were trained; the one that was kept comes first.")
    seconds: float = Field(ge=0, description="Time that the training took.")
    command: str = Field(default="", description="Command that trains it again.")
    versions: dict[str, str] = Field(default_factory=dict, description="Versions of what it was trained with.")


class PolicyCard(_Part):
    """What is to be known of a learned policy: what it was made for, how, and how well it does."""

    format_version: int = Field(description="Version of this format.")
    observation_schema: int = Field(description="Version of the flat view that it takes.")
    observation_size: PositiveInt = Field(description="Entries of the flat view that it takes.")
    actions: Literal["multidiscrete", "discrete", "steered", "forked"] = Field(
        description="Kind of actions that it gives; with forked ones it has changes tried on the run itself."
    )
    batch_sizes: tuple[PositiveInt, ...] | None = Field(description="The only ladder that it runs on; null for any.")
    learning_rates: tuple[PositiveFloat, ...] | None = Field(
        description="The only learning rates that it runs on; null for any."
    )
    margin: float = Field(
        default=0.0, ge=0, description="By how much the logits of what the rule of steer would do lead the others."
    )
    seen: tuple[tuple[float, float], ...] | None = Field(
        default=None, description="Lowest and highest of each entry of the view that it was trained on; null unknown."
    )
    network: Layout = Field(description="How its network is built.")
    training: PolicyTraining = Field(description="How it was learned.")
    evaluation: dict[str, JsonValue] | None = Field(default=None, description="Figures of its tests; null before any.")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the safetensors file.")

    @classmethod
    def of(
        cls,
        network: "Network",
        training: PolicyTraining,
        *,
        batch_sizes: tuple[int, ...] | None = None,
        learning_rates: tuple[float, ...] | None = None,
        evaluation: dict[str, Any] | None = None,
        margin: float = 0.0,
        seen: tuple[tuple[float, float], ...] | None = None,
    ) -> "PolicyCard":
        """Make the card of a network that takes the flat view of this version.

        Args:
            network: the network.
            training: how it was learned.
            batch_sizes: the only ladder that it runs on; None for any.
            learning_rates: the only learning rates that it runs on; None for any.
            evaluation: figures of its tests, JSON-able and finite.
            margin: by how much the logits of what the rule would do lead the others.
            seen: lowest and highest of each entry of the view that it was trained on; None where that is not known.

        Returns:
            The card.
        """
        return cls(
            format_version=FORMAT_VERSION,
            observation_schema=_schema_of(network.actions),
            observation_size=network.sizes[0],
            actions=network.actions,
            batch_sizes=batch_sizes,
            learning_rates=learning_rates,
            network=Layout(layers=network.sizes, activation=network.activation),
            training=training,
            evaluation=evaluation,
            margin=margin,
            seen=seen,
            sha256=sha256(_encoded(network)).hexdigest(),
        )


def save_learned(
    path: str | Path,
    network: "Network",
    card: PolicyCard,
    *,
    description: str = "",
    rule: Mapping[str, Any] | None = None,
) -> Path:
    """Write a learned policy, its YAML last, each file whole or not at all.

    Args:
        path: the YAML, such as ``policies/mine.yaml``; weights and card come beside it, its stem is the policy's name.
        network: the network.
        card: its card, as ``PolicyCard.of`` makes it.
        description: one sentence for listings.
        rule: parameters of the rule of ``steer`` that it departs from, for a policy of kind ``learned-general``; None
            for the usual ones.

    Returns:
        The path of the YAML.

    Raises:
        ConfigError: the card is that of another network, or holds something that JSON cannot.
        OutputError: a file cannot be written.
    """
    stem = expand_home(str(path).removesuffix(".yaml"))
    if not re.fullmatch(r"[\w.+-]+", stem.name):
        raise ConfigError(f"{path}: expected a file name of letters, digits and any of '_.+-', got {stem.name!r}")
    weights = _encoded(network)
    if sha256(weights).hexdigest() != card.sha256:
        raise ConfigError(f"{path}: the card is that of another network; make it with PolicyCard.of(network, ...)")
    text = _card_text(card, path)
    spec = {
        "name": stem.name,
        "kind": KINDS[card.actions],
        "description": description or f"Learned by {card.training.algorithm}.",
        "parameters": {"weights": stem.name, **({} if rule is None else {"rule": dict(rule)})},
    }
    with naming_output(stem.parent, "made"):
        stem.parent.mkdir(parents=True, exist_ok=True)
    write_whole(_beside(stem, WEIGHTS), weights)
    write_whole(_beside(stem, CARD), text)
    target = _beside(stem, ".yaml")
    write_whole(target, yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=120).encode())
    return target


def save_card(path: Path, card: PolicyCard) -> None:
    """Replace the card of a learned policy, for instance when it has been evaluated.

    Args:
        path: the JSON file.
        card: the new card, of the weights that lie beside it.

    Raises:
        ConfigError: the card is that of other weights, or holds something that JSON cannot.
        OutputError: the file cannot be written.
    """
    old = load_card(path)
    if old.sha256 != card.sha256:
        raise ConfigError(f"{path}: the new card is that of other weights; save both with save_learned()")
    write_whole(path, _card_text(card, path))


def load_learned(weights: str) -> tuple["Network", PolicyCard]:
    """Read the network of a learned policy and its card.

    Args:
        weights: a name, looked up as ``policies/NAME.safetensors`` in the working directory, in ``$AUTOBATCH_PATH`` and
            among the shipped policies, or the path of such a file with ``.safetensors`` or without.

    Returns:
        The network and its card.

    Raises:
        ConfigError: a file is missing, damaged, of another version, or is a pickle.
        UnknownNameError: nothing of that name exists.
    """
    stem = _stem(weights)
    card = load_card(card_path(weights))
    path = _beside(stem, WEIGHTS)
    content = _read(path, "safetensors")
    found = sha256(content).hexdigest()
    if found != card.sha256:
        raise ConfigError(
            f"{path}: expected the file whose SHA-256 is {card.sha256[:16]}..., as {_beside(stem, CARD).name} says, "
            f"got {len(content)} bytes with {found[:16]}...: it is truncated, damaged or of another training"
        )
    return _decoded(content, card, path), card


def load_card(path: Path) -> PolicyCard:
    """Read the card of a learned policy.

    Args:
        path: the JSON file.

    Returns:
        The card.

    Raises:
        ConfigError: the file is missing, damaged, of another version, or is a pickle.
    """
    content = _read(path, "JSON")
    try:
        values = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: expected the card of a learned policy in JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected the card of a learned policy in JSON, got {type(values).__name__}")
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: key 'format_version': this autobatch reads version {FORMAT_VERSION}, the card has {version!r}"
        )
    card = validate(values, PolicyCard, source=str(path))
    schema = _schema_of(card.actions)
    if card.observation_schema != schema:
        raise ConfigError(
            f"{path}: key 'observation_schema': this autobatch's observations are of version {schema}, the policy was "
            f"learned on version {card.observation_schema}; train it again, or use the autobatch it was made with"
        )
    if card.seen is not None and len(card.seen) != card.observation_size:
        raise ConfigError(
            f"{path}: key 'seen': expected {card.observation_size} pairs, as 'observation_size' says, got "
            f"{len(card.seen)}"
        )
    if card.network.layers[0] != card.observation_size:
        raise ConfigError(
            f"{path}: key 'network.layers': expected {card.observation_size} first, as 'observation_size' says, got "
            f"{card.network.layers[0]}"
        )
    return card


def check_card_kind(weights: str, card: PolicyCard, kind: str) -> None:
    """Refuse weights of the other kind of policy.

    Args:
        weights: as ``load_learned`` takes them, for the message.
        card: their card.
        kind: the kind that is to take them.

    Raises:
        ConfigError: they belong to the other kind.
    """
    belongs = KINDS[card.actions]
    if belongs != kind:
        raise ConfigError(
            f"policy of kind '{kind}': the weights '{weights}' were learned on observations of schema "
            f"{card.observation_schema}, which kind '{belongs}' takes: say 'kind: {belongs}'"
        )


def check_ladders(weights: str, card: PolicyCard, task: TaskInfo) -> None:
    """Refuse weights that run on other batch sizes or learning rates than a task has.

    Args:
        weights: as ``load_learned`` takes them, for the message.
        card: their card.
        task: the task.

    Raises:
        ConfigError: the card names others.
    """
    for key, trained, given in (
        ("batch_sizes", card.batch_sizes, task.batch_sizes),
        ("learning_rates", card.learning_rates, task.learning_rates),
    ):
        if trained is not None and trained != tuple(given):
            raise ConfigError(
                f"learned policy '{weights}': its card says that it runs on {key} {_listed(trained)} only, and task "
                f"'{task.name}' has {_listed(given)}; choose a policy that was learned for these, or learn one with "
                "'autobatch train-policy'"
            )


def check_size(weights: str, card: PolicyCard, size: int) -> None:
    """Refuse weights that take another number of entries than an observation has."""
    if card.observation_size != size:
        raise ConfigError(
            f"learned policy '{weights}': it takes {card.observation_size} entries, and an observation has {size}; "
            "train it again, or use the autobatch it was made with"
        )


def check_same_weights(weights: str, card: PolicyCard, begun_with: str) -> None:
    """Refuse to go on with a run that other weights have begun; ``begun_with`` is the SHA-256 of those."""
    if begun_with != card.sha256:
        raise CheckpointError(
            f"learned policy '{weights}': the run was started with weights whose SHA-256 is {begun_with[:16]}..., "
            f"these have {card.sha256[:16]}...; put the old ones back"
        )


def card_path(weights: str) -> Path:
    """Say where the JSON card of a learned policy lies, named as ``load_learned`` takes it."""
    return _beside(_stem(weights), CARD)


def weights_beside(weights: str, yaml_path: Path) -> str:
    """Say where the weights of a YAML lie.

    Args:
        weights: what the YAML says.
        yaml_path: the YAML.

    Returns:
        A bare name as it is where the YAML is an artefact, or has no such weights beside it; otherwise an absolute
        path, so that it holds wherever it is used.
    """
    folder = yaml_path.parent.absolute()
    if Path(weights).name != weights:
        return str(folder / expand_home(weights))
    if any(_same(folder, root / "policies") for root in artefact_roots()):
        return weights
    stem = folder / weights.removesuffix(WEIGHTS)
    return str(stem) if _holds(stem) else weights


def _schema_of(actions: str) -> int:
    """Return the version of the flat view that a kind of actions goes with."""
    return SCHEMA if KINDS[actions] == "learned" else STEERED_SCHEMA


def _card_text(card: PolicyCard, path: str | Path) -> bytes:
    try:
        text = json.dumps(card.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ConfigError(f"{path}: the card holds what JSON cannot: {error}") from None
    return f"{text}\n".encode()


def _stem(weights: str) -> Path:
    name = weights.removesuffix(WEIGHTS)
    if Path(weights).name != weights:
        return expand_home(name)
    places = [root / "policies" for root in artefact_roots()]
    for place in places:
        if _holds(place / name):
            return place / name
    known = {path.stem for place in places for path in seen_in(place, f"*{WEIGHTS}")}
    looked = ", ".join(str(place) for place in dict.fromkeys(places))
    raise UnknownNameError(f"unknown weights {weights!r}: no {name}{WEIGHTS} in {looked}; {near_names(name, known)}")


def _holds(stem: Path) -> bool:
    try:
        return _beside(stem, WEIGHTS).exists() or _beside(stem, CARD).exists()
    except (OSError, ValueError):  # a name too long, without permission, or with a null byte
        return False


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def _beside(stem: Path, suffix: str) -> Path:
    return Path(f"{stem}{suffix}")


def _read(path: Path, expected: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read: {reason}; a learned policy has {expected} there") from None
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{path}: expected at most {_MAX_BYTES} bytes, got more")
    # Safetensors begin with a length, which may have the same bytes, and go on with a JSON object.
    if content.startswith(_PICKLES) and content[8:9] != b"{":
        raise ConfigError(
            f"{path}: expected {expected}, got a pickle or an archive of torch.save, which could run any code; it was "
            "not loaded"
        )
    return content


def _encoded(network: "Network") -> bytes:
    from safetensors.torch import save

    content: bytes = save(network.tensors())
    return content


def _decoded(content: bytes, card: PolicyCard, path: Path) -> "Network":
    # Here, so that listing policies does not import torch.
    from safetensors import SafetensorError
    from safetensors.torch import load

    from autobatch.policies.learned._network import Network

    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: expected safetensors, got something else: {error}") from None
    return Network.of_tensors(
        tensors,
        card.network.layers,
        activation=card.network.activation,
        actions=card.actions,
        source=str(path),
    )


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _listed(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values)
