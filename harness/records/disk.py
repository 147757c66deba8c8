"""Files of a store: regular files are read, damaged ones are set aside, and checksums tell one from the other.

A folder may hold `harness-checksums.txt`, with a line `<SHA-256> <bytes> <name>` for each content that was ever written
to one of its files. A line is added before its file is put in place. After a kill a file is therefore one of those
listed, and a file with another content was damaged. Who edits a file by hand removes its lines.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Literal

NAME = "harness-checksums.txt"
EVALUATIONS = "evaluations"  # the folder in a run's folder
Kind = Literal["missing", "file", "folder", "other"]
Sum = tuple[str, int]  # SHA-256 in hex, and the bytes of a file
Sums = Mapping[str, frozenset[Sum]]  # name in the folder -> all that was written to it

_LINE = re.compile(r"([0-9a-f]{64}) (\d{1,15}) (.+)")
_MISPLACED = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG)


class DamagedError(ValueError):
    """File that is not what was written, or something else in its place. Its content is of no use to anybody."""


class UnreadableError(ValueError):
    """File that the system does not let this process read. It may be whole, and is left alone."""


def read(path: Path) -> bytes:
    """Return the content of a regular file.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: something else stands there, such as a folder, a pipe or a loop of links.
        UnreadableError: the system refuses, as without permission or on a failing disk.
    """
    with opened(path) as file:
        try:
            return file.read()
        except OSError as error:
            raise _unreadable(path, error) from error


def opened(path: Path) -> BufferedReader:
    """Open a regular file for reading; a pipe or a device is not waited for. Raises as `read` does."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if path.is_symlink():
            raise DamagedError(f"{path}: a link to nothing") from None
        raise
    except OSError as error:
        if error.errno in _MISPLACED:
            raise DamagedError(f"{path}: no file, {_reason(error)}") from error
        raise _unreadable(path, error) from error
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise DamagedError(f"{path}: something else than a file stands there")


def _unreadable(path: Path, error: OSError) -> UnreadableError:
    return UnreadableError(f"{path}: cannot be read ({_reason(error)}); make it readable or move it away")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def kind(path: Path) -> Kind:
    """Return what stands at a path, links followed; a link that leads nowhere is "other"."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "other" if os.path.lexists(path) else "missing"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def set_aside(path: Path) -> Path:
    """Rename what is damaged, so that it is neither read nor overwritten, and return its new path."""
    return path.rename(_free(path))


def _free(path: Path) -> Path:
    """Return the next free name for what is set aside."""
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.damaged-{number}")
    return aside


def make_folder(path: Path, below: Path) -> list[str]:
    """Make a folder, and return a line for each thing below `below` that stood in the place of one.

    Several processes may do so at once: what is set aside is linked and unlinked, which no folder can be.

    Raises:
        OSError: the folder cannot be made.
    """
    lines: list[str] = []
    below.mkdir(parents=True, exist_ok=True)
    parts = path.relative_to(below).parts
    for folder in (below.joinpath(*parts[:number]) for number in range(1, len(parts) + 1)):
        if kind(folder) in ("file", "other"):
            aside = _free(folder)
            with suppress(FileExistsError, FileNotFoundError, PermissionError):
                os.link(folder, aside, follow_symlinks=False)
                lines.append(f"{folder}: no folder; what stood there is set aside as {aside.name}")
                folder.unlink(missing_ok=True)
        folder.mkdir(exist_ok=True)
    return lines


def make_way(path: Path, below: Path) -> list[str]:
    """Set aside what keeps a file from being written, and return a line for each. Its folder is made."""
    lines = make_folder(path.parent, below)
    if kind(path) in ("folder", "other"):
        lines.append(f"{path}: no file; what stood there is set aside as {set_aside(path).name}")
    return lines


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all in it, as far as the system lets."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def flush(folder: Path) -> None:
    """Flush the files of a folder and the folders themselves to the disk, before it is renamed."""
    for path in (*(path for path in folder.rglob("*") if not path.is_symlink()), folder):
        if path.is_file() or path.is_dir():
            flush_one(path)


def flush_one(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sum_of(path: Path) -> Sum:
    """Return the SHA-256 and the size of a file. Raises as `read` does."""
    with opened(path) as file:
        try:
            return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise _unreadable(path, error) from error


def sum_of_bytes(content: bytes) -> Sum:
    """Return the SHA-256 and the size of a file with this content."""
    return hashlib.sha256(content).hexdigest(), len(content)


def begin(folder: Path) -> None:
    """Have `note` list the files of a folder from now on."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind(folder / NAME) in ("folder", "other"):
        set_aside(folder / NAME)
    with suppress(FileExistsError):
        os.close(os.open(folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def note(folder: Path, entries: Iterable[tuple[str, Sum]]) -> None:
    """Add lines for files that are about to be put in place, where the folder lists its files."""
    try:
        handle = os.open(folder / NAME, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK)
    except OSError:
        return
    try:
        size = os.fstat(handle).st_size
        is_cut_off = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # by a kill; the next line stands alone
        lines = "".join(f"{digest} {size} {name}\n" for name, (digest, size) in entries)
        content = (("\n" if is_cut_off else "") + lines).encode()
        while content:  # a disk that fills up takes a part, and refuses the next
            content = content[os.write(handle, content) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def note_file(path: Path, content: Path) -> None:
    """Add the line of a file that is about to be put in place, where its folder or its run lists files.

    Args:
        path: the file's place.
        content: the file itself, under another name.
    """
    folder = _listing(path)
    if (folder / NAME).is_file():
        note(folder, [(path.relative_to(folder).as_posix(), sum_of(content))])


def _listing(path: Path) -> Path:
    """Return the folder whose list has a file: its own, or the run's for an evaluation."""
    return path.parents[1] if path.parent.name == EVALUATIONS else path.parent


def sums(folder: Path) -> Sums:
    """Return the checksums that a folder lists; none where it lists nothing that can be read."""
    listed: dict[str, set[Sum]] = {}
    with suppress(OSError, ValueError):
        for line in read(folder / NAME).decode("utf-8", errors="replace").splitlines():
            if match := _LINE.fullmatch(line):
                listed.setdefault(match[3], set()).add((match[1], int(match[2])))
    return {name: frozenset(entries) for name, entries in listed.items()}


def check(path: Path, name: str, listed: Sums, content: bytes | None = None) -> None:
    """Compare a file with the folder's checksums; a file that is not listed is taken as it is.

    Args:
        path: the file.
        name: its name in the list.
        listed: the checksums of its folder.
        content: of the file, where it has been read.

    Raises:
        DamagedError: it is not what was written, or no file.
        FileNotFoundError: it is not there.
        UnreadableError: it cannot be read.
    """
    if name not in listed:
        return
    if (sum_of(path) if content is None else sum_of_bytes(content)) not in listed[name]:
        raise DamagedError(f"{path}: damaged, its content is not the one that was written (SHA-256)")


def check_size(path: Path, name: str, listed: Sums) -> None:
    """Compare a file's size with the folder's checksums. Raises as `check` does."""
    if name not in listed:
        return
    try:
        status = path.stat()
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _MISPLACED:
            raise DamagedError(f"{path}: no file, {_reason(error)}") from error
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        raise DamagedError(f"{path}: something else than a file stands there")
    if status.st_size not in {size for _, size in listed[name]}:
        written = " or ".join(f"{size:,}" for size in sorted({size for _, size in listed[name]}))
        raise DamagedError(f"{path}: damaged, it has {status.st_size:,} bytes and was written with {written}")
