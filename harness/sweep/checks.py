"""What is looked at before the first run: whether results can be written, and what the libraries make of the cells."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from harness import isolate, run, sources
from harness.experiment import Experiment
from harness.progress import board
from harness.sweep.fits import set_aside
from harness.sweep.planned import Planned

_ENOUGH_BYTES = 200 * 2**20  # a LoRA run of the default model writes 20 MB


def check_writable(*folders: Path) -> None:
    """Find out before the first run whether results can be written.

    Raises:
        ValueError: a folder cannot be made or written, or the disk is full.
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


def check(pending: list[Planned], runs_dir: Path) -> list[Planned]:
    """Try what needs the libraries but no weights, in a process of its own; set aside what cannot run here.

    A trial is tried as it would be looked at if it were chosen, so that no task turns out wrong after the tuning.

    Raises:
        ValueError: names each cell whose target, task or data file is wrong, or the device that there is no plan for.
        SystemExit: with code 1, the check itself broke: the installation is damaged, or memory ran out.
    """
    if not pending:
        return []
    device = sources.device()
    reasons = [planned.experiment.method.unsupported(device) for planned in pending]
    runnable = [planned for planned, reason in zip(pending, reasons, strict=True) if not reason]
    board.start_bar("checking")
    log = runs_dir / "check.log"
    try:
        ended = isolate.call("harness.check:check", [_as_chosen(p) for p in runnable], log=log, on_event=board)
    finally:
        board.end()
    if ended.kind != "returned":
        raise SystemExit(f"error: nothing was started, the check before the runs broke: {ended.reason}; see {log}")
    wrong = [f"{' '.join(runnable[i].cell)}: {message}" for i, verdict, message in ended.value if verdict == "wrong"]
    if wrong:
        raise ValueError("\n  ".join(["nothing was started, since not every cell is valid:", *wrong]))
    found = {i: message for i, _, message in ended.value}
    unsupported = [(planned, reason) for planned, reason in zip(pending, reasons, strict=True) if reason]
    for planned, reason in [*unsupported, *((runnable[i], message) for i, message in found.items())]:
        run.skip(planned.experiment, reason)
    return set_aside([planned for i, planned in enumerate(runnable) if i not in found], runs_dir)


def _as_chosen(planned: Planned) -> Experiment:
    experiment = planned.experiment
    return replace(experiment, eval=replace(experiment.eval, test="always")) if planned.wanted.stage else experiment
