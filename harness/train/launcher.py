"""Starts and watches the ranks of a run with torch's elastic agent, the engine of `elastic_launch` and torchrun.

The agent forks the ranks of its node, so that a rank starts in a tenth of a second with everything imported. It is
used without `elastic_launch` because that leaves 30 seconds to ranks that wait for a dead peer, and knows nothing of
the failures on another node. All agents share a store (TCPStore, at the first node): there the ranks form their group,
and the agents put failures.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import secrets
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ErrorHandler
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from harness.measure import hardware
from harness.measure.control_group import out_of_memory_kills
from harness.records.settings import LaunchSpec
from harness.train import distributed, failure, nodes
from harness.train.distributed import FAILURES, FORMING
from harness.train.failure import Cause
from harness.train.nodes import Attempt, Node
from harness.train.signals import SIGNALS, Preemption, end_with_parent, heeded

Work = Callable[[Callable[[Any], None]], Any]  # its argument emits an event

_LOOK_SECONDS = 0.1
_GRACE_SECONDS = 10.0  # for other ranks to report why they failed, and for those that lost a peer to end by themselves
_LONGEST_TEXT = 4000  # characters


class RankError(RuntimeError):
    """A rank has failed, or a node is lost.

    Attributes:
        failure_cause: the reason in the terms of `harness.train.failure`.
        killed_by: number of the signal that killed the rank; None if none did or it is unknown.
    """

    def __init__(self, text: str, failure_cause: Cause = "work", killed_by: int | None = None) -> None:
        super().__init__(text)
        self.failure_cause, self.killed_by = failure_cause, killed_by


class NodeLostError(RankError):
    """A node has ended. Another attempt of this job would wait for it in vain: the job is for the cluster to repeat."""


@dataclass(frozen=True)
class _Place:
    """Part of one node in an attempt, and the store that all nodes share."""

    spec: LaunchSpec
    attempt: Attempt
    node: Node
    store: Any

    def run(self, work: Work, emit: Callable[[Any], None], preemption: Preemption) -> Any:
        """Do `work` in the ranks of this node; return what rank 0 returns, None on another node."""
        if torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork():
            raise RuntimeError(
                f"launch.num_processes={self.spec.num_processes}: this process has initialized CUDA, and its forks "
                "could not use a GPU; something that was imported asked for a device"
            )
        gc.collect()  # a group that is garbage here would be taken apart in a fork, where its threads are missing
        with tempfile.TemporaryDirectory() as folder:
            agent = _Agent(self, work, folder)
            agent.emit, agent.preemption = emit, preemption
            result = agent.run()
            agent.relay()
        if agent.error is not None:
            raise agent.error
        return result.return_values.get(0)


def unsupported(spec: LaunchSpec) -> str:
    """Return why so many ranks cannot train together on this machine; "" where they can."""
    here = spec.processes_per_node
    visible = len(hardware.device_names())  # none on a CPU, or where the runs are made on other machines
    if visible == 0 or here <= visible:
        return ""
    needed = "as many GPUs" if spec.num_nodes == 1 else f"{here} GPUs on each of {spec.num_nodes} nodes"
    return f"launch.num_processes={spec.num_processes} needs {needed}, and {visible} can be seen"


def launch(
    spec: LaunchSpec,
    work: Work,
    emit: Callable[[Any], None],
    preemption: Preemption | None = None,
    attempt: Attempt | None = None,
) -> Any:
    """Do `work` in every rank of a run, those of this node forked from here, and return what rank 0 returns.

    What rank 0 emits arrives at `emit`. Signals that `preemption` notices are passed on to rank 0. A run on several
    nodes announces the `attempt` and waits for the others, which `join` it.

    Raises:
        ValueError: there are not as many GPUs, or this is no job on several nodes.
        RankError: another rank has failed, or a node is lost; names it. What rank 0 raises is raised as it is.
    """
    if unsupported(spec):
        raise ValueError(unsupported(spec))
    is_alone = spec.num_nodes == 1
    if not is_alone and nodes.FILE not in os.environ:
        raise ValueError(
            f"launch.num_nodes={spec.num_nodes} works only inside a SLURM job: add hydra/launcher=slurm, or set "
            "launch.num_nodes=1"
        )
    address = "127.0.0.1" if is_alone else socket.gethostname()
    door = socket.create_server((address if is_alone else "", 0))
    port = door.getsockname()[1]
    # TCPStore itself would listen on every interface; the agent's store, at the same port, shares this server
    options = {"wait_for_workers": False, "master_listen_fd": door.detach(), "multi_tenant": True}
    store = dist.TCPStore(address, port, None, True, FORMING, **options)
    attempt = replace(attempt or Attempt(), address=address, port=port, token=secrets.token_hex(8))
    if not is_alone:
        nodes.publish(attempt, Path(os.environ[nodes.FILE]))
    node = Node(0, os.environ.get("SLURMD_NODENAME") or socket.gethostname())
    place = _Place(spec, attempt, node, dist.PrefixStore(attempt.token, store))
    _wait_for_nodes(place)
    preemption = preemption or Preemption()
    try:
        with preemption.deferred():
            return place.run(work, emit, preemption)
    except NodeLostError:
        nodes.publish(None, Path(os.environ[nodes.FILE]))
        raise


def join(spec: LaunchSpec, attempt: Attempt, node: Node, work: Work) -> None:
    """Do `work` in the ranks of a further node; one that cannot take part fails the attempt with its reason.

    Raises:
        OSError: the attempt is over.
        RankError: a rank has failed, or a node is lost.
    """
    end_with_parent(signal.SIGKILL)
    for number in SIGNALS:  # rank 0 decides when to end
        signal.signal(number, signal.SIG_IGN)
    node = replace(node, refusal=node.refusal or unsupported(spec))
    socket.create_connection((attempt.address, attempt.port), FORMING.total_seconds()).close()
    store = dist.TCPStore(attempt.address, attempt.port, None, False, FORMING, wait_for_workers=False)
    place = _Place(spec, attempt, node, dist.PrefixStore(attempt.token, store))
    place.store.set(f"node/{node.index}", node.name)
    place.run(work, lambda event: None, Preemption())


def _wait_for_nodes(place: _Place) -> None:
    deadline = time.monotonic() + FORMING.total_seconds()
    for index in range(1, place.spec.num_nodes):
        while not place.store.check([f"node/{index}"]):
            if time.monotonic() > deadline:
                raise RankError(f"node {index} of {place.spec.num_nodes} did not come", "machine")
            time.sleep(_LOOK_SECONDS)


class _Agent(LocalElasticAgent):  # type: ignore[misc]
    """Ends the ranks of its node as soon as a rank has failed on any node, and reports which failed first."""

    emit: Callable[[Any], None]
    preemption: Preemption

    def __init__(self, place: _Place, work: Work, folder: str) -> None:
        # SIGTERM must not end this process: it is a preemption, and rank 0 writes a checkpoint first
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"
        spec, attempt = place.spec, place.attempt
        rendezvous = StaticTCPRendezvous(
            attempt.address, attempt.port, place.node.index, spec.num_nodes, attempt.token, FORMING.seconds
        )
        self._events, self._sender = Pipe(duplex=False)
        worker = WorkerSpec(
            role="rank", local_world_size=spec.processes_per_node, rdzv_handler=rendezvous, max_restarts=0,
            entrypoint=_worker, args=(work, self._sender, place.node.refusal), monitor_interval=_LOOK_SECONDS,
            master_addr=attempt.address, master_port=attempt.port,
        )  # fmt: skip
        super().__init__(worker, DefaultLogsSpecs(folder), start_method="fork", exit_barrier_timeout=_GRACE_SECONDS)
        self._place, self._shared = place, place.store
        self._kills, self._reported = out_of_memory_kills(), set[int]()
        self._failed_at: float | None = None
        self.error: BaseException | None = None  # what rank 0 raised, or the first failure of another rank

    def relay(self) -> None:
        """Pass on what rank 0 has emitted, or raised."""
        self._sender.close()  # the ranks are there and have theirs
        with contextlib.suppress(EOFError, OSError):
            while self._events.poll():
                event = self._events.recv()
                if isinstance(event, BaseException):
                    self.error = event
                else:
                    self.emit(event)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        assert self._pcontext is not None, "the ranks are there"
        pids = self._pcontext.pids()
        self.relay()
        if self.preemption.requested and self._place.node.index == 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGTERM)  # it ignores all but the first
        try:
            for local in pids.keys() - self._reported:
                # the process is left for the agent to collect
                ended = os.waitid(os.P_PID, pids[local], os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is not None and ended.si_status != 0:
                    self._report(local, ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status)
            first = self._first_failure(self._all_done(pids.keys() - self._reported))
        except dist.DistError as error:
            first = RankError(f"the first node of the run is lost: {error}", "machine")
        if first is None and not (self._failed_at is None and self._all_done(pids)):
            return RunResult(state=WorkerState.HEALTHY)  # torch ends every rank at the first failure that it sees
        if first is not None:
            self.error = self.error or first
            for local in pids.keys() - self._reported:  # they may wait for the rank that is gone
                os.kill(pids[local], signal.SIGKILL)
        return self._collected(super()._monitor_workers(worker_group))

    def _all_done(self, local_ranks: Iterable[int]) -> bool:
        assert self._pcontext is not None, "the ranks are there"
        return all(_done_file(self._pcontext.error_files[local]).exists() for local in local_ranks)

    def _collected(self, result: RunResult) -> RunResult:
        """Return the agent's result; a rank that was killed after its work was done is reported late."""
        if self.error is None and result.is_failed():
            for failed in result.failures.values():
                self._report(failed.local_rank, failed.exitcode)
            while (first := self._first_failure(True)) is None:
                time.sleep(_LOOK_SECONDS)
            self.error = first
        return result

    def _report(self, local: int, exit_code: int) -> None:
        """Put the failure of a rank of this node into the store; a negative exit code is a signal's number."""
        self._reported.add(local)
        facts = self._failure(Path(self._pcontext.error_files[local]), exit_code)
        facts |= {"rank": self._worker_group.workers[local].global_rank, "node": self._place.node.name}
        self._shared.set(f"failure/{self._shared.add(FAILURES, 1)}", json.dumps(facts))

    def _failure(self, error_file: Path, exit_code: int) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError, LookupError):
            message = json.loads(error_file.read_text())["message"]
            return {"text": message["message"], **message["extraInfo"]["facts"]}
        cause: Cause = "machine" if exit_code < 0 else "work"
        text = f"killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"
        if exit_code == -signal.SIGKILL and out_of_memory_kills() > self._kills:
            text, cause = "killed by the kernel: out of memory", "host_memory"
        return {"text": text, "cause": cause, "follows": False, "killed_by": -exit_code if exit_code < 0 else None}

    def _first_failure(self, all_have_ended: bool) -> RankError | None:
        """Return the first failure that does not follow from another; None if there is none, or more may be known."""
        failures = [json.loads(self._shared.get(f"failure/{n + 1}")) for n in range(self._shared.add(FAILURES, 0))]
        if not failures:
            return None
        number, now = self._place.spec.num_nodes, time.monotonic()
        self._failed_at = self._failed_at or now
        self._shared.set(f"present/{self._place.node.index}", "")
        reasons = [entry for entry in failures if not entry["follows"]]
        if now - self._failed_at < _GRACE_SECONDS and not (all_have_ended and (reasons or number == 1)):
            return None
        absent = [index for index in range(number) if not self._shared.check([f"present/{index}"])]
        if absent and not reasons:
            rank, name = absent[0] * self._place.spec.processes_per_node, self._shared.get(f"node/{absent[0]}").decode()
            return NodeLostError(f"rank {rank} on node {name}: lost, the node does not answer")
        failed = (reasons or failures)[0]
        on = f" on node {failed['node']}" if number > 1 else ""
        return RankError(f"rank {failed['rank']}{on}: {failed['text']}", failed["cause"], failed.get("killed_by"))


