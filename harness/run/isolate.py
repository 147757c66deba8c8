"""Execution of a function in its own process. However the process ends, the caller receives the reason."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from multiprocessing import process as registry
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from harness.measure import hardware, proc
from harness.measure.control_group import out_of_memory_kills
from harness.measure.hardware import VISIBLE
from harness.records import redact
from harness.records.events import Emit, Message
from harness.run import server
from harness.run.interrupts import signals_raise
from harness.run.server import cuda_untouched, is_cuda_touched
from harness.run.server import prepare as prepare
from harness.sources import cache
from harness.train import failure
from harness.train.failure import Cause
from harness.train.signals import end_with_parent, heeded

Kind = Literal["returned", "raised", "oom", "killed"]

_TOUCHED = "_CudaInServer"  # error type of a fork that could not use a card
_LOOK_SECONDS = 0.2  # between two looks at a process that may be stopped, or was told to end
_SILENT_SECONDS = 60.0  # without progress, after which a process that was told to end is killed
_LAST_SECONDS = 600.0  # after which it is killed even with progress: a checkpoint of a large model takes minutes
_EXIT_SECONDS = 60.0  # for a process to exit after it has sent its result
_REAP_SECONDS = 10.0  # for the kernel to end a killed process; one that waits for a dead file server stays
END_SECONDS = _LAST_SECONDS + _EXIT_SECONDS + _REAP_SECONDS  # a process that was told to end is gone by then
_TAIL_BYTES = 4096  # of the log, in which a library may have printed why it exited


@dataclass(frozen=True)
class Ended:
    """End of a process. `value` is the return value of the function, `reason` the failure in one line."""

    kind: Kind
    value: Any = None
    reason: str = ""
    error_type: str = ""  # name of the exception's class
    cause: Cause = "work"  # of "raised", "oom" and "killed"
    killed_by: int | None = None  # number of the signal that killed the process, a rank of it or a loader's worker

    def returned(self) -> Any:
        """Return the value of the function.

        Raises:
            ValueError: the function raised one; with its text.
            RuntimeError: it ended in any other way; with the reason.
        """
        if self.kind == "returned":
            return self.value
        raise (ValueError if self.error_type == "ValueError" else RuntimeError)(self.reason)


class EndAtOnceError(Exception):
    """Raised by a listener, it kills the process, which may write nothing more, not even a checkpoint."""


@dataclass
class Stop:
    """Request to end the work in progress: `why` gives the reason in a word or two, "" while there is none."""

    why: str = ""


@dataclass(frozen=True)
class Share:
    """The part of this machine that the processes of one thread get, while other threads have their own.

    Once `stop` gives a reason, the running process is ended and its caller interrupted, as by Ctrl-C.
    """

    environment: dict[str, str]
    threads: int
    stop: Stop = field(default_factory=Stop)
    runs: int = 1  # at once on the device of this part, its own included


@dataclass(frozen=True)
class Terms:
    """Options of a process.

    Attributes:
        environment: variables in addition to those of the share, and with precedence over them.
        imports_first: modules that must be imported before any other library. The process is then not forked.
        retries: further starts after an end that the machine caused; for work without side effects.
    """

    environment: dict[str, str] = field(default_factory=dict)
    imports_first: tuple[str, ...] = ()
    retries: int = 0


@dataclass(frozen=True)
class _Job:
    """Arguments that are sent to the process."""

    function: str
    arguments: tuple[Any, ...]
    log: str
    environment: dict[str, str]
    threads: int | None
    imports_first: tuple[str, ...]


share: ContextVar[Share | None] = ContextVar("share", default=None)  # None: all of the machine
_forks_can_use_cuda = True
USUAL = Terms()
REPEATABLE = Terms(retries=1)
WITHOUT_GPU = Terms(environment={VISIBLE: ""}, retries=1)


def sharing() -> dict[str, int]:
    """Return the number of runs that share the device of this thread's runs, in the form of a record."""
    own = share.get()
    return {"concurrent_runs": own.runs if own else 1}


