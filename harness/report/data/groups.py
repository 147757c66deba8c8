"""Rows of one recipe, averaged over their seeds, and what may be said about the difference of two such groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.report.data.items import ScoredEvaluation, clusters, matrix, same_items, weights
from harness.report.data.rows import Row
from harness.report.document import Column, Text

if TYPE_CHECKING:
    from harness.report.data.items import Mask
    from harness.stats import Floats, MethodComparison, SeedEstimate

MOST_UNPARSABLE = 0.5  # share of unreadable answers above which a score measures the parsing and not the answers
FEWEST_PAIRED = 2  # common seeds, where the sides have further ones
ONE_SIDED = 1.645  # standard errors, the normal quantile of 95 %
LEVEL = 0.05  # of a family of comparisons
EQUAL = 12  # decimals: scores that differ by less are equal but for rounding
METHOD = Column("method", "Method", text=True)  # of the cells of groups
HEADLINE = ("acc", "exact_match,strict-match", "exact_match,flexible-extract", "exact_match")


@dataclass(frozen=True)
class Measure:
    """One number that runs are compared by: a metric of an evaluation identity."""

    eval_id: str
    metric: str


@dataclass(frozen=True, eq=False)
class Group:
    """The ok runs of one recipe in one evaluation setting, or the runs of a recipe that has no result.

    Attributes:
        label: what tells it from the other groups.
        rows: its runs.
        lost: the runs of the same recipe without a result: a seed that diverged is an outcome and no gap.
        level: of the families of comparisons in which it takes part.
        bases: the untouched models of the same base model, in the order of the records.
    """

    label: str
    rows: tuple[Row, ...]
    lost: tuple[Row, ...] = ()
    level: float = LEVEL
    bases: tuple[Group, ...] = ()

    @property
    def first(self) -> Row:
        """Return the first row, for facts that all rows share."""
        return self.rows[0]

    @property
    def ok(self) -> bool:
        """Return whether there are results."""
        return self.first.status == "ok"

    @property
    def measured(self) -> bool:
        """Return whether there are numbers to show: results, or those of an interrupted run as far as it came."""
        return self.ok or self.first.status == "interrupted"

    @property
    def trained(self) -> bool:
        """Return whether this is a method with results, not the base model."""
        return self.ok and not self.first.is_base

    @property
    def name(self) -> str:
        """Return the label in words for people: LoRA (r=8)."""
        return f"{self.first.name or self.first.label}{self.label.removeprefix(self.first.label)}"

    @property
    def cell(self) -> Text:
        """Return the cell that names the group in a table."""
        return Text(self.name, self.label)

    @property
    def random_weights(self) -> bool:
        """Return whether the base's weights are random. If so, memory and time are real and scores mean nothing."""
        return self.first.part("model").get("weights") == "random"

    @property
    def model(self) -> Any:
        """Return the identity of the base model's content; None without a record."""
        return self.first.part("model").get("content")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that have results."""
        return tuple(row.seed for row in self.rows)

    @property
    def num_seeds(self) -> str:
        """The number of seeds as a table shows it: 3, or `2 of 3` where some have no result."""
        total = len(self.rows) + len(self.lost)
        return str(total) if self.ok and not self.lost else f"{len(self.rows) if self.ok else 0} of {total}"

    @property
    def every(self) -> tuple[Row, ...]:
        """Return all runs of the recipe, those without a result last."""
        return (*self.rows, *self.lost)

    @property
    def failed(self) -> tuple[Row, ...]:
        """Return the runs without a result that do not go on."""
        return tuple(row for row in (self.lost if self.measured else self.rows) if row.status != "interrupted")

    @property
    def status(self) -> str:
        """Return the status of the runs; `missing` without a record."""
        return self.first.status or "missing"

    @cached_property
    def evaluations(self) -> dict[str, tuple[ScoredEvaluation, ...]]:
        """The evaluations that every seed has, by their identity."""
        every = [{s.comparison_key: s for s in row.scored} for row in self.rows]
        return {key: tuple(own[key] for own in every) for key in every[0] if all(key in own for own in every)}

    @property
    def scored(self) -> list[ScoredEvaluation]:
        """Return these evaluations of every seed."""
        return [scored for of_seeds in self.evaluations.values() for scored in of_seeds]

    @cached_property
    def _scores(self) -> dict[Measure, SeedEstimate | None]:
        return {}

    @cached_property
    def _gains(self) -> dict[Measure, SeedEstimate | None]:
        return {}

    def score(self, measure: Measure) -> SeedEstimate | None:
        """Return the mean over the seeds, with the standard error over items, and over seeds where there are several.

        Computed once, since tables, figures and pages all read it.
        """
        if measure not in self._scores:
            self._scores[measure] = _score(self, measure)
        return self._scores[measure]

    def gain(self, measure: Measure) -> SeedEstimate | None:
        """Return the paired difference to the untouched model; None for that itself, and where nothing is paired."""
        if measure not in self._gains:
            base = None if self.first.is_base else self.base(measure.eval_id)
            self._gains[measure] = difference(self, base, measure) if base else None
        return self._gains[measure]

    def base(self, eval_id: str) -> Group | None:
        """Return the untouched model with the same evaluation; None if there is none."""
        return next((base for base in self.bases if eval_id in base.evaluations), None)

    def own(self, role: str, task: str, measure: Measure) -> Measure | None:
        """Return the measure on the group's own evaluation of the task: on the same one if the group has it."""
        same = [scored for scored in self.role(role) if scored.task == task] if self.measured else []
        best = min(same, key=lambda scored: scored.comparison_key != measure.eval_id, default=None)
        return Measure(best.comparison_key, measure.metric) if best else None

    def role(self, role: str) -> list[ScoredEvaluation]:
        """The first seed's evaluations of a role, in their order."""
        return [scored[0] for scored in self.evaluations.values() if scored[0].role == role]


