"""Seconds that each method's evaluation takes over LoRA's, on SmolLM2-135M, and what float32 costs.

Answer losses of 16 held-out science questions; models untrained, held in bf16. Before: under autocast, with all that a
forward pass computes from weights alone computed again in each. After: in float32, with it computed once. The two take
turns in one process for each method; the least of three counts, on an idle machine. Making the
float32 copies is part of the time. `HARNESS_BENCH=quick` takes one turn, `HARNESS_BENCH_METHODS=lora,dora` those
methods (LoRA has to be among them).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from tests.bench import Row

METHODS = (
    "lora", "base", "qlora", "dora", "qdora", "vera", "adalora", "ia3", "prefix", "prompt", "adapter", "ln_tuning",
    "full",
)  # fmt: skip
BARS = {"dora": 1.3}
NUM_ROWS, TURNS, ROOM = 16, 3, 2**33


def rows() -> list[Row]:
    """A ratio of each method to LoRA, and its own of float32 to what was before."""
    from harness.run import isolate

    log = Path(os.environ.get("TMPDIR", "/tmp")) / "harness-bench-scoring.log"
    turns = 1 if os.environ.get("HARNESS_BENCH") == "quick" else TURNS
    seconds = {}
    for method in os.environ.get("HARNESS_BENCH_METHODS", ",".join(METHODS)).split(","):
        ended = isolate.call("tests.bench.scoring:measured", method, turns, log=log)
        if ended.kind != "returned":
            raise RuntimeError(f"{ended.reason}; see {log}")
        seconds[method] = ended.value
    found = []
    for method, (before, after) in seconds.items():
        note = f"before {before / seconds['lora'][0]:.2f} x; {after:.2f} s, before {before:.2f} s"
        if method != "lora":
            ratio = after / seconds["lora"][1]
            found.append(Row(name=f"{method} / lora", measured=ratio, bar=BARS.get(method), unit="x", note=note))
        found.append(Row(name=f"{method}: after / before", measured=after / before, bar=None, unit="x"))
    return found


def measured(method: str, turns: int, emit: Any) -> tuple[float, float]:
    """Seconds before and after."""
    from harness.evaluate.precision import computing
    from tests.bench._evaluated import loaded, loss

    work = loaded(f"method={method}")
    model, held_out = work.model, work.heldout["test"][:NUM_ROWS]
    before, after = [], []
    for _ in range(turns):
        start = time.perf_counter()
        loss(model, held_out, "bf16")
        before.append(time.perf_counter() - start)
        start = time.perf_counter()
        with work.experiment.method.fixed_weights(model), computing(model, "fp32", ROOM):
            loss(model, held_out, "fp32")
        after.append(time.perf_counter() - start)
    return min(before), min(after)
