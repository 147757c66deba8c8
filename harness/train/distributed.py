"""The process group of the ranks that train one run together, as a rank sees it.

Every rank loads the run and takes its part of every batch; torch.distributed adds the gradients up. Rank 0 alone
writes and emits. Outside a group the functions return what they are given, rank 0 and a world of one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from harness.measure import nvml

FORMING = timedelta(minutes=10)  # until all ranks are there: each imports from a file server that all of them ask
_STEP = {"nccl": timedelta(minutes=10), "gloo": timedelta(minutes=30)}  # limit of a collective within a step
_ALONE = timedelta(days=1)  # limit of a wait for what one rank does alone, such as validation or a checkpoint
_POLL_SECONDS = 0.5
FAILURES = "failures"  # key of the number of failed ranks in the store of the launcher

_control: Any = None  # the gloo group for decisions and waits: it never waits for a device
_aborted = False


def rank() -> int:
    """Return the global rank of this process; 0 without a group."""
    return int(dist.get_rank()) if _control is not None else 0


def local_rank() -> int:
    """Return the rank among the processes of this node, which is the index of this process's device."""
    return int(os.environ["LOCAL_RANK"]) if _control is not None else 0


def world_size() -> int:
    """Return the number of ranks; 1 without a group."""
    return int(dist.get_world_size()) if _control is not None else 1


def control_group() -> Any:
    """Return the gloo group with the long time limit; None without a group."""
    return _control


def broadcast(value: Any) -> Any:
    """Return rank 0's value on every rank."""
    if _control is None:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=0, group=_control)
    return shared[0]


def all_gather(value: Any) -> list[Any]:
    """Return the values of all ranks, in their order, on every rank."""
    if _control is None:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value, group=_control)
    return gathered


def barrier() -> None:
    """Wait for all ranks, with the long time limit: one of them may be writing a checkpoint."""
    if _control is not None:
        dist.barrier(group=_control)


@contextlib.contextmanager
def group() -> Iterator[None]:
    """Be a member of the process group that the launcher's environment describes.

    After an exception the group is left as it is: taking it apart would wait for kernels of a peer that is gone, and
    this process ends anyway.
    """
    global _control
    environment = os.environ
    own, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "nccl":
        nvml.note_baseline()
        torch.cuda.set_device(int(environment["LOCAL_RANK"]))
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(environment["LOCAL_WORLD_SIZE"])))
    if size == int(environment["LOCAL_WORLD_SIZE"]):
        _stay_on_this_machine()
    store = dist.PrefixStore("group", connect())
    dist.init_process_group(backend, store=store, rank=own, world_size=size, timeout=_STEP[backend])
    _control = dist.new_group(backend="gloo", timeout=_ALONE)
    if backend == "nccl":
        threading.Thread(target=_abort_with_a_peer, args=(connect(),), daemon=True).start()
    yield
    _control = None
    dist.destroy_process_group()


def connect() -> Any:
    """Return a connection to the store of this node's launcher. A thread that waits needs one of its own."""
    place = os.environ
    store = dist.TCPStore(place["MASTER_ADDR"], int(place["MASTER_PORT"]), is_master=False, timeout=FORMING)
    return dist.PrefixStore(place["TORCHELASTIC_RUN_ID"], store)


def lost_a_peer(error: BaseException | None) -> bool:
    """Return whether an exception, or one that it came from, is the consequence of another rank's end."""
    while error is not None:
        if isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo" in str(error)):
            return True
        error = error.__cause__ or error.__context__
    return _aborted


def _stay_on_this_machine() -> None:
    """Let the backends listen on the loopback interface alone, unless the user has named another one."""
    if "lo" in {name for _, name in socket.if_nameindex()}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")


def _abort_with_a_peer(store: Any) -> None:
    """Abort the group once a rank has failed: an NCCL kernel waits for a peer that is gone until its time limit."""
    global _aborted
    with contextlib.suppress(dist.DistError):  # the launcher has ended, and this process does
        while not store.add(FAILURES, 0):
            time.sleep(_POLL_SECONDS)
        _aborted = True
        dist.distributed_c10d._abort_process_group()
