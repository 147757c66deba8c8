"""Seeds that were added until every comparison was decided: the level of each look, and what is still open at one."""

from __future__ import annotations

from harness.report.analysis.claims import LEVEL, MetricComparison
from harness.report.analysis.comparison import Comparison
from harness.report.data.levels import family_level


def undecided(comparison: Comparison) -> list[str]:
    """Return a line for each claim without a verdict; without claims, for each main comparison without one.

    Raises:
        ValueError: no method has a score that may be compared.
    """
    from harness.report.analysis.tested_claims import tested

    results = tested(comparison)
    if results:
        why = "its interval lies on both sides of a bound"
        return [
            f"{result.record.claim}: {result.evidence.why or why}"
            for result in results
            if result.outcome == "undecided"
        ]
    contests = [contest for contest in comparison.contests if contest.groups]
    if not contests:
        raise ValueError(
            f"no trained method has a score in {comparison.loaded.primary or 'a target task'}: nothing is decided"
        )
    return [line for contest in contests for line in _open(contest, comparison)]


def _open(contest: MetricComparison, comparison: Comparison) -> list[str]:
    result = comparison.claims_of(contest)
    if result.comparison is None:
        raise ValueError(f"{contest.title}: no items can be paired, so that nothing is decided")
    return [
        f"{pair.a.label} against {pair.b.label} on {contest.title}: {pair.result.verdict}"
        + (f" ({pair.result.why})" if pair.result.why else "")
        for pair in (*result.against_base, *result.against_best)
        if pair.result.verdict in ("not significant", "no verdict")
    ]


def line(comparison: Comparison) -> str:
    """Return how many seeds were taken and saved, at which level; "" where their number was fixed beforehand."""
    loaded = comparison.loaded
    tuning = loaded.sweep.tuning if loaded.sweep else None
    if tuning is None or tuning.looks is None or tuning.choices is None:
        return ""
    looks, taken = tuning.looks, len(tuning.final_seeds)
    saved = (looks.most - taken) * looks.methods
    ended = (
        "the last look" if taken >= looks.most else "every comparison was decided" if not undecided(comparison) else ""
    )
    level = family_level(loaded.sweep, LEVEL)
    return (
        f"Seeds were added until it was decided, at most {looks.most}: {taken} for each of {looks.methods} methods"
        f"{f' ({ended})' if ended else ''}, saving {saved} runs. Looks after {looks.first} and each further seed; the "
        f"error of all looks together is {LEVEL:g}, spent by a function of Pocock's type. The level of this look is "
        f"{level:.4f}, and every interval of a comparison is drawn at it, so that it holds after stopping."
    )
