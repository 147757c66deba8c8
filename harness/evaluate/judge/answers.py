"""A run's generated answers, from the items beside its evaluation. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.records import record
from harness.records.record import EvaluationRecord, RunRecord


@dataclass(frozen=True)
class Answer:
    """A prompt, the generated answer and the reference answer."""

    item_id: str
    prompt: str
    answer: str
    reference: str


@dataclass(frozen=True)
class Answers:
    """All answers of one evaluation of a run."""

    run_folder: Path
    method: str
    evaluation: EvaluationRecord
    answers: tuple[Answer, ...]


def read(run_folder: Path, task: str | None) -> Answers:
    """Read the answers of the run's evaluation with generated text, or of the one named `task` (a task or eval_id).

    Raises:
        ValueError: there is no run, no such evaluation, or several to choose from.
    """
    path = run_folder / "record.json"
    if not path.is_file():
        raise ValueError(f"{run_folder}: no record.json in it; give a run's folder, runs/<recipe_id>/seed-<n>")
    run = record.read(RunRecord, path)
    every = [record.read(EvaluationRecord, evaluation) for evaluation in sorted(run_folder.glob("evaluations/*.json"))]
    current = [evaluation for evaluation in every if evaluation.weights_from == run.current.weights_from]
    written = [evaluation for evaluation in current if evaluation.evaluation["kind"] == "generation"]
    chosen = [evaluation for evaluation in written if task in (None, evaluation.evaluation["task"], evaluation.eval_id)]
    if len(chosen) != 1:
        names = ", ".join(f"{evaluation.evaluation['task']} ({evaluation.eval_id})" for evaluation in written) or "none"
        raise ValueError(
            f"{run_folder}: {len(chosen)} evaluations with generated answers fit {task or 'what was asked'}; there are "
            f"{names}. Make one with eval.generation_rows=<rows>, name one with --task"
        )
    return Answers(run_folder, run.method, chosen[0], _answers(run_folder, chosen[0]))


def _answers(run_folder: Path, evaluation: EvaluationRecord) -> tuple[Answer, ...]:
    from pyarrow import parquet

    path = record.evaluation_path(run_folder, evaluation.eval_id).with_suffix(".parquet")
    with parquet.ParquetFile(path) as file:
        columns = file.read(columns=["item_id", "question", "answer", "target"]).to_pydict()
    return tuple(Answer(*values) for values in zip(*columns.values(), strict=True))
