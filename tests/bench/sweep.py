"""A whole comparison with evaluation against the plain script that it replaces, on SmolLM2-135M.

The harness trains and scores `method=lora,qlora,dora,prefix` with one command; the other side is `baseline/train.py`
and then the `lm_eval` command for each method: the same rows, hyperparameters, number of optimizer steps, precision and
items. The harness scores the untouched model and held-out losses and writes its report as well, and that counts.
`HARNESS_BENCH=quick` takes three steps and a few items, `HARNESS_BENCH_METHODS=lora,prefix` those methods.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness import record
from tests.bench import Row
from tests.bench._plain import ROOT, TASKS, Plain, Size, asked_size

METHODS = ("lora", "qlora", "dora", "prefix")

Scores = dict[str, dict[str, tuple[float, float]]]  # method -> task -> accuracy and its standard error


def rows() -> list[Row]:
    """The wall time of both, and how far their scores are apart."""
    size = asked_size()
    methods = os.environ.get("HARNESS_BENCH_METHODS", ",".join(METHODS)).split(",")
    with tempfile.TemporaryDirectory() as folder:
        plain = Plain(Path(folder), size)
        theirs, by_method = 0.0, []
        for method in methods:
            seconds = [timed(command, plain.environment) for command in (plain.train(method), plain.evaluate(method))]
            theirs += sum(seconds)
            by_method.append(f"{method} {seconds[0]:.0f} + {seconds[1]:.0f} s")
        ours = timed(command_of(methods, size, Path(folder)))
        found = scores(Path(folder) / "runs", methods)
        expected = {method: plain.scores(method) for method in methods}
    what = f"{size.steps} steps, ARC-Easy {size.arc_easy}, HellaSwag {size.hellaswag}"
    note = f"{ours:.0f} / {theirs:.0f} s ({', '.join(by_method)}); {what}"
    return [Row(name="wall time", measured=ours / theirs, bar=0.5, unit="x", note=note), _apart(found, expected)]


def command_of(methods: Sequence[str], size: Size, folder: Path) -> list[str]:
    """The one command of the harness."""
    places = [f"runs_dir={folder}/runs", f"reports_dir={folder}/reports"]
    return [sys.executable, "-m", "harness", "-m", f"method={','.join(methods)}", *size.words, *places]


def timed(command: Sequence[str], environment: dict[str, str] | None = None) -> float:
    """Seconds of a command that ends well."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:3])} ended with {done.returncode}: {done.stderr[-1000:]}")
    return time.perf_counter() - start


def scores(runs: Path, methods: Sequence[str]) -> Scores:
    """What the harness has found, of the methods asked for."""
    found: Scores = {}
    for path in record.find_runs(runs):
        method = record.read(record.RunRecord, path).method
        for file in (path.parent / "evaluations").glob("*.json"):
            evaluation = record.read(record.EvaluationRecord, file)
            if method in methods and evaluation.evaluation["task"] in TASKS:
                metric = evaluation.metrics["acc"]
                found.setdefault(method, {})[evaluation.evaluation["task"]] = (metric.value, metric.stderr or 0.0)
    return found


def _apart(found: Scores, expected: Scores) -> Row:
    """The largest difference of two accuracies over its standard error, as if the items were not the same."""
    apart = []
    for method, tasks in expected.items():
        for task, (theirs, their_error) in tasks.items():
            ours, our_error = found[method][task]
            error = max((our_error**2 + their_error**2) ** 0.5, 1e-9)
            apart.append((abs(ours - theirs) / error, f"{method} {task} {ours:.3f} / {theirs:.3f}"))
    largest, which = max(apart)
    return Row(name="largest difference of scores", measured=largest, bar=3.0, unit="standard errors", note=which)
