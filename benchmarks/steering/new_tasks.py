"""The data of two of the five tasks that no library had when steering was written, made from what lies at hand.

    python benchmarks/steering/new_tasks.py data DIR

writes ``DIR/diamonds.csv``, the 53,940 diamonds that the package plotnine ships, for ``diamonds-mlp``, and
``DIR/topics.txt``, the help on Python's language that every Python ships (``pydoc_data.topics``), for ``topics-gpt``.
The other three read data that older tasks read: ``mnist5k-convnet``, ``cifar5k-convnet``, ``digits-vit``. The help
differs from one version of Python to the next, and a library fits the text that it was recorded on: Python 3.11.7's.
"""

import argparse
import sys
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from pydoc_data.topics import topics
from shutil import copyfile


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["data"])
    parser.add_argument("folder", type=Path, help="what --data-dir names afterwards")
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "topics.txt").write_bytes(help_text().encode())
    copyfile(diamonds(), folder / "diamonds.csv")
    print(f"{folder / 'topics.txt'} and {folder / 'diamonds.csv'}")


def help_text() -> str:
    """Return the help, each paragraph once and in an order of its own, so that no part is of other topics than another.

    The topics repeat each other, and lie in the order of the alphabet.
    """
    paragraphs = {paragraph.strip("\n") for name in topics for paragraph in topics[name].split("\n\n")}
    return "\n\n".join(sorted(paragraphs, key=lambda paragraph: sha256(paragraph.encode()).digest())) + "\n"


def diamonds() -> Path:
    """Return where plotnine keeps its diamonds, without importing it."""
    try:
        found = next((file for file in files("plotnine") or () if file.name == "diamonds.csv"), None)
    except PackageNotFoundError:
        found = None
    if found is None:
        sys.exit("diamonds.csv comes with the package plotnine, which is not installed: pip install plotnine")
    return Path(str(found.locate()))


if __name__ == "__main__":
    main()
