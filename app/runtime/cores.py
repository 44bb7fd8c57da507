"""How many cores this process may use."""

import os
import sys
from pathlib import Path


def usable_cores() -> int:
    """Count the cores that this process may run on, within the quota of its container or unit."""
    if sys.platform == "linux":
        groups = control_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
        return min(len(os.sched_getaffinity(0)), *map(cpu_quota, groups))
    return os.cpu_count() or 1


def control_groups(listing: Path, root: Path) -> list[Path]:
    """Return the folders of this process's control groups, from `root` down: each may have a quota.

    A container sees its own group as the root. A systemd unit is some folders below it.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst, `/proc/$PID/cgroup`.
    """
    groups = [root]
    try:
        [path] = [line[3:] for line in listing.read_text().splitlines() if line.startswith("0::")]
    except (OSError, ValueError):  # not Linux's second version
        return groups
    for part in Path(path).parts[1:]:
        groups.append(groups[-1] / part)
    return groups


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
