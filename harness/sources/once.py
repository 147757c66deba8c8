"""Atomic creation of shared cache folders: many processes may race, and exactly one result is kept.

Half-written folders of killed processes are removed later.
"""

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

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
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_left(folder.parent)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_PREFIX))
    try:
        write(temporary)
        temporary.chmod(0o755)
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
