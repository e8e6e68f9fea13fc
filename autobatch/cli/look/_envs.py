"""``autobatch envs``: the tasks that can be named."""

from autobatch.cli._console import console


def envs() -> None:
    """List the known tasks: dataset, model, ladder, recorded beacons, and where each was found.

    Looked up in ./envs, then in the envs folder of each directory in $AUTOBATCH_PATH, then among those shipped.
    A task whose file cannot be read is listed with the reason.
    """
    from autobatch.report import env_table

    console().print(env_table())
