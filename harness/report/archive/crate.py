"""The files that describe an archive: RO-Crate metadata, and a lock of the versions that the runs were made with.

RO-Crate 1.1: https://w3id.org/ro/crate/1.1. Both are functions of the other members, so that they can be made again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from harness.report.archive import METADATA, VERSIONS
from harness.report.archive.container import Members
from harness.report.archive.members import Options, to_json

_CONTEXT = ["https://w3id.org/ro/crate/1.1/context", {"sha256": "https://schema.org/sha256"}]
_FORMATS = {"json": "application/json", "parquet": "application/vnd.apache.parquet", "txt": "text/plain"}
_KINDS = {
    "sweep.json": "Question, cells and chosen recipes of the sweep",
    "registration.json": "Registration of the question before its runs",
    "record.json": "Record of a run: its recipe and every attempt at it",
    "update.json": "Shape of the trained update",
    "inference.json": "Measured cost of using the result",
    "harness-checksums.txt": "SHA-256 of every content that was written to the files of the run",
    "versions.txt": "Versions of the libraries of the runs",
    "report.json": "Options of the report",
}


def described(members: Members, options: Options) -> dict[str, bytes]:
    """Return the members with those that describe them."""
    whole = {**members, VERSIONS: _versions(members, options)}
    return {**whole, METADATA: _metadata(whole, options)}


def _records(members: Members) -> Iterator[dict[str, Any]]:
    yield from (json.loads(content) for name, content in members.items() if name.endswith("/record.json"))


def _attempts(members: Members) -> list[dict[str, Any]]:
    """Return the last attempt of every run."""
    return [attempts[-1] for record in _records(members) if (attempts := record.get("attempts"))]


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
