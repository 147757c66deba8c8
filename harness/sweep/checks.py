"""Checks before the first run: folders, disk space and memory, and cells that the libraries accept."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import checks as config_checks
from harness.config.experiment import Experiment, Sizes, canonical, recipe
from harness.measure import hardware
from harness.plan.devices import Device, named
from harness.records.events import Event, RunSized
from harness.run import isolate, run
from harness.run.outcome import instead, ladder
from harness.run.progress import board
from harness.sources.packages import cache_dir
from harness.sweep.planned_runs import PlannedRun, not_valid

_ENOUGH_BYTES = 200 * 2**20  # a LoRA run of the default model writes 20 MB


def check_writable(*folders: Path) -> None:
    """Check before the first run that results can be written.

    Raises:
        ValueError: a folder cannot be created or written, or the disk is full.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"0" * 65536)
        except OSError as error:
            raise ValueError(
                f"cannot write to {folder} ({error.strerror}): free or unlock it, or choose another folder with "
                "runs_dir=... and reports_dir=..."
            ) from error
        free = shutil.disk_usage(folder).free
        if free < _ENOUGH_BYTES:
            raise ValueError(
                f"only {free / 2**20:.0f} MiB are free in {folder}, runs need at least "
                f"{_ENOUGH_BYTES / 2**20:.0f} MiB: free some, or choose another folder with runs_dir=... and "
                "reports_dir=..."
            )


def check_cache() -> None:
    """Check before any download that the cache can be written. A cache that others filled may be read-only.

    Raises:
        ValueError: the cache folder cannot be created, or it is empty and cannot be written.
    """
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()):
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder} ({error.strerror}), where packages, models and data are kept: free or "
            "unlock it, or name another folder in the environment, HARNESS_CACHE=..."
        ) from error


def check_nodes(plan: Sequence[PlannedRun]) -> None:
    """Check that runs on several nodes are jobs of a cluster.

    Raises:
        ValueError: a run asks for several nodes and is no such job.
    """
    for planned in plan:
        nodes = planned.experiment.launch.num_nodes
        if nodes > 1 and hardware.RUNS_ON not in os.environ:
            raise ValueError(
                f"launch.num_nodes={nodes}: a run has several nodes as a job of a cluster alone; add "
                "hydra/launcher=slurm, or use launch.num_nodes=1"
            )


def check(pending: list[PlannedRun], runs_dir: Path) -> list[PlannedRun]:
    """Check the cells with the libraries but without weights, in a separate process. Skip cells that cannot run here.

    A trial is checked with the evaluations of a chosen recipe, so that a wrong task is reported before the tuning.

    Raises:
        ValueError: a target, task or data file of a cell is wrong, or the plan's device is unknown; names all of them.
        SystemExit: with code 1, the check itself failed: the installation is damaged, or memory ran out.
    """
    if not pending:
        return []
    device = hardware.device()
    is_here = hardware.RUNS_ON not in os.environ
    reasons = [config_checks.unsupported(planned.experiment, device, is_here) for planned in pending]
    runnable = [planned for planned, reason in zip(pending, reasons, strict=True) if not reason]
    board.start_bar("checking")
    log = runs_dir / "check.log"
    sizes: dict[int, Sizes] = {}

    def on_event(event: Event) -> None:
        if isinstance(event, RunSized):
            sizes[event.position] = Sizes(event.weights, event.checkpoint)
        else:
            board(event)

    try:
        as_chosen = [_as_chosen(planned) for planned in runnable]
        ended = isolate.call(
            "harness.run.preflight:check", as_chosen, log=log, on_event=on_event, terms=isolate.REPEATABLE
        )
    finally:
        board.end()
    if ended.kind != "returned":
        raise SystemExit(f"error: nothing was started, the check before the runs broke: {ended.reason}; see {log}")
    wrong = [(runnable[i].cell, message) for i, verdict, message in ended.value if verdict == "wrong"]
    if wrong:
        raise not_valid(wrong)
    refused = {i: message for i, _, message in ended.value}
    started = [replace(planned, sizes=sizes.get(i)) for i, planned in enumerate(runnable) if i not in refused]
    unsupported = [(planned, reason) for planned, reason in zip(pending, reasons, strict=True) if reason]
    for planned, reason in [*unsupported, *((runnable[i], message) for i, message in refused.items())]:
        run.skip(planned.experiment, reason)
    fitting = set_aside(started, runs_dir)
    check_room(fitting, runs_dir)
    return fitting


def check_room(started: Sequence[PlannedRun], runs_dir: Path) -> None:
    """Check that the files of the runs fit on the disk.

    Raises:
        ValueError: they do not fit; names the ways out.
    """
    need, free = written_bytes(started), shutil.disk_usage(runs_dir).free
    if need > free:
        raise ValueError(
            f"nothing was started: the runs will write up to {display(need)}, and {display(free)} are free in "
            f"{runs_dir}: free some, choose another folder with runs_dir=..., or use keep=none"
        )


def written_bytes(started: Sequence[PlannedRun]) -> int:
    """Return an upper bound of the bytes on disk: the final files of all runs, and those of one run in training."""
    sized = [(planned.sizes, planned.experiment.keep) for planned in started if planned.sizes is not None]
    passing = max((sizes.weights + 2 * sizes.checkpoint for sizes, _ in sized), default=0)  # old and new
    return sum(sizes.kept(keep) for sizes, keep in sized) + passing


def display(num_bytes: int) -> str:
    """Return a size as text, such as `5.3 MiB`."""
    value, unit = float(num_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.3g} {unit}" if unit != "bytes" else f"{num_bytes} bytes"


