"""``autobatch schema``: the schemas of the YAML files, for editors."""

from pathlib import Path
from typing import Annotated

import typer

from autobatch._errors import UnknownNameError, near_names
from autobatch._files import naming_output, write_whole


def schema(
    kind: Annotated[
        str | None, typer.Argument(help="env, policy, experiment or paper; all with --out.", metavar="[KIND]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write all into this folder instead.", metavar="DIR")] = None,
) -> None:
    """Print the JSON schema of a YAML file, by which editors complete and check it.

    The first line of each shipped YAML names its schema, as editors with a YAML language server read it.

    Examples:
        autobatch schema env

        autobatch schema --out schemas
    """
    from autobatch.cli.look._schema_files import as_text, schemas

    known = schemas()
    if out is not None and kind is None:
        with naming_output(out, "made"):
            out.mkdir(parents=True, exist_ok=True)
        for name, one in known.items():
            write_whole(out / f"{name}.json", as_text(one).encode())
            typer.echo(str(out / f"{name}.json"))
        return
    if kind is None or out is not None:
        raise typer.BadParameter("expected either a kind (env, policy, experiment or paper) or --out DIR")
    if kind not in known:
        raise UnknownNameError(f"no schema of {kind!r}; {near_names(kind, known)}")
    typer.echo(as_text(known[kind]), nl=False)
