"""``autobatch explain``: the decision log as a person would tell it."""

from autobatch.cli._console import console
from autobatch.cli._options import RunDirectory


def explain(run: RunDirectory) -> None:
    """Tell what a run decided, when, why, and what else it weighed.

    Example:
        autobatch explain runs/digits-resnet8-beacon-follow-s0
    """
    from autobatch.report import read_run, story

    console().print(story(read_run(run)))
