"""What a user without this project would run: one process to train, the `lm_eval` command on what it saved.

The script is `baseline/train.py`. Its training rows, the tasks' rows and every setting are those that the harness would
use, written out as files and options.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "baseline" / "train.py"
DTYPES = {"bf16": "bfloat16", "fp32": "float32"}
# the task's own file, the split that is scored and the key that names it
TASKS = {
    "arc_easy": ("arc/arc_easy.yaml", ("allenai/ai2_arc", "ARC-Easy", "test"), "test_split"),
    "hellaswag": ("hellaswag/hellaswag.yaml", ("Rowan/hellaswag", None, "validation"), "validation_split"),
}
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


@dataclass(frozen=True)
class Size:
    """How much is asked of every run: optimizer steps, and the first items of two tasks."""

    steps: int
    arc_easy: int
    hellaswag: int

    @property
    def words(self) -> list[str]:
        """What the harness is told; what both sides do not do alike by default is left as it is."""
        return [
            "train=demo", f"train.max_steps={self.steps}", "eval=demo", "eval.tasks=[arc_easy,hellaswag]",
            "eval.retention=[hellaswag]", f"eval.limit={self.arc_easy}", f"eval.retention_limit={self.hellaswag}",
            "tracking=none",
        ]  # fmt: skip


def asked_size() -> Size:
    """The demo's training with 200 and 100 items; quick: three steps and a few items."""
    return Size(3, 16, 8) if os.environ.get("HARNESS_BENCH") == "quick" else Size(54, 200, 100)


class Plain:
    """The files that the commands of the runs need, in a folder, and the commands."""

    def __init__(self, folder: Path, size: Size) -> None:
        from harness.run import isolate

        self._folder, self._size = folder, size
        log = folder / "prepare.log"
        ended = isolate.call("tests.bench._plain:prepare", resolved("lora", size), str(folder), log=log)
        if ended.kind != "returned":
            raise RuntimeError(f"{ended.reason}; see {log}")
        self._model = ended.value
        self.environment = {**os.environ, "HF_HOME": str(folder / "huggingface"), "HF_HUB_OFFLINE": "1"}

    def train(self, method: str) -> list[str]:
        """The command that trains a run and saves its adapter."""
        spec = resolved(method, self._size).train
        options = {
            "method": method, "model": self._model, "data": self._folder / "train.jsonl",
            "output": self._folder / method, "steps": spec.max_steps, "batch-size": spec.global_batch_size,
            "max-length": spec.max_length, "lr": spec.lr, "warmup": spec.warmup_steps, "precision": spec.precision,
            "schedule": spec.lr_scheduler_type,
        }  # fmt: skip
        return [sys.executable, str(SCRIPT), *(f"--{name}={value}" for name, value in options.items())]

    def evaluate(self, method: str) -> list[str]:
        """The command that scores the adapter."""
        dtype = DTYPES[resolved(method, self._size).train.precision]
        base = self._folder / method / "base" if method == "qlora" else self._model  # in 4 bits, as it was trained
        arguments = {"pretrained": base, "peft": self._folder / method, "dtype": dtype}
        picked = {f"plain_{task}": list(range(getattr(self._size, task))) for task in TASKS}
        return [
            sys.executable, "-m", "lm_eval", "run", "--model", "hf",
            "--model_args", ",".join(f"{name}={value}" for name, value in arguments.items()),
            "--tasks", ",".join(picked), "--include_path", str(self._folder / "tasks"),
            "--samples", json.dumps(picked), "--batch_size", "8", "--output_path", str(self._scores(method)),
        ]  # fmt: skip

    def scores(self, method: str) -> dict[str, tuple[float, float]]:
        """Each task's accuracy and its standard error."""
        [file] = self._scores(method).rglob("results_*.json")
        results = json.loads(file.read_text())["results"]
        found = {task: results[f"plain_{task}"] for task in TASKS}
        return {task: (one["acc,none"], one["acc_stderr,none"]) for task, one in found.items()}

    def _scores(self, method: str) -> Path:
        return self._folder / f"{method}-scores"


def resolved(method: str, size: Size) -> Any:
    """What the harness would run."""
    from harness.config.compose import experiments
    from harness.run import inputs

    [(_, experiment)] = experiments([f"method={method}", *size.words])
    return inputs.resolve(experiment)


def prepare(experiment: Any, folder: str, emit: Callable[[dict[str, Any]], None]) -> str:
    """Write training rows and tasks below the folder; returns where the base model lies."""
    from harness.data.prepare import prepare as prepared
    from harness.sources import models

    below = Path(folder)
    examples = prepared(experiment.data, models.tokenizer(experiment.model)).train
    _write(below / "train.jsonl", [{"prompt": one.prompt, "completion": one.completion} for one in examples])
    for task in TASKS:
        _write_task(task, below / "tasks")
    return models.location(experiment.model)[0]


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_task(task: str, folder: Path) -> None:
    """The official task on a file of its official rows."""
    import lm_eval

    from harness.data.rows import official

    name, (dataset, subset, split), key = TASKS[task]
    _write(folder / f"{task}.jsonl", official(dataset, subset, split, "package", None))
    settings = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / name), "task": f"plain_{task}", "tag": None,
        "dataset_path": "json", "dataset_name": None,
        "dataset_kwargs": {"data_files": {split: str(folder / f"{task}.jsonl")}},
        **{each: split if each == key else None for each in SPLITS},
    }  # fmt: skip
    (folder / f"plain_{task}.yaml").write_text(json.dumps(settings, indent=1) + "\n")  # JSON is YAML