def grouped(rows: Sequence[Row], level: float = LEVEL) -> list[Group]:
    """Return the groups in the order of their first rows.

    A recipe's runs without a result belong to those that have one, else to its interrupted runs, else together.
    """
    groups: dict[str, list[Row]] = {}
    lost: dict[str, list[Row]] = {}
    ended = {status: {row.recipe_id for row in rows if row.status == status} for status in ("ok", "interrupted")}
    for row in rows:
        first = next((status for status, recipes in ended.items() if row.recipe_id in recipes), row.status)
        if row.status == "ok":
            groups.setdefault(repr((row.recipe_id, sorted(row.setting.items(), key=repr))), []).append(row)
        elif first == row.status or first not in ended:
            groups.setdefault(row.recipe_id, []).append(row)
        else:
            lost.setdefault(row.recipe_id, []).append(row)
    made = [
        Group(members[0].label, tuple(members), tuple(lost.get(members[0].recipe_id, ())), level)
        for members in groups.values()
    ]
    labels = Counter(group.label for group in made)
    named = [replace(group, label=_with_seeds(group)) if labels[group.label] > 1 else group for group in made]
    bases = [group for group in named if group.ok and group.first.is_base]
    alike = {id(group): tuple(base for base in bases if base.model == group.model) for group in named}
    return [group if group in bases else replace(group, bases=alike[id(group)]) for group in named]


def _with_seeds(group: Group) -> str:
    """Return the label with the seeds, for groups of one label that were evaluated in different ways."""
    return f"{group.label} (seed {', '.join(map(str, group.seeds))})"


def headline(scored: ScoredEvaluation) -> str | None:
    """The metric that a task is judged by: accuracy where there is one, else the first that should be high."""
    metrics = scored.record.metrics
    preferred = [name for name in HEADLINE if name in metrics]
    others = [name for name in sorted(metrics) if metrics[name].higher_is_better]
    return next(iter((*preferred, *others)), None)


def _score(group: Group, measure: Measure) -> SeedEstimate | None:
    from harness.stats import clustered, over_seeds

    scored = group.evaluations.get(measure.eval_id, ())
    metrics = [s.record.metrics.get(measure.metric) for s in scored]
    present = [metric for metric in metrics if metric is not None]
    if not present or len(present) < len(metrics):
        return None
    values = matrix(scored, measure.metric)
    if values is not None:
        return over_seeds(*clustered(values, weights(scored), clusters(scored)))
    return _of_values([metric.value for metric in present], [metric.stderr for metric in present], scored[0])


