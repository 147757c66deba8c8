"""The verdicts as tables, one for each family of comparisons, with what they rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.report.analysis.claims import LEVEL, Claims, Pair
from harness.report.display import DASH, decimals, p_value, several, span
from harness.report.pages.summary import Table

WORDS = {
    "better": "significantly better",
    "worse": "significantly worse",
    "equivalent": "equivalent",
    "not significant": "no significant difference",
    "no verdict": "no verdict",
}
SHORT = {
    "significantly better": "better",
    "significantly worse": "worse",
    "no significant difference": "n.s.",
    "these runs differ": "runs differ",
    "these runs do not differ significantly": "runs: n.s.",
}  # for a table with a line per pair
MOST_REASONS = 6  # why pairs have no verdict
MOST_SHOWN = 36  # pairs: eight methods and the base


def families(found: Claims) -> list[Table]:
    """Return the tables of the answer: each method against the base, and the others against the best."""
    title = found.contest.title
    shown = (
        (f"Against the base model on {title}", found.against_base),
        (f"Against the best method on {title}", found.against_best),
    )
    return [table(heading, pairs, found) for heading, pairs in shown if pairs]


def every_pair(found: Claims) -> Table | None:
    """Return the table of all pairs, of many those that `telling` keeps; None where the families are all there is."""
    if found.comparison is None or "all" not in found.comparison.families or len(found.contest.groups) < 3:
        return None
    digits = found.contest.digits
    lines = []
    for pair in telling(found):
        gap = decimals(pair.result.difference, digits, signed=True)
        verdict = SHORT.get(words(pair), words(pair))
        lines.append((f"{pair.a.label} vs. {pair.b.label}", f"{gap} ({ends_of(pair, digits)})", verdict))
    header = ("Pair", "Difference, simultaneous 95 % CI", "Verdict")
    return Table(f"Pairs on {found.contest.title}", header, tuple(lines))


def table(title: str, pairs: Sequence[Pair], found: Claims) -> Table:
    """Return one line per pair: the difference with its simultaneous interval, both p-values and the verdict."""
    digits = found.contest.digits
    flipped = any(pair.p_sign_flip is not None for pair in pairs)
    header = ["Method", "vs.", "Difference", "95 % CI, simultaneous", "p", "p, adjusted", "p, equivalence"]
    lines = []
    for pair in pairs:
        one = pair.result
        cells = [pair.a.label, pair.b.label, decimals(one.difference, digits, signed=True), ends_of(pair, digits)]
        known = math.isfinite(one.interval[0])
        alike = None if one.verdict == "no verdict" else one.equivalence_p
        cells += [_p(one.p) if known else DASH, _p(one.adjusted_p) if known else DASH]
        cells += [DASH if alike is None else _p(alike)]
        if flipped:
            cells.append(DASH if pair.p_sign_flip is None else _p(pair.p_sign_flip))
        lines.append((*cells, words(pair)))
    return Table(title, (*header, *(["p, sign flip"] if flipped else []), "Verdict"), tuple(lines))


def words(pair: Pair) -> str:
    """Return the verdict in the field's words; of two single runs what they show, and that it is no verdict."""
    one = pair.result
    if one.scope == "runs" and math.isfinite(one.interval[0]):
        return "these runs differ" if one.runs_differ else "these runs do not differ significantly"
    return WORDS[one.verdict]


def ends_of(pair: Pair, digits: int) -> str:
    """Return the simultaneous interval; a dash where there is none."""
    ends = pair.result.adjusted_interval
    return span(ends, digits, signed=True) if math.isfinite(ends[0]) else DASH


def telling(found: Claims) -> list[Pair]:
    """Return every pair; where they are many those with the base or the best, and every one with a difference."""
    if len(found.pairs) <= MOST_SHOWN:
        return list(found.pairs)
    named = (found.contest.base, found.best)
    return [pair for pair in found.pairs if pair.significant or any(g in named for g in (pair.a, pair.b))]


