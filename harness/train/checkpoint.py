"""The last checkpoint of a run: its files and the facts recorded in them, read without torch.

`<run>/checkpoint/step-<n>.safetensors` holds the full state that training resumes from. `lowest-<n>.safetensors`
beside it holds the weights of the lowest validation loss, if early stopping keeps them. Both are tensors and JSON in
the safetensors format: nothing in them is ever executed. A file is written under another name and renamed; an older
one is removed once the newer one exists.

Where the model is sharded each rank writes its shards into the folder `step-<n>.shards`; the file comes last, so that
there is a checkpoint or there is none.
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

from harness.records import disk
from harness.records.settings import Fallback

_NAME = re.compile(r"step-(\d+)\.safetensors")
_ANY = re.compile(r"step-(\d+)\.(safetensors|shards)")
_LONGEST_HEADER = 1 << 30  # bytes


@dataclass(frozen=True)
class Belongs:
    """Identity of the training that a checkpoint belongs to. Training resumes only if all of it is the same.

    Only the length of the rows counts in the rung: a step has the same rows in micro batches of any size. An attempt
    that ran out of memory therefore resumes in smaller micro batches, equal up to rounding.
    """

    recipe_id: str
    seed: int
    code: str  # digest of the code and the versions that determine a curve
    rung: Fallback
    num_processes: int = 1
    sharding: str = "none"

    def differs_from(self, other: dict[str, Any]) -> str:
        """Return the first difference from another identity, in words; "" if there is none."""
        names = {"recipe_id": "recipe", "code": "code or library versions", "num_processes": "number of processes"}
        for key, value in asdict(self).items():
            if key == "rung":
                if other.get(key, {}).get("max_length") != value["max_length"]:
                    return "other rows"
            elif other.get(key) != value:
                return f"another {names.get(key, key)}"
        return ""


def folder(run_folder: Path) -> Path:
    """Return the folder of a run's checkpoint while it trains."""
    return run_folder / "checkpoint"


def path(checkpoints: Path, step: int) -> Path:
    """Return the file of the checkpoint after `step` optimizer steps."""
    return checkpoints / f"step-{step:09d}.safetensors"


def lowest(checkpoints: Path, step: int | None) -> Path:
    """Return the file of the weights with the lowest validation loss, which was measured after `step` steps."""
    return checkpoints / f"lowest-{step}.safetensors"


def shards(file: Path) -> Path:
    """Return the folder of a file's sharded tensors."""
    return file.with_suffix(".shards")


def newest(checkpoints: Path) -> Path | None:
    """Return the last checkpoint that is complete; None if there is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        names = [name for name in os.listdir(checkpoints) if _NAME.fullmatch(name)]  # noqa: PTH208 - one call, no stat
        return checkpoints / max(names) if names else None
    return None


def step_of(file: Path) -> int:
    """Return the number of optimizer steps that a checkpoint comes after."""
    match = _NAME.fullmatch(file.name)
    assert match is not None, f"{file} is no checkpoint"
    return int(match[1])


def only(newest: Path) -> None:
    """Remove every checkpoint but this one, and what writing was cut off in."""
    for path in newest.parent.iterdir():
        step = _ANY.fullmatch(path.name)
        if path.name.startswith(".") or (step and int(step[1]) != step_of(newest)):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder of shards."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def end(run_folder: Path, keep: bool) -> None:
    """Remove the checkpoint of a run whose weights are saved, or rename it if `keep`: no run resumes from it."""
    checkpoints = folder(run_folder)
    if keep and checkpoints.is_dir():
        final = checkpoints.with_name(f"{checkpoints.name}.final")
        shutil.rmtree(final, ignore_errors=True)
        checkpoints.replace(final)
    shutil.rmtree(checkpoints, ignore_errors=True)


def set_aside(checkpoints: Path) -> Path:
    """Rename the folder, so that nothing resumes from it. A folder that was set aside before is replaced."""
    aside = checkpoints.with_name(f"{checkpoints.name}.set-aside")
    shutil.rmtree(aside, ignore_errors=True)
    checkpoints.replace(aside)
    return aside


def rung(run_folder: Path) -> Fallback | None:
    """Return the rung with which the run's checkpoint was computed; None if there is no readable checkpoint."""
    file = newest(folder(run_folder))
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return Fallback(**facts(file)["of"]["rung"]) if file else None
    return None


def facts(file: Path) -> dict[str, Any]:
    """Return the facts that a checkpoint records about itself.

    Raises:
        ValueError: the file is damaged.
    """
    with disk.opened(file) as stream:
        facts_of: dict[str, Any] = json.loads(header(stream, file)[1]["__metadata__"]["facts"])
    return facts_of


def header(stream: Any, file: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the header of a safetensors file, raw and parsed; `stream` is left at the first tensor's bytes.

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