def _of_values(values: Sequence[float], errors: Sequence[float | None], first: ScoredEvaluation) -> SeedEstimate:
    """Return the mean of a metric that has no outcomes per item, from each seed's value and its standard error."""
    from statistics import fmean, variance

    from harness.stats import Part, SeedEstimate

    squares = [error**2 for error in errors if error is not None]
    parts = (
        [Part(fmean(squares), max(first.record.num_items - 1, 1))] if squares and len(squares) == len(errors) else []
    )
    if len(values) > 1:
        parts.append(Part(variance(values) / len(values), len(values) - 1))
    error = sum(part.variance for part in parts) ** 0.5 if parts else None
    return SeedEstimate(fmean(values), error, tuple(parts))


def difference(a: Group, b: Group, measure: Measure) -> SeedEstimate | None:
    """Return the value of a minus that of b on the same items; None where they do not share items and prompts."""
    from harness.stats import clustered, difference_over_seeds, over_seeds

    sides = paired_outcomes(a, b, measure)
    if sides is None:
        return None
    first, second, of_items, paired = sides
    shared = clusters(a.evaluations[measure.eval_id])
    if paired:
        return over_seeds(*clustered(first - second, of_items, shared))
    (first, sizes), (second, _) = (clustered(side, of_items, shared) for side in (first, second))
    return difference_over_seeds(first, second, sizes)


def paired_outcomes(a: Group, b: Group, measure: Measure) -> tuple[Floats, Floats, Floats | None, bool] | None:
    """Return outcomes of shape (seeds, items), the items' weights, and whether row s of both is the same seed.

    Seeds are paired where both sides have the same ones or share two and more, and the others are left out: a seed
    that one side lost does not unpair the rest, while a single pair would hide what the other seeds show of the noise.
    The untouched model is the same for every seed. None where the two were not asked the same items with the same
    prompts.
    """
    scored = [group.evaluations.get(measure.eval_id, ()) for group in (a, b)]
    if not all(scored) or not same_items([*scored[0], *scored[1]]):
        return None
    first, second = (matrix(side, measure.metric) for side in scored)
    if first is None or second is None:
        return None
    untouched = a.first.is_base or b.first.is_base
    common = sorted(set(a.seeds) & set(b.seeds))
    if untouched or not common or (len(common) < FEWEST_PAIRED and set(a.seeds) != set(b.seeds)):
        return first, second, weights(scored[0]), untouched
    first, second = (
        side[[group.seeds.index(seed) for seed in common]] for side, group in zip((first, second), (a, b), strict=True)
    )
    return first, second, weights(scored[0]), True


def outcomes(group: Group, measure: Measure) -> tuple[Floats, Floats | None] | None:
    """The group's item outcomes, shape (seeds, items), and the items' weights; None where they are not known."""
    scored = group.evaluations.get(measure.eval_id, ())
    table = matrix(scored, measure.metric)
    return None if table is None else (table, weights(scored))


def units(group: Group, measure: Measure) -> tuple[Floats, Floats | None] | None:
    """Return `outcomes` summed over the items that share a passage or a prompt, which are resampled together."""
    from harness.stats import clustered

    table = outcomes(group, measure)
    return None if table is None else clustered(*table, clusters(group.evaluations[measure.eval_id]))


@dataclass(frozen=True)
class Aligned:
    """Item outcomes of several groups on the same items, with one row for each requested seed.

    `values` holds arrays of shape (seeds, items) by label, NaN where the group has no result with that seed; that of
    an untouched model has a single row, which no seed moves.
    """

    seeds: tuple[int, ...]
    values: dict[str, Floats]
    weights: Floats | None  # of the items
    clusters: tuple[str, ...] | None  # of the items
    untouched: tuple[str, ...]  # labels
    unpaired: tuple[str, ...]  # labels of groups with other or unknown items

    def compared(self, values: Mapping[str, Floats] | None = None, **settings: Any) -> MethodComparison:
        """Test the outcomes, or others on the same items, with further settings of `compare_methods`."""
        from harness.stats import compare_methods

        own = {"weights": self.weights, "clusters": self.clusters, "deterministic": self.untouched}
        return compare_methods(self.values if values is None else values, **{**own, **settings})


