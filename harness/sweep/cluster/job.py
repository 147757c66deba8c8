"""Job on a cluster node: its runs, each identical to the run that was checked at submission.

SLURM announces a preemption or the time limit with SIGUSR2. The run then saves a checkpoint and the job is requeued, up
to a limit. In a job on several nodes, the first node does all of this. The other nodes join its training attempts until
it publishes that there are no more.
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
from harness.run import inputs, isolate, run
from harness.run.outcome import instead
from harness.run.progress import board
from harness.sweep import sweep
from harness.sweep.cluster import queue
from harness.sweep.cluster.resources import SlurmSpec
from harness.train import nodes
from harness.train.signals import SIGNALS, heeded

_SIGNAL_EARLY_SECONDS = 65.0  # SLURM may send the signal up to a minute before the requested time


def make(experiments: list[Experiment], spec: SlurmSpec, command: list[str]) -> str:
    """Execute the runs one after another and return their statuses. Exits the process if the job was requeued.

    `command` holds the words of the submitting command line, for the record.
    """
    import submitit

    sys.argv = command

    job = submitit.JobEnvironment()
    job.paths.result_pickle.unlink(missing_ok=True)  # left by an earlier start; it would mark the job as finished
    os.environ.pop(hardware.RUNS_ON, None)  # it served the check at submission only
    if spec.offline:
        os.environ |= {"HARNESS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    rendezvous = job.paths.folder / f"{job.job_id}_{os.environ.get('SLURM_RESTART_COUNT', '0')}_rendezvous.json"
    if job.global_rank > 0:  # of a job on several nodes, which has a single run
        node = nodes.Node(job.global_rank, job.hostnames[job.node], _refusal(experiments[0]))
        return _take_part(experiments[0], spec, rendezvous, node)
    notice = _Notice(spec)
    isolate.share.set(isolate.Share({nodes.FILE: str(rendezvous)}, _threads(spec), notice.stop))
    for number in heeded():
        signal.signal(number, notice)
    statuses: list[str] = []
    try:
        for experiment in experiments:
            statuses.append(_made(experiment))
            if notice.stop.why:
                break  # the others are made when the job starts again
        notice.requeues |= job.num_nodes > 1 and nodes.is_over(rendezvous) and notice.may_requeue  # a node was lost
    finally:
        if job.num_nodes > 1:
            nodes.publish(None, rendezvous)
    is_left = len(statuses) < len(experiments) or any(status not in ("ok", "skipped") for status in statuses)
    if notice.requeues and is_left and queue.requeue(job.job_id):
        sys.exit(0)
    return ", ".join(statuses)


def _take_part(experiment: Experiment, spec: SlurmSpec, rendezvous: Path, node: nodes.Node) -> str:
    """Join the run as a further node for as long as the first node trains. The first node records every error.

    The first node also handles the signals of SLURM. They are ignored here, so that it has time to save.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    isolate.share.set(isolate.Share({}, _threads(spec)))
    isolate.prepare()
    runs = {cell.recipe_id: cell for cell in (experiment, instead(experiment)) if cell is not None}
    for attempt in nodes.attempts(rendezvous):
        cell = runs[attempt.recipe_id]
        log = cell.folder / f"log-node-{node.index}.txt"
        isolate.call("harness.run.worker:join", cell, attempt, node, log=log)
    return "took part"


@dataclass
class _Notice:
    """Handler of the signals that SLURM sends to this job."""

    spec: SlurmSpec
    stop: isolate.Stop = field(default_factory=isolate.Stop)
    requeues: bool = False
    _began: float = field(default_factory=time.monotonic)

    def __call__(self, number: int, frame: Any) -> None:
        """Handle a signal. Only the first one counts."""
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
        """Return True if the job may be requeued once more."""
        return int(os.environ.get("SLURM_RESTART_COUNT", "0")) < self.spec.max_requeues

    def _out_of_time(self) -> bool:
        granted = 60 * self.spec.time_minutes - self.spec.signal_seconds
        return time.monotonic() - self._began > granted - _SIGNAL_EARLY_SECONDS


def _made(experiment: Experiment) -> str:
    """Execute the run if it is identical to the submitted one. An error that prevents it is recorded."""
    try:
        if refusal := _refusal(experiment):
            raise ValueError(refusal)
        return sweep.run_cell(experiment)
    except KeyboardInterrupt:  # recorded already
        return "failed"
    except Exception as error:  # ends this run only; others of the job come after it
        reason = f"{type(error).__name__}: {error}"
        try:
            run.fail(experiment, reason)
        except (ValueError, OSError) as unrecorded:  # such as a record of another version
            board.say(f"{experiment.folder}: {reason}; not recorded: {unrecorded}")
        return "failed"


def _refusal(experiment: Experiment) -> str:
    """Return why this node cannot execute the submitted run; "" if it can."""
    try:
        here = inputs.resolve(experiment)
    except (ValueError, OSError) as error:
        return str(error)
    if here.recipe_id == experiment.recipe_id:
        return ""
    changed = ", ".join(_changed(recipe(experiment), recipe(here)))
    return f"on this node it would be another run than the one that was submitted: {changed}"


def _changed(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield a text such as `train.precision=bf16 is fp32` for each setting that differs."""
    for key in {**before, **now}:
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _changed(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}={old} is {new}"


def _threads(spec: SlurmSpec) -> int:
    given = os.environ.get("OMP_NUM_THREADS", "")
    return min(spec.cpus, int(given)) if given.isdigit() and int(given) else spec.cpus
