"""Registration of a question before its runs: everything that the answer will rest on, with one digest.

`runs/sweeps/<name>/registration.json`. Where the sweep's file lies in `sweeps/` of the working folder, the same is
written beside it, as `sweeps/<name>.registration.json`, to be committed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.records import record
from harness.records.base import Strict
from harness.records.files import FileName
from harness.records.record import Cell, ClaimRecord

EXCLUSIONS = (
    "A run that is oom, diverged, failed or skipped has no score and counts as a lost seed of its method; no run and "
    "no item is left out by hand."
)
_NOT_HASHED = ("schema", "registered_at", "digest")


@dataclass(frozen=True, kw_only=True)
class Registration(Strict):
    """A question before its runs.

    Attributes:
        registered_at: ISO 8601, UTC.
        digest: SHA-256 of every field but `schema`, `registered_at` and itself.
        claims: tested as one family; everything else in the report is exploratory.
        margin: the largest difference that counts as none, for verdicts of equivalence; None: the report's default.
        level: of each family.
        families: comparisons that are adjusted together.
        cells: every run that is known before the first one, those of the final stage without their recipes left out.
        contents: name -> digest of each model's and data set's content.
        code: digest of the code that determines a training curve, and of the libraries it runs on.
        made_with: version, commit, uncommitted changes and versions of libraries.
    """

    schema: int
    name: FileName
    registered_at: str
    digest: str
    question: str
    primary: str | None
    claims: tuple[ClaimRecord, ...]
    margin: float | None
    level: float
    families: tuple[str, ...]
    rule: str | None
    tuned: tuple[str, ...]
    tuning_seeds: tuple[int, ...]
    final_seeds: tuple[int, ...]
    looks: tuple[int, int] | None  # seeds at the first and at the last look, where seeds are added until decided
    exclusions: str
    arguments: tuple[str, ...]
    cells: tuple[Cell, ...]
    contents: dict[str, str | None]
    code: str
    made_with: dict[str, Any]


def digest_of(registration: Registration) -> str:
    """Return the digest of a registration's content, whatever digest it states."""
    held = {key: value for key, value in asdict(registration).items() if key not in _NOT_HASHED}
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def path(runs_dir: Path, name: str) -> Path:
    """Return the path of a sweep's registration in its runs folder."""
    return runs_dir / "sweeps" / name / "registration.json"


def beside(name: str) -> Path:
    """Return the path of the registration beside the sweep's file."""
    return Path("sweeps") / f"{name}.registration.json"


def read(file: Path) -> Registration | None:
    """Return a registration; None where there is none.

    Raises:
        ValueError: it cannot be read, or its content is not the one that was hashed.
    """
    if not file.is_file():
        return None
    registration = record.read(Registration, file)
    if digest_of(registration) != registration.digest:
        raise ValueError(f"{file}: changed since it was registered: its content has another digest than it says")
    return registration


def of(name: str) -> Registration | None:
    """Return the registration of a sweep beside its file; None where there is none.

    Raises:
        ValueError: it was changed by hand.
    """
    made = read(beside(name))
    return made if made is not None and made.name == name else None


def adopt(name: str, runs_dir: Path) -> None:
    """Copy the registration beside the sweep's file into a runs folder that has none.

    Raises:
        ValueError: it was changed by hand.
    """
    file, made = path(runs_dir, name), of(name)
    if made is not None and not file.is_file():
        record.write(made, file)
