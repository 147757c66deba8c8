"""SLURM's own word on the jobs of a sweep: what waits, what runs until when, and how a job that is gone ended.

`squeue` is asked before anything else: it needs no accounting and knows of every job that is not over.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

_SAYS = "%F|%K|%T|%r|%e|%N"  # array, task, state, reason, expected end, nodes
_ENDS = {
    "TIMEOUT": "its time limit was reached",
    "OUT_OF_MEMORY": "it used more memory than it had asked for",
    "NODE_FAIL": "its node failed",
    "CANCELLED": "cancelled",
    "PREEMPTED": "preempted",
    "DEADLINE": "its deadline passed",
    "BOOT_FAIL": "its node did not start",
}
_WAIT = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
_SHELLS_SIGNALS = 128  # an exit code beyond is a signal's number, and this
_ASK_SECONDS = 60.0


@dataclass(frozen=True)
class Queued:
    """A job that is not over."""

    state: str  # as SLURM calls it: PENDING, RUNNING, COMPLETING, ...
    reason: str  # why it waits
    ends: str  # expected end, in the cluster's local time; "" if unknown
    nodes: str

    @property
    def waits(self) -> bool:
        """Whether it has not begun, or is to begin again."""
        return self.state in _WAIT

    def says(self, job: str) -> tuple[str, str]:
        """(running | waiting, where or why) of a job."""
        if self.waits:
            return "waiting", f"SLURM: {self.reason or self.state}"
        until = f", until {self.ends} at the latest" if self.ends else ""
        return "running", f"SLURM job {job} on {self.nodes}{until}"


def queued(arrays: Iterable[str]) -> dict[str, Queued]:
    """Job ("12", or "12_3" of an array) -> where it stands, for those of the arrays that are not over.

    Raises:
        OSError: SLURM cannot be asked; says what it answered.
    """
    wanted = sorted(set(arrays))
    if not wanted:
        return {}
    done = _ask("squeue", "-h", "-r", "-o", _SAYS, "-j", ",".join(wanted))
    if done.returncode and "Invalid job id" not in done.stderr:
        raise OSError(f"squeue does not answer: {_last(done.stderr)}")
    found = {}
    for line in filter(None, done.stdout.splitlines()):
        array, task, state, reason, ends, nodes = line.split("|")
        known = "" if ends in ("N/A", "NONE") else ends
        found[_name(array, task)] = Queued(state, "" if reason == "None" else reason, known, nodes)
    return found


def endings(array: str) -> dict[str, str]:
    """Job -> how it ended, in a few words, for the jobs of an array that SLURM still remembers."""
    done = _ask("scontrol", "-o", "show", "job", array)
    found = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
        for task in _tasks(facts.get("ArrayTaskId", "N/A")):
            name = _name(facts.get("ArrayJobId", array), task)
            found[name] = ending(facts.get("JobState", ""), facts.get("ExitCode", ""))
    return found or _accounted(array)


def _accounted(array: str) -> dict[str, str]:
    """The same from the accounting, where a cluster has one, for what the controller has forgotten."""
    done = _ask("sacct", "-n", "-X", "-P", "-o", "JobID,State,ExitCode", "-j", array)
    rows = [line.split("|") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return {row[0]: ending(row[1].partition(" ")[0], row[2]) for row in rows if len(row) == 3}


def ending(state: str, exit_code: str) -> str:
    """`its time limit was reached (SLURM: TIMEOUT)`."""
    says = _ENDS.get(state)
    code, number = (int(part) for part in exit_code.split(":")) if ":" in exit_code else (0, 0)
    number = number or max(0, code - _SHELLS_SIGNALS)
    says = says or (f"killed by signal {number}" if number else f"it ended with exit code {code}")
    return f"{says} (SLURM: {state})"


def cancel(arrays: Iterable[str]) -> None:
    """Take jobs out of the queue, and end those that run.

    Raises:
        OSError: SLURM refuses; says why.
    """
    done = _ask("scancel", *sorted(set(arrays)))
    if done.returncode:
        raise OSError(f"scancel: {_last(done.stderr)}")


def refusal(flags: Iterable[str]) -> str:
    """Why SLURM would not take a job with these flags; "" if it would."""
    done = _ask("sbatch", "--test-only", *flags, "--wrap=true")
    return _last(done.stderr).removeprefix("sbatch: error: ") if done.returncode else ""


def requeue(job: str) -> bool:
    """Put the job that asks this back into the queue; whether SLURM does so."""
    return _ask("scontrol", "requeue", job).returncode == 0


@cache
def largest_array() -> int:
    """How many jobs an array may have here."""
    done = _ask("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return max(1, int(found[1]) - 1) if found else 1000


def _name(array: str, task: str) -> str:
    return array if task == "N/A" else f"{array}_{task}"


def _tasks(text: str) -> list[str]:
    """`3`, `0-2`, `1,4-5%2` -> each number."""
    if not re.fullmatch(r"[\d,%-]+", text):
        return [text]
    found: list[str] = []
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        found += [str(number) for number in range(int(first), int(last or first) + 1)]
    return found


def _ask(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=_ASK_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 127, "", str(error))


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no answer"