def explained(found: Claims) -> list[str]:
    """Return how the verdicts were made, with their own numbers."""
    contest, compared = found.contest, found.comparison
    if compared is None:
        return []
    better = "higher" if contest.higher_is_better else "lower"
    lines = [f"{contest.num_items:,} items, {seeds_of(found)}; {better} is better.", families_line(found)]
    if compared.seed_deviation is not None:
        source = next(one.result.pooled for one in (*found.against_best, *found.pairs) if one.result.pooled)
        lines.append(
            f"Test: t test with separate degrees of freedom for items and seeds, paired by both; {source}. Seeds of a "
            f"method deviate by {decimals(compared.seed_deviation, contest.digits)} (standard deviation)."
        )
    elif found.about_runs:
        lines.append("Test: paired t test over items. One seed a side: p-values and intervals hold for these runs.")
    lines += [
        f"{name}: its seeds scatter {ratio:.1f} times as much as those of the other "
        "methods (one-sided F test, p < 0.05), so that its comparisons rest mostly on its own few seeds."
        for name, ratio in compared.unlike.items()
    ]
    lines += [line for line in (equivalence_line(found), detectable_line(found)) if line]
    lines += withheld(found)
    if "all" not in compared.families:
        lines.append(
            f"With {len(contest.groups):,} methods only the families of the base and of the best are compared."
        )
    if hidden := len(found.pairs) - len(telling(found)):
        lines.append(f"{hidden:,} further pairs without a significant difference are not shown.")
    if found.unpaired:
        lines.append(f"Not compared, since the items differ: {several([g.label for g in found.unpaired], 8)}.")
    lines += [f"Not ranked: {group.label}: {reason}." for group, reason in contest.left_out]
    return lines


def families_line(found: Claims) -> str:
    """Return the families, their sizes and the level, once for a report."""
    assert found.comparison is not None
    kinds = {"baseline": "each method vs. the base model", "best": "the other methods vs. the best", "all": "all pairs"}
    parts = [
        f"{kinds[name]} ({family.comparisons:,} comparison{'s' if family.comparisons > 1 else ''})"
        for name, family in found.comparison.families.items()
    ]
    return (
        f"Families, each with a family-wise error of {LEVEL:.0%}: {'; '.join(parts)}. The best is chosen from the same "
        "scores, so that its family covers every pair. Adjusted by the maximum of |t| in one step: the simultaneous "
        "intervals invert the same test."
    )


def withheld(found: Claims) -> list[str]:
    """Return why pairs have no verdict, each reason once."""
    reasons = list(dict.fromkeys(pair.result.why for pair in found.pairs if pair.result.why))
    more = [f"{len(reasons) - MOST_REASONS} further reasons are in the tables of numbers."]
    shown = [f"No verdict: {reason}." for reason in reasons[:MOST_REASONS]]
    return [*shown, *(more if len(reasons) > MOST_REASONS else [])]


def detectable_line(found: Claims) -> str:
    """Return the minimum detectable difference of the test that was used; "" where there is none."""
    if found.detectable is None:
        return ""
    what = "two runs" if found.about_runs else "a method and the best"
    return (
        f"Minimum detectable difference between {what}: {decimals(found.detectable, found.contest.digits)} "
        f"(80 % power, adjusted for the family), with {seeds_of(found)} and {found.contest.num_items:,} items."
    )


def equivalence_line(found: Claims) -> str:
    """Return how many items or seeds a verdict of equivalence would take; "" where one was reached or none can be."""
    from harness.stats import needed_for_equivalence

    pairs = [pair.result for pair in found.against_best if pair.result.verdict != "no verdict"]
    if not pairs or any(pair.verdict == "equivalent" for pair in pairs):
        return ""
    middle = sorted(pairs, key=lambda pair: pair.standard_error)[len(pairs) // 2]
    units = found.contest.num_items
    items, seeds = needed_for_equivalence(middle, found.margin, units)
    needs = [f"{items:,} items"] if items else []
    needs += [f"{seeds:,} seeds"] if seeds else []
    how = f"about {' or '.join(needs)} would be needed" if needs else "more items and more seeds would be needed"
    return f"Equivalence within {found.margin:g} is out of reach here: {how} (80 % power, no true difference)."


def ties(found: Sequence[Claims]) -> dict[str, str]:
    """Return label -> letters over the contests of one question."""
    return {label: letters for one in found for label, letters in one.letters.items()}


def seeds_of(found: Claims) -> str:
    """Return how many seeds a method has: 3 seeds, 2 to 3 seeds."""
    counts = sorted({len(group.rows) for group in found.contest.groups})
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{shown} seed{'' if counts == [1] else 's'} per method"


def _p(value: float) -> str:
    return p_value(value).removeprefix("p = ").removeprefix("p ")
