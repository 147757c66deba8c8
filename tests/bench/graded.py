"""Graded outcomes beside accuracy: the same direction, from fewer items, over every pair of small trained models.

SmolLM2-135M is trained on science questions by several methods for a few steps, and every model answers the same items
of ARC-Easy and OpenBookQA. Each pair has a paired t by accuracy and one by the probability of the right choice, plain
and normalized by length. A pair is separable where both pass 1.96. Items saved: t squared less its expectation without
any difference, summed over the pairs, by the graded outcome over that by accuracy; equal power needs so many times
fewer items. Evaluated in bfloat16. `HARNESS_BENCH=quick` takes LoRA alone and 60 items,
`HARNESS_BENCH_METHODS=lora,dora` those methods.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from harness.stats import mean_and_standard_error
from tests.bench import Row

METHODS, STEPS = ("lora", "dora", "ia3", "full"), (8, 24)
TASKS, ITEMS = ("arc_easy", "openbookqa"), 260
BESIDE = {"acc": "p_right", "acc_norm": "p_right_norm"}
SEPARABLE = 1.96
SAME, FEWEST_SAVED = 0.95, 1.5

Answers = Mapping[str, Sequence[float]]  # outcomes of the items by "task metric"


def rows() -> list[Row]:
    """Train, score and compare every pair, for each way to normalize."""
    quick = os.environ.get("HARNESS_BENCH") == "quick"
    methods = ("lora",) if quick else tuple(os.environ.get("HARNESS_BENCH_METHODS", ",".join(METHODS)).split(","))
    models = [_scored("base", 0, 60 if quick else ITEMS)]
    models += [_scored(method, steps, 60 if quick else ITEMS) for method in methods for steps in STEPS]
    return [row for plain, graded in BESIDE.items() for row in compared(models, plain, graded)]


def compared(models: Sequence[Answers], plain: str, graded: str) -> Iterator[Row]:
    """Yield how an accuracy and its graded outcome agree over every pair of models and every task."""
    pairs = [
        (_t(a[f"{task} {plain}"], b[f"{task} {plain}"]), _t(a[f"{task} {graded}"], b[f"{task} {graded}"]))
        for a, b in combinations(models, 2)
        for task in TASKS
    ]
    by_accuracy, by_graded = np.array(pairs).T
    both = (np.abs(by_accuracy) > SEPARABLE) & (np.abs(by_graded) > SEPARABLE)
    agree = float(np.mean((by_accuracy * by_graded > 0)[both])) if both.any() else None
    effect = float((by_accuracy**2 - 1).sum())
    saved = float((by_graded**2 - 1).sum()) / effect if effect > 0 else None
    found = [
        f"{int((np.abs(one) > SEPARABLE).sum())} by {name}" for one, name in ((by_accuracy, plain), (by_graded, graded))
    ]
    note = f"{len(pairs)} pairs of {len(models)} models and {len(TASKS)} tasks; separable: {', '.join(found)}"
    yield Row(name=f"{graded}: same direction as {plain}", measured=agree, bar=SAME, unit="", note=note, at_most=False)
    yield Row(name=f"{graded}: items saved", measured=saved, bar=FEWEST_SAVED, unit="x", at_most=False,
              note=f"root mean square of t: {_size(by_graded):.2f} against {_size(by_accuracy):.2f}")  # fmt: skip


def _t(first: Sequence[float], second: Sequence[float]) -> float:
    value, error = mean_and_standard_error(np.array(first) - np.array(second))
    return value / error if error else 0.0


def _size(values: np.ndarray) -> float:
    return math.sqrt(float((values**2).mean()))


def _scored(method: str, steps: int, items: int) -> Answers:
    from harness.run import isolate

    log = Path(os.environ.get("TMPDIR", "/tmp")) / "harness-bench-graded.log"
    ended = isolate.call("tests.bench.graded:measured", method, steps, items, log=log)
    if ended.kind != "returned":
        raise RuntimeError(f"{ended.reason}; see {log}")
    return dict(ended.value)


def measured(method: str, steps: int, items: int, emit: Any) -> dict[str, list[float]]:
    """Return the outcomes of every item of one model by "task metric"; `base` is not trained."""
    from harness.config.experiment import Evaluation
    from harness.evaluate import tasks
    from tests.bench._evaluated import loaded

    trained = method != "base"
    work = loaded(f"method={method if trained else 'lora'}", f"train.max_steps={max(steps, 1)}")
    if trained:
        work.fit()
    outcomes = {}
    for name in TASKS:
        look = Evaluation(
            kind="lm_eval", task=name, role="target", rows="package", limit=items, num_fewshot=None,
            chat_template=False, precision="bf16", batch_size=16, batch_tokens=2048,
        )  # fmt: skip
        task = tasks.load(name, "package", None)
        _, columns, _ = tasks.score(work.model, work.tokenizer, task, look, lambda done, total: None)
        for metric in (*BESIDE, *BESIDE.values()):
            outcomes[f"{name} {metric}"] = [float(one) for one in columns[f"metric/{metric}"]]
    return outcomes
