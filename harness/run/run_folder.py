"""Atomic writes to a run's folder: a kill, a full disk or a second writer damages nothing.

A start after a kill relies on the order of the writes. The attempt that made the weights is written before they are
put in place, so that weights without a record are never taken for those of an older attempt. An evaluation's items are
written before its record, and the checksum of each file before the file. Only the holder of the run's claim may change
the folder.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from harness.records import disk, files, record
from harness.records.disk import DamagedError, Sums
from harness.records.record import ConvertedRecord, EvaluationRecord, InferenceRecord, RunRecord, UpdateRecord

T = TypeVar("T")

_MAKER = "weights_from.txt"
_RECORDS = {
    "record.json": RunRecord, "inference.json": InferenceRecord, "update.json": UpdateRecord,
    "converted.json": ConvertedRecord,
}  # fmt: skip
_FILES = (*_RECORDS, _MAKER, "log.txt", disk.NAME)
_CHECKPOINTS = ("checkpoint", "checkpoint.final", "checkpoint.set-aside")
_FOLDERS = (disk.EVALUATIONS, "weights", "earlier", "trainer", *_CHECKPOINTS)
_MAGIC = b"PAR1"  # a Parquet file begins and ends with it
_RESERVE, _RESERVED_BYTES = ".reserve", 1 << 20
_TEMPORARY = re.compile(rf"\.(weights-|.+\.(json|parquet|md|txt)\.)[a-z0-9_]{{8}}|{re.escape(_RESERVE)}")


@contextmanager
def reserved(run_folder: Path) -> Iterator[None]:
    """Hold disk space while an attempt is made, so that its record has room where the disk fills up meanwhile."""
    with suppress(OSError), (run_folder / _RESERVE).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, _RESERVED_BYTES)
    try:
        yield
    finally:
        release(run_folder)


def release(run_folder: Path) -> None:
    """Free the disk space that `reserved` holds, if there is any."""
    with suppress(OSError):
        (run_folder / _RESERVE).unlink()


def write_record(result: RunRecord, run_folder: Path) -> None:
    """Write the record of a run into the disk space that `reserved` holds.

    The space is released first: a run with a complete record is not visited again, so nothing may remain to remove.

    Raises:
        OSError: it cannot be written; names the file.
    """
    release(run_folder)
    record.write(result, run_folder / "record.json")


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
        files.open_as_folder(temporary)
        disk.flush(temporary)
        sums = {path.relative_to(temporary).as_posix(): disk.sum_of(path) for path in _files(temporary)}
        record.write_text(f"{attempt}\n", run_folder / _MAKER)
        disk.note(run_folder, [(f"{_of(attempt)}{name}", entry) for name, entry in sums.items()])
        _put_away(run_folder / "evaluations", run_folder / "earlier")
        if (run_folder / "weights").exists():
            (run_folder / "weights").rename(replaced / "weights")
        temporary.rename(run_folder / "weights")
        disk.flush_one(run_folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return sum(size for _, size in sums.values())


def has_weights(run_folder: Path, attempt: str | None) -> bool:
    """Return True if the run's folder holds the weights that the attempt made, each file as long as it was written.

    Raises:
        UnreadableError: the system does not let this process look; names the file.
    """
    return attempt is not None and _made_by(run_folder, attempt) and not damage(run_folder, attempt)


def _made_by(run_folder: Path, attempt: str) -> bool:
    """Return True if there are weights, and the attempt made them. Raises as `has_weights`."""
    if disk.kind(run_folder / "weights") != "folder":
        return False
    try:
        return disk.read(run_folder / _MAKER).decode("utf-8", errors="replace").strip() == attempt
    except FileNotFoundError:
        return True  # weights of a version that did not write the file
    except DamagedError:
        return False


def damage(run_folder: Path, attempt: str, by_content: bool = False) -> str:
    """Return the first fault of the weights that an attempt made, by their checksums; "" if there is none.

    Args:
        run_folder: the run's folder.
        attempt: the start of the attempt.
        by_content: read every file, as before the weights are used; else sizes alone are compared.

    Raises:
        UnreadableError: the system does not let this process look; names the file.
    """
    listed = disk.sums(run_folder)
    check = disk.check if by_content else disk.check_size
    for name in listed:
        if name.startswith(_of(attempt)):
            path = run_folder / "weights" / name.removeprefix(_of(attempt))
            try:
                check(path, name, listed)
            except FileNotFoundError:
                return f"{path}: missing"
            except DamagedError as error:
                return str(error)
    return ""


def _of(attempt: str) -> str:
    """Return how the names of an attempt's weights begin in the list of checksums."""
    return f"weights of {attempt}/"


