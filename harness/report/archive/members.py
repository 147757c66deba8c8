"""The records of a sweep as the members of an archive."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.records import disk, registration
from harness.records.record import SweepRecord, read
from harness.records.untrusted import shortened
from harness.report.archive import OPTIONS
from harness.report.archive.container import allowed, check_kind
from harness.report.data.load import load

LIBRARIES = ("jinja2", "matplotlib", "numpy", "pyarrow", "scipy")
_RUN_FILES = ("record.json", "update.json", "inference.json", disk.NAME)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings that a report depends on beside its records.

    Attributes:
        sweep: its name.
        allow: keys whose undeclared differences are printed instead of refused.
        margin: the largest difference that counts as none; None: the sweep's.
        price: of a device hour; None: the runs' own.
        license: of the archive, as SPDX or a URL; None: not stated.
        anonymous: whether names, hosts and paths were removed.
        made_with: versions of the libraries that wrote the report.
    """

    sweep: str
    allow: tuple[str, ...] = ()
    margin: float | None = None
    price: float | None = None
    license: str | None = None
    anonymous: bool = False
    made_with: dict[str, str | None]


def options_bytes(options: Options) -> bytes:
    """Return the options as the member of an archive."""
    return to_json(asdict(options))


def installed() -> dict[str, str | None]:
    """Return the versions of the libraries that write a report, and of this program."""
    return {name: _version(name) for name in ("harness", *LIBRARIES)}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def options_of(members: dict[str, bytes], shown: Path) -> Options:
    """Return the options in an archive.

    Raises:
        ValueError: they are not there or of the wrong kind; names the archive.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Options).validate_json(members[OPTIONS])
    except (KeyError, ValidationError) as error:
        raise ValueError(f"{shown}: {OPTIONS}: not the options of a report ({shortened(str(error))})") from error


def collect(runs: Sequence[Path], sweep: str) -> dict[str, bytes]:
    """Return the members of the runs folders: every record that the sweep's report reads.

    Raises:
        ValueError: a folder is missing, there is no such sweep, or a file is damaged; names it.
    """
    loaded = load(runs, sweep)
    checks = {check.check_id for check in loaded.checks}
    members: dict[str, bytes] = {}
    for number, root in enumerate(runs, 1):
        prefix = "runs" if len(runs) == 1 else f"runs-{number}"
        for path in _files(root, sweep, checks):
            name = f"{prefix}/{path.relative_to(root).as_posix()}"
            if not allowed(name):
                raise ValueError(f"{path}: not a name that an archive may hold; rename or remove it")
            members[name] = disk.read(path)
            check_kind(str(path), name, members[name])
    return members


def _files(root: Path, sweep: str, checks: set[str]) -> Iterator[Path]:
    """Yield the files of a runs folder that the sweep's report reads. Seeds that it does not request are among them."""
    question = root / "sweeps" / sweep / "sweep.json"
    if disk.kind(question) == "missing":
        return
    yield question
    if (made := registration.path(root, sweep)).is_file():
        yield made
    for recipe_id in sorted({cell.recipe_id for cell in read(SweepRecord, question).cells}):
        for folder in sorted(root.glob(f"{recipe_id}/seed-*")):
            yield from _of_run(folder)
    yield from (path for check in sorted(checks) if (path := root / "data" / f"{check}.json").is_file())
    yield from sorted(root.glob("external/*.json"))


def _of_run(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in _RUN_FILES if (folder / name).is_file())
    for pattern in (f"{disk.EVALUATIONS}/*.json", f"{disk.EVALUATIONS}/*.parquet", "earlier/*/*.json"):
        yield from sorted(path for path in folder.glob(pattern) if path.is_file())


def to_json(value: Any) -> bytes:
    """Return JSON with sorted keys."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
