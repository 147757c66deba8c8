"""Trials of a tuning stage: two at once with a thread each, against one after another with every core.

Four LoRA trials on SmolLM2-135M, which differ in their seed, from the start of the first to the end of the last. Their
validation losses with one and with two threads show how far the order of sums moves a result; the distance between two
seeds is what any result varies by. `HARNESS_BENCH=quick` takes two trials of three steps.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from harness.config.compose import experiments
from harness.config.experiment import evaluations
from harness.records import record
from harness.records.record import EvaluationRecord, RunRecord
from harness.run import inputs, isolate, run
from harness.sweep import local
from tests.bench import Row

_STEPS, _SEEDS = 24, 4


def rows() -> list[Row]:
    """The time that is gained, and how far the results are apart."""
    steps, seeds = (3, 2) if os.environ.get("HARNESS_BENCH") == "quick" else (_STEPS, _SEEDS)
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        return [Row(name="trials at once", measured=None, bar=None, unit="x", note="this machine has one core")]
    with tempfile.TemporaryDirectory() as folder:
        isolate.prepare()
        warm = _experiments(Path(folder, "warm"), steps=1, seeds=1)
        _made(warm, [isolate.Share({}, cores)])
        alone, alone_seconds = _timed(_experiments(Path(folder, "alone"), steps, seeds), [isolate.Share({}, cores)])
        halves = [isolate.Share({}, cores // 2, runs=2)] * 2
        shared, shared_seconds = _timed(_experiments(Path(folder, "shared"), steps, seeds), halves)
    return [
        _time(alone_seconds, shared_seconds, f"{seeds} trials of {steps} steps"),
        _distance(alone, shared, f"{cores} and {cores // 2} threads"),
    ]


def _time(alone: float, shared: float, what: str) -> Row:
    note = f"{what}: {alone:.0f} s one after another, {shared:.0f} s two at once"
    return Row(
        name="one after another / two at once", measured=alone / shared, bar=1.2, unit="x", note=note, at_most=False
    )


def _distance(alone: Sequence[float], shared: Sequence[float], what: str) -> Row:
    """Return the largest difference that threads make, over the median difference between two seeds."""
    threads = max(abs(one - other) for one, other in zip(alone, shared, strict=True))
    seeds = statistics.median(abs(one - other) for one, other in combinations(alone, 2))
    note = f"validation loss with {what}: at most {threads:.2g} nats apart; two seeds {seeds:.2g} nats"
    return Row(name="difference by threads / by seeds", measured=threads / seeds, bar=0.5, unit="x", note=note)


def _experiments(folder: Path, steps: int, seeds: int) -> list[Any]:
    words = [
        "method=lora", "seed=" + ",".join(map(str, range(seeds))), "eval=smoke", "eval.tasks=[]", "eval.test=never",
        "eval.heldout_limit=50", f"train.max_steps={steps}", "tracking=none", f"runs_dir={folder}",
    ]  # fmt: skip
    return [inputs.resolve(experiment) for _, experiment in experiments(words)]


def _timed(trials: Sequence[Any], parts: Sequence[isolate.Share]) -> tuple[list[float], float]:
    """Return the validation loss of each trial, and the seconds that all took."""
    start = time.perf_counter()
    _made(trials, parts)
    seconds = time.perf_counter() - start
    return [_loss(experiment) for experiment in trials], seconds


def _made(trials: Sequence[Any], parts: Sequence[isolate.Share]) -> None:
    for result in local.at_once([partial(run.run, one, lambda _: None) for one in trials], parts, print):
        done: RunRecord = result.return_value
        if done.status != "ok":
            raise RuntimeError(done.current.reason)


def _loss(experiment: Any) -> float:
    [validation] = [one for one in evaluations(experiment) if one.role == "validation"]
    path = record.evaluation_path(experiment.folder, validation.eval_id)
    return record.read(EvaluationRecord, path).metrics["loss"].value
