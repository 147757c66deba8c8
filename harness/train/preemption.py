"""What a run's process does when it is told to end: SIGTERM, or SIGUSR2, which schedulers send before they preempt.

Between two optimizer steps there is a point from which training can go on, so that it is finished first; whatever else
is under way ends at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from harness.train.failure import Cause

_PR_SET_PDEATHSIG = 1
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class PreemptedError(Exception):
    """The process was told to end before its work was done."""

    failure_cause: ClassVar[Cause] = "work"  # whatever else was being handled when the signal came


class Preemption:
    """Whether this process was told to end.

    A signal of a process whose parent is gone ends it on the spot: the run belongs to another one by then.
    """

    def __init__(self) -> None:
        self.asked = False
        self._deferred = False
        self._parent = os.getppid()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the signals for as long as this lasts; only a process's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._told) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items() if not self.asked else ():  # its last words are not cut off either
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Do not break off what happens here; it may ask whether it was `asked` to end.

        Raises:
            PreemptedError: it was, at the end of this.
        """
        outer, self._deferred = self._deferred, True
        yield
        self._deferred = outer
        if self.asked and not outer:
            raise PreemptedError("told to end")

    def whole(self, emit: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
        """`emit` that is never broken off: half a message would be all that is ever heard."""

        def emitted(event: dict[str, Any]) -> None:
            with self.deferred():
                emit(event)

        return emitted

    def _told(self, number: int, frame: Any) -> None:
        if os.getppid() != self._parent:
            os._exit(128 + number)
        for each in SIGNALS:  # once is enough, and what happens from here on is short
            signal.signal(each, signal.SIG_IGN)
        self.asked = True
        if not self._deferred:
            raise PreemptedError("told to end")


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the kernel end this process when its parent goes, however that ends: prctl(2).

    The server calls it as well, so that a sweep that is killed takes its server and its run with it.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
