"""The ranks of a run under torch's elastic agent: who hears of whose end, and how soon."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from launched import PAIR
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent

from harness.records.settings import LaunchSpec
from harness.train import distributed, launcher
from harness.train.launcher import RankError, launch
from harness.train.signals import PreemptedError, Preemption

SOON = 25.0  # seconds, under the 30 that a failure may take to be known


def ignore(event):
    pass


def of_rank(number, act):
    """Work in which all ranks meet, then one acts while the others wait for it."""

    def work(emit):
        distributed.barrier()
        if distributed.rank() == number:
            act()
        distributed.barrier()
        return "trained"

    return work


def fail(error):
    raise error


def test_every_rank_has_its_place_and_nothing_of_it_stays():
    before = dict(os.environ)

    def work(emit):
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
        place = (distributed.rank(), distributed.local_rank(), distributed.world_size(), os.getppid())
        return distributed.all_gather((*place, *(int(os.environ[name]) for name in names)))

    own = os.getpid()
    assert launch(LaunchSpec(num_processes=3), work, ignore) == [(n, n, 3, own, n, n, 3, 3) for n in range(3)]
    assert (distributed.rank(), distributed.local_rank(), distributed.world_size()) == (0, 0, 1)
    assert distributed.broadcast("own") == "own"
    assert distributed.all_gather("own") == ["own"]
    assert {name for name in os.environ.keys() - before.keys() if not name.startswith("TORCHELASTIC_SIGNALS")} == set()


def test_what_rank_0_emits_arrives_in_order():
    def work(emit):
        for number in range(300):
            emit({"rank": distributed.rank(), "number": number, "filled": "x" * 1000})
        return "done"

    events = []
    assert launch(PAIR, work, events.append) == "done"
    assert [(event["rank"], event["number"]) for event in events] == [(0, number) for number in range(300)]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("error", "cause", "text"),
    [
        (ValueError("so"), "work", "so"),
        (RuntimeError("so"), "work", "RuntimeError: so"),
        (MemoryError("no more"), "host_memory", "MemoryError: no more"),
        (torch.OutOfMemoryError("CUDA out of memory"), "device_memory", "OutOfMemoryError: CUDA out of memory"),
        (OSError(28, "No space left on device"), "machine", "OSError: [Errno 28] No space left on device"),
    ],
)
def test_what_ends_a_rank_is_known_with_its_cause(rank, error, cause, text):
    began = time.monotonic()
    with pytest.raises(RankError if rank else type(error)) as caught:
        launch(PAIR, of_rank(rank, lambda: fail(error)), ignore)
    assert time.monotonic() - began < SOON
    assert str(caught.value) == (f"rank 1: {text}" if rank else str(error))
    assert caught.value.failure_cause == cause


class ParticularError(Exception):
    """Cannot be pickled: what it is made of is not what it says."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def test_an_error_that_cannot_be_handed_over_keeps_its_words():
    with pytest.raises(RankError, match=r"^ParticularError: one and two$"):
        launch(PAIR, of_rank(0, lambda: fail(ParticularError("one", "two"))), ignore)


@pytest.mark.parametrize(
    ("act", "text", "cause", "by"),
    [
        (lambda: os._exit(7), "rank 1: ended with exit code 7", "work", None),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "rank 1: killed by SIGKILL", "machine", signal.SIGKILL),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "rank 1: killed by SIGSEGV", "machine", signal.SIGSEGV),
    ],
)
def test_a_rank_that_ends_without_a_word_is_named(act, text, cause, by):
    with pytest.raises(RankError, match=f"^{text}$") as caught:
        launch(PAIR, of_rank(1, act), ignore)
    assert (caught.value.failure_cause, caught.value.killed_by) == (cause, by)


def test_a_rank_that_the_kernel_has_killed_was_out_of_memory(monkeypatch):
    """The kernel counts its kills before it makes them."""
    counts = iter([3, 4, 4])
    monkeypatch.setattr(launcher, "out_of_memory_kills", lambda: next(counts))
    kill = of_rank(1, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RankError, match=r"^rank 1: killed by the kernel: out of memory$") as caught:
        launch(PAIR, kill, ignore)
    assert caught.value.failure_cause == "host_memory"


def test_a_rank_that_waits_for_ever_is_ended_with_the_one_that_failed(tmp_path):
    """As one in an NCCL kernel does, which no signal that can be handled reaches."""
    waits = tmp_path / "waits"

    def work(emit):
        distributed.barrier()
        if distributed.rank() == 1:
            while not waits.exists():
                time.sleep(0.05)
            raise torch.OutOfMemoryError("CUDA out of memory")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        waits.write_text(str(os.getpid()))
        time.sleep(600)

    began = time.monotonic()
    with pytest.raises(RankError, match=r"^rank 1: OutOfMemoryError: CUDA out of memory$"):
        launch(PAIR, work, ignore)
    assert time.monotonic() - began < SOON
    with pytest.raises(ProcessLookupError):
        os.kill(int(waits.read_text()), 0)


def test_what_every_rank_finds_is_said_by_rank_0():
    """In whatever order they say it."""

    def work(emit):
        distributed.barrier()
        time.sleep(0.5 if distributed.rank() == 0 else 0.0)
        raise LookupError("found by all")

    with pytest.raises(LookupError, match=r"^'found by all'$|^found by all$"):
        launch(PAIR, work, ignore)


def test_rank_0_is_waited_for_by_an_agent_that_is_slow_between_two_looks(monkeypatch):
    """Torch's own look ends every rank as soon as one has failed, so that rank 0 could not raise its exception."""
    torchs = LocalElasticAgent._monitor_workers

    def late(agent, worker_group):
        time.sleep(0.4)
        return torchs(agent, worker_group)

    def work(emit):
        distributed.barrier()
        time.sleep(2.0 if distributed.rank() == 0 else 0.1)
        raise LookupError("found by all")

    monkeypatch.setattr(LocalElasticAgent, "_monitor_workers", late)
    with pytest.raises(LookupError, match="found by all"):
        launch(PAIR, work, ignore)


