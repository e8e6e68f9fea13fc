"""The command line: one file per command, in folders by the panels of the help.

In come the words of a command line; out go the files and words of the rooms below, and an exit code. Open ``_app.py``
first. Nothing here imports torch until a command needs it.
"""

from autobatch.cli._app import app, main

__all__ = ["app", "main"]