def set_weights_aside(run_folder: Path) -> str:
    """Set damaged weights aside, and return the name that they have now."""
    return disk.set_aside(run_folder / "weights").name


def has_evaluation(run_folder: Path, eval_id: str, attempt: str | None) -> bool:
    """Return True if an evaluation is complete and belongs to the weights that the attempt made.

    Raises:
        ValueError: another version of this program wrote it, or it cannot be read; names the file.
    """
    path, listed = record.evaluation_path(run_folder, eval_id), disk.sums(run_folder)
    try:
        evaluation = read(EvaluationRecord, path, run_folder, listed)
        _check_table(path.with_suffix(".parquet"), run_folder, listed)
    except (FileNotFoundError, DamagedError):
        return False
    return evaluation.weights_from == attempt


def read(kind: type[T], path: Path, run_folder: Path, listed: Sums | None = None) -> T:
    """Read a record of a run, as it was written.

    Raises:
        DamagedError: it is not; names the file. Otherwise as `record.read`.
    """
    listed = disk.sums(run_folder) if listed is None else listed
    content = disk.read(path)
    result = record.parse(kind, path, content)
    disk.check(path, path.relative_to(run_folder).as_posix(), listed, content)
    return result


def clear(run_folder: Path) -> Iterator[str]:
    """Remove temporary files of killed processes and set damaged files aside; yield a line for each damaged file.

    Raises:
        ValueError: a file cannot be read, or another version of this program wrote it; names it.
    """
    yield from _misplaced(run_folder)
    for folder in (run_folder, run_folder / disk.EVALUATIONS, run_folder / "weights"):
        for path in folder.glob(".*"):
            if _TEMPORARY.fullmatch(path.name):
                disk.remove(path)
    disk.begin(run_folder)
    listed = disk.sums(run_folder)
    kinds = {run_folder / name: kind for name, kind in _RECORDS.items()}
    kinds |= dict.fromkeys(sorted(run_folder.glob(f"{disk.EVALUATIONS}/*.json")), EvaluationRecord)
    records: dict[str, Any] = {}
    for path, kind in kinds.items():
        try:
            records[path.name] = read(kind, path, run_folder, listed)
        except FileNotFoundError:
            continue
        except DamagedError as error:
            yield f"{error}; it is set aside as {disk.set_aside(path).name}"
    for path in sorted(run_folder.glob(f"{disk.EVALUATIONS}/*.parquet")):
        try:
            _check_table(path, run_folder, listed)
        except DamagedError as error:
            yield f"{error}; it is set aside as {disk.set_aside(path).name}"
    run = records.get("record.json")
    attempt = run.current.weights_from if run is not None else None
    if attempt and _made_by(run_folder, attempt) and (fault := damage(run_folder, attempt)):
        yield f"{fault}; the weights are set aside as {set_weights_aside(run_folder)}"


def _misplaced(run_folder: Path) -> Iterator[str]:
    """Set aside what stands in the place of a file or a folder and is none, and yield a line for each."""
    for name in (*_FILES, *_FOLDERS):
        path = run_folder / name
        right = "folder" if name in _FOLDERS else "file"
        if disk.kind(path) not in (right, "missing"):
            yield f"{path}: no {right}; what stood there is set aside as {disk.set_aside(path).name}"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _put_away(folder: Path, below: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        below.mkdir(exist_ok=True)
        numbers = [int(path.name) for path in below.iterdir() if path.name.isdecimal()]
        folder.rename(below / str(max(numbers, default=0) + 1))


def _check_table(table: Path, run_folder: Path, listed: Sums) -> None:
    """Check a file of items by its checksum, or by the beginning and the end that every Parquet file has.

    Raises:
        DamagedError: it is damaged; names the file. Otherwise as `disk.read`.
    """
    name = table.relative_to(run_folder).as_posix()
    if name in listed:
        disk.check(table, name, listed)
    elif not _is_whole(table):
        raise DamagedError(f"{table}: the table breaks off or is damaged")


def _is_whole(table: Path) -> bool:
    """Return True if a file begins and ends as Parquet does, without importing the library, which takes a second."""
    with disk.opened(table) as file:
        size = file.seek(0, os.SEEK_END)
        if size < 12:
            return False
        file.seek(-8, os.SEEK_END)
        length, end = int.from_bytes(file.read(4), "little"), file.read(4)
        file.seek(0)
        return file.read(4) == _MAGIC == end and length <= size - 12
