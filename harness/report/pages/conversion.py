"""Tables of converted adapters: what LoRA of a rank lost of an update, in weights and in paired scores.

A row of converted weights (`eval.weights=converted`) stands beside its origin, the same run as it was trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, median

from harness.records.record import Conversion
from harness.report import names
from harness.report.analysis.axes import gain_column
from harness.report.data.groups import Group, Measure, headline, paired_outcomes
from harness.report.data.items import ScoredEvaluation, clusters
from harness.report.document import Block, Cell, Column, Missing, Number, Table, Text
from harness.report.figures.curves import LAYER

_PREFIX = "converted-r"
_CONVERTED, _ORIGIN = "converted", "origin"
TEXT = (
    "Each linear layer's change was cut to its largest singular values (Eckart and Young 1936) and put on the same "
    "base as LoRA of that rank. Lost: the norm of what the adapter lacks over the norm of the update, or of the "
    "weight's change; a weight outside of linear layers is lost whole. Differences: converted less its origin, paired "
    "by seed and item, with 95 % CI over items and seeds, before correction."
)


def blocks(groups: Sequence[Group]) -> list[Block]:
    """Return the tables of converted rows and how to read them; [] where nothing was converted."""
    members = [group for group in groups if group.trained and _rank(group)]
    if not members:
        return []
    origins = {group.label: _origin(group, groups) for group in members}
    made = [_whole(members), _by_kind(members), *_scores(members, origins)]
    return [*(table for table in made if table.rows), TEXT]


def _rank(group: Group) -> str:
    """Return the rank that the scored weights were converted to; "" where they are no converted ones."""
    weights = [scored.weights for scored in group.first.scored if scored.weights.startswith(_PREFIX)]
    return weights[0].removeprefix(_PREFIX) if weights else ""


def _origin(group: Group, groups: Sequence[Group]) -> list[Group]:
    """Return the rows of the same runs as they were trained."""
    same = [other for other in groups if other.trained and other.first.recipe_id == group.first.recipe_id]
    return [other for other in same if all(scored.weights == "attached" for scored in other.first.scored)]


def _conversions(group: Group) -> list[Conversion]:
    records = [row.converted for row in group.rows if row.converted is not None]
    return [record.by_rank[_rank(group)] for record in records if _rank(group) in record.by_rank]


def _whole(members: Sequence[Group]) -> Table:
    columns = (
        Column("method", "Method", text=True),
        Column("rank", "Rank", digits=0),
        Column("lost", "Update lost", "%", 100.0),
        Column("lost_elsewhere", "In weights that LoRA lacks", "%", 100.0),
        Column("weights", "Changed weights", digits=0),
    )
    rows = [
        (
            Text(group.name, group.label),
            Number(int(_rank(group))),
            _mean([made.lost for made in _conversions(group)]),
            _mean([made.lost_elsewhere for made in _conversions(group)]),
            _mean([float(len(made.weights)) for made in _conversions(group)]),
        )
        for group in members
    ]
    return Table(columns, tuple(rows), label="converted", title="Converted adapters")


def _mean(values: Sequence[float]) -> Cell:
    return Number(fmean(values)) if values else Missing("no record of the conversion")


def _by_kind(members: Sequence[Group]) -> Table:
    """Return the loss of each kind of layer: the median and the highest over its weights and the seeds."""
    columns = (
        Column("layer", "Layer", text=True),
        Column("method", "Method", text=True),
        Column("weights", "Weights", digits=0),
        Column("norm", "Norm of the change"),
        Column("lost", "Lost", "%", 100.0),
        Column("most_lost", "at most", "%", 100.0),
    )
    rows: list[tuple[Cell, ...]] = []
    for group in members:
        by_kind: dict[str, list[tuple[float, float]]] = {}
        for made in _conversions(group):
            for name, weight in made.weights.items():
                by_kind.setdefault(LAYER.split(name)[-1].removesuffix(".weight"), []).append((weight.norm, weight.lost))
        for kind, pairs in by_kind.items():
            norms, lost = [norm for norm, _ in pairs], [share for _, share in pairs]
            numbers = (len(pairs) / len(_conversions(group)), median(norms), median(lost), max(lost))
            rows.append((Text(kind), Text(group.name, group.label), *map(Number, numbers)))
    return Table(columns, tuple(rows), label="converted_weights", title="What each kind of layer lost")


def _scores(members: Sequence[Group], origins: dict[str, list[Group]]) -> Iterator[Table]:
    """Yield the scores beside the origin's: those in percent, then those in their own unit."""
    measures = [
        (group, Measure(key, metric), scored[0])
        for group in members
        for key, scored in group.evaluations.items()
        if (metric := _metric(scored[0])) is not None
    ]
    for percent in (True, False):
        scale, unit = (100.0, "%") if percent else (1.0, "")
        converted = Column("converted", "Converted", unit, scale, 1 if percent else None)
        columns = (
            Column("method", "Method", text=True),
            Column("task", "Task", text=True),
            Column("origin", "Origin", unit, scale, 1 if percent else None),
            converted,
            gain_column(converted),
        )
        rows = tuple(
            (
                Text(group.name, group.label),
                Text(_named(scored, measure)),
                *_sides(group, measure, origins[group.label]),
            )
            for group, measure, scored in measures
            if names.metric(measure.metric).percent == percent
        )
        label = f"converted_{'scores' if percent else 'losses'}"
        yield Table(columns, rows, label=label, title=f"Converted and origin, {'scores' if percent else 'losses'}")


def _metric(scored: ScoredEvaluation) -> str | None:
    metrics = scored.record.metrics
    return "loss" if "loss" in metrics else headline(scored) or next(iter(sorted(metrics)), None)


def _named(scored: ScoredEvaluation, measure: Measure) -> str:
    return f"{names.task(scored.task).short} {names.metric(measure.metric).short}"


def _sides(group: Group, measure: Measure, origins: Sequence[Group]) -> tuple[Cell, Cell, Cell]:
    """Return the score of the origin, that of the converted adapter, and the paired difference."""
    converted = group.score(measure)
    own: Cell = Number(converted.value) if converted else Missing("not scored")
    origin = next((other for other in origins if other.score(measure)), None)
    if origin is None:
        return Missing("the origin was not scored"), own, Missing("the origin was not scored")
    score = origin.score(measure)
    before: Cell = Number(score.value) if score else Missing("not scored")
    return before, own, _difference(group, origin, measure)


def _difference(group: Group, origin: Group, measure: Measure) -> Cell:
    from harness.stats import compare_methods

    sides = paired_outcomes(group, origin, measure)
    if sides is None or not sides[3]:
        return Missing("not the same items and seeds")
    ours, theirs, weights, _ = sides
    compared = compare_methods(
        {_CONVERTED: ours, _ORIGIN: theirs},
        baseline=_ORIGIN,
        families=("baseline",),
        weights=weights,
        clusters=clusters(group.evaluations[measure.eval_id]),
    )
    pair = compared.pair(_CONVERTED, _ORIGIN, family="baseline")
    interval = pair.interval if math.isfinite(pair.interval[0]) else None
    return Number(pair.difference, signed=True, interval=interval)
