"""The page of the updates' shapes: how much each method changed the weights and in which directions. A pure function.

Two methods with one score may differ in their updates; the measurements of `harness.adapter info` show it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median

from harness.records.record import UpdateRecord, WeightUpdate, write_text
from harness.report.data.groups import METHOD, Group
from harness.report.display import DASH
from harness.report.document import Bullets, Column, Figure, Section, Table
from harness.report.figures.curves import LAYER, matrices
from harness.report.writers.markdown import to_markdown

PAGE = "update.md"
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
    limits = sorted({(update.num_top, update.epsilon) for group in measured for update in _updates(group)})
    looked_at = (
        f"Looked at: the top {top} singular vectors; an intruder's cosine similarity is below {epsilon}."
        for top, epsilon in limits
    )
    how = (
        "What each method added to the base's weights: D = tuned weight - weight, per matrix; medians over the "
        f"matrices, averaged over the seeds. {' '.join(looked_at)}"
    )
    unmeasured = f"Not measured: {', '.join(group.name for group in missing)}." if missing else ""
    drawn = [Figure("figures/update.png", "Norm, effective rank, alignment and intruder dimensions by layer", "")]
    changed = any(matrices(update) for group in measured for update in _updates(group))
    sections = (
        Section("Updates", (how, _overall(measured), Bullets(tuple(_reasons(measured))), unmeasured, *drawn[:figure])),
        Section("By kind of layer", (_by_kind(measured), "" if changed else "No matrix changed.")),
        Section("Definitions", _MEANING),
    )
    return to_markdown("The shape of the updates", sections)


def _updates(group: Group) -> list[UpdateRecord]:
    return [row.update for row in group.rows if row.update is not None]


def _overall(groups: Sequence[Group]) -> Table:
    rows = []
    for group in groups:
        seeds = [[*matrices(update).values()] for update in _updates(group)]
        if any(seeds):
            total = mean(sum(weight.intruder_dimensions or 0 for weight in seed) for seed in seeds)
            rows.append((group.cell, *_cells([seed for seed in seeds if seed]), total))
    columns = (METHOD, *_MEASURED, Column("intruders", "Intruders"))
    return Table.of(columns, rows, "not measured", title="Updates")


def _reasons(groups: Sequence[Group]) -> Iterator[str]:
    """Yield why a method has no matrices to measure."""
    for group in groups:
        updates = _updates(group)
        yield from (f"{group.name}: {update.reason}" for update in updates[:1] if update.reason)
        if not any(map(matrices, updates)) and any(update.weights for update in updates):
            changed = (weight.relative_norm for update in updates for weight in update.weights.values())
            norms = [norm for norm in changed if norm is not None]
            yield f"{group.name}: only vectors changed, relative norm {f'{median(norms):.3g}' if norms else DASH}"


def _by_kind(groups: Sequence[Group]) -> Table:
    every = (name for group in groups for update in _updates(group) for name in matrices(update))
    rows = []
    for kind in dict.fromkeys(map(_kind, every)):
        for group in groups:
            seeds = [[matrix for name, matrix in matrices(u).items() if _kind(name) == kind] for u in _updates(group)]
            if all(seeds):
                average = mean(mean(weight.intruder_dimensions or 0 for weight in seed) for seed in seeds)
                rows.append((kind, group.cell, *_cells(seeds), average))
    columns = (Column("layer", "Layer", text=True), METHOD, *_MEASURED, Column("intruders", "Intruders", digits=2))
    return Table.of(columns, rows, "not measured", title="By kind of layer")


def _kind(name: str) -> str:
    """self_attn.q_proj of model.layers.3.self_attn.q_proj.weight: what follows the layer's number."""
    return LAYER.split(name)[-1].removesuffix(".weight")


def _cells(seeds: Sequence[Sequence[WeightUpdate]]) -> Iterator[float | None]:
    """Yield the number of matrices and the medians, with the most that the effective rank could be."""

    def middle(name: str) -> float | None:
        values = [[value for matrix in seed if (value := getattr(matrix, name)) is not None] for seed in seeds]
        return mean(median(part) for part in values if part) if any(values) else None

    yield len(seeds[0])
    yield from map(middle, ("relative_norm", "effective_rank"))
    yield median(min(matrix.shape) for matrix in seeds[0])
    yield from map(middle, ("stable_rank", "alignment_left", "alignment_right"))