def call(function: str, *arguments: Any, log: Path, on_event: Emit | None = None, terms: Terms = USUAL) -> Ended:
    """Run `function(*arguments, emit)` in its own process and wait for it.

    `function` is "module:name", so that this process need not import its module. Its standard output and error are
    appended to `log`. Events that it passes to `emit` arrive at `on_event` here, in order.

    Ctrl-C sends SIGTERM to the process and waits for its last events; a second Ctrl-C kills it. SIGTERM and SIGUSR2 do
    the same and raise SystemExit, in the main thread and if no other handler is installed. The process is killed if it
    makes no progress for a minute after that, or has not ended after ten minutes.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    own = share.get()
    job = _Job(
        function, arguments, str(log), _own_environment(terms), own.threads if own else None, terms.imports_first
    )
    for _ in range(terms.retries):
        ended = _called(job, on_event)
        if ended.kind != "killed" or ended.cause != "machine":
            return ended
    return _called(job, on_event)


def environment(terms: Terms = USUAL) -> dict[str, str]:
    """Return the environment of a process with these options."""
    return {**os.environ, **_own_environment(terms)}


def _own_environment(terms: Terms) -> dict[str, str]:
    own = share.get()
    return {**hardware.link_settings(), **(own.environment if own else {}), **terms.environment}


def _called(job: _Job, on_event: Emit | None) -> Ended:
    global _forks_can_use_cuda
    log = Path(job.log)
    kills, length = out_of_memory_kills(), _size(log)
    try:
        ended = _attempt(job, on_event)
        if ended.error_type == _TOUCHED:
            _forks_can_use_cuda = False
            ended = _attempt(job, on_event)
        if ended.kind == "killed":
            ended = _explained(ended, _tail(log, length))
    except server.ServerError as error:
        return Ended("killed", reason=str(error), cause="machine")
    finally:
        redact.file(log)  # libraries may have printed a token, or a URL with a password
    # the kernel counts its kills for lack of memory in the whole group or machine, and kills by SIGKILL
    if ended.cause == "machine" and ended.killed_by == signal.SIGKILL and out_of_memory_kills() > kills:
        return replace(ended, kind="oom", reason="killed by the kernel: out of memory", cause="host_memory")
    return ended


def _explained(ended: Ended, tail: str) -> Ended:
    """Return the end of a process that exited by itself, as out of memory if a library printed such an error before."""
    if ended.killed_by in (signal.SIGKILL, signal.SIGTERM):
        return ended
    for line in reversed(tail.splitlines()):
        cause = failure.cause_in(line)
        if cause in failure.MEMORY:
            return replace(ended, kind="oom", reason=f"{ended.reason}: {' '.join(line.split())}", cause=cause)
    return ended


def _size(log: Path) -> int:
    with contextlib.suppress(OSError):
        return log.stat().st_size
    return 0


def _tail(log: Path, begin: int) -> str:
    """Return the last bytes of the log, at most 4096, of those written since it had `begin` bytes."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(begin, _size(log) - _TAIL_BYTES))
        return file.read().decode(errors="replace")
    return ""


def _attempt(job: _Job, on_event: Emit | None) -> Ended:
    own = share.get()
    context = server.context(fresh=bool(job.imports_first) or not _forks_can_use_cuda)
    receiver, sender = context.Pipe(duplex=False)
    try:
        process = server.started(lambda: context.Process(target=_child, args=(job, sender), daemon=False))
    except BaseException:
        receiver.close()
        raise
    finally:
        sender.close()
    try:
        with signals_raise() as stops:
            ended = _listen(receiver, process, on_event, _stopped(own, stops))
    except EndAtOnceError:
        process.kill()
        raise
    except BaseException:
        process.terminate()
        try:
            with signals_raise():
                _listen(receiver, process, on_event, _Vitals(process.pid))
        finally:
            process.kill()
        raise
    finally:
        receiver.close()
        _reap(process)
    code = process.exitcode
    by = -code if code is not None and code < 0 else None
    return ended or Ended("killed", reason=server.obituary(code), cause="machine", killed_by=by)


def _reap(process: Any) -> None:
    """Wait for a process that has sent its result, and kill it if it does not exit."""
    if not _ends_within(_EXIT_SECONDS, process):
        process.kill()
    if _ends_within(_REAP_SECONDS, process):
        with server.STARTING:
            process.join()
    else:  # otherwise Python would wait for it at exit
        registry._children.discard(process)  # type: ignore[attr-defined]


