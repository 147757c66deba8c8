"""A whole comparison with evaluation against the plain script that it replaces, and its memory, on SmolLM2-135M.

The harness trains and scores `method=lora,qlora,dora,prefix` with one command; the other side is `baseline/train.py`
and then the `lm_eval` command for each method: the same rows, hyperparameters, number of optimizer steps, precision and
items. The harness scores the untouched model and held-out losses and writes its report as well, and that counts.
Peaks of resident memory are the kernel's; of the plain script's two processes the larger one counts.
`HARNESS_BENCH=quick` takes three steps and a few items, `HARNESS_BENCH_METHODS=lora,prefix` those methods.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.measure import hardware
from harness.records import record
from tests.bench import Row
from tests.bench._plain import TASKS, Plain, Size, asked_size
from tests.bench._watch import Watched, watched

METHODS = ("lora", "qlora", "dora", "prefix")
WITH_AMX, BAR = 0.45, 0.35  # plain PyTorch gains more from AMX, so that less is left to gain
MEGABYTE = 10**6

Scores = dict[str, dict[str, tuple[float, float]]]  # method -> task -> accuracy and its standard error


def rows() -> list[Row]:
    """The wall time of both, how far their scores are apart, and peaks of memory."""
    size = asked_size()
    methods = os.environ.get("HARNESS_BENCH_METHODS", ",".join(METHODS)).split(",")
    with tempfile.TemporaryDirectory() as folder:
        plain = Plain(Path(folder), size)
        theirs = {
            method: [watched(command, plain.environment) for command in (plain.train(method), plain.evaluate(method))]
            for method in methods
        }
        ours = watched(command_of(methods, size, Path(folder)))
        found = scores(Path(folder) / "runs", methods)
        expected = {method: plain.scores(method) for method in methods}
    return [_wall(ours, theirs, size), _apart(found, expected), *_memory(ours, theirs)]


def _wall(ours: Watched, theirs: dict[str, list[Watched]], size: Size) -> Row:
    seconds = sum(one.seconds for commands in theirs.values() for one in commands)
    by_method = [f"{method} {train.seconds:.0f} + {score.seconds:.0f} s" for method, (train, score) in theirs.items()]
    what = f"{size.steps} steps, ARC-Easy {size.arc_easy}, HellaSwag {size.hellaswag}"
    note = f"{ours.seconds:.0f} / {seconds:.0f} s ({', '.join(by_method)}); {what}"
    bar = WITH_AMX if "AMX" in hardware.bfloat16_units() else BAR
    return Row(name="wall time", measured=ours.seconds / seconds, bar=bar, unit="x", note=note)


def _memory(ours: Watched, theirs: dict[str, list[Watched]]) -> list[Row]:
    """The largest run of each side; the fork server shares what it has with its runs."""
    if not {0, 1, 2} <= set(ours.peaks):
        raise RuntimeError(f"processes at depths {sorted(ours.peaks)}: a command, a server and its runs are expected")
    parent, server, run = (ours.peaks[depth] / MEGABYTE for depth in (0, 1, 2))
    plain = {
        method: max(one for each in commands for one in each.peaks.values()) / MEGABYTE
        for method, commands in theirs.items()
    }
    note = f"{run:,.0f} MB / {', '.join(f'{method} {peak:,.0f}' for method, peak in plain.items())} MB"
    return [
        Row(
            name="peak of a run / the plain script's", measured=run / max(plain.values()), bar=1.05, unit="x", note=note
        ),
        Row(name="peak of a sweep's parent", measured=parent, bar=150.0, unit="MB"),
        Row(name="peak of the fork server", measured=server, bar=700.0, unit="MB", note="shared with its children"),
    ]


def command_of(methods: Sequence[str], size: Size, folder: Path) -> list[str]:
    """The one command of the harness."""
    places = [f"runs_dir={folder}/runs", f"reports_dir={folder}/reports"]
    return [sys.executable, "-m", "harness", "-m", f"method={','.join(methods)}", *size.words, *places]


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
