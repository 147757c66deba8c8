"""Lock of a run, called its claim: several processes and machines may share one store and make each run once.

A claim is a chain of small files beside the record, `claim-<n>.json`. The highest number counts. Its file names the
process that holds the run, or says that none does. The only transition is to create the next number. The file system
grants that to exactly one process: it is a hard link to a file that is complete already, so that no claim is ever half
written.

The holder touches its file as a heartbeat. A claim is stale when an observer has seen no heartbeat for `patience`
seconds of its own monotonic clock. Neither jumps of a clock nor clocks that disagree matter. A claim is stale at once
when its holder shares boot and pid namespace with the observer and has ended; a process that the system hides from
other users (`hidepid`) has not. There is no daemon and no lock that outlives its holder.
"""

from __future__ import annotations

import contextlib
import errno
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

from harness.measure import proc
from harness.records import disk

HEARTBEAT_SECONDS = 10.0
PATIENCE_SECONDS = 120.0  # twelve heartbeats: a machine that swaps, or a file server that stalls, is still alive
LOOK_SECONDS = 0.5  # between two looks at the claim while waiting
NO_LINKS = (
    "{folder}: no hard link can be made there ({why}), by which processes agree on who makes a run: choose a folder on "
    "another file system with runs_dir=..."
)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # link(2); vfat, exFAT and many of FUSE
_NAME = re.compile(r"claim-(\d+)\.json")


@dataclass(frozen=True)
class Owner:
    """Process that holds a claim. `pid` is None once it is released.

    `boot` and `started` tell the process from a later one with the same pid.
    """

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
        """True if another process took over because of missed heartbeats. The run must not be written any more."""
        return _newest(self._path.parent) != self._path


@contextlib.contextmanager
def hold(
    folder: Path,
    waiting: Callable[[Owner], None] = lambda _: None,
    heartbeat: float = HEARTBEAT_SECONDS,
    patience: float = PATIENCE_SECONDS,
    observer: Observer | None = None,
) -> Iterator[Claim]:
    """Hold the claim of a folder, waiting for as long as a living process holds it.

    Args:
        folder: the run's folder, made if need be.
        waiting: called once for each other holder that is waited for; to give up, it raises an error of its own.
        heartbeat: seconds between two heartbeats.
        patience: seconds without a heartbeat after which a claim is taken over.
        observer: has observed the folder before, with its own patience; None: observation begins here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim = _acquire(folder, waiting, observer or Observer(folder, patience))
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(claim, heartbeat, stop), daemon=True)
    beat.start()
    try:
        yield Claim(claim)
    finally:
        stop.set()
        beat.join()
        _give_back(claim)


def holder(folder: Path) -> Owner | None:
    """Return the present holder of a folder's claim, alive or not; None if there is none."""
    newest = _newest(folder)
    owner = _read(newest) if newest else None
    return owner if owner and owner.pid is not None else None


def is_gone(owner: Owner) -> bool:
    """Return True if the holder was a process in this boot and pid namespace and has ended.

    The host name alone does not identify a machine: containers share their host's, and so do copies of a
    virtual machine.
    """
    if owner.pid is None or (owner.host, owner.boot) != (socket.gethostname(), _boot()):
        return False
    fields = proc.stat_of(owner.pid)
    return _started(fields) != owner.started if fields else not proc.is_there(owner.pid)


def silent_seconds(folder: Path) -> float:
    """Return the seconds since the holder's last heartbeat, for display only: they compare clocks that may disagree."""
    newest = _newest(folder)
    return time.time() - _changed(newest) / 1e9 if newest else 0.0


