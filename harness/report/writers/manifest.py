"""`manifest.json`: digests of a report's inputs and of its files, so that no report is made twice.

A report is a function of its records, of the code and of the names in `conf/`. Where none of them has changed and every
file is as it was written, nothing is drawn again.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.records.record import write_text
from harness.report.data.rows import Loaded
from harness.sources.packages import conf_dir

NAME = "manifest.json"
ARCHIVE = "records.zip"  # its records beside it, which no report is made from
_CODE = ("report", "stats", "records")
_NAMES = ("names.yaml", "references.bib", "checklists.yaml", "method/*.yaml", "model/*.yaml", "data/*.yaml")  # of conf/
_LIBRARIES = ("jinja2", "matplotlib", "numpy", "pyarrow", "scipy")


def inputs(loaded: Loaded) -> str:
    """Return a digest of the records, the outcomes per item, the options, the code, and the names that it prints.

    The marks of runs that the last call of the sweep reused are dropped: only the terminal shows them, no file.
    """
    rows, trials = (tuple(replace(row, already_done=False) for row in group) for group in (loaded.rows, loaded.trials))
    sweep = loaded.sweep and replace(loaded.sweep, already_done=())
    digest = hashlib.sha256(repr(replace(loaded, rows=rows, trials=trials, sweep=sweep)).encode())
    paths = (scored.path for row in (*rows, *trials) for scored in row.scored)
    for part in (*(path.read_bytes() if path.is_file() else b"" for path in paths), *_code()):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def is_current(out: Path, made_from: str) -> bool:
    """Return whether the folder holds this report, with every file as it was written."""
    earlier = stated(out)
    return earlier.get("inputs") == made_from and earlier.get("files") == _files(out)


def stated(out: Path) -> dict[str, Any]:
    """Return the folder's manifest: a digest of the `inputs`, and file -> digest of the `files`; {} if unreadable."""
    try:
        return dict(json.loads((out / NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def libraries(*others: str) -> dict[str, str | None]:
    """Return the versions of the libraries that write a report, after those of others; None if not installed."""
    return {name: _version(name) for name in (*others, *_LIBRARIES)}


def write(out: Path, made_from: str) -> Path:
    """Write the manifest of the files as they are."""
    content = {"inputs": made_from, "files": _files(out)}
    return write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", out / NAME)


def _files(out: Path) -> dict[str, Any]:
    paths = sorted(path for path in out.rglob("*") if path.is_file() and path.name not in (NAME, ARCHIVE))
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _code() -> Iterator[bytes]:
    package = Path(__file__).parents[2]
    for name in _CODE:
        place = package / name
        files = sorted(path for path in place.rglob("*") if path.suffix in (".py", ".html", ".css", ".js"))
        yield from (path.read_bytes() for path in files or [place])
    yield from (path.read_bytes() for pattern in _NAMES for path in sorted(conf_dir().glob(pattern)))
    yield from (f"{library} {version or ''}".encode() for library, version in libraries().items())


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
