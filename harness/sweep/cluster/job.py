"""What a job on a cluster's node does: one run, just as it was checked where it was submitted.

SLURM tells a job that it is to be preempted, or that its time is nearly over, with SIGUSR2: the run saves what it has
and the job goes back into the queue, up to a limit. Of a job on several nodes all that is the first node's: the others
take part in whatever it trains, until it says that there is no more.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.config.experiment import Experiment, recipe
from harness.measure import hardware
from harness.run import isolate, run, sources
from harness.run.ladder import instead
from harness.sweep import sweep
from harness.sweep.cluster import queue
from harness.sweep.cluster.slurm import SlurmSpec
from harness.train import nodes
from harness.train.preemption import SIGNALS

_SIGNAL_EARLY_SECONDS = 65.0  # SLURM may send its signal up to a minute before it was asked to


def make(experiment: Experiment, spec: SlurmSpec, command: list[str]) -> str:
    """Make the run and return its status; leaves the process if the job is in the queue again.

    `command` are the words that submitted it, for its record.
    """
    import submitit

    sys.argv = command

    job = submitit.JobEnvironment()
    job.paths.result_pickle.unlink(missing_ok=True)  # of a start before this one: it says that the job is over
    os.environ.pop(hardware.RUNS_ON, None)  # it was for planning elsewhere
    if spec.offline:
        os.environ |= {"HARNESS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    rendezvous = job.paths.folder / f"{job.job_id}_{os.environ.get('SLURM_RESTART_COUNT', '0')}_rendezvous.json"
    if job.global_rank > 0:
        node = nodes.Node(job.global_rank, job.hostnames[job.node], _refusal(experiment))
        return _take_part(experiment, spec, rendezvous, node)
    notice = _Notice(spec)
    isolate.share.set(isolate.Share({nodes.FILE: str(rendezvous)}, _threads(spec), notice.stop))
    for number in SIGNALS:
        signal.signal(number, notice)
    try:
        status = _made(experiment)
        notice.requeues |= job.num_nodes > 1 and nodes.is_over(rendezvous) and notice.may_requeue  # a node was lost
    finally:
        if job.num_nodes > 1:
            nodes.publish(None, rendezvous)
    if notice.requeues and status not in ("ok", "skipped") and queue.requeue(job.job_id):
        sys.exit(0)
    return status


def _take_part(experiment: Experiment, spec: SlurmSpec, rendezvous: Path, node: nodes.Node) -> str:
    """Be a further node of the run, for as long as the first one trains; what ends this is the first one's to record.

    What SLURM tells the job is the first one's as well: it is given the time to save what there is.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    isolate.share.set(isolate.Share({}, _threads(spec)))
    isolate.prepare()
    runs = {cell.recipe_id: cell for cell in (experiment, instead(experiment)) if cell is not None}
    for attempt in nodes.attempts(rendezvous):
        cell = runs[attempt.recipe_id]
        log = cell.folder / f"log-node-{node.index}.txt"
        isolate.call("harness.run.execute:join", cell, attempt, node, log=log)
    return "took part"


@dataclass
class _Notice:
    """What SLURM has told this job."""

    spec: SlurmSpec
    stop: isolate.Stop = field(default_factory=isolate.Stop)
    requeues: bool = False
    _began: float = field(default_factory=time.monotonic)

    def __call__(self, number: int, frame: Any) -> None:
        """Take a signal; the first counts."""
        if self.stop.why:
            return
        why = "ended by SLURM"
        if number == signal.SIGUSR2:
            self.requeues = self.may_requeue
            why = "out of time" if self._out_of_time() else "preempted"
            before = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
            most = self.spec.max_requeues
            why += f", requeued ({before + 1} of {most})" if self.requeues else f", after {before} requeues,"
        self.stop.why = why

    @property
    def may_requeue(self) -> bool:
        """Whether the job may go back into the queue once more."""
        return int(os.environ.get("SLURM_RESTART_COUNT", "0")) < self.spec.max_requeues

    def _out_of_time(self) -> bool:
        told = 60 * self.spec.time_minutes - self.spec.signal_seconds
        return time.monotonic() - self._began > told - _SIGNAL_EARLY_SECONDS


def _made(experiment: Experiment) -> str:
    """Make the run if it is the one that was submitted; what keeps it from being made is on record."""
    try:
        if refusal := _refusal(experiment):
            raise ValueError(refusal)
        return sweep.run_cell(experiment)
    except KeyboardInterrupt:  # on record already
        return "failed"
    except Exception as error:  # this job's end, and no other's
        run.fail(experiment, f"{type(error).__name__}: {error}")
        return "failed"


def _refusal(experiment: Experiment) -> str:
    """Why this node cannot make the run that was submitted; "" where it can."""
    try:
        here = sources.resolve(experiment)
    except (ValueError, OSError) as error:
        return str(error)
    if here.recipe_id == experiment.recipe_id:
        return ""
    changed = ", ".join(_changed(recipe(experiment), recipe(here)))
    return f"on this node it would be another run than the one that was submitted: {changed}"


def _changed(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """`train.precision=bf16 is fp32` for each setting that differs."""
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changed(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}={old} is {new}"


def _threads(spec: SlurmSpec) -> int:
    told = os.environ.get("OMP_NUM_THREADS", "")
    return min(spec.cpus, int(told)) if told.isdigit() and int(told) else spec.cpus
