"""The page of the updates' shapes: how much each method changed the weights and in which directions. A pure function.

Two methods with one score may differ in their updates; the measurements of `harness.adapter info` show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

from harness.records.record import UpdateRecord, WeightUpdate, write_text
from harness.records.untrusted import escaped
from harness.report.data.groups import Group
from harness.report.display import DASH, decimals, quantity, table
from harness.report.figures.update import LAYER, matrices

PAGE = "update.md"


def write(groups: Sequence[Group], folder: Path, figure: bool = False) -> Path | None:
    """Write update.md, with a link to its figure if there is one. Where no update was measured, delete an old page."""
    measured = [group for group in groups if group.trained and _updates(group)]
    if not measured:
        (folder / PAGE).unlink(missing_ok=True)
        return None
    missing = [group for group in groups if group.trained and not _updates(group)]
    return write_text(page(measured, missing, figure), folder / PAGE)


def page(measured: Sequence[Group], missing: Sequence[Group], figure: bool) -> str:
    """`update.md` for the groups that were measured."""
    parts = [
        "# The shape of the updates",
        "What each method added to the base's weights: D = tuned weight - weight, per matrix; medians over the "
        "matrices, averaged over the seeds. " + _settings(measured),
        _overall(measured),
        *(_reasons(measured)),
        *(["Not measured: " + ", ".join(escaped(group.label) for group in missing)] if missing else []),
        *(
            ["![Norm, effective rank, alignment and intruder dimensions by layer](figures/update.png)"]
            if figure
            else []
        ),
        "## By kind of layer",
        _by_kind(measured),
        "## What the columns mean",
        *_MEANING,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_HEADER = (
    "Matrices", "Relative norm", "Effective rank", "of", "Stable rank", "Alignment left", "right", "Intruders",
)  # fmt: skip
_MEANING = (
    "Relative norm: the Frobenius norm of D over that of the weight. Effective rank: the exponential of the entropy of "
    "D's normalized singular values (Roy and Vetterli 2007), at most the number after it. Stable rank: the squared "
    "Frobenius norm over the squared spectral norm.",
    "Alignment: how much of the span of D's top singular vectors lies in the span of as many of the weight's (Hu et "
    "al. 2021, arXiv 2106.09685, section 7.3): 1 is all of it, chance gives their number over the side's length.",
    "Intruders: top left singular vectors of the tuned weight that resemble none of the weight's (Shuttleworth et al. "
    "2024, arXiv 2410.21228); summed over the matrices above, per kind their mean per matrix below.",
)


def _updates(group: Group) -> list[UpdateRecord]:
    return [row.update for row in group.rows if row.update is not None]


def _settings(groups: Sequence[Group]) -> str:
    found = {(u.num_top, u.epsilon) for group in groups for u in _updates(group)}
    return " ".join(
        f"Looked at: the top {top} singular vectors; an intruder's cosine similarity is below {epsilon}."
        for top, epsilon in sorted(found)
    )


def _overall(groups: Sequence[Group]) -> str:
    lines = []
    for group in groups:
        seeds = [[*matrices(update).values()] for update in _updates(group)]
        if any(seeds):
            total = mean(sum(one.intruder_dimensions or 0 for one in seed) for seed in seeds)
            lines.append((escaped(group.label), *_cells([seed for seed in seeds if seed]), quantity(total)))
    return table(("Method", *_HEADER), lines) if lines else ""


def _reasons(groups: Sequence[Group]) -> list[str]:
    said = [
        f"- {escaped(group.label)}: {escaped(u.reason)}" for group in groups for u in _updates(group)[:1] if u.reason
    ]
    vectors = [
        f"- {escaped(group.label)}: only vectors changed, relative norm {_vectors(group)}"
        for group in groups
        if not any(matrices(u) for u in _updates(group)) and any(u.weights for u in _updates(group))
    ]
    return ["\n".join([*said, *vectors])] if said or vectors else []


def _vectors(group: Group) -> str:
    found = [one.relative_norm for u in _updates(group) for one in u.weights.values() if one.relative_norm is not None]
    return f"{median(found):.3g}" if found else DASH


def _by_kind(groups: Sequence[Group]) -> str:
    kinds = list(dict.fromkeys(_kind(name) for group in groups for u in _updates(group) for name in matrices(u)))
    lines = []
    for kind in kinds:
        for group in groups:
            seeds = [[one for name, one in matrices(u).items() if _kind(name) == kind] for u in _updates(group)]
            if all(seeds):
                each = mean(mean(one.intruder_dimensions or 0 for one in seed) for seed in seeds)
                lines.append((escaped(kind), escaped(group.label), *_cells(seeds), decimals(each, 2)))
    return table(("Layer", "Method", *_HEADER), lines, text=("Method",)) if lines else "No matrix changed."


def _kind(name: str) -> str:
    """self_attn.q_proj of model.layers.3.self_attn.q_proj.weight: what follows the layer's number."""
    return LAYER.split(name)[-1].removesuffix(".weight")


def _cells(seeds: Sequence[Sequence[WeightUpdate]]) -> tuple[str, ...]:
    """Number of matrices, then the medians; the number after the effective rank is the most that it could be."""
    most = median(min(one.shape) for one in seeds[0])

    def middle(name: str) -> float | None:
        found = [[v for one in seed if (v := getattr(one, name)) is not None] for seed in seeds]
        return mean(median(values) for values in found if values) if any(found) else None

    norm = middle("relative_norm")
    return (
        str(len(seeds[0])),
        DASH if norm is None else f"{norm:.3g}",
        quantity(middle("effective_rank")),
        quantity(most),
        quantity(middle("stable_rank")),
        *(
            DASH if value is None else decimals(value, 3)
            for value in map(middle, ("alignment_left", "alignment_right"))
        ),
    )
