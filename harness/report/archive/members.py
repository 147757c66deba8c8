"""The members of an archive: the records of a sweep, and the files that describe them.

Those are RO-Crate metadata and a lock of the versions that the runs were made with, both functions of the other
members, so that they can be made again. RO-Crate 1.1: https://w3id.org/ro/crate/1.1.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records import disk, registration
from harness.records.record import SweepRecord, read
from harness.records.untrusted import shortened
from harness.report.archive import METADATA, OPTIONS, VERSIONS
from harness.report.archive.container import Members, allowed, check_kind
from harness.report.data.load import load
from harness.report.writers import manifest

_RUN_FILES = ("record.json", "update.json", "converted.json", "inference.json", disk.NAME)
_CONTEXT = ["https://w3id.org/ro/crate/1.1/context", {"sha256": "https://schema.org/sha256"}]
_FORMATS = {"json": "application/json", "parquet": "application/vnd.apache.parquet", "txt": "text/plain"}
_KINDS = {
    "sweep.json": "Question, cells and chosen recipes of the sweep",
    "registration.json": "Registration of the question before its runs",
    "record.json": "Record of a run: its recipe and every attempt at it",
    "update.json": "Shape of the trained update",
    "converted.json": "Loss of the update's conversions into LoRA",
    "inference.json": "Measured cost of using the result",
    "harness-checksums.txt": "SHA-256 of every content that was written to the files of the run",
    "versions.txt": "Versions of the libraries of the runs",
    "report.json": "Options of the report",
}


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


def installed() -> dict[str, str | None]:
    """Return the versions of the libraries that write a report, and of this program."""
    return manifest.libraries("harness")


def options_of(members: dict[str, bytes], place: Path) -> Options:
    """Return the options in an archive.

    Raises:
        ValueError: they are not there or of the wrong kind; names the archive.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Options).validate_json(members[OPTIONS])
    except (KeyError, ValidationError) as error:
        raise ValueError(f"{place}: {OPTIONS}: not the options of a report ({shortened(str(error))})") from error


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


def described(members: Members, options: Options) -> dict[str, bytes]:
    """Return the members with those that describe them."""
    whole = {**members, VERSIONS: _versions(members, options)}
    return {**whole, METADATA: _metadata(whole, options)}


def _attempts(members: Members) -> list[dict[str, Any]]:
    """Return the last attempt of every run."""
    records = (json.loads(content) for name, content in members.items() if name.endswith("/record.json"))
    return [attempts[-1] for record in records if (attempts := record.get("attempts"))]


def _versions(members: Members, options: Options) -> bytes:
    """Return pinned versions for pip: of each library the one of most runs, the others as comments."""
    counts: dict[str, Counter[str]] = {}
    for attempt in _attempts(members):
        provenance = attempt.get("provenance") or {}
        versions = {"python": provenance.get("python"), **(provenance.get("versions") or {})}
        for name, value in versions.items():
            if value is not None:
                counts.setdefault(str(name), Counter())[str(value)] += 1
    lines = ["# Libraries of the runs, from their records."]
    for name in sorted(counts):
        ordered = sorted(counts[name].items(), key=lambda pair: (-pair[1], pair[0]))
        pin = f"# python {ordered[0][0]}" if name == "python" else f"{name}=={ordered[0][0]}"
        others = "".join(f"  # {number} runs with {value}" for value, number in ordered[1:])
        lines.append(pin + others)
    lines.append("# Libraries that wrote the report.")
    lines += [f"# {name} {value or 'unknown'}" for name, value in sorted(options.made_with.items())]
    return ("\n".join(lines) + "\n").encode()


def _metadata(members: Members, options: Options) -> bytes:
    sweep = next(json.loads(content) for name, content in members.items() if name.endswith("/sweep.json"))
    dates = sorted(str(attempt["started_at"]) for attempt in _attempts(members) if attempt.get("started_at"))
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"Records of {options.sweep}",
        "description": sweep.get("question") or f"Records of the sweep {options.sweep}",
        **({"datePublished": dates[-1]} if dates else {}),
        **({"license": options.license} if options.license else {}),
        "hasPart": [{"@id": name} for name in sorted(members)],
    }
    descriptor = {
        "@id": METADATA,
        "@type": "CreativeWork",
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
        "about": {"@id": "./"},
    }
    files = [_file(name, members[name]) for name in sorted(members)]
    return to_json({"@context": _CONTEXT, "@graph": [descriptor, root, *files]})


def _file(name: str, content: bytes) -> dict[str, Any]:
    last = name.rpartition("/")[2]
    kind = _KINDS.get(last) or _described_by_folder(name)
    return {
        "@id": name,
        "@type": "File",
        "name": kind,
        "contentSize": str(len(content)),
        "encodingFormat": _FORMATS[last.rpartition(".")[2]],
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _described_by_folder(name: str) -> str:
    if name.endswith(".parquet"):
        return "Outcomes per item of an evaluation"
    if "/earlier/" in name:
        return "Scores of an evaluation of weights that were replaced"
    if "/evaluations/" in name:
        return "Scores of an evaluation"
    return "Check of the training data" if "/data/" in name else "Results that others published"


def stated(members: Members) -> dict[str, str]:
    """Return member -> SHA-256 as the metadata of an archive states them; {} where they cannot be read."""
    try:
        graph = json.loads(members[METADATA])["@graph"]
        return {str(entry["@id"]): str(entry["sha256"]) for entry in graph if entry["@type"] == "File"}
    except (KeyError, TypeError, ValueError):
        return {}
