"""What a worker needs to train the cells of a folder: who put them in knows how."""

from pathlib import Path

from autobatch._errors import ConfigError
from autobatch.cells import Cells, Make
from autobatch.evidence.bench import KIND, ComparisonMaker
from autobatch.learn._cells import KIND as EPISODES
from autobatch.learn._cells import EpisodeMaker
from autobatch.training.recording import BeaconMaker, BranchMaker

_RECORDERS = {maker.kind: maker for maker in (BeaconMaker, BranchMaker)}


def maker_for(cells: Cells, *, device: str, data_dir: Path | None, trust_code: bool, ranks: int = 1) -> Make:
    """Return what makes the work of a worker.

    Args:
        cells: a folder with cells.
        device: torch device to train on.
        data_dir: where datasets lie.
        trust_code: whether a task may name factories to import.
        ranks: processes that train each cell together.

    Returns:
        The function.

    Raises:
        ConfigError: the cells are of a kind that needs the program that put them in, or one process each.
    """
    kinds = {plan.kind for plan in cells.plans()}
    if others := sorted(kinds - {*_RECORDERS, KIND, EPISODES}):
        raise ConfigError(
            f"{cells.home}: holds cells of the kind '{others[0]}', which are worked at by the program that put them in"
        )
    if len(kinds) != 1:
        raise ConfigError(f"{cells.home}: expected cells of one kind, got {', '.join(sorted(kinds)) or 'none'}")
    if kinds == {KIND}:
        return ComparisonMaker(cells.folder.absolute(), device, data_dir, trust_code, ranks)
    if ranks > 1 and kinds != {BeaconMaker.kind}:
        raise ConfigError(f"--ranks: {kinds.pop()} are trained by one process each; leave it out")
    if kinds == {EPISODES}:
        return EpisodeMaker(cells.folder.absolute(), device, data_dir, trust_code)
    return _RECORDERS[kinds.pop()](cells.folder.parent, device, data_dir, trust_code, ranks=ranks)