def _ends_within(seconds: float, process: Any) -> bool:
    deadline = time.monotonic() + seconds
    while not wait([process.sentinel], _LOOK_SECONDS) and not _has_ended(process):
        if time.monotonic() > deadline:
            return False
    return True


def _has_ended(process: Any) -> bool:
    """Ask the kernel: what a process has forked, and left behind, holds its ends of the pipes that say so.

    Only of a process that the server has forked are they closed in time, since its sentinel is the server's.
    """
    if not server.STARTING.acquire(blocking=False):  # the next look is soon
        return False
    try:
        return not process.is_alive()
    finally:
        server.STARTING.release()


def _listen(receiver: Connection, process: Any, on_event: Emit | None, look: Callable[[], bool]) -> Ended | None:
    """Pass events on until the process sends its end; return None if it ended without one.

    `look` is called repeatedly. If it returns False, stop and return None.
    """
    while look():
        if not wait([receiver, process.sentinel], _LOOK_SECONDS) and not _has_ended(process):
            continue
        try:
            if not receiver.poll():
                return None
            kind, content = receiver.recv()
        except (EOFError, OSError):
            return None
        if kind == "ended":
            return Ended(**content)
        if on_event is not None:
            on_event(content)
    return None


def _stopped(own: Share | None, stops: Sequence[BaseException]) -> Callable[[], bool]:
    """Return a look that raises a request to end: of the thread's share, or one that a signal made in vain."""

    def look() -> bool:
        if stops:
            raise stops[0]
        if own is not None and own.stop.why:
            raise KeyboardInterrupt(own.stop.why)
        return True

    return look


class _Vitals:
    """Progress check of a process that was told to end: True while it computes or writes, for a limited time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._work: tuple[str, ...] = ()
        self._began = self._lived = time.monotonic()

    def __call__(self) -> bool:
        now, work = time.monotonic(), self._counters()
        if work != self._work:
            self._lived, self._work = now, work
        return now - self._lived < _SILENT_SECONDS and now - self._began < _LAST_SECONDS

    def _counters(self) -> tuple[str, ...]:
        """Return processor time and bytes written (proc(5)), which do not change if a process is stopped or hangs."""
        counters = tuple(proc.stat_of(self._pid)[11:13])
        with contextlib.suppress(OSError):
            counters += tuple(Path(f"/proc/{self._pid}/io").read_text().splitlines())
        return counters


def _child(job: _Job, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    for number in heeded():  # a fork inherits handlers, such as one that only takes note of the signal
        signal.signal(number, signal.SIG_DFL)
    end_with_parent()
    with contextlib.suppress(OSError):
        handle = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
    os.environ.update(job.environment)
    if is_cuda_touched():
        sender.send(("ended", {"kind": "raised", "error_type": _TOUCHED}))
        return
    if job.threads is not None:
        _compute_with(job.threads)
    cache.announce.set(lambda line: sender.send(("event", Message(line))))
    try:
        work = _imported(job)
        value = work(*job.arguments, lambda event: sender.send(("event", event)))
        ended: dict[str, Any] = {"kind": "returned", "value": value}
    except BaseException as error:  # any error ends this run only, not the sweep
        with contextlib.suppress(OSError):  # a full disk takes no line of the log, and must not cost the reason
            traceback.print_exc()
        cause = failure.cause(error)
        kind = "oom" if cause in failure.MEMORY else "raised"
        ended = {"kind": kind, "reason": one_line(error), "error_type": type(error).__name__, "cause": cause}
        ended["killed_by"] = failure.killed_by(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    sender.send(("ended", ended))
    sender.close()


def _imported(job: _Job) -> Any:
    """Import and return the function, without initializing CUDA, since it may fork."""
    module, _, name = job.function.partition(":")
    with contextlib.ExitStack() as around:
        for first in job.imports_first:
            importlib.import_module(first)
        if not {"torch", module} & sys.modules.keys():
            around.enter_context(cuda_untouched())
        return getattr(importlib.import_module(module), name)


def _compute_with(threads: int) -> None:
    """Limit the threads of this process to its share, before it has started any."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by what is imported from now on
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def one_line(error: BaseException) -> str:
    """Return an error in one line: its type and its text, or the text alone where it is written for the user."""
    text = " ".join(str(error).split())
    if isinstance(error, ValueError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
