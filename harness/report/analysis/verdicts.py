"""The verdicts as tables: one for each family of comparisons, with what they rest on, and a matrix of every pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from harness.report.analysis.claims import MOST_PAIRED, Claims, Pair
from harness.report.data.groups import METHOD, Group, count_of_seeds
from harness.report.display import counted, several
from harness.report.document import Cell, Column, Missing, Note, Number, Table, Text, as_cell, p_text

if TYPE_CHECKING:
    from harness.stats import FamilyName


FAMILIES = (
    "The best method is chosen from the same scores, so that its family covers every pair. p-values are adjusted by "
    "the maximum of |t| in one step: the simultaneous intervals invert the same test."
)
WORDS = {
    "better": "significantly better",
    "worse": "significantly worse",
    "equivalent": "equivalent",
    "not significant": "no significant difference",
    "no verdict": "no verdict",
}
MOST_EQUIVALENT = 0.9995  # p-values that are shown as 1.000 say nothing
MOST_REASONS = 6  # why pairs have no verdict
MOST_SHOWN = 36  # pairs: eight methods and the base


def families(result: Claims) -> list[Table]:
    """Return the tables of the answer: each method against the base, and the others against the best."""
    base = _table("against_base", "Against the base model", result.against_base, result)
    best = _table("against_best", "Against the best method", result.against_best, result)
    return [table for table in (base, best) if table.rows]


def conditions(result: Claims, family: FamilyName) -> str:
    """Return on what a family of comparisons rests: its items, seeds, test and size."""
    assert result.comparison is not None
    count = result.comparison.families[family].comparisons
    return (
        f"{result.contest.num_items:,} items, {seeds_of(result)}; paired t test, adjusted for "
        f"{count:,} {'comparison' if count == 1 else 'comparisons'} at a family-wise error of "
        f"{100 * result.comparison.level:g} %."
    )


def _table(label: Literal["against_base", "against_best"], title: str, pairs: Sequence[Pair], result: Claims) -> Table:
    """Return one line per pair: the difference with its simultaneous interval, the p-values and the verdict."""
    family: FamilyName = "baseline" if label == "against_base" else "best"
    caption = f"{title} on {result.contest.name}: {conditions(result, family)}" if pairs else ""
    columns = (
        METHOD,
        Column("against", "vs.", text=True),
        replace(result.contest.gains, key="difference", title="Difference (simultaneous 95 % CI)"),
        Column("p", "p", p_values=True),
        Column("p_adjusted", "p, adjusted", p_values=True),
        Column("p_equivalence", "p, equivalence", p_values=True),
        Column("p_sign_flip", "p, sign flip", p_values=True),
        Column("verdict", "Verdict", text=True),
    )
    rows = tuple(_row(pair, result) for pair in pairs)
    return Table(columns, rows, caption=caption, label=label, title=title).without_empty()


def _row(pair: Pair, result: Claims) -> tuple[Cell, ...]:
    test = pair.result
    digits = result.contest.digits if not result.contest.gains.unit else None
    measured = math.isfinite(test.interval[0])
    alike = None if test.verdict == "no verdict" or (test.equivalence_p or 0) >= MOST_EQUIVALENT else test.equivalence_p
    p_values = (*((test.p, test.adjusted_p) if measured else (None, None)), alike, pair.p_sign_flip)
    return (
        pair.a.cell,
        pair.b.cell,
        Number(test.difference, None, digits, signed=True, interval=pair.interval),
        *(as_cell(p, test.why) for p in p_values),
        Text(words(pair), test.verdict),
    )


def words(pair: Pair) -> str:
    """Return the verdict in the field's words; of two single runs what they show, and that it is no verdict."""
    test = pair.result
    if test.scope == "runs" and math.isfinite(test.interval[0]):
        return "these runs differ significantly" if test.runs_differ else "these runs do not differ significantly"
    return WORDS[test.verdict]


def explained(result: Claims) -> list[str]:
    """Return how the verdicts were made, with their own numbers."""
    contest, compared = result.contest, result.comparison
    if compared is None:
        return []
    lines = [FAMILIES]
    if compared.seed_deviation is not None:
        sources = [pair.result.pooled for pair in (*result.against_best, *result.pairs) if pair.result.pooled]
        source = f"; {sources[0]}" if sources else ""  # nothing varied, and no pair has a variance
        lines.append(
            f"Test: t test with separate degrees of freedom for items and seeds, paired by both{source}. Seeds of a "
            f"method deviate by {contest.deviation_shown(compared.seed_deviation)} (standard deviation)."
        )
    elif result.about_runs:
        lines.append("Test: paired t test over items. One seed a side: p-values and intervals hold for these runs.")
    lines += [
        f"{name}: its seeds scatter {ratio:.1f} times as much as those of the other "
        "methods (one-sided F test, 5 % for each method), so that its comparisons rest on its own few seeds."
        for name, ratio in compared.unlike.items()
    ]
    lines += [line for line in (equivalence_line(result), detectable_line(result)) if line]
    lines += withheld(result)
    if len(contest.groups) > MOST_PAIRED:
        lines.append(f"{len(contest.groups):,} methods: compared with the base model and the best, not in all pairs.")
    if result.unpaired:
        lines.append(f"Not compared, since the items differ: {several([g.name for g in result.unpaired], 8)}.")
    lines += [f"Not ranked: {group.name}: {reason}." for group, reason in contest.left_out]
    return lines


