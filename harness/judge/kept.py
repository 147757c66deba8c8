"""Storage of a judge's verdicts: a record beside the run's evaluations, and a file until all are received."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from harness.judge.model import Verdict
from harness.records.base import Strict


@dataclass(frozen=True, kw_only=True)
class JudgementRecord(Strict):
    """Verdicts of a model on one run's answers; (item id, score, reply) per answer. The key is not recorded."""

    schema: int
    eval_id: str
    judged_at: str  # ISO 8601, UTC
    endpoint: str
    model: str
    rubric: str
    prompt: str  # with places for the rubric, the question, the reference and the answer
    score_range: tuple[int, int]
    mean: float | None
    stderr: float | None
    num_unparsable: int  # replies without a score in the range, which are left out of the mean
    verdicts: tuple[tuple[str, float | None, str], ...]
    weights_from: str | None


class Unfinished:
    """File of verdicts, one per line, so that a retry does not request, and perhaps pay for, the same ones again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Verdict]:
        """Return the verdicts by item id. Incomplete lines are skipped."""
        found = {}
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.is_file() else []
        for line in lines:
            try:
                verdict = Verdict(*json.loads(line))
            except (ValueError, TypeError):
                continue
            found[verdict.item_id] = verdict
        return found

    def add(self, verdict: Verdict) -> None:
        """Append a verdict."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([verdict.item_id, verdict.score, verdict.reply]) + "\n")

    def remove(self) -> None:
        """Remove the file, once its verdicts are in a record."""
        self._path.unlink(missing_ok=True)
