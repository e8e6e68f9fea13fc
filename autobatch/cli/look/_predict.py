"""``autobatch predict``: what a run will end at, from its first epochs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autobatch.cli._console import console

if TYPE_CHECKING:
    from autobatch.beacons import BeaconLibrary, RunPlace
    from autobatch.cli.look._predict_view import Told


def predict(
    library: Annotated[
        str, typer.Argument(help="Beacons: an env's name, its folder, or a Parquet file.", metavar="LIBRARY")
    ],
    run: Annotated[
        Path | None,
        typer.Argument(
            help="Run directory, finished or not, or any with an epochs.jsonl.", metavar="RUN", show_default=False
        ),
    ] = None,
    epoch: Annotated[
        int | None, typer.Option(help="Predict from where the run stood after this epoch. \\[default: the last]", min=1)
    ] = None,
    level: Annotated[float, typer.Option(help="Share of runs that the interval is to cover.")] = 0.9,
) -> None:
    """Predict a run's final score from its position, and its rank among the beacons' configurations.

    Example:
        autobatch predict digits-resnet8 runs/digits-resnet8-beacon-follow-s0 --epoch 2
    """
    from autobatch._artefacts import find_library
    from autobatch._errors import ConfigError
    from autobatch.beacons import BeaconLibrary, predict_final, quality_table, read_places
    from autobatch.cli.look._predict_view import prediction_view

    if run is None:
        missing = "LIBRARY" if (Path(library) / "epochs.jsonl").is_file() or library.endswith(".jsonl") else "RUN"
        raise ConfigError(f"{missing} is missing: autobatch predict LIBRARY RUN")
    beacons = BeaconLibrary.load(find_library(library))
    places = read_places(run)
    place = _chosen(places, epoch, run)
    told = _told(run, beacons, places, place)
    prediction = predict_final(beacons, place, *told.configuration, level=level)
    console().print(prediction_view(prediction, quality_table(beacons, level=level), beacons, place, told))


def _chosen(places: "tuple[RunPlace, ...]", epoch: int | None, run: Path) -> "RunPlace":
    """Return the place to predict from; refused where the run has no such epoch, or had measured nothing by then."""
    from autobatch._errors import ConfigError

    # Where decisions are taken within epochs, the first place of a number is the epoch's end.
    found = [place for place in places if place.epoch == epoch][:1] if epoch is not None else list(places)
    if not found:
        raise ConfigError(f"--epoch {epoch}: {run} has epochs {places[0].epoch} to {places[-1].epoch}")
    if not found[-1].measured:
        measured = next((place.epoch for place in places if place.measured), None)
        rest = f"the first that has one is epoch {measured}" if measured else "nor has any epoch (was it measured?)"
        raise ConfigError(f"{run}: epoch {found[-1].epoch} has no measured position, C̄ and L; {rest}")
    return found[-1]


def _told(run: Path, library: "BeaconLibrary", places: "tuple[RunPlace, ...]", place: "RunPlace") -> "Told":
    """Return what the run's other files say of it, where ``autobatch run`` wrote them."""
    from autobatch.cli.look._predict_view import Outcome, Told
    from autobatch.control.run import is_loop

    used = {(each.batch_size, each.lr) for each in places if each.epoch <= place.epoch}
    last = places[-1]
    outcome = Outcome(last.validation_loss, last.validation_error) if last.at_end else None
    if not ((run / "config.yaml").is_file() and (run / "decisions.jsonl").is_file()) or is_loop(run):
        return Told(
            title=run.resolve().name,
            configuration=(place.batch_size, place.lr),
            outcome=outcome,
            switched=len(used) > 1,
            same_task=False,
        )
    from autobatch.training import load_decisions, load_run_config, load_summary

    config = load_run_config(run)
    recorded = library.task
    library.check_task(
        config.task.fingerprint_payload(str(recorded.get("data_fingerprint")), int(recorded.get("num_classes") or 0))
    )
    so_far = [one for one in load_decisions(run) if one.epoch <= place.epoch and one.progress <= place.progress + 1e-9]
    configuration = (place.batch_size, place.lr)
    if so_far and so_far[-1].batch_size > 0 and so_far[-1].lr > 0.0:  # a rate left to the loop may not be known
        configuration = (so_far[-1].batch_size, so_far[-1].lr)
    if (run / "summary.json").is_file():
        outcome = Outcome.of(load_summary(run))
    return Told(
        title=f"{config.task.name}, {config.policy.name}, seed {config.seed}",
        configuration=configuration,
        outcome=outcome,
        switched=len(used | {configuration}) > 1,
        same_task=True,
    )
