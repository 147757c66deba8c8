"""What may be said about the methods that were asked the same thing: every pair of them with its verdict.

The untouched model is one of them. Holm's adjustment covers every pair of a contest, those with the base included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

from harness.report.data.groups import Group, Measure, base_of, headline, paired_outcomes, score, unranked
from harness.report.data.items import Scored

if TYPE_CHECKING:
    from harness.stats import Floats, SeedEstimate, Verdict

    Sides = tuple[Floats, Floats, Floats | None, bool]

LEVEL = 0.05
MARGIN = 0.01  # one point of accuracy, a hundredth of a nat: below it a difference counts as none
MOST_PAIRED = 24  # with more methods each is held against base and against the best
ROLES = ("target", "test", "validation", "retention")


@dataclass(frozen=True)
class Contest:
    """Groups of one base model that were asked the same thing: trained ones that may be ranked, and the base."""

    title: str  # the task and the metric
    role: str
    measure: Measure
    num_items: int
    higher_is_better: bool
    groups: tuple[Group, ...]  # the trained ones
    base: Group | None
    left_out: tuple[tuple[Group, str], ...]  # asked too, and why they are not ranked

    @property
    def digits(self) -> int:
        """Decimals that a value is shown with."""
        return 4 if self.measure.metric == "loss" else 3

    @cached_property
    def ranked(self) -> tuple[Group, ...]:
        """The trained groups, best first."""
        sign = -1 if self.higher_is_better else 1
        return tuple(sorted(self.groups, key=lambda group: sign * self.value(group)))

    @property
    def members(self) -> tuple[Group, ...]:
        """Everybody who is compared, the base first."""
        return (*([self.base] if self.base else []), *self.groups)

    def value(self, group: Group) -> float:
        """The group's score; infinitely bad where it has none."""
        found = score(group, self.measure)
        return found.value if found else float("-inf" if self.higher_is_better else "inf")


@dataclass(frozen=True)
class Pair:
    """Two members of a contest. `verdict` is that of `a` against `b`, after Holm's adjustment."""

    a: Group
    b: Group
    difference: SeedEstimate  # a - b in the unit of the metric
    interval: tuple[float, float]  # 95 %, bootstrapped over items and seeds
    p: float
    p_equivalence: float
    p_sign_flip: float | None  # not adjusted; None below six seeds
    test: str
    verdict: Verdict


@dataclass(frozen=True)
class Claims:
    """What a contest shows."""

    contest: Contest
    margin: float
    pairs: tuple[Pair, ...]  # the better one first; those with the base before the others
    family: int  # the comparisons that Holm's adjustment covers
    letters: dict[str, str]  # label -> letters; methods that share one are not separable; empty where pairs are missing
    detectable: float | None  # the true difference of two methods that 80 % of such comparisons would see

    @property
    def against_base(self) -> tuple[Pair, ...]:
        """The pairs with the untouched model."""
        return tuple(pair for pair in self.pairs if pair.b is self.contest.base)

    @property
    def between(self) -> tuple[Pair, ...]:
        """The pairs of trained methods."""
        return tuple(pair for pair in self.pairs if pair.b is not self.contest.base)


def main_contests(groups: Sequence[Group], primary: str | None) -> list[Contest]:
    """The contests that answer the question: those of the primary column, else of the first target, else of a loss.

    Several base models make several contests of one title.
    """
    if primary is not None:
        task, _, metric = primary.partition("/")
        losses = {"validation_loss": "validation", "test_loss": "test"}
        if primary in losses:
            return contests(groups, losses[primary])
        task = task.partition("[")[0]
        asked = [one for role in ROLES for one in contests(groups, role, metric) if one.title.startswith(f"{task} (")]
        return [one for one in asked if one.title == asked[0].title]
    for role in ROLES:
        if found := contests(groups, role):
            return [one for one in found if one.title == found[0].title]
    return []


def asked_for(groups: Sequence[Group], primary: str | None) -> Measure | None:
    """What answers the question; None where nothing does."""
    return next((one.measure for one in main_contests(groups, primary)), None)


def contests(groups: Sequence[Group], role: str, metric: str | None = None) -> list[Contest]:
    """The contests of a role in the order of the tasks: of the headline metric of each, or of the named one."""
    found: dict[tuple[str, str, object], list[tuple[Scored, Group]]] = {}
    for group in groups:
        for scored in group.role(role) if group.trained and not group.random_weights else ():
            wanted = "loss" if scored.loss_only else metric or headline(scored)
            if wanted is not None and wanted in scored.record.metrics:
                found.setdefault((scored.asked_id, wanted, group.model), []).append((scored, group))
    return [_contest(Measure(eval_id, wanted), members, groups) for (eval_id, wanted, _), members in found.items()]


