"""A comparison of tiny tasks, and what watches it."""

import math

from autobatch.evidence import BenchObserver, compare_policies


def compare(home, policies=("rmgd",), envs="tiny", seeds=(100, 101), **changes):
    return compare_policies(policies, envs, seeds, **({"out": home / "out", "device": "cpu"} | changes))


class Seen(BenchObserver):
    """Takes down what is trained, and interrupts after some of it."""

    def __init__(self, after: float = math.inf) -> None:
        self.after = after
        self.trained: list[str] = []
        self.notes: list[str] = []
        self.left: list[float] = []

    def note(self, message):
        self.notes.append(message)

    def run_finished(self, name, summary, progress):
        self.trained.append(name)
        self.left.append(progress.seconds_left)
        if len(self.trained) >= self.after:
            raise KeyboardInterrupt
