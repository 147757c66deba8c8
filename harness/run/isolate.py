"""A function in a fresh process: what kills it becomes a reason, never a lost record.

Processes are forked from a server that has imported the stack once (seven seconds and half a gigabyte, shared by all of
them), so that each starts in well under a second, with clean memory and without what an earlier run left behind.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from harness.records import redact
from harness.train.preemption import SIGNALS, end_with_parent

Emit = Callable[[dict[str, Any]], None]
Kind = Literal["returned", "raised", "oom", "killed"]


_OTHER_KILLED = f"has ended with exit code -{signal.SIGKILL:d}"  # one of the processes that train one run together
_LOOK_SECONDS = 0.2  # how often a process that may be stopped is asked for
_ENVIRONMENT = {
    # bitsandbytes asks at import whether CUDA is there; asked through NVML, CUDA stays uninitialised and can be forked
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}


@dataclass(frozen=True)
class Ended:
    """How a process ended. `value` is what the function returned, `reason` why it did not, in one line."""

    kind: Kind
    value: Any = None
    reason: str = ""
    error_type: str = ""  # name of the exception's class


@dataclass
class Stop:
    """Why what is under way is to end now, in a word or two; "" as long as it is not."""

    why: str = ""


@dataclass(frozen=True)
class Share:
    """The part of this machine that the processes of one thread get, while other threads have theirs.

    Once `stop` says why, the process under way is ended and its caller interrupted, as by Ctrl-C.
    """

    environment: dict[str, str]
    threads: int
    stop: Stop = field(default_factory=Stop)


share: ContextVar[Share | None] = ContextVar("share", default=None)  # None: all of the machine


def call(function: str, *arguments: Any, log: Path, on_event: Emit | None = None) -> Ended:
    """Run `function(*arguments, emit)` in a process of its own and wait for it.

    `function` is "module:name", so that this process need not import what the other one does. Its standard output and
    error go to the end of `log`; what it hands to `emit` arrives at `on_event` here, in order. An interrupt of this
    process ends the other one first, with SIGTERM, and hears it out; a second one kills it. So does a SIGTERM or
    SIGUSR2, where this process is the main thread's and nobody else has taken the signal: it becomes a `SystemExit`.
    """
    global _start_method
    log.parent.mkdir(parents=True, exist_ok=True)
    kills_before = _oom_kills()
    try:
        ended = _attempt(function, arguments, log, on_event)
        if ended.error_type == "_CudaInServer":
            _start_method = "spawn"  # a forked process could not use the device
            ended = _attempt(function, arguments, log, on_event)
    finally:
        redact.file(log)  # what libraries said may hold a token or a URL with a password
    was_killed = ended.kind == "killed" or _OTHER_KILLED in ended.reason
    if was_killed and _oom_kills() > kills_before:
        return Ended("oom", reason="killed by the kernel: out of memory")
    return ended


_start_method = "forkserver"
_starting = threading.Lock()  # starting a process looks after all others: two that do so at once lose an exit code


def _context() -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    context = multiprocessing.get_context(_start_method)
    if _start_method == "forkserver":
        context.set_forkserver_preload(["harness.run.preload"])
    return context


def prepare() -> None:
    """Let the server import what it takes seconds to import, before there is anything to do."""
    _context()
    forkserver.ensure_running()


def _attempt(function: str, arguments: tuple[Any, ...], log: Path, on_event: Emit | None) -> Ended:
    own = share.get()
    part = (own.environment, own.threads) if own else None
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(function, arguments, sender, str(log), part), daemon=False)
    with _starting, _main_left_out():
        process.start()
    sender.close()
    try:
        with _signals_raise():
            ended = _listen(receiver, process, on_event, own)
    except BaseException:
        process.terminate()
        try:
            _listen(receiver, process, on_event, None)
        finally:
            process.kill()
        raise
    finally:
        receiver.close()
        wait([process.sentinel])
        with _starting:
            process.join()
    return ended or Ended("killed", reason=_obituary(process.exitcode))


@contextlib.contextmanager
def _main_left_out() -> Iterator[None]:
    """Keep a new process from importing this program's main script.

    multiprocessing imports it for what was defined there; here functions are called by module and name, and a script
    without `if __name__ == "__main__"` would begin its runs once more in each of them.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Let the signals that tell a process to end raise `SystemExit` here, where they would end it without a word."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        for each in untaken:  # the group's other signal, or the same again, must not cut the good-bye off
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    untaken = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in untaken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in untaken:
            if signal.getsignal(number) is leave:
                signal.signal(number, signal.SIG_DFL)


def _listen(receiver: Connection, process: Any, on_event: Emit | None, own: Share | None) -> Ended | None:
    """Pass events on until the process says how it ended, or is gone without a word."""
    while True:
        ready = wait([receiver, process.sentinel], _LOOK_SECONDS if own else None)
        if own is not None and own.stop.why:
            raise KeyboardInterrupt(own.stop.why)
        if not ready:
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


def _child(
    function: str,
    arguments: tuple[Any, ...],
    sender: Connection,
    log: str,
    part: tuple[dict[str, str], int] | None,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    end_with_parent()
    with contextlib.suppress(OSError):
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        sender.send(("ended", {"kind": "raised", "error_type": "_CudaInServer"}))
        return
    if part is not None:
        _keep_to(*part)
    try:
        module, _, name = function.partition(":")
        work = getattr(importlib.import_module(module), name)
        value = work(*arguments, lambda event: sender.send(("event", event)))
        ended: dict[str, Any] = {"kind": "returned", "value": value}
    except BaseException as error:  # whatever it is, it is this run's end and not the sweep's
        traceback.print_exc()
        kind = "oom" if _is_out_of_memory(error) else "raised"
        ended = {"kind": kind, "reason": _one_line(error), "error_type": type(error).__name__}
    sys.stdout.flush()
    sys.stderr.flush()
    sender.send(("ended", ended))
    sender.close()


def _keep_to(environment: dict[str, str], threads: int) -> None:
    """Use no more of the machine than this process's part: before it has looked for a device or started a thread."""
    os.environ.update(environment)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by what is imported from now on
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def outlive_signals() -> None:
    """Have the server go on when its whole group is told to end: its child has something to finish, and goes with it.

    A child keeps the usual way, until it says otherwise.
    """
    server, parent = os.getpid(), os.getppid()

    def told(number: int, frame: Any) -> None:
        if os.getpid() != server or os.getppid() != parent:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in SIGNALS:
        signal.signal(number, told)


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text))
    )


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ValueError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _obituary(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-exit_code).name}"
    return f"the process ended without a word (exit code {exit_code})"


def _oom_kills() -> int:
    """Out-of-memory kills in this process's control group so far; 0 where the kernel does not count them."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        group = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2].lstrip("/")
        for line in Path("/sys/fs/cgroup", group, "memory.events").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
