"""How many cores this process may use."""

import os
import sys
from pathlib import Path


def usable_cores() -> int:
    """Count the cores that this process may run on, within its container's CPU quota."""
    if sys.platform == "linux":
        return min(len(os.sched_getaffinity(0)), cpu_quota(Path("/sys/fs/cgroup")))
    return os.cpu_count() or 1


def cpu_quota(cgroup: Path) -> int:
    """Return the CPU quota of a control group in whole cores, at least 1; huge without a quota.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, `cpu.max`; and cgroup-v1's
    `cpu.cfs_quota_us`.
    """
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            files = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((cgroup / "cpu" / name).read_text() for name in files)
        cores = float(quota) / float(period)
    except (OSError, ValueError):  # no such file, or "max": no quota
        return sys.maxsize
    return max(1, round(cores)) if cores > 0 else sys.maxsize
