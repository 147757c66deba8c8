"""What stands before and between runs: the command itself, a sweep that is done already, the next run's first step.

Seconds of the wall, each of the real command in a folder of its own, and medians where it can be repeated. The sweep is
LoRA on SmolLM2-135M with two seeds and three steps, once more with one seed after the kernel has forgotten every file
that it had read (cold). `HARNESS_BENCH=quick` repeats nothing.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.records import record
from tests.bench import Row

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "lm_eval")
REFUSED = (("method=nosuch",), ("train.max_steps=-1",), ("method=prefix", "train.gradient_checkpointing=true"))
HARNESS = (sys.executable, "-m", "harness")


def rows() -> list[Row]:
    """The command, then a sweep of two runs, then the same sweep again."""
    repeats = 1 if os.environ.get("HARNESS_BENCH") == "quick" else 5
    found = [_command("--help", ("--help",), 0, repeats)]
    found += [_command(f"error of {' '.join(words)}", words, 2, repeats) for words in REFUSED]
    with tempfile.TemporaryDirectory() as folder:
        found += _sweep(Path(folder), repeats)
    return found


def _command(name: str, words: Sequence[str], code: int, repeats: int) -> Row:
    """Seconds until the command has said what it has to say, and that it needed nothing heavy for it."""
    seconds = statistics.median(timed(words, code) for _ in range(repeats))
    found = imported(words, code)
    if found:
        raise RuntimeError(f"python -m harness {' '.join(words)} imports {', '.join(found)}")
    note = f"median of {repeats}; imports none of {', '.join(HEAVY)}"
    return Row(name=name, measured=seconds, bar=1.5, unit="s", note=note)


def timed(words: Sequence[str], code: int) -> float:
    """Seconds of a command that ends with a code."""
    start = time.perf_counter()
    done = subprocess.run([*HARNESS, *words], capture_output=True, text=True, cwd=ROOT, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != code:
        raise RuntimeError(f"exit code {done.returncode} instead of {code}: {done.stderr[-500:]}")
    return seconds


def imported(words: Sequence[str], code: int) -> list[str]:
    """Which of the heavy libraries the command imports, as the interpreter itself tells."""
    command = [sys.executable, "-X", "importtime", "-m", "harness", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    names = set(re.findall(r"^import time:.*\| +(\w+)$", done.stderr, re.MULTILINE))
    if done.returncode != code or "harness" not in names:
        raise RuntimeError(f"the imports are not told (exit code {done.returncode}): {done.stderr[-500:]}")
    return sorted(names & set(HEAVY))


def _sweep(folder: Path, repeats: int) -> list[Row]:
    events = stamped(folder / "warm.jsonl", _words(folder / "warm", "0,1"))
    first, following = first_steps(events, folder / "warm" / "runs")
    again = statistics.median(timed(_words(folder / "warm", "0,1"), 0) for _ in range(repeats))
    note = "LoRA on SmolLM2-135M: loading it and its tokens, with the server of processes warm"
    return [
        Row(name="command to first step, warm", measured=first, bar=None, unit="s", note=_parts(events, first)),
        _cold(folder / "cold"),
        Row(name="end of a run to the next one's first step", measured=following, bar=2.0, unit="s", note=note),
        Row(name="a finished sweep asked again", measured=again, bar=5.0, unit="s", note="its report included"),
    ]


def _words(folder: Path, seeds: str) -> list[str]:
    return [
        "-m", "method=lora", f"seed={seeds}", "train=smoke", "eval=smoke", "eval.tasks=[]", "tracking=none",
        f"runs_dir={folder}/runs", f"reports_dir={folder}/reports",
    ]  # fmt: skip


def _cold(folder: Path) -> Row:
    """The command when nothing that it reads is in memory; only root can have the kernel forget."""
    name = "command to first step, cold"
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError as error:
        return Row(name=name, measured=None, bar=None, unit="s", note=f"files could not be forgotten: {error}")
    folder.mkdir()
    events = stamped(folder / "events.jsonl", _words(folder, "0"))
    [first, *_] = first_steps(events, folder / "runs")
    return Row(name=name, measured=first, bar=None, unit="s", note=_parts(events, first))


def _parts(events: Sequence[tuple[float, str, Any]], first: float) -> str:
    """Seconds until each phase of the untouched model's run and of the first that trains, up to its first step."""
    began = events[0][0]
    phases = [(at - began, event["phase"]) for at, what, event in events if what == "event" and "phase" in event]
    until = [(at, name) for at, name in phases if at < first]
    return ", ".join([*(f"{name} at {at:.1f}" for at, name in until), f"first step at {first:.1f} s"])


def stamped(file: Path, words: Sequence[str]) -> list[tuple[float, str, Any]]:
    """Run a sweep, and what happened when; see `tests.bench._stamped`."""
    command = [sys.executable, "-m", "tests.bench._stamped", str(file), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-500:]}")
    return [tuple(json.loads(line)) for line in file.read_text().splitlines()]


def first_steps(events: Sequence[tuple[float, str, Any]], runs: Path) -> tuple[float, float]:
    """Seconds from the command to the first run's first step, and from the end of the run before to the last one's.

    A run tells of its first step once that is over, and its record says how long it took.
    """
    attempts = sorted((record.read(record.RunRecord, path).current for path in record.find_runs(runs)), key=_began)
    taken = [one.training.step_seconds[0] for one in attempts if one.training is not None]
    told = [at for at, what, event in events if what == "event" and event.get("step") == 1]
    if not taken or len(taken) != len(told):
        raise RuntimeError(f"{len(taken)} runs trained and {len(told)} told of a first step")
    begun = [at - seconds for at, seconds in zip(told, taken, strict=True)]
    before = max(end for end in map(_ended, attempts) if end < begun[-1])
    return begun[0] - events[0][0], begun[-1] - before


def _began(attempt: record.Attempt) -> float:
    return datetime.fromisoformat(attempt.started_at).timestamp()


def _ended(attempt: record.Attempt) -> float:
    assert attempt.seconds is not None, "it is over"
    return _began(attempt) + attempt.seconds
