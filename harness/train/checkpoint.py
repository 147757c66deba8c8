"""A run's last checkpoint: where it lies and what it says of itself, read without torch.

`<run>/checkpoint/step-<n>.safetensors` holds all that training goes on from, `lowest-<n>.safetensors` beside it the
weights of the lowest validation loss, where early stopping keeps them. Both are tensors and JSON in the safetensors
format: nothing in them is ever executed. A file is written under another name and renamed, and an older one is removed
once the newer one is there.

Where the model is divided among processes each writes what it holds, as `step-<n>.part-<k>.safetensors`; the first
one's is renamed to `step-<n>.safetensors` when the others' are there, so that there is a checkpoint or there is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.records.specs import Rung

_NAME = re.compile(r"step-(\d+)\.safetensors")
_PART = re.compile(r"step-(\d+)\.part-\d+\.safetensors")
_LONGEST_HEADER = 1 << 30  # bytes


@dataclass(frozen=True)
class Belongs:
    """What a checkpoint is of: training goes on from it only where all of this is the same.

    Of the rung only the length of the rows counts: a step has the same rows in micro batches of any size, so that what
    ran out of memory goes on, equal up to rounding, in smaller ones.
    """

    recipe_id: str
    seed: int
    code: str  # digest of the code and the versions that determine a curve
    rung: Rung
    num_processes: int = 1
    sharding: str = "none"

    def differs_from(self, other: dict[str, Any]) -> str:
        """The first thing in which another one differs, in words; "" if there is none."""
        names = {"recipe_id": "recipe", "code": "code or library versions", "num_processes": "number of processes"}
        for key, value in asdict(self).items():
            if key == "rung":
                if other.get(key, {}).get("max_length") != value["max_length"]:
                    return "other rows"
            elif other.get(key) != value:
                return f"another {names.get(key, key)}"
        return ""


def folder(run_folder: Path) -> Path:
    """Where a run's checkpoint lies while it trains."""
    return run_folder / "checkpoint"


def path(checkpoints: Path, step: int) -> Path:
    """The file of the checkpoint after `step` optimizer steps."""
    return checkpoints / f"step-{step:09d}.safetensors"


def part(file: Path, index: int) -> Path:
    """What the process of this index writes of a file, where each holds a part of the model."""
    return file.with_suffix(f".part-{index}{file.suffix}")


def newest(checkpoints: Path) -> Path | None:
    """The last checkpoint that was written whole; None if there is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = [name for name in os.listdir(checkpoints) if _NAME.fullmatch(name)]  # noqa: PTH208 - one call, no stat
        return checkpoints / max(names) if names else None
    return None


def step_of(file: Path) -> int:
    """Optimizer steps that a checkpoint comes after."""
    found = _NAME.fullmatch(file.name)
    assert found is not None, f"{file} is no checkpoint"
    return int(found[1])


def only(kept: Path) -> None:
    """Remove every checkpoint but this one, and what writing was cut off in."""
    for file in kept.parent.iterdir():
        found = _NAME.fullmatch(file.name) or _PART.fullmatch(file.name)
        if file.name.startswith(".") or (found and int(found[1]) != step_of(kept)):
            file.unlink(missing_ok=True)


def end(run_folder: Path, kept: bool) -> None:
    """Remove the checkpoint of a run whose weights are there, or rename it, so that no run goes on from it."""
    checkpoints = folder(run_folder)
    if kept and checkpoints.is_dir():
        final = checkpoints.with_name(f"{checkpoints.name}.final")
        shutil.rmtree(final, ignore_errors=True)
        checkpoints.replace(final)
    shutil.rmtree(checkpoints, ignore_errors=True)


def set_aside(checkpoints: Path) -> Path:
    """Rename the folder, so that nothing goes on from it; one that was set aside before is replaced."""
    aside = checkpoints.with_name(f"{checkpoints.name}.set-aside")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoints.replace(aside)
    return aside


def rung(run_folder: Path) -> Rung | None:
    """How the batches of the run's checkpoint were computed; None where there is none that can be read."""
    file = newest(folder(run_folder))
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return Rung(**facts(file)["of"]["rung"]) if file else None
    return None


def facts(file: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        ValueError: the file is damaged.
    """
    with file.open("rb") as stream:
        found: dict[str, Any] = json.loads(header(stream, file)[1]["__metadata__"]["facts"])
    return found


def header(stream: Any, file: Path) -> tuple[bytes, dict[str, Any]]:
    """The header of a safetensors file, as it stands there and read; `stream` is left at the first tensor's bytes.

    Raises:
        ValueError: the file is damaged.
    """
    length = int.from_bytes(stream.read(8), "little")
    text = stream.read(length) if length <= _LONGEST_HEADER else b""
    try:
        table = json.loads(text)
        sizes = [entry["data_offsets"][1] for name, entry in table.items() if name != "__metadata__"]
        whole = 8 + length + max(sizes, default=0) == os.fstat(stream.fileno()).st_size
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise ValueError(f"{file}: damaged, its header cannot be read") from error
    if not whole:
        raise ValueError(f"{file}: damaged, it is not as long as its header says")
    return text, table
