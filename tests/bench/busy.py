"""Training steps on a processor that other programs keep busy, by how OpenMP's threads wait for one another.

An idle thread spins for a while before it sleeps. Where another program has taken a core, one thread spins through its
time slice while its peer is not running, at each of the thousands of waits of a step. Every setting is a process of its
own with the model loaded; they take turns, a step each, first alone (seven times) and then beside as many busy
processes as there are cores (five times, fewer once a setting has taken 40 s). Ratios are of medians. torch's CPU wheel
brings GNU's OpenMP, which reads GOMP_SPINCOUNT and OMP_WAIT_POLICY, and does not know Intel's KMP_BLOCKTIME.
`HARNESS_BENCH_METHODS=dora` takes that method, `HARNESS_BENCH=quick` the default of a run's process alone.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from harness.run import server
from tests.bench import Row
from tests.bench._plain import ROOT

METHODS = ("lora", "dora")
EVERY_SETTING = "lora"  # the others are looked at with the default of a run's process alone
NOTHING = "no setting"
OWN = "a run's process"
SETTINGS: dict[str, dict[str, str]] = {
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "KMP_BLOCKTIME=0": {"KMP_BLOCKTIME": "0"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
IDLE_BAR, BUSY_BAR = 1.02, 2.0
_IDLE_STEPS, _BUSY_STEPS = 7, 5
_LONGEST_SECONDS = 40.0  # of one setting in company
_OF_THREADS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "OMP_NUM_THREADS")
_BUSY = [sys.executable, "-c", "while True: pass"]


def rows() -> list[Row]:
    """Each setting's step against that of no setting, alone and in company."""
    quick = os.environ.get("HARNESS_BENCH") == "quick"
    methods = os.environ.get("HARNESS_BENCH_METHODS", ",".join(METHODS)).split(",")
    own = {NOTHING: {}, OWN: server.waiting({})}
    rows = []
    for method in methods:
        rows += _of_method(method, own if quick or method != EVERY_SETTING else {**own, **SETTINGS})
    return rows


def _of_method(method: str, settings: dict[str, dict[str, str]]) -> Iterator[Row]:
    with _processes(method, settings) as processes:
        alone = _seconds(processes, _IDLE_STEPS)
        with _busy_cores():
            beside = _seconds(processes, _BUSY_STEPS)
    for name in settings:
        if name == NOTHING:
            continue
        own = name == OWN
        variables = " ".join(f"{variable}={value}" for variable, value in settings[name].items())
        title = f"{method}, {f'{variables} as in {OWN}' if own else name}"
        yield Row(
            name=f"{title}: idle, its step / {NOTHING}", measured=_ratio(alone, name, NOTHING),
            bar=IDLE_BAR if own else None, unit="x", note=_note(alone, name),
        )  # fmt: skip
        yield Row(
            name=f"{title}: busy, {NOTHING} / its step", measured=_ratio(beside, NOTHING, name),
            bar=BUSY_BAR if own else None, unit="x", note=_note(beside, name), at_most=False,
        )  # fmt: skip


def _ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    return statistics.median(seconds[one]) / statistics.median(seconds[other])


def _note(seconds: dict[str, list[float]], name: str) -> str:
    each = (
        f"{other} {statistics.median(seconds[other]):.3f} s ({len(seconds[other])} steps)" for other in (NOTHING, name)
    )
    return ", ".join(each)


@contextlib.contextmanager
def _processes(method: str, settings: dict[str, dict[str, str]]) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Processes that train a step for each line they are sent; see `tests.bench._paced`."""
    clean = {name: value for name, value in os.environ.items() if name not in _OF_THREADS}
    words = [
        f"method={method}", "method.r=8", "train.max_length=64", "train.global_batch_size=2",
        "train.micro_batch_size=2",
    ]  # fmt: skip
    command = [sys.executable, "-m", "tests.bench._paced", *words]
    with contextlib.ExitStack() as stack:
        started = {}
        for name, setting in settings.items():
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
                env={**clean, **setting},
            )  # fmt: skip
            stack.callback(_end, process)
            started[name] = process
        for name, process in started.items():
            assert process.stdout is not None, "it is a pipe"
            if process.stdout.readline().strip() != "warm":
                raise RuntimeError(f"{name}: the process did not train: {' '.join(command)}")
        yield started


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@contextlib.contextmanager
def _busy_cores() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in os.sched_getaffinity(0):
            process = subprocess.Popen(_BUSY)
            stack.callback(process.wait)
            stack.callback(process.kill)
        time.sleep(0.5)
        yield


def _seconds(processes: dict[str, subprocess.Popen[str]], steps: int) -> dict[str, list[float]]:
    """Return the seconds of each process's steps; the processes take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(steps):
        for name, process in processes.items():
            if sum(seconds[name]) < _LONGEST_SECONDS:
                seconds[name].append(_step(process))
    return seconds


def _step(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None and process.stdout is not None, "they are pipes"
    process.stdin.write("step\n")
    process.stdin.flush()
    return float(process.stdout.readline())
