"""How many CPU threads a new training takes of those that its task names."""

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_PERIOD_1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def cpu_share() -> int:
    """Return how many CPUs this process may use: more threads spin while they wait for one another.

    Returns:
        The least of the CPUs that it may run on, what its container is allowed, rounded up, and ``OMP_NUM_THREADS``.
    """
    runs_on = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, min([runs_on, *_container_share(), *([int(asked)] if asked.isdecimal() and int(asked) else [])]))


def _container_share() -> list[int]:
    try:
        quota, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        try:  # the first version of Linux's control groups
            quota, period = _QUOTA_1.read_text(), _PERIOD_1.read_text()
        except OSError:
            return []
    try:
        return [math.ceil(int(quota) / int(period))] if int(quota) > 0 else []
    except (ValueError, ZeroDivisionError):  # "max"
        return []
