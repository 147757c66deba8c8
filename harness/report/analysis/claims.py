"""Statements about methods that answered the same items: every pair with its verdict, in families.

The families are what a reader asks: each method against the untouched model, the others against the best, and every
pair. Each keeps its own level. The untouched model is deterministic: it has no seed noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from harness.records.untrusted import NO_BREAK
from harness.report import names
from harness.report.analysis.axes import gain_column, score_column
from harness.report.data.groups import EQUAL, HEADLINE, Aligned, Group, Measure, aligned, headline, unranked
from harness.report.data.groups import LEVEL as LEVEL
from harness.report.data.items import ScoredEvaluation
from harness.report.data.rows import MARGIN
from harness.report.display import collected
from harness.report.document import Column, Number, decimals_of_error, value_text

if TYPE_CHECKING:
    from harness.stats import FamilyName, MethodComparison
    from harness.stats import Pair as Result

FEWEST_ITEMS = 20  # on fewer, one answer moves a score by more than any method is expected to
MOST_PAIRED = 24  # with more methods each is compared with the base and with the best only
ROLES = ("target", "test", "validation", "retention")


@dataclass(frozen=True)
class MetricComparison:
    """Groups of one base model with the same evaluation: trained ones that may be ranked, and the base."""

    title: str  # the task and the metric
    task: str
    role: str
    measure: Measure
    num_items: int
    higher_is_better: bool
    groups: tuple[Group, ...]  # the trained ones
    base: Group | None
    left_out: tuple[tuple[Group, str], ...]  # groups that are not ranked, with the reason

    @property
    def digits(self) -> int:
        """Return the number of decimals of a value."""
        return 4 if self.measure.metric == "loss" else 3

    @property
    def name(self) -> str:
        """Return the task for people; a metric beside the usual one is named too."""
        task = names.task(self.task).display
        if self.measure.metric == "loss":
            return task if task.endswith("loss") else f"{task} loss"
        return task if self.measure.metric in HEADLINE else f"{task}, {names.metric(self.measure.metric).display}"

    @property
    def column(self) -> Column:
        """Return the column of its scores in a table for people."""
        return score_column(self.task, self.measure.metric, self.higher_is_better)

    @property
    def gains(self) -> Column:
        """Return the column of differences between its scores."""
        return gain_column(self.column)

    def shown(self, value: float) -> str:
        """Return a score in a sentence: 63.0 %."""
        text = value_text(Number(value, digits=self._digits), self.column)
        return f"{text}{NO_BREAK}%" if self.column.unit else text

    def gain_shown(self, value: float, signed: bool = True) -> str:
        """Return a difference in a sentence: +13.5 points."""
        text = value_text(Number(value, digits=self._digits, signed=signed), self.gains)
        return f"{text} points" if self.gains.unit else text

    def deviation_shown(self, value: float) -> str:
        """Return a standard deviation in a sentence, with two significant digits: 0.31 points, 0.00042."""
        return f"{value * self.gains.scale:.2g}{' points' if self.gains.unit else ''}"

    def ends_shown(self, ends: tuple[float, float]) -> str:
        """Return the ends of an interval in a sentence: +12.0 to +14.8."""
        cells = (Number(end, digits=self._digits, signed=True) for end in ends)
        return " to ".join(value_text(cell, self.gains) for cell in cells)

    @cached_property
    def _digits(self) -> int | None:
        """Return the decimals of a loss in sentences: two significant digits of its smallest error."""
        errors = [estimate.standard_error for group in self.groups if (estimate := group.score(self.measure))]
        positive = [error for error in errors if error]
        return None if self.column.unit or not positive else decimals_of_error(min(positive))

    @cached_property
    def ranked(self) -> tuple[Group, ...]:
        """Return the trained groups, best first."""
        sign = -1 if self.higher_is_better else 1
        return tuple(sorted(self.groups, key=lambda group: sign * self.rounded(group)))

    @property
    def members(self) -> tuple[Group, ...]:
        """Return all groups that are compared, the base first."""
        return (*([self.base] if self.base else []), *self.groups)

    def value(self, group: Group) -> float:
        """Return the group's score; infinitely bad where it has none."""
        estimate = group.score(self.measure)
        return estimate.value if estimate else float("-inf" if self.higher_is_better else "inf")

    def rounded(self, group: Group) -> float:
        """Return the score rounded to `EQUAL` decimals, so that methods that are level have equal scores."""
        return round(self.value(group), EQUAL)


