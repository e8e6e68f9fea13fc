"""Options that several commands share, each said once."""

from pathlib import Path
from typing import Annotated

import typer

RunDirectory = Annotated[Path, typer.Argument(help="Run directory, finished or not.", metavar="RUN")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")]
DataDir = Annotated[Path | None, typer.Option(help="Where datasets lie or are downloaded to. \\[default: data]")]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Allow the task to import the factories that it names.")]
CellJobs = Annotated[int, typer.Option(help="Trainings side by side; 0 leaves them all to 'autobatch worker'.", min=0)]
SharedJobs = Annotated[int, typer.Option(help="Trainings side by side; their times by the clock are shared.", min=1)]
Engine = Annotated[
    str,
    typer.Option(
        "--on",
        help="What starts the workers: local, slurm or ray, with its own settings after a colon, such as "
        "slurm:partition=gpu,timeout_min=240.",
        metavar="ENGINE",
    ),
]
FiguresAsJson = Annotated[bool, typer.Option("--json", help="Print all figures as JSON and nothing else.")]