class _ErrorFile(ErrorHandler):  # type: ignore[misc]
    """Writes torch's error file, with the cause of the failure beside its own fields."""

    def record_exception(self, e: BaseException) -> None:
        """Write the exception, whether it follows from another rank's, and its traceback."""
        text = str(e) if isinstance(e, ValueError) else f"{type(e).__name__}: {e}"
        facts = {"cause": failure.cause(e), "follows": distributed.lost_a_peer(e)}
        times = {"timestamp": str(int(time.time())), "py_callstack": traceback.format_exc()}
        message = {"message": {"message": text[:_LONGEST_TEXT], "extraInfo": {**times, "facts": facts}}}
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(message))


def _worker(work: Work, sender: Any, refusal: str) -> Any:
    """Be one rank: a process that the agent has forked, with its place in the environment."""
    end_with_parent(signal.SIGKILL)
    is_first = os.environ["RANK"] == "0"
    for number in (signal.SIGINT, *(() if is_first else SIGNALS)):  # rank 0 decides when to end
        signal.signal(number, signal.SIG_IGN)
    if is_first:
        for number in heeded():  # the handlers that the fork has inherited would end this process
            signal.signal(number, _let_pass)
    else:
        sender.close()
    try:
        if refusal:
            raise ValueError(refusal)
        with distributed.group():
            returned = work(sender.send if is_first else lambda event: None)
        _done_file(os.environ["TORCHELASTIC_ERROR_FILE"]).touch()
        return returned
    except BaseException as error:
        traceback.print_exc()
        _ErrorFile().record_exception(error)
        if is_first and not distributed.lost_a_peer(error):
            sender.send(_portable(error))
        raise SystemExit(1) from error  # of an exception torch would write its own file


def _let_pass(number: int, frame: Any) -> None:
    """Do nothing about a request to end while rank 0 forms its group or leaves it: the agent sends another soon."""


def _done_file(error_file: str) -> Path:
    """Return the file that a rank makes when its work is done; it then waits until the others' is."""
    return Path(error_file).with_name("done")


def _portable(error: BaseException) -> BaseException:
    """Return the exception with its cause as a field, or one of the same text where it cannot be pickled."""
    import pickle

    cause = failure.cause(error)
    with contextlib.suppress(Exception):
        error.failure_cause = cause  # type: ignore[attr-defined]
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    return RankError(f"{type(error).__name__}: {error}", cause)
