"""Number of out-of-memory kills, from the kernel's own counters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")
_VMSTAT = Path("/proc/vmstat")


def out_of_memory_kills() -> int:
    """Return the number of processes that the kernel has killed for lack of memory in this process's control group.

    It is the count of the whole machine where the group has none: in the root group, and without control groups. It is
    0 where the kernel does not count. Sources: memory.events of version 2, memory.oom_control of version 1 (Linux 4.13
    on), and /proc/vmstat.
    """
    for file in _counters():
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in file.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _counters() -> Iterator[Path]:
    """Yield the files that may have a count, the most particular first.

    A container may see the path that its group has on the host, and its own files at the mounted root.
    """
    with contextlib.suppress(OSError):
        for line in _GROUPS.read_text().splitlines():
            controllers, _, path = line.partition(":")[2].partition(":")
            group = path.strip().lstrip("/")
            if "memory" in controllers.split(","):
                yield _MOUNTED / "memory" / group / "memory.oom_control"
                yield _MOUNTED / "memory" / "memory.oom_control"
            elif not controllers:
                yield _MOUNTED / group / "memory.events"
                yield _MOUNTED / "unified" / group / "memory.events"
                yield _MOUNTED / "memory.events"
    yield _VMSTAT
