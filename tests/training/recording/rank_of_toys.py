"""A process of a cell that trains nothing: says a share and stays, fails, or dies, as it is told."""

import json
import os
import runpy
import sys
from pathlib import Path

# By its file: the package that it is in imports torch, which takes each process seconds.
RANK = runpy.run_path(str(Path(__file__).parents[3] / "autobatch/training/recording/_rank.py"))


def main(folder: Path) -> None:
    watcher = RANK["watch_for_the_end"]()
    what = os.environ["TOY"]
    if os.environ["RANK"] == "0":
        (folder / "said.jsonl").write_text('{"share": 0.5}\n')
    while not (folder / "said.jsonl").exists():
        watcher.join(0.01)
    if what == "stays":
        watcher.join()
    if what == "fails":
        if os.environ["RANK"] == "1":
            watcher.join(2.0)
        # Of two that fail, one only hears of it.
        kind, message = ("OutputError", "the disk") if os.environ["RANK"] == "0" else ("AutoBatchError", "heard of it")
        with (folder / "said.jsonl").open("a") as file:
            file.write(json.dumps({"error": kind, "message": message, "errno": 28}) + "\n")
    print("last words", file=sys.stderr)
    sys.exit(3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
