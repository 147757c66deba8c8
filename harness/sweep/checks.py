"""Checks before the first run: writable folders, free disk space, and cells that the libraries accept."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness.config import checks as config_checks
from harness.config.experiment import Experiment, Sizes
from harness.measure import hardware
from harness.records.events import Event, RunSized
from harness.run import isolate, run
from harness.run.progress import board
from harness.sources.packages import cache_dir
from harness.sweep.memory_check import set_aside
from harness.sweep.planned_runs import PlannedRun

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
        ValueError: names each cell whose target, task or data file is wrong, or the unknown device of the plan.
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
    wrong = [f"{' '.join(runnable[i].cell)}: {message}" for i, verdict, message in ended.value if verdict == "wrong"]
    if wrong:
        raise ValueError("\n  ".join(["nothing was started, since not every cell is valid:", *wrong]))
    found = {i: message for i, _, message in ended.value}
    started = [replace(planned, sizes=sizes.get(i)) for i, planned in enumerate(runnable) if i not in found]
    unsupported = [(planned, reason) for planned, reason in zip(pending, reasons, strict=True) if reason]
    for planned, reason in [*unsupported, *((runnable[i], message) for i, message in found.items())]:
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
    known = [(planned.sizes, planned.experiment.keep) for planned in started if planned.sizes is not None]
    passing = max((sizes.weights + 2 * sizes.checkpoint for sizes, _ in known), default=0)  # old and new
    return sum(sizes.kept(keep) for sizes, keep in known) + passing


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