@dataclass(frozen=True)
class Pair:
    """Two members of a contest with what the test says of `a` minus `b`, in the unit of the metric."""

    a: Group
    b: Group
    result: Result
    p_sign_flip: float | None = None  # not adjusted; None below six shared seeds
    differing: int | None = None  # items on which any seed of both differs; None where seeds cannot be paired

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the simultaneous interval; None where there is none."""
        return self.result.adjusted_interval if math.isfinite(self.result.adjusted_interval[0]) else None

    @property
    def significant(self) -> bool:
        """Return whether the methods differ significantly at the family's level."""
        return self.result.verdict in ("better", "worse")


@dataclass(frozen=True)
class Claims:
    """Claims of a contest: its pairs with their tests, in families.

    Attributes:
        contest: the groups that were compared, and the measure.
        margin: the largest difference that counts as none.
        comparison: the families with their tests; None where nothing can be paired.
        against_base: each method against the untouched model, the best first.
        against_best: each other method against the best, in the same order.
        pairs: every pair, those with the base first; the better one is `a`. With many methods those of the two
            families above alone.
        unpaired: methods that were not asked the items of the others.
    """

    contest: MetricComparison
    margin: float
    comparison: MethodComparison | None
    against_base: tuple[Pair, ...]
    against_best: tuple[Pair, ...]
    pairs: tuple[Pair, ...]
    unpaired: tuple[Group, ...]

    @property
    def between(self) -> tuple[Pair, ...]:
        """Return the pairs of trained methods."""
        return tuple(pair for pair in self.pairs if pair.b is not self.contest.base)

    @property
    def best(self) -> Group | None:
        """Return the method that the others are compared with."""
        return self.against_best[0].b if self.against_best else None

    @property
    def about_runs(self) -> bool:
        """Return whether all numbers are about single runs and none about methods."""
        return bool(self.pairs) and all(pair.result.scope == "runs" for pair in self.pairs)

    @property
    def detectable(self) -> float | None:
        """Return the median over the methods of the difference from the best that the adjusted test detects.

        Infinite where no difference of two scores is large enough; None where nothing was measured.
        """
        measured = [pair.result for pair in self.against_best if pair.result.standard_error > 0]
        reach = sorted(math.inf if result.detectable is None else result.detectable for result in measured)
        return reach[len(reach) // 2] if reach else None


def main_contests(groups: Sequence[Group], primary: str | None) -> list[MetricComparison]:
    """The contests that answer the question: those of the primary column, else of the first target, else of a loss.

    Several base models make several contests of one title.
    """
    if primary is not None:
        task, _, metric = primary.partition("/")
        losses = {"validation_loss": "validation", "test_loss": "test"}
        if primary in losses:
            return contests(groups, losses[primary])
        task = task.partition("[")[0]
        named = [contest for role in ROLES for contest in contests(groups, role, metric) if contest.task == task]
        return [contest for contest in named if contest.title == named[0].title]
    for role in ROLES:
        if of_role := contests(groups, role):
            return [contest for contest in of_role if contest.title == of_role[0].title]
    return []


def contests(groups: Sequence[Group], role: str, metric: str | None = None) -> list[MetricComparison]:
    """The contests of a role in the order of the tasks: of the headline metric of each, or of the named one."""
    members_of = collected(
        ((scored.comparison_key, wanted, group.model), (scored, group))
        for group in groups
        if group.trained and not group.random_weights
        for scored in group.role(role)
        if (wanted := "loss" if scored.loss_only else metric or headline(scored)) in scored.record.metrics
    )
    return [_contest(Measure(eval_id, str(wanted)), members) for (eval_id, wanted, _), members in members_of.items()]


def claims(contest: MetricComparison, margin: float = MARGIN) -> Claims:
    """Compare the contest's members in families."""
    if not contest.groups or contest.num_items < FEWEST_ITEMS:
        return Claims(contest, margin, None, (), (), (), ())
    members = (*contest.ranked, *([contest.base] if contest.base else []))
    table = aligned(members, contest.measure)
    if table is None or len(table.values) < 2 or len(next(iter(table.values.values()))[0]) < 2:
        return Claims(contest, margin, None, (), (), (), members[1:])
    unpaired = tuple(group for group in members if group.label in table.unpaired)
    table, sides = _named(table, members)
    compared = _compared(contest, table, margin)

    def pairs(name: FamilyName) -> tuple[Pair, ...]:
        family = compared.families.get(name)
        return tuple(
            Pair(
                sides[pair.a], sides[pair.b], pair, _sign_flip(table, pair.a, pair.b), _differing(table, pair.a, pair.b)
            )
            for pair in (family.pairs if family else ())
        )

    against_base, against_best = pairs("baseline"), pairs("best")
    every = (*against_base, *(pairs("all") if "all" in compared.families else against_best))
    return Claims(contest, margin, compared, against_base, against_best, every, unpaired)


def _compared(contest: MetricComparison, table: Aligned, margin: float) -> MethodComparison:
    """Return the families: the methods against the base, against the best, and unless they are many every two of them.

    The base model has a family of its own. Without it all pairs are those among which the best was chosen, so that a
    pair has one adjusted p-value wherever it stands.
    """
    base = next(iter(table.untouched), None)
    methods = {name: values for name, values in table.values.items() if name != base}
    settings: dict[str, Any] = {
        "level": contest.groups[0].level, "margin": margin, "higher_is_better": contest.higher_is_better,
    }  # fmt: skip
    compared = table.compared(baseline=base, families=("baseline", "best"), **settings)
    if not 2 <= len(methods) <= MOST_PAIRED:
        return compared
    among = table.compared(methods, families=("all",), deterministic=(), **settings)
    return replace(compared, families={**compared.families, **among.families})


def _named(table: Aligned, members: Sequence[Group]) -> tuple[Aligned, dict[str, Group]]:
    """Return the outcomes by the names of the groups, which reasons and remarks of the tests are made of."""
    names_of = {group.label: group.name for group in members}
    if len({*names_of.values()}) < len(members):
        names_of = {group.label: group.label for group in members}
    values = {names_of[label]: outcomes for label, outcomes in table.values.items()}
    untouched = tuple(names_of[label] for label in table.untouched)
    return replace(table, values=values, untouched=untouched), {names_of[group.label]: group for group in members}


def _contest(measure: Measure, members: Sequence[tuple[ScoredEvaluation, Group]]) -> MetricComparison:
    first, trained = members[0][0], [group for _, group in members]
    reasons = [(group, unranked(group, measure)) for group in trained]
    return MetricComparison(
        task=first.task,
        title=first.task if measure.metric == "loss" else f"{first.task} ({measure.metric})",
        role=first.role,
        measure=measure,
        num_items=first.record.num_items,
        higher_is_better=first.record.metrics[measure.metric].higher_is_better,
        groups=tuple(group for group, reason in reasons if not reason),
        base=trained[0].base(measure.eval_id),
        left_out=tuple((group, reason) for group, reason in reasons if reason),
    )


def _differing(table: Aligned, a: str, b: str) -> int | None:
    """Return the number of items on which the two differ with any seed that both have; None without such a seed."""
    import numpy as np

    gaps = table.values[a] - table.values[b]  # the single row of an untouched model is compared with every seed
    gaps = gaps[~np.isnan(gaps[:, 0])]
    return int(np.any(gaps != 0, axis=0).sum()) if len(gaps) else None


def _sign_flip(table: Aligned, a: str, b: str) -> float | None:
    """Return the exact permutation p-value over the shared seeds; None where there are too few to reach the level."""
    import numpy as np

    from harness.stats import MOST_FLIPPED, SEEDS_FOR_SIGN_FLIP, sign_flip_p

    values = table.values[a] - table.values[b]
    below = values.shape[1] if table.weights is None else table.weights.sum()
    differences = values.sum(axis=1)[~np.isnan(values[:, 0])] / below
    return sign_flip_p(differences) if SEEDS_FOR_SIGN_FLIP <= len(differences) <= MOST_FLIPPED else None
