"""SHA-256 of large files that seldom change: computed once, then cached."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

from harness.records.identity import canonical
from harness.sources import cache, packages
from harness.sources.packages import Say, silent

SETTLED_SECONDS = 2.0  # a file that changed more recently may change again within its time stamp's resolution


def file_sha256(file: Path, say: Say = silent) -> str:
    """Return the SHA-256 of a file, cached by path, size and time of change: weights are large."""
    status = file.stat()
    state = hashlib.sha256(f"{file.resolve()}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()
    memory = packages.cache_dir() / "hashes" / f"{state}.txt"
    if (digest := cache.read_text(memory)) is not None:
        return digest
    if status.st_size > 1e9:
        say(f"hashing {file} (once)")
    result = packages.file_sha256(file)
    if time.time() - status.st_mtime > SETTLED_SECONDS:
        cache.write_text(result, memory)
    return result


def of_files(paths: Iterable[Path], alone: bool) -> str:
    """Return the SHA-256 of a single file, or one over those of several files in their order."""
    sums = [file_sha256(file) for file in paths]
    return sums[0] if alone else hashlib.sha256(canonical(sums).encode()).hexdigest()
