"""Atomic creation of shared cache entries: many processes may race, and exactly one result is kept.

An entry is a folder with checksums of its files, or a text whose first line is its checksum. Sizes are compared
whenever a folder is used, contents before weights are. A damaged entry is named, set aside and made again. Half-written
folders of killed processes are removed later.
"""

import hashlib
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path

from harness.records import disk, files, record
from harness.records.disk import DamagedError
from harness.records.untrusted import echo

_PREFIX = ".writing-"
_LEFT_SECONDS = 7 * 86_400.0  # age at which no process can still be writing it

# receives a line for each damaged entry
announce: ContextVar[Callable[[str], object]] = ContextVar("announce", default=lambda line: echo(line, file=sys.stderr))
_verified: set[Path] = set()  # folders whose contents this process has compared


def cached_folder(folder: Path, write: Callable[[Path], None], by_content: bool = False) -> Path:
    """Return the folder, created now if it is missing: `write` fills a temporary one, which is then renamed.

    Several processes may race: each writes into a folder of its own, and the first rename wins.

    Args:
        folder: its place.
        write: fills the folder that it is given.
        by_content: read every file of a folder that is there and compare it with its checksum, once per process.

    Raises:
        OSError: it cannot be written, and no other process has made it meanwhile.
        ValueError: it is damaged and cannot be set aside.
    """
    if fault := _fault(folder, by_content):
        _set_aside(folder, fault)
    elif disk.kind(folder) == "folder":
        return folder
    temporary = files.temporary_folder(folder.parent, _PREFIX)
    remove_left(folder.parent)
    try:
        write(temporary)
        disk.begin(temporary)
        inside = [path for path in temporary.rglob("*") if path.is_file() and path.name != disk.NAME]
        disk.note(temporary, [(path.relative_to(temporary).as_posix(), disk.sum_of(path)) for path in sorted(inside)])
        files.open_as_folder(temporary)
        disk.flush(temporary)
        temporary.rename(folder)
        disk.flush_one(folder.parent)
    except OSError as error:
        if not folder.is_dir():  # else another process was first, and its files are the same
            raise OSError(error.errno, error.strerror, error.filename or str(folder)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _fault(folder: Path, by_content: bool) -> str:
    """Return what is wrong with a folder; "" if nothing is, or there is none."""
    standing = disk.kind(folder)
    if standing != "folder":
        return "" if standing == "missing" else f"{folder}: no folder"
    listed, read_all = disk.sums(folder), by_content and folder not in _verified
    for name in listed:
        try:
            (disk.check if read_all else disk.check_size)(folder / name, name, listed)
        except FileNotFoundError:
            return f"{folder / name}: missing"
        except DamagedError as error:
            return str(error)
    if read_all:
        _verified.add(folder)
    return ""


def _set_aside(path: Path, fault: str) -> None:
    """Set a damaged entry aside and say so.

    Raises:
        ValueError: it cannot be renamed, as in a cache that is read-only.
    """
    try:
        announce.get()(f"{fault}; it is set aside as {disk.set_aside(path).name} and made again")
    except FileNotFoundError:
        return  # another process has set it aside
    except OSError as error:
        raise ValueError(
            f"{fault}, and it cannot be set aside ({error.strerror}): remove {path}, or name another folder in the "
            "environment, HARNESS_CACHE=..."
        ) from error


def read_text(path: Path) -> str | None:
    """Return a text that `write_text` wrote; None if there is none, or it was damaged and is set aside.

    Raises:
        ValueError: it cannot be read, or is damaged and cannot be set aside.
    """
    try:
        digest, _, content = disk.read(path).partition(b"\n")
    except FileNotFoundError:
        return None
    except DamagedError as error:
        _set_aside(path, str(error))
        return None
    if hashlib.sha256(content).hexdigest().encode() != digest:
        _set_aside(path, f"{path}: damaged, its content is not the one that was written (SHA-256)")
        return None
    return content.decode("utf-8")


def write_text(text: str, path: Path) -> None:
    """Write a text atomically, with its checksum in the first line."""
    record.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", path)


def remove_left(root: Path, pattern: str = f"{_PREFIX}*") -> None:
    """Remove what killed processes left half written, once it is too old for any process to be writing it."""
    for left in root.glob(pattern):
        with suppress(OSError):  # another process has removed it
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
