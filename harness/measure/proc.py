"""Facts that Linux gives under /proc: proc(5). Unknown on other systems."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_CPUS = Path("/proc/cpuinfo")


def cpu_field(name: str) -> str:
    """Return a field of the first processor, such as `model name` or `flags`; "" if it is unknown."""
    with contextlib.suppress(OSError):
        for line in _CPUS.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def stat_of(pid: int | str) -> list[str]:
    """Return the fields of `/proc/<pid>/stat` from the third on, the state of the process; [] if there is none.

    There is none either for other users' processes where the system hides them (`hidepid`); see `is_there`.
    """
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def is_there(pid: int) -> bool:
    """Return whether there is a process, also one of another user on a system that hides those."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError, TypeError):  # none, or no number of one, as in a damaged file
        return False
    return True