class Observer:
    """Observer of a folder's claim, which knows since when it has seen no heartbeat.

    Attributes:
        newest: the claim as last looked at; None without one.
        owner: its holder; None without one, and where the file cannot be read.
        patience: seconds without a heartbeat after which a claim is stale.
    """

    def __init__(self, folder: Path, patience: float = PATIENCE_SECONDS) -> None:
        self.newest: Path | None = None
        self.owner: Owner | None = None
        self.patience = patience
        self._folder = folder
        self._beat: tuple[Path | None, int] = (None, 0)
        self._since = time.monotonic()

    def is_free(self) -> bool:
        """Look at the claim, and return whether it may be taken: released, or its holder gone or silent too long."""
        newest = self.newest = _newest(self._folder)
        owner = self.owner = _read(newest) if newest else None
        beat = (newest, _changed(newest) if newest else 0)
        if beat != self._beat:
            self._beat, self._since = beat, time.monotonic()
        is_released = owner is not None and (owner.pid is None or is_gone(owner))
        # an unreadable file is a claim too, which only a missing heartbeat ends; what is no file never was a claim
        free = newest is None or is_released or disk.kind(newest) in ("folder", "other")
        return free or time.monotonic() - self._since > self.patience


def _acquire(folder: Path, waiting: Callable[[Owner], None], observer: Observer) -> Path:
    announced = ""
    while True:
        if observer.is_free():
            newest = observer.newest
            claim = _create(folder, _number(newest) + 1 if newest else 1, _myself())
            if claim is not None and _newest(folder) == claim:
                _tidy(folder, claim)
                return claim
            continue
        if observer.owner is not None and observer.owner.token != announced:
            announced = observer.owner.token
            waiting(observer.owner)
        time.sleep(min(LOOK_SECONDS, observer.patience / 4))


def _create(folder: Path, number: int, content: Owner) -> Path | None:
    """Create the claim of that number; None if another process was first, or removed the temporary file.

    Raises:
        OSError: the file cannot be written; where the file system has no hard links, with what to do about it.
    """
    path = folder / f"claim-{number:06d}.json"
    temporary = folder / f".claim-{content.token}"
    try:
        temporary.write_text(json.dumps(asdict(content), sort_keys=True), encoding="utf-8")
        os.link(temporary, path)
    except FileExistsError:
        # a file server that is sent a link again, since its answer was lost, finds this process's own
        return path if _read(path) == content else None
    except FileNotFoundError:
        if not folder.is_dir():
            raise
        return None
    except OSError as error:
        if error.errno in _NO_LINKS and temporary.exists():
            raise OSError(error.errno, NO_LINKS.format(folder=folder, why=error.strerror)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _give_back(claim: Path) -> None:
    """Release a claim. Do nothing if it was lost or its folder is gone."""
    with contextlib.suppress(OSError):
        if _newest(claim.parent) == claim:
            nobody = Owner(token=uuid.uuid4().hex, host="", boot="", pid=None, started="")
            released = _create(claim.parent, _number(claim) + 1, nobody)
            if released is not None:
                _tidy(claim.parent, released)


def _beat(claim: Path, heartbeat: float, stop: threading.Event) -> None:
    while not stop.wait(heartbeat):
        with contextlib.suppress(OSError):  # a file server that stalls; the next beat may come through
            os.utime(claim)


def _tidy(folder: Path, newest: Path) -> None:
    """Remove all claims but the newest two: a process that lists the folder meanwhile must see at least one of them.

    Temporary files of killed processes are removed as well. A live process whose file is removed retries.
    """
    old = [p for p in folder.glob("claim-*.json") if _NAME.fullmatch(p.name) and _number(p) < _number(newest) - 1]
    for path in (*old, *folder.glob(".claim-*")):
        disk.remove(path)


def _newest(folder: Path) -> Path | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = [name for name in os.listdir(folder) if _NAME.fullmatch(name)]  # noqa: PTH208 - one call, no stat
        return max((folder / name for name in names), key=_number, default=None)
    return None


def _number(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    assert match is not None, f"{path} is no claim"
    return int(match[1])


def _read(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(disk.read(path)))
    except (OSError, ValueError, TypeError):
        return None


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _myself() -> Owner:
    pid = os.getpid()
    return Owner(uuid.uuid4().hex, socket.gethostname(), _boot(), pid, _started(proc.stat_of(pid)))


def _boot() -> str:
    """Return an id of this boot of the machine and of this container's pid namespace; "" if unknown."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - a namespace is no path
    return ""


def _started(fields: list[str]) -> str:
    """Return the start time of a process in clock ticks since boot; "" if it is unknown or the process a zombie."""
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else ""
