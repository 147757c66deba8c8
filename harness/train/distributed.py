"""The processes that train one run together, of one machine or of several nodes; one of them is the first.

The first one forks the others of its node; on each further node one comes by itself and forks those beside it. Each
loads the run for itself and takes its part of every batch; torch.distributed adds the gradients up. Whatever is
written, emitted or evaluated is the first one's. The functions below `_forget` may be called whether or not there are
others: alone, they hand back what they are given.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from harness.records.specs import LaunchSpec
from harness.train import failure, meeting
from harness.train.failure import Cause
from harness.train.meeting import Attempt, Invitation, Line, Meeting, Node
from harness.train.preemption import SIGNALS, end_with_parent

_LONGEST = timedelta(days=1)  # that the others wait for what the first one does alone, as validation
_FORMING = timedelta(seconds=meeting.COME_SECONDS)  # that a process waits for the others to form a group
_PATIENCE_SECONDS = 30.0  # for the others to end, once the first one has
_MOMENT_SECONDS = 3.0  # in which one that failed has said why, once others notice
_LONGEST_WORDS = 4000  # characters
_control: Any = None  # the group on which decisions are shared: on the processor, so that no device is waited for


class RankError(RuntimeError):
    """Another of the processes that train together has ended; `failure_cause` is why."""

    def __init__(self, text: str, failure_cause: Cause = "work") -> None:
        super().__init__(text)
        self.failure_cause = failure_cause


class Alone:
    """The one process of a run that no others train."""

    def joined(self) -> contextlib.nullcontext[None]:
        """There is nobody to join."""
        return contextlib.nullcontext()


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, none of which has loaded anything yet."""

    launch: LaunchSpec
    meeting: Meeting
    forked: dict[int, Any]

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Be the first of them; the others are over when this is, however it ends."""
        try:
            self.meeting.gather(self._look)
            port = self.meeting.open_port()
            number = port.getsockname()[1]
            for line in self.meeting.lines.values():
                line.say(port=number)
            store = _store(self.launch, self.meeting.invitation.address, number, port.detach())
            with _member(0, self.launch, store):
                yield
            for line in self.meeting.lines.values():
                line.hear(_PATIENCE_SECONDS)
        except RuntimeError as error:
            end = self.meeting.last_words(_MOMENT_SECONDS) if _is_of_communication(error) else None
            if end is None:
                raise
            raise self._error(*end) from error  # whose end is an error of communication here
        finally:
            self.meeting.end()
            _kill(self.forked)

    def _look(self) -> None:
        """Raise if one has ended that is waited for, or has come to say that it cannot take part."""
        for rank, process in self.forked.items():
            if process.exitcode is not None and rank not in self.meeting.lines:
                raise self._gone(rank)
        for rank, line in self.meeting.lines.items():
            if line.refusal:
                raise RankError(f"process {rank}{self._on(rank)}: {line.refusal}")
        if end := self.meeting.last_words(0.0):
            raise self._error(*end)

    def _error(self, rank: int, said: dict[str, Any] | None) -> RuntimeError:
        if said is None:
            return self._gone(rank)
        error = RankError(f"process {rank}{self._on(rank)}: {said['text']}", said["cause"])
        return torch.OutOfMemoryError(said["text"]) if said["kind"] == "oom" else error

    def _gone(self, rank: int) -> RankError:
        how, by_signal = "without a word", True
        if rank in self.forked:
            self.forked[rank].join(_MOMENT_SECONDS)
            code = self.forked[rank].exitcode
            how, by_signal = f"with exit code {code}", code is None or code < 0
        text = f"process {rank} of {self.launch.num_processes}{self._on(rank)} has ended {how}"
        return RankError(text, "machine" if by_signal else "work")

    def _on(self, rank: int) -> str:
        line = self.meeting.lines.get(rank)
        return f" on node {line.node}" if line and line.node else ""


def unsupported(launch: LaunchSpec) -> str:
    """Why so many processes cannot train together here; "" where they can."""
    here = launch.processes_per_node
    visible = torch.cuda.device_count() if torch.cuda.is_available() else here
    if here <= visible:
        return ""
    needed = "as many GPUs" if launch.num_nodes == 1 else f"{here} GPUs on each of {launch.num_nodes} nodes"
    return f"launch.num_processes={launch.num_processes} needs {needed}, and {visible} can be seen"


def start(launch: LaunchSpec, follow: Callable[[], None], attempt: Attempt | None = None) -> Alone | Ranks:
    """Start the others, before anything is computed; each does `follow` as a member of the group.

    Those of this node are forked. Those of further nodes are told of the `attempt`, and come by themselves (`join`).

    Raises:
        ValueError: there are not as many GPUs, or no further nodes.
    """
    if launch.num_processes == 1:
        return Alone()
    if unsupported(launch):
        raise ValueError(unsupported(launch))
    file = os.environ.get(meeting.FILE) if launch.num_nodes > 1 else ""
    if file is None:
        raise ValueError(f"launch.num_nodes={launch.num_nodes}: this is no job of hydra/launcher=slurm")
    gc.collect()  # an earlier group that is garbage here would be waited for in a fork, where its threads are missing
    first = Meeting(launch, attempt or Attempt())
    forked = _forked(range(1, launch.processes_per_node), launch, first.invitation, follow)
    if file:
        meeting.announce(first.invitation, Path(file))
    return Ranks(launch, first, forked)


def join(launch: LaunchSpec, invitation: Invitation, node: Node, follow: Callable[[], None]) -> None:
    """Be, on another node than the first, all of its processes: this one, and those that it forks."""
    node = replace(node, refusal=node.refusal or unsupported(launch))
    own = launch.processes_per_node * node.index
    beside = range(own + 1, own + launch.processes_per_node)
    forked = _forked(beside, launch, invitation, follow, node)
    try:
        _take_part(own, launch, invitation, follow, node)
        for process in forked.values():
            process.join(_PATIENCE_SECONDS)
    finally:
        _kill(forked)


def _forked(numbers: range, launch: LaunchSpec, *arguments: Any) -> dict[int, Any]:
    """Fork the other processes of this node.

    Raises:
        RuntimeError: this process has touched CUDA, which no child of it could use.
    """
    if torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork():
        raise RuntimeError(
            f"launch.num_processes={launch.num_processes}: this process has initialized CUDA, and its forks could not "
            "use a GPU; something that was imported asked for a device"
        )
    context = multiprocessing.get_context("fork")
    processes = {n: context.Process(target=_fork, args=(n, launch, *arguments), daemon=True) for n in numbers}
    for process in processes.values():
        process.start()
    return processes


def _fork(*arguments: Any) -> None:
    try:
        _take_part(*arguments)
    except BaseException:
        os._exit(1)


def _kill(processes: dict[int, Any]) -> None:
    for process in processes.values():
        process.kill()
        process.join()


def _take_part(
    rank: int, launch: LaunchSpec, invitation: Invitation, follow: Callable[[], None], node: Node | None = None
) -> None:
    """Be one of the others; what ends it is told the first one, without which it ends at once."""
    end_with_parent(signal.SIGKILL)
    for each in (signal.SIGINT, *SIGNALS):  # the first one says when to end
        signal.signal(each, signal.SIG_IGN)
    line = meeting.come(invitation, rank, node)
    told = line.hear()
    if told is None:
        raise OSError("the first process has ended")
    is_over = threading.Event()
    threading.Thread(target=_end_with_first, args=(line, is_over), daemon=True).start()
    try:
        with _member(rank, launch, _store(launch, invitation.address, told["port"])):
            follow()
    except BaseException as error:  # whatever it is, the first one is told
        traceback.print_exc()
        sys.stderr.flush()
        text = f"{type(error).__name__}: {error}"[:_LONGEST_WORDS]
        line.say(kind=_kind(error), text=text, cause=failure.cause(error))
        raise
    finally:
        is_over.set()


def _end_with_first(line: Line, is_over: threading.Event) -> None:
    line.hear()
    if not is_over.is_set():
        os._exit(1)


def _kind(error: BaseException) -> str:
    if failure.cause(error) in failure.MEMORY:
        return "oom"
    return "lost" if _is_of_communication(error) else "raised"


def _is_of_communication(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error))


def _store(launch: LaunchSpec, address: str, port: int, listening: int | None = None) -> Any:
    """What a group forms over: kept by the first one, at the port on which it is `listening`."""
    return dist.TCPStore(
        address, port, launch.num_processes, listening is not None, _FORMING,
        wait_for_workers=False, master_listen_fd=listening,
    )  # fmt: skip


@contextlib.contextmanager
def _member(rank: int, launch: LaunchSpec, store: Any) -> Iterator[None]:
    """Be one of the group, as accelerate finds out from the environment, and no longer than this lasts."""
    global _control
    number, here = launch.num_processes, launch.processes_per_node
    place = {"RANK": rank, "LOCAL_RANK": rank % here, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": here}
    place |= {"MASTER_ADDR": store.host, "MASTER_PORT": store.port}
    os.environ.update({name: str(value) for name, value in place.items()})
    cuda = torch.cuda.is_available()
    threads = torch.get_num_threads()
    if cuda:
        torch.cuda.set_device(rank % here)
    else:
        torch.set_num_threads(max(1, threads // here))
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=rank, world_size=number)
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


def rank() -> int:
    """Which of the processes this is; 0 for the first."""
    return int(dist.get_rank()) if _control is not None else 0


def local_rank() -> int:
    """Which of its node's devices is this one's."""
    return int(os.environ["LOCAL_RANK"]) if _control is not None else 0


def world_size() -> int:
    """How many there are."""
    return int(dist.get_world_size()) if _control is not None else 1


def broadcast(value: Any) -> Any:
    """The first one's value, for all of them."""
    if _control is None:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0, group=_control)
    return shared[0]


def all_gather(value: Any) -> list[Any]:
    """The values of all of them."""
    if _control is None:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value, group=_control)
    return found
