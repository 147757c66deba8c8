"""The multiverse of an answer: the share of all defensible analyses of the same records in which a verdict holds.

Each analysis takes one way at every fork: the outcome (the metrics of the primary task, that task without contaminated
items, the test loss, the mean over the target tasks, that mean with each task left out), the treatment of a lost seed,
the margin, and the rule that chose the recipes. A verdict that one small change turns is fragile, whatever its p-value.

Source: Steegen, Tuerlinckx, Gelman and Vanpaemel, Increasing transparency through a multiverse analysis, Perspectives
on Psychological Science, volume 11, 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.report import names
from harness.report.analysis import contamination
from harness.report.analysis.claims import MetricComparison, contests
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Aligned, Group, Measure, aligned
from harness.report.display import collected

if TYPE_CHECKING:
    from harness.stats import Family, FamilyName, Floats

LOST = ("lost seeds left out", "only the seeds that every method has", "lost seeds scored as the untouched model")
MARGINS = (1.0, 0.5, 2.0)  # times the margin of the report
RULES = ("lowest_validation_loss", "one_standard_error")
TEXT = (
    "Every verdict against the untouched model and against the best, over all defensible analyses of the same records: "
    "other metrics of the task, that task without contaminated items, the test loss, the mean over the tasks and that "
    "mean with each task left out, other margins, other ways to count lost seeds, the other rule of choice where it "
    "chooses the same recipes."
)
_VERDICTS = ("better", "worse", "equivalent")


@dataclass(frozen=True)
class Outcome:
    """One way to measure a method: aligned outcomes, and whether they should be high."""

    name: str
    sides: Aligned
    higher_is_better: bool


@dataclass(frozen=True)
class Robustness:
    """Robustness of a verdict of the answer over all analyses.

    Attributes:
        a: label of the method that the verdict is about.
        b: label of the method that it is compared with.
        verdict: in the analysis of the report.
        held: analyses with the same verdict.
        analyses: analyses that are possible on these records.
        turned_by: the smallest change that gives another verdict; "" where none does.
        instead: the verdict after that change.
    """

    a: str
    b: str
    verdict: str
    held: int
    analyses: int
    turned_by: str = ""
    instead: str = ""

    @property
    def share(self) -> float:
        """Return the share of the analyses in which the verdict holds."""
        return self.held / self.analyses


def multiverse(comparison: Comparison) -> list[Robustness]:
    """Return every verdict of the answer with its share, in the order of the answer's families."""
    return [result for contest in comparison.contests for result in _of_contest(contest, comparison)]


