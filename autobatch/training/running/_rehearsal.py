"""A run before it is made: what would be trained, how long, and what it needs. Nothing is trained, timed or written."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from autobatch._steps import steps_per_epoch
from autobatch.beacons import BeaconLibrary, CostTable
from autobatch.control.run import refuse_occupied
from autobatch.policies import BeaconFollowPolicy, Policy, TaskInfo, make_policy, planned_epochs, policy_kind
from autobatch.policies._protocol import NOTHING_SEEN
from autobatch.policies._wording import duration, percent
from autobatch.policies.steer import ScoutingPolicy
from autobatch.training._calibrate import device_kind
from autobatch.training._engine import Engine, check_task, resolve_device
from autobatch.training._run import RunConfig
from autobatch.training.data import load_data
from autobatch.training.data._data import DEFAULT_DATA_DIR
from autobatch.training.data._torchvision import is_missing
from autobatch.training.running._known import info_of, known_costs, library_of, periods_of, told_missing
from autobatch.training.running._scout_words import most_cost, told_plan, told_schedule
from autobatch.training.task import fitting


@dataclass(frozen=True)
class Rehearsal:
    """What a run would be.

    Attributes:
        facts: (what, in words), in the order to be told.
        seconds: shortest and longest time by the cost table, the latter with measuring and lost scouts; None where no
            table is known.
        missing: what has to be there first, and is not; None where all is there.
    """

    facts: tuple[tuple[str, str], ...]
    seconds: tuple[float, float] | None
    missing: str | None


def rehearse(config: RunConfig, out: Path) -> Rehearsal:
    """Check all that a run checks before it trains, and say what it would do."""
    refuse_occupied(out, f"continue it with --resume {out}")
    task, device = config.task, resolve_device(config.device)
    facts = [("would train", f"{task.name} under {config.policy.name}, seed {config.seed}, into {out}")]
    place = config.data_dir or DEFAULT_DATA_DIR
    if is_missing(task.dataset.name, place):
        told = f"{task.dataset.name} is not in {place}; it would be downloaded there"
        return Rehearsal((*facts, ("data", told)), None, told)
    data = load_data(task, config.data_dir, device)
    task = fitting(task, len(data.train_labels))
    config = config.model_copy(update={"task": task})
    parts = ", ".join(
        f"{len(labels):,} for {what}"
        for labels, what in ((data.train_labels, "training"), (data.validation_labels, "validation"))
    )
    facts.append(("data", f"{task.dataset.name}: {parts}, {len(data.test_labels):,} for the test"))
    check_task(task, data, trust_code=config.trust_code)
    engine = Engine(task, data, device, seed=config.seed, trust_code=config.trust_code)
    kind = device_kind(device, task.threads)
    facts.append(("model", f"{task.model.name}: {engine.parameters:,} parameters, on {kind}"))
    policy = make_policy(config.policy)
    library = library_of(config, data, policy)
    beacons = library.beacons
    goes_on = library.of_other_length if isinstance(policy, BeaconFollowPolicy) else None
    facts.append(("beacons", told_missing(library) if goes_on else _told_beacons(beacons, library.missing)))
    costs = known_costs(config, data=data, device=device, library=library)
    config = config.model_copy(update={"periods": periods_of(config, data, policy, library)})
    info = replace(info_of(config, data, costs.table), scouts_go_on=True)
    policy.reset(info, beacons)
    epochs, lost = planned_epochs(policy, info), None
    if goes_on is not None and isinstance(policy, BeaconFollowPolicy):
        policy.begin_from(goes_on)
        epochs = planned_epochs(policy, info)
        facts.append(("plan", told_schedule(policy, info) or "the task's whole length"))
    elif isinstance(policy, ScoutingPolicy) and (beacons is None or not policy.needs_library):
        lost = most_cost(policy, info) or 0.0
        facts += [
            ("scouts", told_plan(policy, info)),
            ("plan", told_schedule(policy, info) or "the task's whole length"),
        ]
    sizes = _sizes(policy, info, epochs) if policy_kind(config.policy.kind).blind and lost is None else None
    facts.append(("length", _told_length(info, epochs, sizes)))
    seconds = None
    if costs.table is not None:
        seconds = _seconds(info, costs.table, epochs=epochs, sizes=sizes, lost=lost or 0.0, measure=config.measure)
    facts.append(("takes", _told_seconds(seconds, costs.source, config, info)))
    return Rehearsal(tuple(facts), seconds, None)


def _told_beacons(library: BeaconLibrary | None, missing: str | None) -> str:
    if library is None:
        return f"none ({missing})"
    best = library.best_fixed()
    return f"{len(library.beacons)}, the best fixed one s{best.batch_size} at lr {best.lr:g}"


def _sizes(policy: Policy, info: TaskInfo, epochs: int) -> list[int]:
    """Return the batch size of each epoch under a policy that looks at nothing but how far it is."""
    sizes: list[int] = []
    for epoch in range(epochs):
        before = sizes[-1] if sizes else 0
        seen = replace(NOTHING_SEEN, epoch=epoch, progress=epoch / info.epochs, batch_size=before)
        try:
            sizes.append(policy.decide(seen).batch_size)
        except (ArithmeticError, ValueError, LookupError):  # it looks at the losses after all
            return []
    return sizes


def _told_length(info: TaskInfo, epochs: int, sizes: list[int] | None) -> str:
    told = info.told(epochs) if epochs == info.epochs else f"{epochs // info.periods} of {info.told(info.epochs)}"
    told += f", {info.periods} decisions each" if info.periods > 1 else ""
    if sizes:
        steps = sum(steps_per_epoch(info.train_size, size) for size in sizes)
        return f"{told}, {steps:,} optimizer steps at {_told_sizes(min(sizes), max(sizes))}"
    ends = info.batch_sizes[-1], info.batch_sizes[0]
    low, high = (epochs * steps_per_epoch(info.train_size, size) for size in ends)
    few_to_many = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"{told}, {few_to_many} optimizer steps at {_told_sizes(*ends)}"


def _told_sizes(one: int, other: int) -> str:
    return f"batch size {one}" if one == other else f"batch sizes {one} to {other}"


def _seconds(
    info: TaskInfo, costs: CostTable, *, epochs: int, sizes: list[int] | None, lost: float, measure: bool
) -> tuple[float, float]:
    def total(used: Iterable[int]) -> float:
        return sum(costs.whole_epochs(size, info.train_size) for size in used)

    each = [total([size] * epochs) for size in info.batch_sizes]
    low, high = (total(sizes), total(sizes)) if sizes else (min(each), max(each))
    return low, (high + lost) * (1.0 + (info.measuring_budget if measure else 0.0))


def _told_seconds(seconds: tuple[float, float] | None, source: str | None, config: RunConfig, info: TaskInfo) -> str:
    if seconds is None:
        return "not known: this machine is timed at the run's start, or by --calibrate"
    low, high = map(duration, seconds)
    measuring = f", with {percent(info.measuring_budget)} more for measuring" if config.measure else ""
    measuring += ", or a few steps an epoch where those take more" if config.measure else ""
    return f"{low if low == high else f'{low} to {high}'}{measuring}; by the cost table, {source}"


def told_rehearsal(rehearsal: Rehearsal) -> list[str]:
    """Return what a run would be, a line each."""
    width = max(len(what) for what, _ in rehearsal.facts)
    nothing = "trained or written" if rehearsal.missing is None else "downloaded, trained or written"
    return [*(f"{what:{width}}  {words}" for what, words in rehearsal.facts), f"Nothing was {nothing}."]
