"""Adapters of one base: seconds of loading when one command scores all of them, against a command for each.

Sixteen LoRA adapters of SmolLM2-135M, saved by plain PEFT, are scored on ten items by `harness evaluate`, the untouched
base having been scored before. Loading is the wall of a command less the seconds of its evaluations: the libraries, the
base, the adapters, and all checks and pages. Of the commands for one adapter, three are timed and stand for sixteen;
their items must equal those of the shared base to the bit. `HARNESS_BENCH=quick` times one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.records import record
from harness.records.record import EvaluationRecord, RunRecord
from tests.bench import Row

ROOT = Path(__file__).parents[2]
ADAPTERS, ALONE, ITEMS = 16, 3, 10
MODEL = "smollm2-135m"
TASK = """
task: letters
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""


def rows() -> list[Row]:
    """The share of the loading time, and the items that differ."""
    alone = 1 if os.environ.get("HARNESS_BENCH") == "quick" else ALONE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_task(folder / "task")
        _in_a_process("tests.bench.adapters:make", folder / "adapters")
        adapters = sorted((folder / "adapters").iterdir())
        for runs in ("together", "alone"):
            _command(folder, folder / runs, [MODEL])
        together = _command(folder, folder / "together", adapters)
        separate = [_command(folder, folder / "alone", [adapter]) for adapter in adapters[:alone]]
        differing = _differing(folder / "together", folder / "alone")
    each = sum(separate) / len(separate)
    note = f"{together:.1f} s for {ADAPTERS} in one command, {each:.1f} s for one alone (mean of {len(separate)})"
    share = together / (ADAPTERS * each)
    return [
        Row(
            name=f"loading of {ADAPTERS} adapters, share of a command each",
            measured=share,
            bar=0.1,
            unit="x",
            note=note,
        ),
        Row(name="adapters whose items differ from those of a command alone", measured=differing, bar=0, unit=""),
    ]


def make(folder: Path, emit: Callable[[object], None]) -> None:
    """Write the adapters as plain PEFT does, each with other weights, none of them untrained."""
    import torch
    from peft import LoraConfig, get_peft_model

    from harness.config.compose import experiments
    from harness.run import inputs
    from harness.sources import models

    [(_, experiment)] = experiments([f"model={MODEL}", "method=base", "eval.tasks=[]"])
    spec = inputs.resolve(experiment).model
    for number in range(ADAPTERS):
        torch.manual_seed(number)
        base = models.load(spec, {"dtype": torch.float32})
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear"))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.01 * torch.randn_like(parameter))
        model.peft_config["default"].base_model_name_or_path = MODEL
        model.save_pretrained(str(folder / f"adapter-{number:02}"))


def _in_a_process(function: str, folder: Path) -> None:
    from harness.run import isolate

    log = folder.with_suffix(".log")
    ended = isolate.call(function, folder, log=log)
    if ended.kind != "returned":
        raise RuntimeError(f"{ended.reason}; see {log}")


def _write_task(folder: Path) -> None:
    folder.mkdir()
    lines = [
        {"question": f"Say {chr(97 + i)}{i}:", "choices": ["a b", "c", "dd"], "answer": i % 3} for i in range(ITEMS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "letters.yaml").write_text(TASK.format(rows=folder / "rows.jsonl"))


def _command(folder: Path, runs: Path, models: Sequence[object]) -> float:
    """Return the seconds of a command outside of its evaluations."""
    before = _scoring_seconds(runs)
    words = [sys.executable, "-m", "harness.evaluate", *map(str, models), "--tasks", "letters", "--json"]
    words += [f"eval.include_path={folder / 'task'}", "--runs-dir", str(runs), "--reports-dir", str(runs / "reports")]
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-500:]}")
    return seconds - (_scoring_seconds(runs) - before)


def _scoring_seconds(runs: Path) -> float:
    records = [record.read(EvaluationRecord, path) for path in runs.glob("*/seed-*/evaluations/*.json")]
    return sum(entry.seconds or 0.0 for entry in records)


def _differing(together: Path, alone: Path) -> float:
    """Return how many adapters that were scored alone have other items than beside the others."""
    from pyarrow import parquet

    number, compared = 0, 0
    for path in record.find_runs(alone):
        if record.read(RunRecord, path).origin is None:
            continue
        compared += 1
        [own] = path.parent.glob("evaluations/*.parquet")
        other = together / own.relative_to(alone)
        number += not parquet.read_table(own).equals(parquet.read_table(other))
    if not compared:
        raise RuntimeError("no adapter was scored alone")
    return float(number)
