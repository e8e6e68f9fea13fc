"""``autobatch explain``: the decision log as a person would tell it."""

from typing import Annotated

import typer

from autobatch.cli._console import console
from autobatch.cli._options import RunDirectory


def explain(
    run: RunDirectory,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="With the figures behind each reason, and the candidates.")
    ] = False,
) -> None:
    """Tell what a run decided, when and why; with -v the figures behind it, and what else it weighed.

    Examples:
        autobatch explain runs/digits-resnet8-beacon-follow-s0

        autobatch explain -v runs/digits-resnet8-beacon-follow-s0
    """
    from autobatch.report import read_run, story

    console().print(story(read_run(run), figures=verbose))
