"""Training of the cheapest run of an archive once more, by the public command, and the comparison with its record."""

import re
import subprocess
import sys
from pathlib import Path
from statistics import fmean

from harness.records.record import RunRecord, Training, read
from harness.records.untrusted import shortened
from harness.report.data.rows import Loaded, Row

TOLERANCE = 0.02  # relative, of losses on another processor or with other libraries; chosen, not measured
_MACHINE = ("device_name", "threads", "num_processes", "python", "versions")  # equal: losses repeat to the bit
_WORD = re.compile(r"\+{0,2}([A-Za-z_][\w.]*)=(.*)", re.DOTALL)
# Settings under which code that came with an archive would run, and their values without that
_PERMISSIONS = {"model.trust_remote_code": "false", "eval.unsafe_code": "false", "eval.include_path": "null"}
_OWN = {"runs_dir", "reports_dir", "tracking", "eval.test", "force", "keep"}


def cheapest(loaded: Loaded) -> Row:
    """Return the run with the fewest seconds of training.

    Raises:
        ValueError: no run was trained.
    """
    trained = [
        (row.training.train_seconds, row.recipe_id, row.seed, row)
        for row in (*loaded.rows, *loaded.trials)
        if row.cell and row.status == "ok" and row.training and row.training.train_seconds
    ]
    if not trained:
        raise ValueError("--retrain: the archive holds no run that was trained")
    return min(trained, key=lambda entry: entry[:3])[-1]


def words(row: Row, folder: Path) -> list[str]:
    """Return the command's overrides that train a run again below a folder, without its evaluations on test data.

    Raises:
        ValueError: its data or model were a file of the author's, whose place was removed, or a word may run code.
    """
    assert row.cell is not None, "only runs of a sweep are trained again"
    own = [word for word in row.cell.overrides if word.lstrip("+~").partition("=")[0] not in _OWN]
    if hidden := [word for word in own if word.partition("=")[2].startswith("path-")]:
        raise ValueError(f"--retrain: {hidden[0]}: a file of the author's, which is not in the archive")
    if unsafe := [word for word in own if _may_run_code(word)]:
        raise ValueError(f"--retrain: {unsafe[0]}: may run code that came with the archive, which is not done")
    settings = ["tracking=none", "eval.test=never", "keep=none"]
    return [*own, *settings, f"runs_dir={folder / 'runs'}", f"reports_dir={folder / 'reports'}"]


def _may_run_code(word: str) -> bool:
    """Return whether a word of somebody else's record is an option, of Hydra's own settings, or a permission."""
    match = _WORD.fullmatch(word)
    if match is None:
        return True
    setting, value = match[1], match[2].strip("'\"").lower()
    of_hydra = setting.partition(".")[0] == "hydra" or "_target_" in word
    return of_hydra or value != _PERMISSIONS.get(setting, value)


def retrained(row: Row, folder: Path) -> RunRecord:
    """Train a run again and return its new record.

    Raises:
        ValueError: the command fails, or makes another recipe than the archive's.
    """
    command = [sys.executable, "-m", "harness", *words(row, folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    place = folder / "runs" / row.recipe_id / f"seed-{row.seed}" / "record.json"
    if place.is_file():
        return read(RunRecord, place)
    if done.returncode:
        lines = [line for line in (*done.stdout.splitlines(), *done.stderr.splitlines()) if line.strip()]
        raise ValueError(f"--retrain: the run ended with {done.returncode}: {shortened(' '.join(lines[-3:]), 400)}")
    made = sorted(path.parent.name for path in (folder / "runs").glob("*/seed-*"))
    raise ValueError(
        f"--retrain: the recipe is {row.recipe_id} in the archive and {', '.join(made) or 'none'} here: the model, the "
        "data or a default of this program is another one"
    )


def differences(recorded: RunRecord, made: RunRecord) -> tuple[list[str], str]:
    """Return (a line for each difference, how the losses were compared)."""
    old, new = recorded.current, made.current
    if new.training is None or old.training is None:
        return [f"it ended as {new.status} here ({new.reason}), and as {old.status} in the record"], "not compared"
    others = [key.replace("_", " ") for key in _MACHINE if old.provenance.get(key) != new.provenance.get(key)]
    losses = [*zip(old.training.losses, new.training.losses, strict=False)]
    if len(old.training.losses) != len(new.training.losses):
        return [f"{len(new.training.losses)} steps here, {len(old.training.losses)} in the record"], "by number"
    if not others:
        how = f"{len(losses)} losses to the bit: processor and libraries are those of the record"
        first = next((step for step, pair in enumerate(losses, 1) if pair[0] != pair[1]), None)
        if first is None:
            return [], how
        return [f"loss of step {first}: {losses[first - 1][1]} here, {losses[first - 1][0]} in the record"], how
    how = f"losses within {TOLERANCE:.0%}, since {', '.join(others)} differ from the record's"
    sides = zip(
        ("first loss", "mean loss", "validation loss"), _losses(old.training), _losses(new.training), strict=True
    )
    beyond = [
        f"{name}: {after:.6g} here, {before:.6g} in the record"
        for name, before, after in sides
        if before is not None and after is not None and abs(after - before) > TOLERANCE * abs(before)
    ]
    return beyond, how


def _losses(training: Training) -> tuple[float | None, float, float | None]:
    """Return the first loss, the mean and the last one on validation rows."""
    present = [loss for loss in training.losses if loss is not None]
    return training.losses[0], fmean(present), training.validation[-1][1] if training.validation else None
