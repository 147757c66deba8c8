"""What is kept of a judge: a record beside the run's evaluations."""

from __future__ import annotations

from dataclasses import dataclass

from harness.record import Strict


@dataclass(frozen=True, kw_only=True)
class JudgementRecord(Strict):
    """What a model said of one run's answers; (item id, score, reply) per answer. No key is kept."""

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
