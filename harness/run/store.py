"""What lies in a run's folder: put there so that a kill, a full disk or a second writer spoils nothing.

The order of writing is what a start after a kill relies on. Who makes the weights is written before they are put in
place, so that weights which no record tells of are never taken for an older attempt's. An evaluation's items are there
before its record. Only the holder of the run's claim calls what changes anything here.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.records import record
from harness.records.record import DamagedError, EvaluationRecord, RunRecord

_MAKER = "weights_from.txt"
_MAGIC = b"PAR1"  # a Parquet file begins and ends with it
_TEMPORARY = re.compile(r"\.(weights-|.+\.(json|parquet|md|txt)\.)[a-z0-9_]{8}")


def keep_weights(run_folder: Path, attempt: str, save: Callable[[Path], object]) -> int:
    """Put weights in place whole, and return their bytes on disk.

    The evaluations of the weights that are replaced hold no longer: they go to `earlier/<n>/`.

    Args:
        run_folder: the run's folder.
        attempt: the start of the attempt that made them.
        save: writes the weights into the folder that it is given.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=run_folder, prefix=".weights-"))
    replaced = Path(tempfile.mkdtemp(dir=run_folder, prefix=".weights-"))
    try:
        save(temporary)
        saved = _flush(temporary)
        temporary.chmod(0o755)
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
    """Whether the weights that lie there are those that the attempt made."""
    if attempt is None or not (run_folder / "weights").is_dir():
        return False
    try:
        return (run_folder / _MAKER).read_text(encoding="utf-8", errors="replace").strip() == attempt
    except FileNotFoundError:
        return True  # made before it was written down


def has_evaluation(run_folder: Path, eval_id: str, attempt: str | None) -> bool:
    """Whether an evaluation is there whole, and is one of the weights that the attempt made.

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
    """Remove what a killed process left half done, and set aside what is damaged; says what, line by line."""
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
    """Have what was written reach the disk before it is renamed; returns its bytes."""
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
    """Rename a damaged file, so that it is neither read nor overwritten."""
    name, number = f"{path.name}.damaged", 1
    while (path.parent / name).exists():
        number += 1
        name = f"{path.name}.damaged-{number}"
    return path.rename(path.parent / name)


def _is_whole(table: Path) -> bool:
    """Whether a Parquet file begins and ends as one does; without the library, which takes a second to import."""
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
