"""Atomic creation of shared cache folders: many processes may race, and exactly one result is kept.

Half-written folders of killed processes are removed later.
"""

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from harness.records import files

_PREFIX = ".writing-"
_LEFT_SECONDS = 7 * 86_400.0  # age at which no process can still be writing it


def folder_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Return the folder, created now if it is missing: `write` fills a temporary one, which is then renamed.

    Several processes may race: each writes into a folder of its own, and the first rename wins.

    Raises:
        OSError: it cannot be written, and no other process has made it meanwhile.
    """
    if folder.is_dir():
        return folder
    temporary = files.temporary_folder(folder.parent, _PREFIX)
    remove_left(folder.parent)
    try:
        write(temporary)
        files.open_as_folder(temporary)
        temporary.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, and its files are the same
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def remove_left(root: Path, pattern: str = f"{_PREFIX}*") -> None:
    """Remove what killed processes left half written, once it is too old for any process to be writing it."""
    for left in root.glob(pattern):
        with suppress(OSError):  # another process has removed it
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
