"""Where cells stand, in lines."""

import math

from autobatch.cells import CellsStatus
from autobatch.report._words import seconds_words

_MOST = 20


def cells_lines(status: CellsStatus) -> list[str]:
    """Return where cells stand.

    Args:
        status: where they stand.

    Returns:
        A line of counts, one of times, one for each running cell and one for each that failed.
    """
    lines = [
        f"{status.done} of {status.total} done, {len(status.running)} running, {status.waiting} waiting, "
        f"{len(status.failed)} failed"
    ]
    times = [f"{seconds_words(status.seconds)} of one worker so far"]
    if math.isfinite(status.work_left) and status.work_left:
        times.append(f"{seconds_words(status.work_left)} to go")
    if math.isfinite(status.seconds_left) and status.seconds_left:
        times.append(f"{seconds_words(status.seconds_left)} left with the workers that are there")
    lines.append("; ".join(times))
    for one in status.running[:_MOST]:
        life = {"alive": "", "dead": ", its worker is dead", "unknown": ", not heard of yet"}[one.life]
        where = f"{one.host} ({one.device})" if one.device else one.host
        lines.append(f"running  {one.name}: {100 * one.share:.0f} % on {where}, for {seconds_words(one.seconds)}{life}")
    if more := status.running[_MOST:]:
        lines.append(f"running  and {len(more)} more")
    lines += [f"failed   {name}: {message.strip().splitlines()[-1]}" for name, message in status.failed.items()]
    return lines
