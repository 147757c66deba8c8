"""The page of the updates' shapes: how much each method changed the weights and in which directions. A pure function.

Two methods with one score may differ in their updates; the measurements of `harness.adapter info` show it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median

from harness.records.record import UpdateRecord, WeightUpdate, write_text
from harness.report.data.groups import Group
from harness.report.display import DASH
from harness.report.document import Bullets, Cell, Column, Figure, Missing, Number, Section, Table, Text
from harness.report.figures.curves import LAYER, matrices
from harness.report.writers.markdown import to_markdown

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
    """Return `update.md` for the groups that were measured."""
    how = (
        "What each method added to the base's weights: D = tuned weight - weight, per matrix; medians over the "
        f"matrices, averaged over the seeds. {_settings(measured)}"
    )
    unmeasured = f"Not measured: {', '.join(group.name for group in missing)}." if missing else ""
    drawn = [Figure("figures/update.png", "Norm, effective rank, alignment and intruder dimensions by layer", "")]
    sections = (
        Section("Updates", (how, _overall(measured), Bullets(tuple(_reasons(measured))), unmeasured, *drawn[:figure])),
        Section("By kind of layer", (_by_kind(measured), "" if _kinds(measured) else "No matrix changed.")),
        Section("Definitions", _MEANING),
    )
    return to_markdown("The shape of the updates", sections)


_MEASURED = (
    Column("matrices", "Matrices", digits=0),
    Column("relative_norm", "Relative norm"),
    Column("effective_rank", "Effective rank"),
    Column("most", "of"),
    Column("stable_rank", "Stable rank"),
    Column("alignment_left", "Alignment left", digits=3),
    Column("alignment_right", "right", digits=3),
)
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
    kinds = {(u.num_top, u.epsilon) for group in groups for u in _updates(group)}
    return " ".join(
        f"Looked at: the top {top} singular vectors; an intruder's cosine similarity is below {epsilon}."
        for top, epsilon in sorted(kinds)
    )


def _overall(groups: Sequence[Group]) -> Table:
    rows = []
    for group in groups:
        seeds = [[*matrices(update).values()] for update in _updates(group)]
        if any(seeds):
            total = mean(sum(weight.intruder_dimensions or 0 for weight in seed) for seed in seeds)
            rows.append((Text(group.name, group.label), *_cells([seed for seed in seeds if seed]), Number(total)))
    columns = (Column("method", "Method", text=True), *_MEASURED, Column("intruders", "Intruders"))
    return Table(columns, tuple(rows), title="Updates")


def _reasons(groups: Sequence[Group]) -> Iterator[str]:
    """Yield why a method has no matrices to measure."""
    for group in groups:
        yield from (f"{group.name}: {update.reason}" for update in _updates(group)[:1] if update.reason)
        if not any(matrices(update) for update in _updates(group)) and any(u.weights for u in _updates(group)):
            yield f"{group.name}: only vectors changed, relative norm {_vectors(group)}"


def _vectors(group: Group) -> str:
    norms = [
        weight.relative_norm
        for u in _updates(group)
        for weight in u.weights.values()
        if weight.relative_norm is not None
    ]
    return f"{median(norms):.3g}" if norms else DASH


def _kinds(groups: Sequence[Group]) -> list[str]:
    every = (name for group in groups for update in _updates(group) for name in matrices(update))
    return list(dict.fromkeys(map(_kind, every)))


def _by_kind(groups: Sequence[Group]) -> Table:
    rows = []
    for kind in _kinds(groups):
        for group in groups:
            seeds = [[matrix for name, matrix in matrices(u).items() if _kind(name) == kind] for u in _updates(group)]
            if all(seeds):
                average = mean(mean(weight.intruder_dimensions or 0 for weight in seed) for seed in seeds)
                rows.append((Text(kind), Text(group.name, group.label), *_cells(seeds), Number(average)))
    columns = (Column("layer", "Layer", text=True), Column("method", "Method", text=True), *_MEASURED)
    return Table((*columns, Column("intruders", "Intruders", digits=2)), tuple(rows), title="By kind of layer")


def _kind(name: str) -> str:
    """self_attn.q_proj of model.layers.3.self_attn.q_proj.weight: what follows the layer's number."""
    return LAYER.split(name)[-1].removesuffix(".weight")


def _cells(seeds: Sequence[Sequence[WeightUpdate]]) -> tuple[Cell, ...]:
    """Return the number of matrices and the medians, with the most that the effective rank could be."""

    def middle(name: str) -> Cell:
        values = [[value for matrix in seed if (value := getattr(matrix, name)) is not None] for seed in seeds]
        return Number(mean(median(part) for part in values if part)) if any(values) else Missing("not measured")

    return (
        Number(len(seeds[0])),
        middle("relative_norm"),
        middle("effective_rank"),
        Number(median(min(matrix.shape) for matrix in seeds[0])),
        *map(middle, ("stable_rank", "alignment_left", "alignment_right")),
    )
