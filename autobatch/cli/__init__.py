"""The command line. One file per command; nothing here imports torch until a command needs it."""

from autobatch.cli._app import app, main

__all__ = ["app", "main"]
