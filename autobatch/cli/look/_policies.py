"""``autobatch policies``: the policies that can be named."""

from autobatch.cli._console import console


def policies() -> None:
    """List the known policies: what each does, needs and changes, and when to choose it.

    Looked up in ./policies, then in the policies folder of each directory in $AUTOBATCH_PATH, then among those
    shipped. Names in the paper's notation, such as s32-lr0.1, are policies without any file.
    """
    from autobatch.report import policy_table, shorthand_line

    console().print(policy_table())
    console().print(shorthand_line(), highlight=False)