def withheld(result: Claims) -> list[str]:
    """Return why pairs have no verdict, each reason once; where every method has one seed the test itself says it."""
    scope = "runs" if result.about_runs else ""
    withheld_pairs = [pair.result for pair in result.pairs if pair.result.why and pair.result.scope != scope]
    reasons = list(dict.fromkeys(test.why for test in withheld_pairs))
    more = [f"{len(reasons) - MOST_REASONS} further reasons are in the tables of numbers."]
    listed = [f"No verdict: {reason}." for reason in reasons[:MOST_REASONS]]
    return [*listed, *(more if len(reasons) > MOST_REASONS else [])]


def detectable_line(result: Claims) -> str:
    """Return the minimum detectable difference of the test that was used; "" where there is none."""
    if result.detectable is None:
        return ""
    what = "two runs" if result.about_runs else "a method and the best"
    if math.isinf(result.detectable):
        return (
            f"No difference between {what} is detected with 80 % power, adjusted for the family, by {seeds_of(result)} "
            f"and {result.contest.num_items:,} items: take more seeds."
        )
    return (
        f"Minimum detectable difference between {what}: {result.contest.gain_shown(result.detectable, signed=False)} "
        f"(80 % power, adjusted for the family), with {seeds_of(result)} and {result.contest.num_items:,} items."
    )


def equivalence_line(result: Claims) -> str:
    """Return how many items or seeds a verdict of equivalence would take; "" where it is within reach or cannot be."""
    from harness.stats import needed_for_equivalence

    pairs = [pair.result for pair in result.against_best if pair.result.verdict != "no verdict"]
    if not pairs or any(pair.verdict == "equivalent" for pair in pairs):
        return ""
    middle = sorted(pairs, key=lambda pair: pair.standard_error)[len(pairs) // 2]
    units = result.contest.num_items
    items, seeds = needed_for_equivalence(middle, result.margin, units)
    if (items is not None and items <= units) or (seeds is not None and seeds <= middle.seeds):
        return ""  # two equal methods would have been called equivalent
    needs = [f"{items:,} items"] if items else []
    needs += [f"{seeds:,} seeds"] if seeds else []
    how = f"about {' or '.join(needs)} would be needed" if needs else "more items and more seeds would be needed"
    margin = result.contest.gain_shown(result.margin, signed=False)
    return f"Equivalence within {margin} is out of reach here: {how} (80 % power, no true difference)."


def seeds_of(result: Claims) -> str:
    """Return how many seeds a method has: 3 seeds, 2 to 3 seeds."""
    counts = count_of_seeds(result.contest.groups)
    return f"{counts} seed{'' if counts == '1' else 's'} per method"


def pairs(result: Claims) -> Table | None:
    """Return the matrix of the pairs, best method first; None where fewer than two methods were compared.

    A number in row a and column b is the score of a minus that of b.
    """
    contest, compared = result.contest, result.comparison
    everyone = (*contest.ranked, *([contest.base] if contest.base else []))
    members = [group for group in everyone if group not in result.unpaired]
    if compared is None or "all" not in compared.families or len(members) < 2:
        return None
    by_pair = {frozenset((pair.a.label, pair.b.label)): pair for pair in result.pairs}
    percent = bool(contest.gains.unit)
    columns = [Column(group.label, f"({place})", scale=contest.gains.scale) for place, group in enumerate(members, 1)]
    rows = tuple(
        (
            Text(f"({i}) {a.name}", a.label),
            *(
                _pair_cell(by_pair.get(frozenset((a.label, b.label))), a, i - j, percent)
                for j, b in enumerate(members, 1)
            ),
        )
        for i, a in enumerate(members, 1)
    )
    bold = "; bold differences are significant at its level" if any(pair.significant for pair in result.pairs) else ""
    notes = [Note(f"p-values are adjusted within their family{bold}.")]
    if any(pair.result.verdict == "no verdict" for pair in result.pairs):
        notes.append(Note("p-values in parentheses: too few seeds for a verdict about the methods."))
    unit = "percentage points" if percent else "the unit of the metric"
    better = "higher" if contest.higher_is_better else "lower"
    tests = counted(compared.families["baseline"].comparisons, "comparison") if result.against_base else ""
    base = f" Against the base model: a family of its own of {tests}." if tests else ""
    caption = (
        f"Pairs of methods on {contest.name}. Above the diagonal: score of the row minus that of the column, in "
        f"{unit} ({better} scores are better); below it: p-value of the same pair. {conditions(result, 'all')}{base}"
    )
    title = f"Pairs on {contest.name}"
    return Table((METHOD, *columns), rows, notes=tuple(notes), caption=caption, label="pairs", title=title)


def _pair_cell(pair: Pair | None, row: Group, below: int, percent: bool) -> Cell:
    """Return the difference above the diagonal and the p-value below it."""
    if below == 0:
        return Missing("the method itself", "")
    if pair is None or not math.isfinite(pair.result.adjusted_interval[0]):
        return Missing(pair.result.why if pair else "not compared")
    if below > 0:
        p = pair.result.adjusted_p
        return Text(f"({p_text(p)})" if pair.result.verdict == "no verdict" else p_text(p), f"{p:.6g}")
    sign = 1.0 if pair.a is row else -1.0
    difference = Number(sign * pair.result.difference, digits=1 if percent else 3, signed=True)
    return replace(difference, emphasis="best") if pair.significant else difference
