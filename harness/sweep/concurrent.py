"""Concurrent trials of a tuning stage on one machine. They may share it because their timings are not reported.

A small model gains little from more cores and does not fill a large GPU, so concurrent trials take less time than
sequential ones. Every trial of a sweep has the same number of threads, since the order of sums depends on it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.measure import hardware
from harness.plan.devices import CONTEXT_BYTES, GIBIBYTE, Device, named
from harness.run import isolate, state
from harness.sweep import checks
from harness.sweep.planned_runs import PlannedRun, is_done

_BESIDE_BYTES = GIBIBYTE  # memory of a CPU process in addition to its training step: libraries, tokens, evaluation


def shares(trials: Sequence[PlannedRun], pending: Sequence[PlannedRun]) -> list[isolate.Share]:
    """Return the parts of this machine for the pending trials; fewer than two if the trials run sequentially.

    Args:
        trials: all trials of the sweep, finished ones included.
        pending: the trials that are not finished.

    Raises:
        ValueError: max_concurrent_trials is larger than the number of cores.
    """
    experiment, cores = pending[0].experiment, len(os.sched_getaffinity(0))
    limit = experiment.max_concurrent_trials
    if limit is not None and limit > cores:
        raise ValueError(
            f"max_concurrent_trials={limit}: this machine has {cores} cores for it, and each trial gets one of its "
            f"own; use at most {cores}"
        )
    most = min(limit or cores, cores, len(pending))
    if most < 2 or any(planned.experiment.launch.num_processes > 1 for planned in pending):
        return []
    devices = hardware.device_names()
    if devices:
        return _on_gpus(devices, _fitting(_gpu(), pending, CONTEXT_BYTES), most)
    threads = _threads_before(trials)
    most = min(most, cores // threads if threads else cores, _fitting(named("cpu"), pending, _BESIDE_BYTES))
    return [isolate.Share({}, threads or _threads(most), runs=most) for _ in range(most)] if most > 1 else []


def check_no_trials(plan: Sequence[PlannedRun]) -> None:
    """Refuse max_concurrent_trials for a sweep that has no trials.

    Raises:
        ValueError: max_concurrent_trials is set.
    """
    limits = [planned.experiment.max_concurrent_trials for planned in plan]
    limit = next((limit for limit in limits if limit is not None), None)
    if limit is not None:
        raise ValueError(
            f"max_concurrent_trials={limit}: only a sweep with stages has trials; leave it out, or use "
            "hydra/launcher=local to make all runs several at once"
        )


def announcement(parts: Sequence[isolate.Share]) -> str:
    """Return the line that says how the trials share this machine."""
    threads = parts[0].threads
    return (
        f"at once     {len(parts)} trials, each with {threads} thread{'' if threads == 1 else 's'}; their timings "
        "are not compared (max_concurrent_trials=1: one after another)"
    )


def again(planned: PlannedRun) -> PlannedRun:
    """Return the trial with another attempt allowed after running out of memory or diverging."""
    return replace(planned, experiment=replace(planned.experiment, rerun=("oom", "diverged")))


def _on_gpus(devices: Sequence[str], on_each: int, most: int) -> list[isolate.Share]:
    """Return parts that take the devices in turn. The trials per device differ by at most one."""
    names = (list(devices) * on_each)[:most]
    threads = _threads(len(names))
    return [isolate.Share({"CUDA_VISIBLE_DEVICES": name}, threads, runs=names.count(name)) for name in names]


def _gpu() -> Device:
    memory = hardware.memory_bytes()
    assert memory is not None, "its devices have names"
    return Device("this GPU", memory, None, on_gpu=True)


def _fitting(device: Device, pending: Sequence[PlannedRun], beside: int) -> int:
    """Return how many copies of the largest trial fit into the device's memory; 1 if it cannot be predicted."""
    peak = checks.peak_bytes(pending, device, Path(pending[0].experiment.runs_dir))
    if peak is None:
        return 1
    usable = device.usable_bytes + (beside if device.on_gpu else 0)  # usable_bytes has one context subtracted already
    return max(1, usable // (peak + beside))


def _threads(parts: int) -> int:
    """Return the threads of each part: its share of the cores, or OMP_NUM_THREADS if that is smaller."""
    cores, wanted = len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // parts, int(wanted) if wanted.isdigit() and int(wanted) else cores))


def _threads_before(trials: Sequence[PlannedRun]) -> int | None:
    """Return the number of threads of the finished trials; None if there are none or the numbers differ."""
    records = [state.readable(planned.experiment) for planned in trials if is_done(planned.experiment)]
    threads = {record.current.provenance.get("threads") for record in records if record is not None}
    return threads.pop() if len(threads) == 1 else None
