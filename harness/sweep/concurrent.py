"""Trials of a tuning stage at once on one machine: their timings are not reported, so that they may share it.

A step of a small model gains little from further cores, and a large GPU is not filled by it: several trials at once
take less time than one after another. Every trial of a sweep has the same number of threads, since the order of sums
depends on it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.measure import hardware
from harness.plan.devices import CONTEXT_BYTES, GIBIBYTE, Device, named
from harness.run import isolate, run
from harness.sweep import fits
from harness.sweep.planned import Planned

_BESIDE_BYTES = GIBIBYTE  # of a process on a CPU, beside its training step: libraries, tokens, evaluation


def shares(trials: Sequence[Planned], pending: Sequence[Planned]) -> list[isolate.Share]:
    """Return the parts of this machine for the pending trials; fewer than two where they come one after another.

    Args:
        trials: all trials of the sweep, those that are done among them.
        pending: those that are to be made.

    Raises:
        ValueError: max_concurrent_trials asks for more than one a core.
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


def check_no_trials(plan: Sequence[Planned]) -> None:
    """Refuse a number of concurrent trials where there are none.

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
        f"  at once     {len(parts)} trials, each with {threads} thread{'' if threads == 1 else 's'}; their timings "
        "are not compared (max_concurrent_trials=1: one after another)"
    )


def again(planned: Planned) -> Planned:
    """Return the trial with its out-of-memory result open to another attempt."""
    return replace(planned, experiment=replace(planned.experiment, retry=("oom", "diverged")))


def _on_gpus(devices: Sequence[str], on_each: int, most: int) -> list[isolate.Share]:
    """Take the devices in turn, so that each has as many trials as the others or one more."""
    names = (list(devices) * on_each)[:most]
    threads = _threads(len(names))
    return [isolate.Share({"CUDA_VISIBLE_DEVICES": name}, threads, runs=names.count(name)) for name in names]


def _gpu() -> Device:
    memory = hardware.memory_bytes()
    assert memory is not None, "its devices have names"
    return Device("this GPU", memory, None, on_gpu=True)


def _fitting(device: Device, pending: Sequence[Planned], beside: int) -> int:
    """Return how many of the largest trial the device's memory holds; 1 where that trial cannot be predicted."""
    peak = fits.peak_bytes(pending, device, Path(pending[0].experiment.runs_dir))
    if peak is None:
        return 1
    usable = device.usable_bytes + (beside if device.on_gpu else 0)  # which has left out the context of one process
    return max(1, usable // (peak + beside))


def _threads(parts: int) -> int:
    """Return the threads of each part: its cores, or fewer where OMP_NUM_THREADS says so."""
    cores, asked = len(os.sched_getaffinity(0)), os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // parts, int(asked) if asked.isdigit() and int(asked) else cores))


def _threads_before(trials: Sequence[Planned]) -> int | None:
    """Return the threads that the finished trials of this sweep had; None if there are none, or not all alike."""
    records = [run.read(planned.experiment) for planned in trials if run.done(planned.experiment)]
    threads = {record.current.provenance.get("threads") for record in records if record is not None}
    return threads.pop() if len(threads) == 1 else None
