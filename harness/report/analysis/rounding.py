"""The precision of evaluations: where it biases a comparison, and by how much bfloat16 would change a loss."""

from collections.abc import Sequence

from harness.report.data.groups import Group
from harness.report.data.items import ScoredEvaluation

LOSS_IN_BF16 = "loss_in_bf16"  # in the provenance of a validation: the same loss, computed in bfloat16


def remarks(groups: Sequence[Group]) -> list[str]:
    """Return a line for evaluations in bfloat16, and one for what it would change of the others."""
    trained = [group for group in groups if group.ok and group.trained]
    rounded = [group.name for group in trained if any(_precision(scored) == "bf16" for scored in _all(group))]
    lines = []
    if rounded:
        lines.append(
            f"Evaluated in bf16: {', '.join(rounded)}. Rounding cancels a part of a small update, more of it for some "
            "methods than for others, so that differences between methods are biased; eval.precision=fp32 evaluates "
            "the same weights again."
        )
    changes = [f"{change:+.4f} ({group.name})" for group in trained if (change := _change(group)) is not None]
    if changes:
        lines.append(
            f"Evaluated in fp32. Computed in bf16 the validation loss differs by, in nats: {', '.join(changes)}."
        )
    return lines


def _change(group: Group) -> float | None:
    """Return the mean over seeds of the validation loss in bfloat16 less that in float32; None where none was taken."""
    changes = [
        scored.record.provenance[LOSS_IN_BF16] - scored.record.metrics["loss"].value
        for scored in _all(group)
        if LOSS_IN_BF16 in scored.record.provenance and "loss" in scored.record.metrics
    ]
    return sum(changes) / len(changes) if changes else None


def _all(group: Group) -> list[ScoredEvaluation]:
    return [scored for several in group.evaluations.values() for scored in several]


def _precision(scored: ScoredEvaluation) -> str:
    precision: str = scored.record.evaluation["precision"]
    return precision