def lines(results: Sequence[Robustness], named: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Return a sentence for each verdict that an analysis turns, and one for those that hold in all.

    `named` holds the names of labels for people.
    """
    words = {"better": "better than", "worse": "worse than", "equivalent": "equivalent to"}
    steady, turned = [], []
    for result in results:
        claim = f"{named.get(result.a, result.a)} {words[result.verdict]} {named.get(result.b, result.b)}"
        if result.held == result.analyses:
            steady.append((result.analyses, claim))
            continue
        change = f"; the smallest change that turns it is {result.turned_by} ({result.instead})"
        share = f"holds in {result.held} of {result.analyses} analyses ({result.share:.0%})"
        turned.append(f"{claim}: {share}{change if result.turned_by else ''}.")
    return [
        *(f"Hold in all {count} analyses: {'; '.join(claims)}." for count, claims in collected(steady).items()),
        *turned,
    ]


def _of_contest(contest: MetricComparison, comparison: Comparison) -> list[Robustness]:
    if not contest.groups:  # every method is shown and none is ranked, as at chance
        return []
    outcomes = list(_outcomes(contest, comparison))
    if len(contest.members) < 2 or not outcomes:
        return []
    forks = (outcomes, _lost_ways(outcomes[0].sides), MARGINS)
    verdicts = [
        (changes, _verdicts(way, contest, comparison.loaded.margin))
        for way in product(*forks)
        if (changes := _changes(way, outcomes[0].name)) is not None
    ]
    labels = {contest.ranked[0].label, contest.base.label if contest.base else ""}
    headline = {p: verdict for p, verdict in verdicts[0][1].items() if verdict in _VERDICTS and labels & {*p}}
    rules = _other_rules(comparison)
    return [_robustness(pair, verdict, verdicts, rules) for pair, verdict in headline.items()]


def _robustness(
    pair: tuple[str, str],
    verdict: str,
    verdicts: Sequence[tuple[list[str], dict[tuple[str, str], str]]],
    rules: Mapping[str, frozenset[str]],
) -> Robustness:
    """Count where the verdict holds; another rule that chooses the same recipes repeats every analysis."""
    others = [(changes, other[pair]) for changes, other in verdicts if pair in other]
    repeats = 1 + sum({*pair}.isdisjoint(moved) for moved in rules.values())
    held = sum(other == verdict for _, other in others)
    turned = [(len(changes), place) for place, (changes, other) in enumerate(others) if other != verdict]
    counted = Robustness(*pair, verdict=verdict, held=held * repeats, analyses=len(others) * repeats)
    if not turned:
        return counted
    changes, instead = others[min(turned)[1]]
    return replace(counted, turned_by=" with ".join(changes), instead=instead)


def _changes(way: tuple[Outcome, str, float], reference: str) -> list[str]:
    """Return the choices in which an analysis departs from the report."""
    outcome, lost, margin = way
    return [
        *([outcome.name] if outcome.name != reference else []),
        *([lost] if lost != LOST[0] else []),
        *([f"{margin:g} times the margin"] if margin != MARGINS[0] else []),
    ]


def _verdicts(way: tuple[Outcome, str, float], contest: MetricComparison, margin: float) -> dict[tuple[str, str], str]:
    """Return (method, other) -> verdict of one analysis, for pairs with the untouched model and of methods."""
    outcome, lost, factor = way
    values = _with_lost(outcome.sides, lost)
    base = contest.base.label if contest.base else None
    settings: dict[str, Any] = {
        "level": contest.groups[0].level, "margin": margin * factor, "higher_is_better": outcome.higher_is_better,
    }  # fmt: skip
    families: dict[FamilyName, Family] = {}
    if base in values:
        families.update(outcome.sides.compared(values, baseline=base, families=("baseline",), **settings).families)
    methods = {label: own for label, own in values.items() if label != base}
    if len(methods) > 1:  # the base has a family of its own, as in the answer
        families.update(outcome.sides.compared(methods, families=("all",), deterministic=(), **settings).families)
    order = [group.label for group in contest.ranked]
    verdicts: dict[tuple[str, str], str] = {}
    for name, family in families.items():
        for pair in family.pairs:
            turned = name == "all" and order.index(pair.a) > order.index(pair.b)
            mirrored = {"better": "worse", "worse": "better"}.get(pair.verdict, pair.verdict)
            verdicts[(pair.b, pair.a) if turned else (pair.a, pair.b)] = mirrored if turned else pair.verdict
    return verdicts


def _outcomes(contest: MetricComparison, comparison: Comparison) -> Iterator[Outcome]:
    """Yield the report's own outcome first, then every other that measures the same methods."""
    whole, groups = len(contest.members), comparison.groups
    first = _outcome(contest, contest.name)
    if first is None or len(first.sides.values) < whole:
        return
    yield first
    clean = contamination.clean_items(contest, comparison.loaded)
    sides = None if clean is None else aligned(contest.members, contest.measure, clean)
    if sides is not None and len(sides.values) == whole:
        yield Outcome(f"{contest.name} without contaminated items", sides, contest.higher_is_better)
    for metric in _metrics(contest):
        other = replace(contest, measure=Measure(contest.measure.eval_id, metric))
        displays = [names.metric(name).display for name in (metric, contest.measure.metric)]
        made = _outcome(other, " in place of ".join(displays))
        if made is not None and len(made.sides.values) == whole:
            yield made
    for loss in contests(groups, "test"):
        made = _outcome(replace(loss, groups=contest.groups, base=contest.base), "the test loss")
        if loss.measure != contest.measure and made is not None and len(made.sides.values) == whole:
            yield made
    yield from _means(contest, groups, whole)


def _outcome(contest: MetricComparison, name: str) -> Outcome | None:
    sides = aligned(contest.members, contest.measure)
    return None if sides is None else Outcome(name, sides, contest.higher_is_better)


def _metrics(contest: MetricComparison) -> list[str]:
    """Return the other metrics of the task that have outcomes per item and the same direction."""
    scored = contest.groups[0].evaluations[contest.measure.eval_id][0]
    recorded = scored.items.outcomes if scored.items else {}
    return [
        name
        for name, metric in sorted(scored.record.metrics.items())
        if name != contest.measure.metric and name in recorded and metric.higher_is_better == contest.higher_is_better
    ]


def _means(contest: MetricComparison, groups: Sequence[Group], whole: int) -> Iterator[Outcome]:
    """Yield the mean over the target tasks, and the mean with each of them left out."""
    tasks = []
    for candidate in contests(groups, "target"):
        made = _outcome(replace(candidate, groups=contest.groups, base=contest.base), candidate.name)
        if made is not None and len(made.sides.values) == whole and made.higher_is_better:
            tasks.append(made)
    if len(tasks) < 2 or contest.role != "target":
        return
    yield _mean("the mean over the target tasks", tasks)
    for left_out in tasks if len(tasks) > 2 else ():
        left = [task for task in tasks if task is not left_out]
        yield _mean(f"the mean over the target tasks without {left_out.name}", left)


def _mean(name: str, tasks: Sequence[Outcome]) -> Outcome:
    """Return the mean over tasks of equal weight: the items of all tasks together, their outcomes scaled."""
    import numpy as np

    sizes = [next(iter(outcome.sides.values.values())).shape[1] for outcome in tasks]
    scales = [sum(sizes) / (len(sizes) * size) for size in sizes]
    values = {
        label: np.concatenate(
            [task.sides.values[label] * scale for task, scale in zip(tasks, scales, strict=True)], axis=1
        )
        for label in tasks[0].sides.values
    }
    clusters = tuple(
        f"{place}/{cluster}"
        for place, (task, size) in enumerate(zip(tasks, sizes, strict=True))
        for cluster in (task.sides.clusters or tuple(map(str, range(size))))
    )
    clustered = any(outcome.sides.clusters for outcome in tasks)
    sides = replace(tasks[0].sides, values=values, weights=None, clusters=clusters if clustered else None)
    return Outcome(name, sides, higher_is_better=True)


def _lost_ways(sides: Aligned) -> tuple[str, ...]:
    """Return the ways to treat lost seeds; only the first where no seed was lost."""
    import numpy as np

    if not any(np.isnan(values).any() for values in sides.values.values()):
        return LOST[:1]
    return LOST if sides.untouched else LOST[:2]


def _with_lost(sides: Aligned, way: str) -> dict[str, Floats]:
    import numpy as np

    trained = [label for label in sides.values if label not in sides.untouched]
    values = dict(sides.values)
    if way == LOST[1]:
        whole = np.all([~np.isnan(values[label][:, 0]) for label in trained], axis=0)
        if whole.any():
            values |= {label: values[label][whole] for label in trained}
    elif way == LOST[2]:
        plain = values[sides.untouched[0]]
        values |= {label: np.where(np.isnan(values[label]), plain, values[label]) for label in trained}
    return values


def _other_rules(comparison: Comparison) -> dict[str, frozenset[str]]:
    """Rule -> labels of the methods for which another rule chooses a recipe that has no results here."""
    from harness.records.selection import choose

    loaded = comparison.loaded
    record = loaded.sweep.tuning if loaded.sweep else None
    if record is None:
        return {}
    labels = {row.cell.contestant: row.label for row in loaded.rows if row.cell and row.cell.contestant}
    return {
        rule: frozenset(
            labels[contestant.name]
            for contestant in comparison.tuning
            if contestant.name in labels
            and choose(contestant.name, contestant.trials, rule).recipe_id != contestant.choice.recipe_id
        )
        for rule in RULES
        if rule != record.rule
    }