def aligned(groups: Sequence[Group], measure: Measure, among: Mask | None = None) -> Aligned | None:
    """Return the outcomes of the groups that share the first one's items, by seed; None where nothing is known.

    `among` says for each item whether it is taken; None takes all.
    """
    import numpy as np

    sides = {group.label: group.evaluations.get(measure.eval_id, ()) for group in groups}
    tables = {label: matrix(scored, measure.metric, among) for label, scored in sides.items()}
    arrays = {label: table for label, table in tables.items() if table is not None}
    if not arrays:
        return None
    first = sides[next(iter(arrays))]
    sizes, shared = weights(first), clusters(first)
    values = {label: table for label, table in arrays.items() if same_items([first[0], sides[label][0]])}
    trained = [group for group in groups if group.label in values and not group.first.is_base]
    seeds = sorted({row.seed for group in trained for row in (*group.rows, *group.lost)})
    for group in trained:
        rows = np.full((len(seeds), values[group.label].shape[1]), np.nan)
        rows[[seeds.index(seed) for seed in group.seeds]] = values[group.label]
        values[group.label] = rows
    return Aligned(
        seeds=tuple(seeds),
        values=values,
        weights=sizes if sizes is None or among is None else sizes[among],
        clusters=shared if shared is None or among is None else tuple(np.array(shared)[among].tolist()),
        untouched=tuple(group.label for group in groups if group.label in values and group.first.is_base),
        unpaired=tuple(group.label for group in groups if group.label not in values),
    )


def unranked(group: Group, measure: Measure) -> str:
    """Return the reason why a score is shown but not ranked; "" where it may be ranked."""
    scored = group.evaluations.get(measure.eval_id, ())
    unparsable = [evaluation.record.num_unparsable for evaluation in scored]
    unreadable = sum(count or 0 for count in unparsable)
    asked_items = sum(evaluation.record.num_items for evaluation in scored)
    if unreadable > MOST_UNPARSABLE * asked_items:
        return f"unparsable: {unreadable:,} of {asked_items:,} answers could not be read"
    return at_chance(group, measure)


def at_chance(group: Group, measure: Measure) -> str:
    """Return that a score is at or below chance; "" where it is above.

    One-sided at 5 %, by the error of the items that a single seed was asked: seeds that vary hide no method.
    """
    metrics = [entry.record.metrics.get(measure.metric) for entry in group.evaluations.get(measure.eval_id, ())]
    estimate, chance = group.score(measure), metrics[0].chance if metrics and metrics[0] else None
    if chance is None or estimate is None:
        return ""
    sign = 1 if metrics[0] and metrics[0].higher_is_better else -1
    errors = _errors_of_items(group, measure)
    reach = ONE_SIDED * math.sqrt(sum(error**2 for error in errors) / len(errors)) if errors else 0.0
    gain = sign * (estimate.value - chance)
    if gain > reach:
        return ""
    if gain < -reach:
        return f"below chance: {estimate.value:.3f}, where guessing scores {chance:.3f}"
    return f"at chance: {estimate.value:.3f}, not distinguishable from guessing, {chance:.3f}"


def _errors_of_items(group: Group, measure: Measure) -> list[float]:
    """Return the standard error over items of each seed: as its evaluation gives it, or that of clustered items."""
    from harness.stats import over_seeds

    scored = group.evaluations.get(measure.eval_id, ())
    table = units(group, measure) if scored and clusters(scored) else None
    if table is not None:
        errors = [over_seeds(row[None], table[1]).standard_error for row in table[0]]
    else:
        metrics = [entry.record.metrics.get(measure.metric) for entry in scored]
        errors = [metric.stderr for metric in metrics if metric is not None]
    return [error for error in errors if error is not None]


def count_of_seeds(groups: Iterable[Group]) -> str:
    """Return how many seeds with a result the groups have: 3, or 2 to 3; "" without groups."""
    counts = sorted({len(group.rows) for group in groups})
    return " to ".join(str(count) for count in dict.fromkeys((*counts[:1], *counts[-1:])))