def _as_chosen(planned: PlannedRun) -> Experiment:
    experiment = planned.experiment
    return replace(experiment, eval=replace(experiment.eval, test="always")) if planned.wanted.stage else experiment


_GIB = 2**30
_NO_MATTER = (  # training settings that do not change memory
    "lr", "max_steps", "epochs", "lr_scheduler_type", "warmup_steps", "weight_decay", "loss_on", "group_by_length",
)  # fmt: skip


def set_aside(pending: list[PlannedRun], runs_dir: Path) -> list[PlannedRun]:
    """Print the plan, record cells that cannot fit as skipped unless `plan.enforce` is false, and return the others.

    Raises:
        ValueError: `plan.device` is neither a known device nor an amount of memory.
    """
    device = _device(pending[0].experiment) if pending else None
    trained = [planned.experiment for planned in pending if _is_predicted(planned.experiment)]
    if device is None or not trained:
        return pending
    by_key = {_key(experiment): experiment for experiment in trained}
    least = {key: _with_least(experiment) for key, experiment in by_key.items()}
    every = {_key(experiment): experiment for experiment in (*by_key.values(), *least.values())}
    plans = _predicted(every, device, runs_dir)
    _show(by_key, plans, device)
    left = []
    for planned in pending:
        experiment = planned.experiment
        reason = _reason(plans.get(_key(_with_least(experiment))), device) if _is_predicted(experiment) else ""
        if reason and experiment.plan.enforce:
            run.skip(experiment, f"{reason}; plan.enforce=false runs it all the same")
        else:
            left.append(planned)
    return left


def peak_bytes(plan: Sequence[PlannedRun], device: Device, runs_dir: Path) -> int | None:
    """Return the highest predicted peak of training these runs; None if one of them is not predicted."""
    if not all(_is_predicted(planned.experiment) for planned in plan):
        return None
    plans = _predicted({_key(planned.experiment): planned.experiment for planned in plan}, device, runs_dir)
    peaks = [prediction["peak_bytes"] for prediction in plans.values()]
    return max(peaks) if peaks and all(peaks) else None


def _is_predicted(experiment: Experiment) -> bool:
    """Return True if the training step is predicted. The memory of a sharded step is not."""
    return experiment.method.trains and experiment.launch.sharding == "none"


def _device(experiment: Experiment) -> Device | None:
    if experiment.plan.device is not None:
        return named(experiment.plan.device, "plan.device")
    memory = hardware.memory_bytes()
    return None if memory is None else Device("this GPU", memory, None, on_gpu=True)


def _with_least(experiment: Experiment) -> Experiment:
    """Return the experiment after the last fallback for exhausted memory, which needs the least."""
    least = instead(experiment) or experiment
    return dataclasses.replace(least, train=ladder(least)[-1].applied(least.train))


def _key(experiment: Experiment) -> str:
    """Return a key that cells of equal memory share. Seed, learning rate and data are not part of it."""
    settings = recipe(experiment)
    method = {name: value for name, value in settings["method"].items() if name != "lr"}
    train = {name: value for name, value in settings["train"].items() if name not in _NO_MATTER}
    return canonical([settings["model"], method, train, experiment.launch.num_processes])


_known: dict[tuple[str, Device], dict[str, Any]] = {}


def _predicted(every: dict[str, Experiment], device: Device, runs_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the plan of each experiment, computed in a process that has the libraries. Plans are cached."""
    new = {key: experiment for key, experiment in every.items() if (key, device) not in _known}
    if new:
        board.start_bar("planning")
        try:
            arguments = (list(new.values()), device, None)
            ended = isolate.call(
                "harness.plan.predict:cells", *arguments, log=runs_dir / "check.log", on_event=board,
                terms=isolate.WITHOUT_GPU,
            )  # fmt: skip
        finally:
            board.end()
        if ended.kind != "returned":
            board.say(f"not planned: {ended.reason}")
            return {}
        _known.update({(key, device): plan for key, plan in zip(new, ended.value, strict=True)})
    return {key: _known[key, device] for key in every}


def _show(experiments: dict[str, Experiment], plans: dict[str, dict[str, Any]], device: Device) -> None:
    board.say(f"plan for {device.name}: {device.usable_bytes / _GIB:.2f} GiB are counted as usable")
    for key, experiment in experiments.items():
        plan, least = plans.get(key), plans.get(_key(_with_least(experiment)))
        if plan is None or least is None:
            continue
        spec = experiment.train
        what = (
            f"{experiment.method.name} on {experiment.model.name}, {spec.micro_batch_size} x {spec.max_length} tokens"
        )
        if plan["unpredicted"] or least["unpredicted"]:
            board.say(f"  {what}: not predicted")
            continue
        quantized = ", its base in 4 bits" if instead(experiment) else ""
        smaller = f"fits with {ladder(experiment)[-1]}{quantized}" if least["fits"] else "does not fit"
        board.say(f"  {what}: {plan['peak_bytes'] / _GIB:.2f} GiB, {'fits' if plan['fits'] else smaller}")


def _reason(plan: dict[str, Any] | None, device: Device) -> str:
    if plan is None or plan["unpredicted"] or plan["fits"]:
        return ""
    return (
        f"would need {plan['peak_bytes'] / _GIB:.2f} GiB of the {device.usable_bytes / _GIB:.2f} that {device.name} "
        f"offers ({plan['micro_batch_size']} rows of {plan['max_length']:,} tokens at once)"
    )
