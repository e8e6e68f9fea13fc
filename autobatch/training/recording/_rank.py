"""One of the processes of ``run_together``: ``torchrun ... -m autobatch.training.recording._rank FOLDER``."""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

_HEARD = 2.0


def main(folder: Path) -> int:
    """Train what is asked for in a folder, and say there how it goes.

    Args:
        folder: holds what is asked for.

    Returns:
        The exit code.
    """
    watcher = watch_for_the_end()
    from autobatch._errors import AutoBatchError, behind
    from autobatch.training._run import RunConfig, found_config
    from autobatch.training.recording._progress import EpochReporter
    from autobatch.training.recording._together import ASKED, SAID
    from autobatch.training.running._carry_out import run
    from autobatch.training.running._launched import joined

    def say(**words: Any) -> None:
        with (folder / SAID).open("a", encoding="utf-8") as file:
            file.write(json.dumps(words) + "\n")

    asked = json.loads((folder / ASKED).read_text(encoding="utf-8"))
    out = Path(asked["out"])
    config = found_config(RunConfig.model_validate(asked["config"]), out)
    try:
        with joined(config.device) as leads:
            observer = EpochReporter(lambda share: say(share=share)) if leads else None
            run(config, out, observer, resume=asked["resume"])
    except AutoBatchError as error:
        if type(error) is AutoBatchError:  # only heard of: whoever knows why shall have said so before this ends
            watcher.join(_HEARD)
        number = next((one.errno for one in behind(error) if isinstance(one, OSError)), None)
        say(error=type(error).__name__, message=str(error), errno=number)
        return 2
    return 0


def watch_for_the_end() -> threading.Thread:
    """End this process with whoever started it: nothing is ever written to the standard input that it holds open.

    Returns:
        What waits for that, and never returns.
    """

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    watcher = threading.Thread(target=wait, daemon=True)
    watcher.start()
    return watcher


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
