"""All commands gathered into one application, and what happens to the errors they raise."""

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import typer

from autobatch._errors import AutoBatchError
from autobatch._remote import is_url
from autobatch.cli._console import streams
from autobatch.cli.evidence import compare, figures, reproduce
from autobatch.cli.learn import surrogate, train_policy
from autobatch.cli.look import envs, explain, plot, policies, predict, report, runs, schema, watch
from autobatch.cli.train import beacons, cells, run, worker

USAGE_ERROR = 2
"""Exit code of everything that the user can put right."""

app = typer.Typer(
    name="autobatch",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with [bold]autobatch run --policy steer[/bold]: it needs no download and no GPU.",
)
app.command("run", rich_help_panel="Train")(run)
app.add_typer(beacons, name="beacons", rich_help_panel="Train")
app.command("worker", rich_help_panel="Train")(worker)
app.command("cells", rich_help_panel="Train")(cells)
app.command("compare", rich_help_panel="Evidence")(compare)
app.command("reproduce", rich_help_panel="Evidence")(reproduce)
app.add_typer(figures, name="figures", rich_help_panel="Evidence")
app.command("train-policy", rich_help_panel="Learn")(train_policy)
app.command("surrogate", rich_help_panel="Learn")(surrogate)
app.command("runs", rich_help_panel="Look")(runs)
app.command("watch", rich_help_panel="Look")(watch)
app.command("explain", rich_help_panel="Look")(explain)
app.command("predict", rich_help_panel="Look")(predict)
app.command("plot", rich_help_panel="Look")(plot)
app.command("report", rich_help_panel="Look")(report)
app.command("envs", rich_help_panel="Look")(envs)
app.command("policies", rich_help_panel="Look")(policies)
app.command("schema", rich_help_panel="Look")(schema)


# What a command that is gone is now called; it takes whatever it took, so that this is all that is said.
_IGNORING = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command("eval-policy", hidden=True, context_settings=_IGNORING)
def _eval_policy() -> None:
    """Say what took the place of a command that is gone."""
    told = (
        "autobatch: error: 'eval-policy' is now 'autobatch compare --policies A,B --envs TASK,... --against fixed,...'"
    )
    print(told, file=sys.stderr)
    raise typer.Exit(USAGE_ERROR)


def _print_version(asked: bool) -> None:
    if asked:
        from autobatch import __version__

        typer.echo(f"autobatch {__version__}")
        raise typer.Exit


@app.callback()
def _autobatch(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Choose batch size and learning rate while a network trains.

    It [bold]measures[/bold] where training stands (C̄ and L, from the Fisher spectrum),
    [bold]locates[/bold] it against recorded trainings (beacons), [bold]decides[/bold] the next batch
    size and learning rate, and [bold]applies[/bold] them, once an epoch, with a reason.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows ``autobatch``; ``sys.argv`` by default.

    Returns:
        The exit code: 0 for success, 2 for an error that the user can put right, 130 after Ctrl-C.
    """
    with streams():
        return _exit_code(arguments)


_OF_THIS_MACHINE = frozenset({"--out", "--output", "-o", "--data-dir", "--resume", "worker", "cells"})
"""What a path follows; a URL would be taken for one, of a folder that is named ``s3:``."""


def _exit_code(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for argument in given for word in argument.split("=", 1)]
    for before, word in pairwise(words):
        if before in _OF_THIS_MACHINE and is_url(word):
            return _fail(f"{before}: expected a path, got the URL {word}")
    try:
        app(args=given, prog_name="autobatch")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except AutoBatchError as error:
        return _fail(str(error))
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}")
    except MemoryError:
        return _fail("out of memory; try a smaller model, dataset or batch size")
    return 0


def _fail(message: str) -> int:
    print(f"autobatch: error: {message}", file=sys.stderr)
    return USAGE_ERROR
