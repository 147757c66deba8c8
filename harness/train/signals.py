"""Handling of requests to end a process: SIGTERM, SIGUSR2 (sent by schedulers before they preempt), and SIGHUP.

SIGHUP comes when the terminal is gone, as when a connection breaks. Where it is ignored, as under nohup, it stays so.

Training can resume from a point between two optimizer steps, so the step under way is finished first. Everything else
ends at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import io
import multiprocessing
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

from harness.records.events import Emit, Event
from harness.train.failure import Cause

_PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)


def heeded() -> list[signal.Signals]:
    """Return the signals that this process has not been started to ignore."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def leave_terminal(number: int) -> None:
    """After SIGHUP, send output nowhere that would go to the terminal: writing to one that is gone is an error."""
    if number == signal.SIGHUP:
        _print_nowhere()


def outlive_terminal() -> None:
    """Send output nowhere as soon as the terminal that it goes to is gone, for processes that SIGHUP does not end.

    The kernel announces nothing to a process that ignores SIGHUP (as after `disown`) or has no controlling terminal (as
    under `setsid`): it learns of the end from EIO.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            descriptor = stream.fileno()
            stream.flush()
        except (AttributeError, OSError, ValueError):  # there is no such stream, or a test's
            continue
        if _is_terminal(descriptor):
            raw: Any = _Terminal(descriptor, "w", closefd=False)
            buffer = raw if stream.write_through else io.BufferedWriter(raw)
            options = {
                name: getattr(stream, name) for name in ("encoding", "errors", "line_buffering", "write_through")
            }
            setattr(sys, name, io.TextIOWrapper(buffer, **options))


class _Terminal(io.FileIO):
    """Raw stream to a terminal that may go away."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            _print_nowhere()
            return len(memoryview(data).cast("B"))


def _print_nowhere() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        if _is_terminal(descriptor):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _is_terminal(descriptor: int) -> bool:
    """Return whether a descriptor is a terminal's; one that is gone no longer says so, but stays a device."""
    with contextlib.suppress(OSError):  # closed, as by 2>&-
        return stat.S_ISCHR(os.fstat(descriptor).st_mode)
    return False


class PreemptedError(Exception):
    """The process was requested to end before its work was done."""

    failure_cause: ClassVar[Cause] = "work"  # whatever other exception was being handled when the signal came


class Preemption:
    """Signal handlers and flag of a request to end this process.

    If the parent process is gone, a signal ends this process on the spot: the run belongs to another process by then.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        self._parent = os.getppid()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Handle the signals within this context; only in a process's main thread, which alone can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._told) for number in heeded()}
        try:
            yield
        finally:
            for number, handler in before.items() if not self.requested else ():  # once requested, signals stay ignored
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer an interruption to the end of this context; code within it may read `requested`.

        Raises:
            PreemptedError: a request came; raised at the end of the outermost context.
        """
        outer, self._deferred = self._deferred, True
        yield
        self._deferred = outer
        if self.requested and not outer:
            raise PreemptedError("told to end")

    def whole(self, emit: Emit) -> Emit:
        """Return an `emit` that no signal interrupts: after half a message nothing more could be read."""

        def emitted(event: Event) -> None:
            with self.deferred():
                emit(event)

        return emitted

    def _told(self, number: int, frame: Any) -> None:
        if os.getppid() != self._parent:
            os._exit(128 + number)
        leave_terminal(number)
        for signal_number in SIGNALS:  # once is enough, and what happens from here on is short
            signal.signal(signal_number, signal.SIG_IGN)
        end_with_parent()
        self.requested = True
        if not self._deferred:
            raise PreemptedError("told to end")


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Let the kernel end this process when its parent ends for any reason: prctl(2).

    The server calls it as well, so that a sweep that is killed takes its server and its run with it. A process that
    ignores SIGTERM is ended by SIGKILL: it has inherited that, as on a further node, or has been told to end.
    """
    if signal.getsignal(number) is signal.SIG_IGN:
        number = signal.SIGKILL
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it ended before, and the kernel sends nothing
        os.kill(os.getpid(), number)
