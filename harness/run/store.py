"""Atomic writes to a run's folder: a kill, a full disk or a second writer damages nothing.

A start after a kill relies on the order of the writes. The attempt that made the weights is written before they are
put in place, so that weights without a record are never taken for those of an older attempt. An evaluation's items are
written before its record. Only the holder of the run's claim may change the folder.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.records import files, record
from harness.records.record import DamagedError, EvaluationRecord, RunRecord

_MAKER = "weights_from.txt"
_MAGIC = b"PAR1"  # a Parquet file begins and ends with it
_TEMPORARY = re.compile(r"\.(weights-|.+\.(json|parquet|md|txt)\.)[a-z0-9_]{8}")


def keep_weights(run_folder: Path, attempt: str, save: Callable[[Path], object]) -> int:
    """Put weights in place atomically, and return their bytes on disk.

    Evaluations of the replaced weights are no longer valid and move to `earlier/<n>/`.

    Args:
        run_folder: the run's folder.
        attempt: the start of the attempt that made them.
        save: writes the weights into the folder that it is given.
    """
    temporary = files.temporary_folder(run_folder, ".weights-")
    replaced = files.temporary_folder(run_folder, ".weights-")
    try:
        save(temporary)
        saved = _flush(temporary)
        files.open_as_folder(temporary)
        record.write_text(f"{attempt}\n", run_folder / _MAKER)
        _put_away(run_folder / "evaluations", run_folder / "earlier")
        if (run_folder / "weights").exists():
            (run_folder / "weights").rename(replaced / "weights")
        temporary.rename(run_folder / "weights")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return saved


def has_weights(run_folder: Path, attempt: str | None) -> bool:
    """Return True if the run's folder holds the weights that the attempt made."""
    if attempt is None or not (run_folder / "weights").is_dir():
        return False
    try:
        return (run_folder / _MAKER).read_text(encoding="utf-8", errors="replace").strip() == attempt
    except FileNotFoundError:
        return True  # weights of a version that did not write the file


def has_evaluation(run_folder: Path, eval_id: str, attempt: str | None) -> bool:
    """Return True if an evaluation is complete and belongs to the weights that the attempt made.

    Raises:
        ValueError: another version of this program wrote it; names the file.
    """
    path = record.evaluation_path(run_folder, eval_id)
    try:
        found = record.read(EvaluationRecord, path)
    except (FileNotFoundError, DamagedError):
        return False
    return found.weights_from == attempt and _is_whole(path.with_suffix(".parquet"))


def clear(run_folder: Path) -> Iterator[str]:
    """Remove temporary files of killed processes and set damaged files aside; yield a line for each damaged file."""
    for folder in (run_folder, run_folder / "evaluations", run_folder / "weights"):
        for path in folder.glob(".*"):
            if _TEMPORARY.fullmatch(path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    kinds = {run_folder / "record.json": RunRecord}
    kinds |= dict.fromkeys(sorted(run_folder.glob("evaluations/*.json")), EvaluationRecord)  # type: ignore[arg-type]
    for path, kind in kinds.items():
        try:
            record.read(kind, path)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            yield f"{error}; it is set aside as {_set_aside(path).name}"
    for path in sorted(run_folder.glob("evaluations/*.parquet")):
        if not _is_whole(path):
            yield f"{path}: the table breaks off or is damaged; it is set aside as {_set_aside(path).name}"


def _flush(folder: Path) -> int:
    """Flush a folder's files to the disk, before the folder is renamed, and return their bytes."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return sum(file.stat().st_size for file in files)


def _put_away(folder: Path, below: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        below.mkdir(exist_ok=True)
        numbers = [int(path.name) for path in below.iterdir() if path.name.isdecimal()]
        folder.rename(below / str(max(numbers, default=0) + 1))


def _set_aside(path: Path) -> Path:
    """Rename a damaged file, so that it is neither read nor overwritten, and return its new path."""
    name, number = f"{path.name}.damaged", 1
    while (path.parent / name).exists():
        number += 1
        name = f"{path.name}.damaged-{number}"
    return path.rename(path.parent / name)


def _is_whole(table: Path) -> bool:
    """Return True if a file begins and ends as Parquet does, without importing the library, which takes a second."""
    try:
        with table.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < 12:
                return False
            file.seek(-8, os.SEEK_END)
            length, end = int.from_bytes(file.read(4), "little"), file.read(4)
            file.seek(0)
            return file.read(4) == _MAGIC == end and length <= size - 12
    except FileNotFoundError:
        return False
