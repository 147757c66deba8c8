"""Queries to SLURM about the jobs of a sweep: waiting and running jobs, and the end of finished ones.

`squeue` comes first. It needs no accounting and lists every unfinished job.
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
    "CANCELLED": "canceled",
    "PREEMPTED": "preempted",
    "DEADLINE": "its deadline passed",
    "BOOT_FAIL": "its node did not start",
}
_WAIT = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
_SHELLS_SIGNALS = 128  # a larger exit code is this plus the number of a signal
_ASK_SECONDS = 60.0


@dataclass(frozen=True)
class Queued:
    """Unfinished job in the queue."""

    state: str  # as SLURM calls it: PENDING, RUNNING, COMPLETING, ...
    reason: str  # why it waits
    ends: str  # expected end, in the cluster's local time; "" if unknown
    nodes: str

    @property
    def waits(self) -> bool:
        """Return True if the job waits for its first start or a restart."""
        return self.state in _WAIT

    def says(self, job: str) -> tuple[str, str]:
        """Return (running, node and time limit) or (waiting, reason) of a job."""
        if self.waits:
            return "waiting", f"SLURM: {self.reason or self.state}"
        until = f", until {self.ends} at the latest" if self.ends else ""
        return "running", f"SLURM job {job} on {self.nodes}{until}"


def queued(arrays: Iterable[str]) -> dict[str, Queued]:
    """Return job ("12", or "12_3" of an array) -> its state, for the unfinished jobs of these arrays.

    Raises:
        OSError: squeue fails; includes its answer.
    """
    wanted = sorted(set(arrays))
    if not wanted:
        return {}
    done = _ask("squeue", "-h", "-r", "-o", _SAYS, "-j", ",".join(wanted))
    if done.returncode and "Invalid job id" not in done.stderr:
        raise OSError(f"squeue does not answer: {_last(done.stderr)}")
    jobs = {}
    for line in filter(None, done.stdout.splitlines()):
        array, task, state, reason, ends, nodes = line.split("|")
        expected_end = "" if ends in ("N/A", "NONE") else ends
        jobs[_name(array, task)] = Queued(state, "" if reason == "None" else reason, expected_end, nodes)
    return jobs


def endings(array: str) -> dict[str, str]:
    """Return job -> a short text of how it ended, for the jobs of an array that SLURM still remembers."""
    done = _ask("scontrol", "-o", "show", "job", array)
    ends = {}
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
        for task in _tasks(facts.get("ArrayTaskId", "N/A")):
            name = _name(facts.get("ArrayJobId", array), task)
            ends[name] = ending(facts.get("JobState", ""), facts.get("ExitCode", ""))
    return ends or _accounted(array)


def _accounted(array: str) -> dict[str, str]:
    """Return the same from the accounting, if the cluster has one, for jobs that the controller has forgotten."""
    done = _ask("sacct", "-n", "-X", "-P", "-o", "JobID,State,ExitCode", "-j", array)
    rows = [line.split("|") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return {row[0]: ending(row[1].partition(" ")[0], row[2]) for row in rows if len(row) == 3}


def ending(state: str, exit_code: str) -> str:
    """Return how a job ended as text, such as `its time limit was reached (SLURM: TIMEOUT)`."""
    says = _ENDS.get(state)
    code, number = (int(part) for part in exit_code.split(":")) if ":" in exit_code else (0, 0)
    number = number or max(0, code - _SHELLS_SIGNALS)
    says = says or (f"killed by signal {number}" if number else f"it ended with exit code {code}")
    return f"{says} (SLURM: {state})"


def cancel(arrays: Iterable[str]) -> None:
    """Remove jobs from the queue and end running ones.

    Raises:
        OSError: SLURM refuses; includes its reason.
    """
    done = _ask("scancel", *sorted(set(arrays)))
    if done.returncode:
        raise OSError(f"scancel: {_last(done.stderr)}")


def refusal(flags: Iterable[str]) -> str:
    """Return why SLURM would reject a job with these flags; "" if it would accept it."""
    done = _ask("sbatch", "--test-only", *flags, "--wrap=true")
    return _last(done.stderr).removeprefix("sbatch: error: ") if done.returncode else ""


def requeue(job: str) -> bool:
    """Requeue the calling job and return True if SLURM does so."""
    return _ask("scontrol", "requeue", job).returncode == 0


@cache
def largest_array() -> int:
    """Return the largest number of jobs that an array may have here."""
    done = _ask("scontrol", "show", "config")
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return max(1, int(match[1]) - 1) if match else 1000


def _name(array: str, task: str) -> str:
    return array if task == "N/A" else f"{array}_{task}"


def _tasks(text: str) -> list[str]:
    """Return every number of a range such as `3`, `0-2` or `1,4-5%2`; other text unchanged."""
    if not re.fullmatch(r"[\d,%-]+", text):
        return [text]
    numbers: list[str] = []
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        numbers += [str(number) for number in range(int(first), int(last or first) + 1)]
    return numbers


def _ask(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=_ASK_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 127, "", str(error))


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no answer"
