"""A command's seconds, and the peaks of resident memory of its processes by how deep they stand below it."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench._plain import ROOT

_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Watched:
    """What a command took.

    `peaks` are the bytes of the largest process at each depth: 0 is the command itself, 1 its children, 2 theirs.
    """

    seconds: float
    peaks: dict[int, int]


def watched(command: Sequence[str], environment: dict[str, str] | None = None) -> Watched:
    """Run a command that ends well.

    The kernel notes each process's peak, which that may set back (`/proc/self/clear_refs`): it is read again and again.
    """
    found: dict[int, int] = {}
    with tempfile.TemporaryFile("w+") as said:
        begun = time.perf_counter()
        started = subprocess.Popen(command, stdout=said, stderr=said, cwd=ROOT, env=environment)
        while started.poll() is None:
            for depth, process in _below(psutil.Process(started.pid), 0):
                found[depth] = max(found.get(depth, 0), _peak(process.pid))
            time.sleep(_LOOK_SECONDS)
        seconds = time.perf_counter() - begun
        said.seek(0)
        if started.returncode:
            raise RuntimeError(f"{' '.join(command[1:3])} ended with {started.returncode}: {said.read()[-1000:]}")
    return Watched(seconds, found)


def _below(process: psutil.Process, depth: int) -> Iterator[tuple[int, psutil.Process]]:
    """A process and all that came from it; one that is gone has none."""
    yield depth, process
    try:
        children = process.children()
    except psutil.NoSuchProcess:
        return
    for child in children:
        yield from _below(child, depth + 1)


def _peak(process: int) -> int:
    """The highest resident set so far, or since the process itself set it back; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
