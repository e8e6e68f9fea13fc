"""Carrying a run out: from a configuration to a run directory with a summary in it."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from autobatch._errors import CheckpointError
from autobatch._files import place_of_work
from autobatch.control._ranks import Ranks
from autobatch.control.run import (
    CHECKPOINT,
    CONFIG,
    SUMMARY,
    Summary,
    load_summary,
    refuse_occupied,
)
from autobatch.policies import BeaconFollowPolicy, make_policy
from autobatch.policies.steer import ScoutingPolicy
from autobatch.training._calibrate import DoesNotFitError
from autobatch.training._engine import check_task, reproducible, resolve_device
from autobatch.training._run import RunConfig, RunObserver, kept_config, load_run_config
from autobatch.training.data import Data, load_data
from autobatch.training.running._known import (
    KnownCosts,
    costs_of,
    info_of,
    library_of,
    periods_of,
    told_missing,
)
from autobatch.training.running._scout_runs import train_scouts
from autobatch.training.running._session import Session, check_same
from autobatch.training.task import below, fitting

_BUSY = "another process is training this run; wait for it, or choose another directory"


def run(
    config: RunConfig,
    out: Path,
    observer: RunObserver | None = None,
    *,
    resume: bool = False,
    data: Data | None = None,
) -> Summary:
    """Train as ``config`` says, keeping every record in ``out``.

    A ``KeyboardInterrupt`` passes through; the run can then be resumed, as after any other sudden end. Where
    ``torch.distributed`` is initialised, all processes train one run together and call this with the same arguments:
    each has its share of every batch, the first decides and writes, and all read.

    Args:
        config: the configuration.
        out: the run directory; it is made, and must not hold a run unless ``resume``.
        observer: what watches the run.
        resume: continue the run that ``out`` holds from its last checkpoint, bit-identically.
        data: the task's data, where they are loaded on the run's device already.

    Returns:
        The summary, as written to ``summary.json``.

    Raises:
        OutputError: ``out`` cannot be written, or holds a run already.
        CheckpointError: the run in ``out`` is damaged or has another configuration.
        ConfigError: the configuration cannot be carried out.
        DataError: the data are missing or damaged.
        LibraryError: the policy needs beacons, and they are missing, damaged or of another task.
    """
    out, observer = Path(out), observer or RunObserver()
    device = resolve_device(config.device)
    ranks = Ranks(None, device)
    config = config.model_copy(update={"device": ranks.agreed(str(device))})
    if resume:
        config = _continued(config, out)
        if ranks.first_makes((out / SUMMARY).exists):
            return load_summary(out)
    else:
        ranks.first_makes(lambda: refuse_occupied(out, f"continue it with --resume {out}"))
    data = data or _loaded(config, device, ranks)
    config = config.model_copy(update={"task": fitting(config.task, len(data.train_labels))})
    check_task(config.task, data, trust_code=config.trust_code)
    policy = make_policy(config.policy)
    library = library_of(config, data, policy)
    if policy.needs_library and library.missing is not None:
        observer.note(told_missing(library))
    timed = partial(costs_of, data=data, device=device, policy=policy, library=library, observer=observer)
    config, costs = _within_memory(config, timed, observer, alone=ranks.size == 1)
    if not resume:
        config = config.model_copy(update={"periods": periods_of(config, data, policy, library)})
    config = config.model_copy(update={"costs": costs.table})
    alone = place_of_work(out, _BUSY) if ranks.leads else nullcontext()
    with alone, reproducible(device, config.task.threads):
        if not resume:  # another run may have come and gone since that was asked
            ranks.first_makes(lambda: refuse_occupied(out, f"continue it with --resume {out}"))
        elif ranks.first_makes((out / SUMMARY).exists):
            return load_summary(out)
        begin_with = None
        if ranks.first_makes((out / CHECKPOINT).exists):
            pass
        elif library.of_other_length is not None and isinstance(policy, BeaconFollowPolicy):
            policy.reset(info_of(config, data, config.costs), None)
            policy.begin_from(library.of_other_length)
            begin_with = policy.state_dict()
        elif isinstance(policy, ScoutingPolicy):
            begin_with = train_scouts(
                config, out, data=data, device=device, policy=policy, library=library.beacons, observer=observer
            )
        return Session(
            config=config,
            out=out,
            observer=observer,
            data=data,
            device=device,
            policy=policy,
            library=library,
            costs=costs,
            begin_with=begin_with,
        ).carry_out()


def _within_memory(
    config: RunConfig, timed: Callable[[RunConfig], KnownCosts], observer: RunObserver, *, alone: bool
) -> tuple[RunConfig, KnownCosts]:
    """Return a configuration without sizes that nobody has named and that do not fit, and what steps cost."""
    while True:
        try:
            return config, timed(config)
        except DoesNotFitError as error:
            smaller = below(config.task, error.batch_size) if alone else None
            if smaller is None:
                raise
            observer.note(f"batches of {error.batch_size} do not fit into memory: none of them or larger is used")
            config = config.model_copy(update={"task": smaller})


def _loaded(config: RunConfig, device: torch.device, ranks: Ranks) -> Data:
    """Return the task's data; of several processes the first loads them first, so that only it downloads them."""
    loaded: list[Data] = []
    ranks.first_makes(lambda: loaded.append(load_data(config.task, config.data_dir, device)))
    return loaded[0] if loaded else load_data(config.task, config.data_dir, device)


def _continued(config: RunConfig, out: Path) -> RunConfig:
    stored = load_run_config(out)
    config = config.model_copy(update={"periods": stored.periods})
    try:
        check_same(kept_config(config, out), kept_config(stored, out))
    except CheckpointError as error:
        raise CheckpointError(f"{out / CONFIG}: {error}") from None
    return config.model_copy(update={"costs": config.costs or stored.costs})
