"""What measuring costs a run: the same training with and without it, step by step in turn.

LoRA on SmolLM2-135M, rows of 24 to 68 tokens. With: steps timed, tokens counted, one step followed operation by
operation, the phase looked at from both ends, the device's peak measured before and after. Without: none of that. The
two runs of a pair, each with fresh weights, take turns after every step, so that a machine that slows down slows both;
a ratio above 1 is overhead. Following a step and measuring the peak cost the same however long a run is: they weigh
more on the 60 steps of this one than on most. `HARNESS_BENCH=quick` takes two pairs of 20 steps.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from tests.bench import Row

BAR = 1.02
WARMING_STEPS = 6


def rows() -> list[Row]:
    """The median of the pairs' ratios, with its interval in the note."""
    from harness.config.compose import experiments
    from harness.run import inputs, isolate

    quick = os.environ.get("HARNESS_BENCH") == "quick"
    pairs, steps = (2, 20) if quick else (4, 60)
    words = ["method=lora", "train=smoke", f"train.max_steps={steps}", "train.max_length=128"]
    batch = ["train.global_batch_size=8", "train.micro_batch_size=8"]
    [(_, experiment)] = experiments([*words, *batch])
    log = Path(tempfile.gettempdir()) / "harness-bench-overhead.log"
    ended = isolate.call("tests.bench.overhead:measured", inputs.resolve(experiment), pairs, log=log)
    if ended.kind != "returned":
        raise RuntimeError(f"{ended.reason}; see {log}")
    return [
        _row("wall time", [one["with"][0] / one["without"][0] for one in ended.value], steps),
        _row("processor time", [one["with"][1] / one["without"][1] for one in ended.value], steps),
    ]


def _row(name: str, ratios: list[float], steps: int) -> Row:
    low, high, coverage = interval(ratios)
    note = (
        f"{len(ratios)} pairs of {steps} steps in turn, {coverage:.1%} interval of the median {low:.3f} to {high:.3f}"
    )
    return Row(name=name, measured=statistics.median(ratios), bar=BAR, unit="x", note=note)


def interval(values: list[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """An interval of the median from the order of the values alone (sign test), with what it covers.

    That is at least `confidence`, or, where there are too few values for it, what their ends cover.
    """
    from scipy.stats import binom

    ordered, number = sorted(values), len(values)
    missed = [2 * float(binom.cdf(cut - 1, number, 0.5)) for cut in range(1, (number + 1) // 2 + 1)]
    cut = max(1, sum(one <= 1 - confidence for one in missed))
    return ordered[cut - 1], ordered[number - cut], 1 - missed[cut - 1]


SIDES = ("with", "without")


class Turns:
    """Lets one of two threads go on at a time, and sums the seconds and processor seconds of its turns."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._left = list(SIDES)
        self._turn = self._left[0]
        self._marks = _now()
        self.spent = dict.fromkeys(SIDES, (0.0, 0.0))

    def begin(self, side: str) -> None:
        """Wait for the side's turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._turn == side)
            self._marks = _now()

    def pass_on(self, side: str, ends: bool = False) -> None:
        """The side has had its turn; unless it ends, it goes on with its next one."""
        with self._changed:
            self.spent[side] = tuple(a + b - c for a, b, c in zip(self.spent[side], _now(), self._marks, strict=True))
            others = [one for one in self._left if one != side]
            self._turn = others[0] if others else side
            if ends:
                self._left.remove(side)
            self._changed.notify_all()
        if not ends:
            self.begin(side)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def measured(experiment: Any, pairs: int, emit: Callable[[dict[str, Any]], None]) -> list[dict[str, tuple[float, ...]]]:
    """Seconds and processor seconds of both sides of every pair; a short one that does not count comes first."""
    from harness.run import worker

    worker.quiet()
    _pair(replace(experiment, train=replace(experiment.train, max_steps=WARMING_STEPS)))
    return [_pair(experiment) for _ in range(pairs)]


def _pair(experiment: Any) -> dict[str, tuple[float, float]]:
    turns = Turns()
    with ThreadPoolExecutor(len(SIDES)) as threads:
        for done in [threads.submit(_side, experiment, side, turns) for side in SIDES]:
            done.result()
    return turns.spent


def _side(experiment: Any, side: str, turns: Turns) -> None:
    turns.begin(side)
    try:
        _train(experiment, side == "with", lambda _: turns.pass_on(side))
    finally:
        turns.pass_on(side, ends=True)


def _train(experiment: Any, measures: bool, after_step: Callable[[Any], None]) -> None:
    """The side that measures has made its meter when the other one begins."""
    import torch

    from harness.measure import mfu
    from harness.measure.memory import Phases
    from harness.train import loop as train

    with tempfile.TemporaryDirectory() as scratch:
        job = _job(experiment, measures, scratch, after_step)
        if not measures:
            with mock.patch.object(train, "StepMeter", _silent()):
                train.train(job)
            return
        phases = Phases(torch.cuda.is_available(), lambda name: None)
        dtype, cuda = train.compute_dtype(experiment.train.precision), torch.cuda.is_available()
        before = mfu.measured(dtype, cuda)
        with phases("train"):
            training = train.train(job)
        mfu.with_share(training, before, mfu.measured(dtype, cuda))


def _job(experiment: Any, profile: bool, scratch: str, after_step: Callable[[Any], None]) -> Any:
    import transformers

    from harness.run import worker
    from harness.sources import models
    from harness.train.loop import Job, compute_dtype

    method, spec = experiment.method, experiment.train
    tokens = [[100 + (7 * i + k) % 1000 for k in range(24 + 4 * (i % 12))] for i in range(64)]
    lines = [{"input_ids": ids, "completion_mask": [0] * 12 + [1] * (len(ids) - 12)} for ids in tokens]
    transformers.set_seed(0)
    base = models.load(experiment.model, method.load_options(compute_dtype(spec.precision)), method.read)
    tokenizer = models.tokenizer(experiment.model)
    model = method.attach(base, worker.setting(experiment, tokenizer, lines))
    return Job(
        model=model, method=method, rows=lines, spec=spec, seed=0, tokenizer=tokenizer, validate=lambda: 0.0,
        emit=after_step, scratch=scratch, profile=profile,
    )  # fmt: skip


def _silent() -> Any:
    """A meter that neither counts nor looks at a clock."""
    from harness.measure.steps import StepMeter

    class Silent(StepMeter):
        def start(self) -> None:
            pass

        def micro_batch(self, attention_mask_BT: Any, labels_BT: Any) -> None:  # shape suffixes: batch, tokens
            pass

        def end_step(self) -> None:
            pass

        def settle(self) -> None:
            pass

    return Silent
