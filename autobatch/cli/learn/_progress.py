"""What a person sees while a policy is learned."""

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from autobatch.cli._bar import Bar
from autobatch.learn import LearningObserver, LearningProgress

_LINES_A_SEED = 12


class LearningProgressBar(Bar, LearningObserver):
    """Prints a few lines a seed; on a terminal a bar below shows the rest."""

    def __init__(self, console: Console) -> None:
        super().__init__(
            console,
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[score]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            score="",
        )
        self._told: tuple[int, int] = (-1, -1)

    def progressed(self, progress: LearningProgress) -> None:
        """Move the bar, and now and then print a line."""
        seed, total = progress.seed, progress.total
        steps = min(progress.steps, total)  # the last round may go beyond the end
        score = f"mean return {progress.score:.3f}"
        self._bar.update(self._task, description=f"seed {seed}", total=total, completed=steps, score=score)
        part = (seed, steps * _LINES_A_SEED // total)
        if part != self._told:
            self._told = part
            self._say(f"seed {seed}: {steps:>9,} of {total:,} steps, mean return {progress.score:.4f}")

    def seed_finished(self, seed: int, score: float) -> None:
        """Print what a seed came to."""
        self._say(f"seed {seed}: done, mean return {score:.4f} on new episodes")
