"""Server that processes are forked from. It imports the libraries once (seven seconds, half a gigabyte).

A process forked from it starts in well under a second, with clean memory. A server that ends is replaced.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from harness.measure import hardware
from harness.measure.hardware import BUS_ORDER
from harness.train.signals import heeded

STARTING = threading.Lock()  # starting a process also reaps others; two threads that do so at once lose an exit code
_LOST_EXIT_CODE = 255  # multiprocessing's, of a process whose server has ended
_MOMENT_SECONDS = 1.0
_LONGEST_FOLDER = 70  # bytes
_ENVIRONMENT = {
    **BUS_ORDER,
    # torch then asks NVML whether there is a card, where it can, and leaves CUDA alone
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
# Settings that torch's CUDA allocator reads, the present name first. Batches come in hundreds of shapes; segments that
# grow leave fewer gaps between them (from the library's documentation, not measured here on a GPU).
ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_SPINS = "10000"  # of a thread that waits for another, before it sleeps


class ServerError(Exception):
    """The server ended while it started a process, twice."""


def waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the settings by which OpenMP's threads wait in a run's process; {} if the user has set them.

    GNU's OpenMP, which torch's CPU wheel brings, spins 300,000 times by default, longer than another program's time
    slice: on a busy processor a step takes many times as long. See `python -m tests.bench busy`.
    """
    chosen_by_user = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & environment.keys()
    return {} if chosen_by_user else {"GOMP_SPINCOUNT": _SPINS}


def without_working_folder() -> dict[str, str]:
    """Return the setting by which Python looks for no module in the working folder; {} in the project's own.

    A new interpreter would run a random.py of the user's there as the library of that name. Processes of this program
    are given the module path of their parent instead, which has the folder at its end.
    """
    return {} if Path.cwd() == Path(__file__).parents[2] else {"PYTHONSAFEPATH": "1"}


def shorten_sockets() -> None:
    """Give multiprocessing a folder for its sockets whose path is short enough, where that of TMPDIR is not.

    Linux takes 107 bytes for the path of a socket, and the name in the folder has 33. Processes inherit the folder.
    """
    if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_FOLDER:
        return
    before = tempfile.tempdir
    tempfile.tempdir = next((folder for folder in ("/tmp", "/var/tmp") if os.access(folder, os.W_OK)), before)
    try:
        multiprocessing.util.get_temp_dir()  # made once in a process, and removed when it ends
    finally:
        tempfile.tempdir = before


def context(fresh: bool) -> Any:
    """Return multiprocessing's context for processes forked from the server, or if `fresh` for spawned ones."""
    shorten_sockets()
    for name, value in {**_ENVIRONMENT, **waiting(os.environ), **without_working_folder()}.items():
        os.environ.setdefault(name, value)
    if not any(name in os.environ for name in ALLOCATOR_SETTINGS):
        os.environ[ALLOCATOR_SETTINGS[0]] = "expandable_segments:True"
    if fresh:
        return multiprocessing.get_context("spawn")
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["harness.run.preload"])
    return forking


def prepare() -> None:
    """Start the server, so that it imports the libraries ahead of the first process."""
    context(fresh=False)
    forkserver.ensure_running()


def started(make: Callable[[], Any]) -> Any:
    """Start the process that `make` returns, and return it. Retry once if the server ends during the start.

    Raises:
        ServerError: the second server ended as well.
    """
    for last in (False, True):
        process = make()
        try:
            with STARTING, main_left_out():
                process.start()
            return process
        except (EOFError, OSError) as error:
            how = end()
            if last:
                raise ServerError(
                    f"the server that processes are forked from {how or 'cannot be reached'} while it started one, "
                    "twice: `python -c 'import harness.run.preload'` shows whether the libraries can be imported"
                ) from error
    raise AssertionError("the second start returns or raises")


@contextlib.contextmanager
def main_left_out() -> Iterator[None]:
    """Keep a new process from importing this program's main script.

    multiprocessing imports it for functions that it defines. Here functions are called by module and name, and a script
    without `if __name__ == "__main__"` would start its runs again in each process.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def end() -> str:
    """Return the end of the last server, as in `was killed by SIGKILL`; "" while it runs or before the first."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    deadline = time.monotonic() + _MOMENT_SECONDS
    while pid is not None and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            # WNOWAIT leaves the process for multiprocessing to reap
            info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if info is not None:
                is_exit = info.si_code == os.CLD_EXITED
                return f"ended with exit code {info.si_status}" if is_exit else _killed(info.si_status)
        time.sleep(_MOMENT_SECONDS / 20)
    return ""


def obituary(exit_code: int | None) -> str:
    """Return the end of a process that sent no result, in words, from multiprocessing's exit code."""
    if exit_code is not None and exit_code < 0:
        return _killed(-exit_code).removeprefix("was ")
    if exit_code == _LOST_EXIT_CODE and (how := end()):
        return f"the server that it was forked from {how}"
    return f"the process ended without a word (exit code {exit_code})"


def _killed(number: int) -> str:
    try:
        return f"was killed by {signal.Signals(number).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {number}"


def outlive_signals() -> None:
    """Keep the server alive when its process group is told to end: its children end with it, and have work to finish.

    A child without handlers of its own ends as by default, and so does a server whose parent is gone.
    """
    server, parent = os.getpid(), os.getppid()

    def handle(number: int, frame: Any) -> None:
        if os.getpid() != server or os.getppid() != parent:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in heeded():
        signal.signal(number, handle)


@contextlib.contextmanager
def cuda_untouched() -> Iterator[None]:
    """Answer torch's queries about devices from NVML or the driver within this context."""
    import torch

    cards = hardware.usable_cards()

    def card_of(device: Any) -> hardware.Card:
        index = 0 if device is None else torch.cuda._utils._get_device_index(device)
        return cards[index]

    answers = {
        "is_available": lambda: bool(cards),
        "device_count": lambda: len(cards),
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: card_of(device).capability,
        "get_device_name": lambda device=None: card_of(device).name,
        "is_bf16_supported": lambda including_emulation=True: (
            bool(cards) and (including_emulation or cards[0].capability[0] >= hardware.BFLOAT16_CAPABILITY)
        ),
    }
    originals = {name: getattr(torch.cuda, name) for name in answers}
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch.cuda, name, original)


def is_cuda_touched() -> bool:
    """Return True if this process, or the one that it was forked from, has touched CUDA; False without torch.

    `torch.cuda.is_initialized` alone is False in a fork of a process that has. `_is_in_bad_fork` is True as well where
    nothing but the number of devices was asked of CUDA.
    """
    import sys

    torch = sys.modules.get("torch")
    return torch is not None and (torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork())
