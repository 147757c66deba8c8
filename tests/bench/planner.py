"""The planner's error per method: the predicted peak of live bytes against the tracked peak of real steps.

SmolLM2-135M in float32 on the CPU, two steps of four rows in micro batches of two, each in a process of its own.
`HARNESS_BENCH=quick` looks at three methods.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import Row

METHODS = (
    "full", "head", "lora", "dora", "vera", "ia3", "ln_tuning", "prompt", "p_tuning", "prefix", "adapter", "qlora",
)  # fmt: skip
QUICK = ("full", "lora", "qlora")
NO_CHECKPOINTING = ("prefix",)  # refuses it
BARS = {"qlora": 5.0}
LENGTH, ROWS = 64, 8


def rows() -> list[Row]:
    """The error of every method, with and without gradient checkpointing."""
    from harness.config.compose import experiments
    from harness.plan.devices import named
    from harness.run import inputs

    methods = QUICK if os.environ.get("HARNESS_BENCH") == "quick" else METHODS
    cases = [(m, c) for m in methods for c in (False, True) if not (c and m in NO_CHECKPOINTING)]
    described = [inputs.resolve(experiment) for case in cases for _, experiment in experiments(_words(*case))]
    assert len(described) == len(cases)
    plans = _elsewhere("harness.plan.predict:cells", described, named("cpu"), None)
    found = []
    for (method, checkpointed), experiment, plan in zip(cases, described, plans, strict=True):
        peak = _elsewhere("tests.bench.planner:tracked_peak", experiment)
        error = 100 * abs(plan["peak_bytes"] / peak - 1) if plan["peak_bytes"] else None
        note = plan["unpredicted"] or f"{plan['peak_bytes'] / 2**20:.1f} MiB predicted, {peak / 2**20:.1f} tracked"
        name = f"{method}{', checkpointed' * checkpointed}"
        found.append(Row(name=name, measured=error, bar=BARS.get(method, 2.0), unit="%", note=note))
    return found


def _words(method: str, checkpointed: bool) -> list[str]:
    return [
        f"method={method}", "train=smoke", "train.max_steps=2", "train.precision=fp32", f"train.max_length={LENGTH}",
        "train.global_batch_size=4", "train.micro_batch_size=2",
        f"train.gradient_checkpointing={str(checkpointed).lower()}",
    ]  # fmt: skip


def _elsewhere(function: str, *arguments: Any) -> Any:
    from harness.run import isolate

    log = Path(tempfile.gettempdir()) / "harness-bench-planner.log"
    ended = isolate.call(function, *arguments, log=log, terms=isolate.WITHOUT_GPU)  # all of it is a CPU's
    if ended.kind != "returned":
        raise RuntimeError(f"{ended.reason}; see {log}")
    return ended.value


def tracked_peak(experiment: Any, emit: Callable[[dict[str, Any]], None]) -> int:
    """The highest sum of live storages while the real loop trains on whole rows."""
    import gc

    import transformers

    from harness.measure.operations import LiveBytes, tensors_in
    from harness.run import worker
    from harness.sources import models
    from harness.train.loop import Job, compute_dtype, train

    worker.quiet()
    method, spec = experiment.method, experiment.train
    whole = [{"input_ids": [100 + i] * LENGTH, "completion_mask": [1] * LENGTH} for i in range(ROWS)]
    transformers.set_seed(0)
    base = models.load(experiment.model, method.load_options(compute_dtype(spec.precision)), method.read)
    tokenizer = models.tokenizer(experiment.model)
    model = method.attach(base, worker.setting(experiment, tokenizer, whole))
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(
            model=model, method=method, rows=whole, spec=spec, seed=0, tokenizer=tokenizer, validate=lambda: 0.0,
            emit=lambda _: None, scratch=scratch, profile=False,
        )  # fmt: skip
        gc.collect()
        live = LiveBytes()
        live.hold(tensors_in(model), "weights")
        with live:
            train(job)
    return live.peak_bytes