def test_the_loss_of_a_peer_is_no_reason_of_its_own(monkeypatch):
    """All ranks have only lost one another: the first of them is said, as a fault of the machine."""

    def lose(emit):
        distributed.barrier()
        raise torch.distributed.DistNetworkError(f"connection of {distributed.rank()} reset")

    with pytest.raises(RankError, match=r"^rank [01]: DistNetworkError: connection of [01] reset$") as caught:
        launch(PAIR, lose, ignore)
    assert caught.value.failure_cause == "machine"


def test_a_signal_reaches_rank_0_alone_which_says_what_comes_of_it():
    """Whoever it was sent to."""
    preemption = Preemption()

    def work(emit):
        inner = Preemption()
        if distributed.rank() > 0:
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
            distributed.barrier()
            raise PreemptedError("as all ranks are")
        with inner.watched(), inner.deferred():
            emit("ready")
            while not inner.requested:
                time.sleep(0.02)
            emit("asked")
            distributed.barrier()
        raise AssertionError("deferred raises")

    events = []

    def tell(event):
        events.append(event)
        if event == "ready":
            os.kill(os.getpid(), signal.SIGUSR2)

    with preemption.watched(), pytest.raises(PreemptedError, match="told to end"):
        launch(PAIR, work, tell, preemption)
    assert events == ["ready", "asked"]


@pytest.mark.parametrize("watches", ["later", "no more"])
def test_a_signal_that_rank_0_does_not_watch_for_is_no_failure(watches):
    """It forms its group, or has saved its weights and leaves the group."""
    preemption = Preemption()

    def work(emit):
        if distributed.rank() == 0:
            emit("ready")
            time.sleep(1.0)  # the signal comes
            if watches == "later":
                with Preemption().watched():
                    time.sleep(20.0)
        distributed.barrier()
        return "trained"

    def tell(event):
        os.kill(os.getpid(), signal.SIGTERM)

    with preemption.watched(), pytest.raises(PreemptedError, match="told to end"):
        launch(PAIR, work, tell, preemption)


AGENT = """
import os, sys, time
from pathlib import Path
from harness.records.settings import LaunchSpec
from harness.train import distributed
from harness.train.launcher import launch

def work(emit):
    Path(sys.argv[1], f"{distributed.rank()}.part").write_text(str(os.getpid()))
    Path(sys.argv[1], f"{distributed.rank()}.part").rename(Path(sys.argv[1], str(distributed.rank())))
    time.sleep(600)

launch(LaunchSpec(num_processes=2), work, print)
"""


def test_ranks_end_with_their_agent(tmp_path):
    agent = subprocess.Popen([sys.executable, "-c", AGENT, str(tmp_path)])
    try:
        until(lambda: {path.name for path in tmp_path.iterdir()} == {"0", "1"}, seconds=60)
        pids = [int(path.read_text()) for path in tmp_path.iterdir()]
        assert all(is_there(pid) for pid in pids)
    finally:
        agent.kill()
        agent.wait()
    until(lambda: not any(is_there(pid) for pid in pids))


def is_there(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(what, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def listening():
    """The ports on which this process and its descendants listen, with their addresses."""
    import psutil

    own = psutil.Process()
    found = set()
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.Error, OSError):  # a rank that has ended meanwhile
            found |= {(c.laddr.ip, c.laddr.port) for c in process.net_connections() if c.status == psutil.CONN_LISTEN}
    return found


def test_strangers_reach_nothing_from_another_machine_and_hold_nothing_up():
    """Silent ones, two bytes, deep JSON, random bytes, and halves of torch's own greeting."""
    before, doors, strangers = listening(), set(), []
    source = random.Random(0)
    greeting = bytes([0, 0xCE, 0xF7, 0x85, 0x3C])
    words = [b"", b"\0\0", b"[" * 60_000, source.randbytes(4096), greeting[:2], greeting, b"\0\0\0d" + b"x" * 50]

    def knock():
        while not stop.is_set():
            for address, port in listening() - before:
                doors.add((address, port))
                for said in words if len(strangers) < 60 else ():
                    with contextlib.suppress(OSError):
                        strangers.append(socket.create_connection((address, port), 1))
                        strangers[-1].sendall(said)
            stop.wait(0.05)

    def work(emit):
        for _ in range(20):
            distributed.barrier()
            time.sleep(0.1)
        return distributed.all_gather(distributed.rank())

    stop = threading.Event()
    visitor = threading.Thread(target=knock)
    visitor.start()
    try:
        began = time.monotonic()
        assert launch(PAIR, work, ignore) == [0, 1]
        assert time.monotonic() - began < SOON
    finally:
        stop.set()
        visitor.join()
        for line in strangers:
            line.close()
    assert len(strangers) >= len(words)
    assert doors
    assert {address for address, _ in doors} == {"127.0.0.1"}


def test_workers_of_a_loader_are_children_of_a_rank():
    """A daemon may have none."""
    from torch.utils.data import DataLoader

    def work(emit):
        loader = DataLoader(list(range(8)), batch_size=2, num_workers=1)
        return distributed.all_gather([batch.tolist() for batch in loader])

    assert launch(PAIR, work, ignore) == [[[0, 1], [2, 3], [4, 5], [6, 7]]] * 2


def test_a_process_that_has_touched_cuda_forks_no_ranks(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match=r"launch.num_processes=2: this process has initialized CUDA"):
        launch(PAIR, ignore, ignore)
