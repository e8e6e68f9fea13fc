"""``autobatch explain``: the decision log as a person would tell it."""

from pathlib import Path
from typing import Annotated

import typer

from autobatch.cli._console import console


def explain(run: Annotated[Path, typer.Argument(help="Run directory, finished or not.", metavar="RUN")]) -> None:
    """Tell what a run decided, when, why, and what else it weighed.

    Example:
        autobatch explain runs/digits-resnet8-beacon-follow-s0
    """
    from autobatch.report import read_run, story

    console().print(story(read_run(run)))
