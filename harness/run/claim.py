"""One claim per run, so that several processes and machines may work on one store and make each run once.

A claim is a chain of small files beside the record, `claim-<n>.json`; the highest number counts and says who holds the
run, or that nobody does. The only transition is to create the next number, which the file system grants to exactly one
process: a link to a file that is written already, so that no claim is ever half there. The holder touches its file as a
heartbeat; a claim is stale when an observer has seen no heartbeat for `patience` seconds of its own monotonic clock, so
that neither clock jumps nor clocks that disagree matter, or at once when the holder was a process that this one would
see and that is gone. There is no daemon and no lock that outlives its holder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

HEARTBEAT_SECONDS = 10.0
PATIENCE_SECONDS = 120.0  # twelve heartbeats: a machine that swaps, or a file server that stalls, is not dead
LOOK_SECONDS = 0.5  # how often one who waits looks again
_NAME = re.compile(r"claim-(\d+)\.json")


@dataclass(frozen=True)
class Holder:
    """Who holds a claim; `pid` is None once it is given back. `boot` and `started` tell a process from a later one."""

    token: str
    host: str
    boot: str
    pid: int | None
    started: str  # clock ticks since boot at which the process began, as the kernel counts them

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class Claim:
    """A claim that is held."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def lost(self) -> bool:
        """Whether another process took over, since this one had shown no sign of life: nothing is its to write now."""
        return _newest(self._path.parent) != self._path


@contextlib.contextmanager
def hold(
    folder: Path,
    waiting: Callable[[Holder], None] = lambda _: None,
    heartbeat: float = HEARTBEAT_SECONDS,
    patience: float = PATIENCE_SECONDS,
) -> Iterator[Claim]:
    """Hold the claim of a folder, waiting for as long as a living process holds it.

    Args:
        folder: the run's folder, made if need be.
        waiting: called once for each other holder that is waited for.
        heartbeat: seconds between two signs of life.
        patience: seconds without one after which a claim is taken over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim = _acquire(folder, waiting, patience)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(claim, heartbeat, stop), daemon=True)
    beat.start()
    try:
        yield Claim(claim)
    finally:
        stop.set()
        beat.join()
        _give_back(claim)


def holder(folder: Path) -> Holder | None:
    """Who holds the claim of a folder now, alive or not; None if nobody does."""
    newest = _newest(folder)
    found = _read(newest) if newest else None
    return found if found and found.pid is not None else None


def is_gone(found: Holder) -> bool:
    """Whether the holder was a process that this one would see, and has ended: known at once, without waiting.

    A name alone tells no machine from another: containers share their host's, and so do copies of a virtual machine.
    """
    if found.pid is None or (found.host, found.boot) != (socket.gethostname(), _boot()):
        return False
    return _started(found.pid) != found.started


def silent_seconds(folder: Path) -> float:
    """Since the last sign of life of whoever holds the claim, by two clocks that may disagree: to be shown, no more."""
    newest = _newest(folder)
    return time.time() - _changed(newest) / 1e9 if newest else 0.0


def _acquire(folder: Path, waiting: Callable[[Holder], None], patience: float) -> Path:
    seen: tuple[Path | None, int] = (None, 0)
    since, announced = time.monotonic(), ""
    while True:
        newest = _newest(folder)
        found = _read(newest) if newest else None
        beat = (newest, _changed(newest) if newest else 0)
        if beat != seen:
            seen, since = beat, time.monotonic()
        # a file that cannot be read is a claim like any other: it has only its heartbeat to live on
        free = newest is None or (found is not None and (found.pid is None or is_gone(found)))
        if free or time.monotonic() - since > patience:
            claim = _create(folder, _number(newest) + 1 if newest else 1, _myself())
            if claim is not None and _newest(folder) == claim:
                _tidy(folder, claim)
                return claim
            continue
        if found is not None and found.token != announced:
            announced = found.token
            waiting(found)
        time.sleep(min(LOOK_SECONDS, patience / 4))


def _create(folder: Path, number: int, content: Holder) -> Path | None:
    """Create the claim of that number; None if another process was first, or took this one for a leftover."""
    path = folder / f"claim-{number:06d}.json"
    temporary = folder / f".claim-{content.token}"
    try:
        temporary.write_text(json.dumps(asdict(content), sort_keys=True), encoding="utf-8")
        os.link(temporary, path)
    except FileExistsError:
        return None
    except FileNotFoundError:
        if not folder.is_dir():
            raise
        return None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _give_back(claim: Path) -> None:
    """Say that nobody holds it; a claim that was lost, or whose folder is gone, is not this process's to give back."""
    if _newest(claim.parent) == claim:
        with contextlib.suppress(OSError):
            nobody = Holder(token=uuid.uuid4().hex, host="", boot="", pid=None, started="")
            released = _create(claim.parent, _number(claim) + 1, nobody)
            if released is not None:
                _tidy(claim.parent, released)


def _beat(claim: Path, heartbeat: float, stop: threading.Event) -> None:
    while not stop.wait(heartbeat):
        with contextlib.suppress(OSError):  # a file server that stalls; the next beat may come through
            os.utime(claim)


def _tidy(folder: Path, newest: Path) -> None:
    """Remove all but the newest two: one who lists the folder meanwhile must see at least one of them.

    What a killed process was about to link goes as well; one that is alive and still about to tries again.
    """
    old = [p for p in folder.glob("claim-*.json") if _NAME.fullmatch(p.name) and _number(p) < _number(newest) - 1]
    for path in (*old, *folder.glob(".claim-*")):
        path.unlink(missing_ok=True)


def _newest(folder: Path) -> Path | None:
    with contextlib.suppress(FileNotFoundError):
        names = [name for name in os.listdir(folder) if _NAME.fullmatch(name)]  # noqa: PTH208 - one call, no stat
        return folder / max(names) if names else None
    return None


def _number(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    assert found is not None, f"{path} is no claim"
    return int(found[1])


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _myself() -> Holder:
    pid = os.getpid()
    return Holder(uuid.uuid4().hex, socket.gethostname(), _boot(), pid, _started(pid))


def _boot() -> str:
    """What tells one boot of this machine, or one container's process numbers, from another; "" where unknown."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - a namespace is no path
    return ""


def _started(pid: int) -> str:
    """When a process began, in clock ticks since boot; "" if there is none, or if it is dead and not yet reaped."""
    with contextlib.suppress(OSError, IndexError):
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if after_name[0] == "Z" else after_name[19]
    return ""
