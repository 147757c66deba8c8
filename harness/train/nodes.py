"""File by which a job's first node announces each attempt at a run to the other nodes. Needs no torch."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from harness.records.files import PRIVATE
from harness.records.record import write_text
from harness.records.settings import Fallback

FILE = "HARNESS_RENDEZVOUS"  # environment of a process that trains a run on several nodes: the path of that file
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Attempt:
    """One attempt at a run: its recipe, how it is computed, and the endpoint of its rendezvous.

    The token keeps the keys of one attempt apart from those of any other.
    """

    recipe_id: str = ""
    rung: Fallback | None = None
    address: str = ""
    port: int = 0
    token: str = ""


@dataclass(frozen=True)
class Node:
    """A machine of the job: its index from 0, its name on the cluster, and why it cannot take part, if so."""

    index: int = 0
    name: str = ""
    refusal: str = ""


_ATTEMPT: TypeAdapter[Attempt | None] = TypeAdapter(Attempt | None)


def publish(attempt: Attempt | None, file: Path) -> None:
    """Announce the next attempt to the other nodes; None announces that there will be none.

    Its token lets a process take part, so that the file is its owner's alone.
    """
    write_text(json.dumps(attempt and asdict(attempt)), file, PRIVATE)


def is_over(file: Path) -> bool:
    """Return whether it was announced that there will be no further attempt."""
    return file.exists() and json.loads(file.read_bytes()) is None


def attempts(file: Path) -> Iterator[Attempt]:
    """Yield each attempt once, as it is announced, until there will be none."""
    token = ""
    while True:
        with contextlib.suppress(OSError):  # not there yet, or replaced while a file server hands it out
            attempt = _ATTEMPT.validate_json(file.read_bytes())
            if attempt is None:
                return
            if attempt.token != token:
                token = attempt.token
                yield attempt
        time.sleep(_POLL_SECONDS)
