"""The processes of one machine that train one run together: this one is the first, the others are forked from it.

Each loads the run for itself and takes its part of every batch; torch.distributed adds the gradients up. Whatever is
written, emitted or evaluated is the first one's. The functions below `joined` may be called whether or not there are
others: alone, they hand back what they are given.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from harness.preemption import SIGNALS

_PR_SET_PDEATHSIG = 1
_LONGEST = timedelta(days=1)  # that the others wait for what the first one does alone, as validation
_PATIENCE_SECONDS = 30.0  # for the others to end, once the first one has
_control: Any = None  # the group on which decisions are shared: on the processor, so that no device is waited for


class RankError(RuntimeError):
    """Another of the processes that train together has ended."""


@dataclass(frozen=True)
class Other:
    """One of the other processes, and where it says how it ended."""

    process: Any
    receiver: Any


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, none of which has loaded anything yet."""

    number: int
    meeting: Path
    others: tuple[Other, ...]

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Be the first of them; the others are over when this is, however it ends."""
        if self.number == 1:
            yield
            return
        try:
            with _member(0, self.number, self.meeting):
                yield
            for other in self.others:
                other.process.join(_PATIENCE_SECONDS)
        except RuntimeError as error:
            cause = self._cause(error)
            if cause is None:
                raise
            raise cause from error
        finally:
            for other in self.others:
                other.process.kill()
                other.process.join()
            self.meeting.unlink(missing_ok=True)

    def _cause(self, error: RuntimeError) -> RuntimeError | None:
        """What another one has said, where it was the first to end: its end is an error of communication here."""
        if type(error) is not RuntimeError and not isinstance(error, dist.DistError):
            return None
        for rank, other in enumerate(self.others, start=1):
            with contextlib.suppress(EOFError, OSError):
                if other.receiver.poll(_PATIENCE_SECONDS / 10):
                    kind, text = other.receiver.recv()
                    return torch.OutOfMemoryError(text) if kind == "oom" else RankError(f"process {rank}: {text}")
            if other.process.exitcode:
                return RankError(f"process {rank} of {self.number} has ended with exit code {other.process.exitcode}")
        return None


def unsupported(number: int) -> str:
    """Why so many processes cannot train together here; "" where they can."""
    visible = torch.cuda.device_count() if torch.cuda.is_available() else number
    return "" if number <= visible else f"launch.num_processes={number} needs as many GPUs, and {visible} can be seen"


def start(number: int, scratch: Path, follow: Callable[[], None]) -> Ranks:
    """Fork the others, before anything is computed; each does `follow` as a member of the group.

    Raises:
        ValueError: there are not as many GPUs.
    """
    meeting = scratch / f"meeting-{os.getpid()}"
    if number == 1:
        return Ranks(1, meeting, ())
    if unsupported(number):
        raise ValueError(unsupported(number))
    scratch.mkdir(parents=True, exist_ok=True)
    gc.collect()  # an earlier group that is garbage here would be waited for in a fork, where its threads are missing
    context = multiprocessing.get_context("fork")
    others = []
    for rank in range(1, number):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_other, args=(rank, number, meeting, follow, sender), daemon=True)
        process.start()
        sender.close()
        others.append(Other(process, receiver))
    return Ranks(number, meeting, tuple(others))


def _other(rank: int, number: int, meeting: Path, follow: Callable[[], None], sender: Any) -> None:
    for each in (signal.SIGINT, *SIGNALS):  # the first one says when to end
        signal.signal(each, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        with _member(rank, number, meeting):
            follow()
    except BaseException as error:  # whatever it is, the first one is told
        traceback.print_exc()
        sys.stderr.flush()
        is_oom = isinstance(error, MemoryError | torch.OutOfMemoryError)
        sender.send(("oom" if is_oom else "raised", f"{type(error).__name__}: {error}"))
        os._exit(1)


@contextlib.contextmanager
def _member(rank: int, number: int, meeting: Path) -> Iterator[None]:
    """Be one of the group, as accelerate finds out from the environment, and no longer than this lasts."""
    global _control
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
    os.environ.update({name: str(value) for name, value in place.items()})
    cuda = torch.cuda.is_available()
    threads = torch.get_num_threads()
    if cuda:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, threads // number))
    dist.init_process_group(
        "nccl" if cuda else "gloo", init_method=f"file://{meeting.absolute()}", rank=rank, world_size=number
    )
    _control = dist.new_group(backend="gloo", timeout=_LONGEST)
    try:
        yield
    finally:
        _control = None
        dist.destroy_process_group()
        _forget()
        torch.set_num_threads(threads)
        for name in place:
            os.environ.pop(name, None)


def _forget() -> None:
    """Have accelerate look anew: what is evaluated afterwards is evaluated by one process."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def index() -> int:
    """Which of the processes this is; 0 for the first."""
    return int(dist.get_rank()) if _control is not None else 0


def number() -> int:
    """How many there are."""
    return int(dist.get_world_size()) if _control is not None else 1


def of_first(value: Any) -> Any:
    """The first one's value, for all of them."""
    if _control is None:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0, group=_control)
    return shared[0]


def of_all(value: Any) -> list[Any]:
    """The values of all of them."""
    if _control is None:
        return [value]
    found: list[Any] = [None] * number()
    dist.all_gather_object(found, value, group=_control)
    return found
