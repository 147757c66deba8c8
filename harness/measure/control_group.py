"""Memory and processor limits of this process's control groups, version 1 and version 2, as the kernel reports them.

Sources: proc(5), cgroups(7), and the kernel's documents `cgroup-v1/memory.rst` and `cgroup-v2.rst`. The only place that
reads /proc/self/cgroup.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_GROUPS = Path("/proc/self/cgroup")
_MOUNTED = Path("/sys/fs/cgroup")
_VMSTAT = Path("/proc/vmstat")
_UNLIMITED = 1 << 60  # bytes; version 1 writes the largest multiple of a page for "no limit"


def out_of_memory_kills() -> int:
    """Return the number of processes that the kernel has killed for lack of memory in this process's control group.

    It is the count of the whole machine where the group has none: in the root group, and without control groups. It is
    0 where the kernel does not count. Sources: memory.events of version 2, memory.oom_control of version 1 (Linux 4.13
    on), and /proc/vmstat.
    """
    counters = [folder / ("memory.oom_control" if is_first else "memory.events") for folder, is_first in _own("memory")]
    for file in (*counters, _VMSTAT):
        if (count := numbers(file).get("oom_kill")) is not None:
            return count
    return 0


def memory_left() -> int | None:
    """Return the bytes that this process's control groups may still take; None without a limit.

    File pages count as free, since they can be dropped; shared memory and files in memory (tmpfs), which the kernel
    counts among them, cannot. A group is held to the limits of the groups above it as well.
    """
    left = [bytes_left for folder, is_first in _above("memory") if (bytes_left := _left(folder, is_first)) is not None]
    return min(left, default=None)


def throttled_seconds() -> float | None:
    """Return the seconds, summed over cores, that the limit of processor time has held this process back.

    None where the kernel does not report it.
    """
    for folder, _ in _own("cpu"):
        counts = numbers(folder / "cpu.stat")
        if "throttled_usec" in counts:
            return counts["throttled_usec"] / 1e6
        if "throttled_time" in counts:  # version 1, in nanoseconds
            return counts["throttled_time"] / 1e9
    return None


def numbers(path: Path) -> dict[str, int]:
    """Return a file's lines of a name and a number; {} where it cannot be read."""
    with contextlib.suppress(OSError):
        words = (line.replace(":", " ").split() for line in path.read_text().splitlines())
        return {parts[0]: int(parts[1]) for parts in words if len(parts) > 1 and parts[1].isdigit()}
    return {}


def _left(folder: Path, is_first: bool) -> int | None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if is_first else ("memory.max", "memory.current")
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        limit, taken = (int((folder / name).read_text()) for name in names)
        if limit < _UNLIMITED:
            held = numbers(folder / "memory.stat")
            pages, in_memory = ("total_cache", "total_shmem") if is_first else ("file", "shmem")
            return limit - taken + held.get(pages, 0) - held.get(in_memory, 0)
    return None


def _own(controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folders that may describe this process's group, the most particular first; True: of version 1.

    A container may see the path that its group has on the host, and its own files at the mounted root.
    """
    for mounted, group, is_first in _groups(controller):
        yield mounted / group, is_first
        yield mounted, is_first


def _above(controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of this process's group and of all groups above it; True: of version 1."""
    for mounted, group, is_first in _groups(controller):
        for part in (PurePosixPath(group), *PurePosixPath(group).parents):
            yield mounted / part, is_first


def _groups(controller: str) -> Iterator[tuple[Path, str, bool]]:
    """Yield (where the hierarchy is mounted, this process's group in it, True if it is of version 1)."""
    with contextlib.suppress(OSError):
        for line in _GROUPS.read_text().splitlines():
            controllers, _, path = line.partition(":")[2].partition(":")
            group = path.strip().lstrip("/")
            if controller in controllers.split(","):
                yield _MOUNTED / controller, group, True
                yield _MOUNTED / controllers, group, True
            elif not controllers:
                yield _MOUNTED, group, False
                yield _MOUNTED / "unified", group, False