def claims(contest: Contest, margin: float = MARGIN) -> Claims:
    """Compare every pair of the contest's members, or each with the base and the best where they are many."""
    if not contest.groups:
        return Claims(contest, margin, (), 0, {}, None)
    known = contest.groups[0].remembered
    key = (contest.measure, margin, tuple(id(group) for group in contest.members))
    if key not in known:  # the answer, the page and the citation all ask
        known[key] = _claims(contest, margin)
    found: Claims = known[key]
    return found


def _claims(contest: Contest, margin: float) -> Claims:
    from harness.stats import detectable, holm
    from harness.stats.claims import compare  # in harness.stats the module of that name hides it

    sides = [(pair, paired_outcomes(*pair, contest.measure)) for pair in _pairs(contest)]
    known = [(pair, found) for pair, found in sides if found and found[0].shape[1] > 1]
    intervals = _intervals([found for _, found in known])
    tested = [
        (pair, (compare(a, b, margin, weights, paired=paired), interval))
        for (pair, (a, b, weights, paired)), interval in zip(known, intervals, strict=True)
    ]
    family = len(contest.members) * (len(contest.members) - 1) // 2
    adjusted = holm([found.p for _, (found, _) in tested], family)
    alike = holm([1.0 if one.p_equivalence is None else one.p_equivalence for _, (one, _) in tested], family)
    pairs = []
    for ((a, b), (one, interval)), p, p_alike in zip(tested, adjusted, alike, strict=True):
        gain = one.difference.value if contest.higher_is_better else -one.difference.value
        verdict = _verdict(gain, p, p_alike)
        pairs.append(Pair(a, b, one.difference, interval, p, p_alike, one.p_sign_flip, one.test, verdict))
    between = [pair for pair in pairs if pair.b is not contest.base]
    reach = sorted(seen for pair in between if (seen := detectable(pair.difference.parts)) is not None)
    middle = reach[len(reach) // 2] if reach else None
    return Claims(contest, margin, tuple(pairs), family, _letters(contest.ranked, between), middle)


def _contest(measure: Measure, members: Sequence[tuple[Scored, Group]], groups: Sequence[Group]) -> Contest:
    first, trained = members[0][0], [group for _, group in members]
    reasons = [(group, unranked(group, measure)) for group in trained]
    return Contest(
        title=first.task if measure.metric == "loss" else f"{first.task} ({measure.metric})",
        role=first.role,
        measure=measure,
        num_items=first.record.num_items,
        higher_is_better=first.record.metrics[measure.metric].higher_is_better,
        groups=tuple(group for group, reason in reasons if not reason),
        base=base_of(trained[0], groups, measure.eval_id),
        left_out=tuple((group, reason) for group, reason in reasons if reason),
    )


def _pairs(contest: Contest) -> list[tuple[Group, Group]]:
    ranked = contest.ranked
    with_base = [(group, contest.base) for group in ranked if contest.base]
    if len(ranked) <= MOST_PAIRED:
        return [*with_base, *combinations(ranked, 2)]
    return [*with_base, *((ranked[0], other) for other in ranked[1:])]


def _intervals(sides: Sequence[Sides]) -> list[tuple[float, float]]:
    """The bootstrapped interval of each difference; those with the same items are resampled together."""
    from harness.stats import bootstrap, percentile_interval

    alike: dict[object, list[int]] = {}
    for index, (first, _, weights, _) in enumerate(sides):
        alike.setdefault((first.shape[1], None if weights is None else weights.tobytes()), []).append(index)
    found: dict[int, tuple[float, float]] = {}
    for members in alike.values():
        rows = [row for i in members for row in _rows(sides[i])]
        draws = iter(bootstrap(rows, sides[members[0]][2]))
        for i in members:
            found[i] = percentile_interval(next(draws) if sides[i][3] else next(draws) - next(draws))
    return [found[i] for i in range(len(sides))]


def _rows(sides: Sides) -> list[Floats]:
    first, second, _, paired = sides
    return [first - second] if paired else [first, second]


def _verdict(gain: float, p: float, p_equivalence: float) -> Verdict:
    if p < LEVEL:
        return "better" if gain > 0 else "worse"
    return "equivalent" if p_equivalence < LEVEL else "not separable"


def _letters(ranked: Sequence[Group], between: Sequence[Pair]) -> dict[str, str]:
    """The tie letters; none where some pair was not compared."""
    from harness.stats import tie_letters

    if len(ranked) < 2 or len(between) != len(ranked) * (len(ranked) - 1) // 2:
        return {}
    place = {group.label: i for i, group in enumerate(ranked)}
    apart = [(place[p.a.label], place[p.b.label]) for p in between if p.verdict in ("better", "worse")]
    return dict(zip(place, tie_letters(len(ranked), apart), strict=True))
