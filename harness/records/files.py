"""Temporary files and folders that are renamed into place, with the permissions that the user's umask gives.

`tempfile` makes everything for its owner alone, so that a group could not share a runs folder; a fixed mode would open
to others what a strict umask keeps closed. Here the kernel applies the umask, or a folder's default ACL.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError


def _file_name(text: str) -> str:
    """Return the text if it can name a file or a folder in any place; see `FileName`."""
    if not re.fullmatch(r"[^\W_][\w.+-]{0,119}", text):
        raise PydanticCustomError(
            "file_name",
            "it becomes the name of a file: give at most 120 letters, digits and . _ + -, a letter or digit first",
        )
    return text


# A name that becomes a part of a path. It can leave no folder, hide no file and end no option of a command.
FileName = Annotated[str, AfterValidator(_file_name)]
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
PRIVATE = 0o600  # of a file with a secret in it, whatever the umask


def temporary_file(target: Path, mode: int = 0o666) -> tuple[int, Path]:
    """Create an empty file beside `target`, to be renamed to it; return its descriptor and its path.

    `mode` is reduced by the umask.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            return os.open(path, _NEW, mode), path
        except FileExistsError:
            continue


@contextlib.contextmanager
def atomic(target: Path, mode: int = 0o666) -> Iterator[Path]:
    """Yield the path of an empty file that becomes `target` if the block ends without an error, else is removed."""
    handle, temporary = temporary_file(target, mode)
    os.close(handle)
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_folder(parent: Path, prefix: str) -> Path:
    """Create an empty folder in `parent`, to be renamed, and return its path."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        path = parent / f"{prefix}{secrets.token_hex(4)}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path


def open_as_folder(folder: Path) -> None:
    """Give every file below a folder that `temporary_folder` made the same access as the folder itself.

    Libraries save weights through `tempfile`, for their owner alone.
    """
    access = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(access if path.is_dir() else access & 0o666)
