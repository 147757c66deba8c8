"""Signals that end this process, while it waits for another one and until it has recorded what that has returned."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from harness.train.signals import SIGNALS, leave_terminal

_late: list[int] = []  # numbers of the signals that are held back


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Hold back the signals that end this process, except within `signals_raise`, where it waits for another one.

    A later signal ends this process after the context, so that what the other has returned can be recorded.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    numbers += [signal.SIGINT] if signal.getsignal(signal.SIGINT) is signal.default_int_handler else []
    before = {number: signal.signal(number, _hold_back) for number in numbers}
    try:
        yield
    finally:
        for number in numbers:
            if signal.getsignal(number) is _hold_back:
                signal.signal(number, before[number])
        late, _late[:] = _late[:], []
    if late:
        raise _stop_of(late[0])


def _hold_back(number: int, frame: Any) -> None:
    leave_terminal(number)
    _late.append(number)


def _stop_of(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


@contextlib.contextmanager
def signals_raise() -> Iterator[list[BaseException]]:
    """Raise `KeyboardInterrupt` or `SystemExit` on a signal within this context, if its default handler is installed.

    What was raised is added to the list, since Python swallows an exception that is raised in a destructor. What was
    held back before stands in it from the beginning.
    """
    stops: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return

    def interrupt(number: int, frame: Any) -> None:
        stops.append(_stop_of(number))
        raise stops[-1]

    def leave(number: int, frame: Any) -> None:
        leave_terminal(number)
        for other in untaken:  # the group's other signal, or the same again, must not interrupt the clean-up
            signal.signal(other, signal.SIG_IGN)
        stops.append(_stop_of(number))
        raise stops[-1]

    untaken = [number for number in SIGNALS if signal.getsignal(number) in (signal.SIG_DFL, _hold_back)]
    handlers = dict.fromkeys(untaken, leave)
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _hold_back):
        handlers[signal.SIGINT] = interrupt
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    stops += map(_stop_of, _late)
    _late.clear()
    try:
        yield stops
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, before[number])
