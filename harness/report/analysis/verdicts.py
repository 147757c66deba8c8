"""The verdicts as a table: every pair that was compared, with what is said about it and what that rests on."""

from collections.abc import Sequence

from harness.report.analysis.claims import LEVEL, Claims, Pair
from harness.report.display import DASH, decimals, p_value, span
from harness.report.pages.summary import Table

HEADER = ("Method", "against", "Difference", "95 % interval", "p", "p, equivalent", "p, sign flip", "Verdict")

MOST_SHOWN = 36  # pairs: eight methods and the base


def verdicts(found: Claims) -> Table:
    """One line per pair, those with the untouched model first; of many pairs those that `telling` keeps."""
    digits = found.contest.digits
    lines = []
    for pair in telling(found):
        numbers = (decimals(pair.difference.value, digits, signed=True), span(pair.interval, digits, signed=True))
        flipped = DASH if pair.p_sign_flip is None else _p(pair.p_sign_flip)
        lines.append((pair.a.label, pair.b.label, *numbers, _p(pair.p), _p(pair.p_equivalence), flipped, pair.verdict))
    return Table(f"Pairs on {found.contest.title}", HEADER, tuple(lines))


def telling(found: Claims) -> list[Pair]:
    """Every pair; where they are many those with the base or the best, and every one that says something."""
    if len(found.pairs) <= MOST_SHOWN:
        return list(found.pairs)
    named = (found.contest.base, found.contest.ranked[0])
    return [
        one
        for one in found.pairs
        if one.verdict != "not separable" or any(one.a is known or one.b is known for known in named)
    ]


def explained(found: Claims) -> list[str]:
    """How to read the table, with its own numbers."""
    contest = found.contest
    better = "higher" if contest.higher_is_better else "lower"
    tests = " or ".join(sorted({pair.test for pair in found.pairs}))
    unit = "nats per answer token" if contest.measure.metric == "loss" else contest.measure.metric
    lines = [
        f"{contest.num_items:,} items; {better} is better. Intervals: bootstrap over items and seeds, paired by both "
        f"where both sides have the same seeds. p: {tests}; p, equivalent: two one-sided tests against a margin of "
        f"{found.margin:g} {unit}; both adjusted by Holm for {found.family} comparisons, the level is {LEVEL:g}.",
        "p, sign flip: exact permutation over seeds, not adjusted; it needs six seeds for p < 0.05"
        + ("." if any(pair.p_sign_flip is not None for pair in found.pairs) else ", which no pair has."),
    ]
    if found.detectable is not None:
        lines.append(
            f"Minimum detectable effect: {decimals(found.detectable, contest.digits)} {unit} between two methods, the "
            f"median over the pairs (80 % power, one comparison, level {LEVEL:g}), with {_seeds(found)}."
        )
    if hidden := len(found.pairs) - len(telling(found)):
        lines.append(f"{hidden:,} further pairs are not shown: not separable, and neither with base nor with the best.")
    if unpaired := len(contest.members) * (len(contest.members) - 1) // 2 - len(found.pairs):
        lines.append(f"{unpaired:,} pairs were not compared: too many methods, or items that cannot be paired.")
    lines += [f"Not ranked: {group.label}: {reason}." for group, reason in contest.left_out]
    return lines


def ties(found: Sequence[Claims]) -> dict[str, str]:
    """label -> tie letters over the contests of one question."""
    return {label: letters for one in found for label, letters in one.letters.items()}


def _seeds(found: Claims) -> str:
    counts = sorted({len(group.rows) for group in found.contest.groups})
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{shown} seed{'' if counts == [1] else 's'} and {found.contest.num_items:,} items"


def _p(value: float) -> str:
    return p_value(value).removeprefix("p = ").removeprefix("p ")
