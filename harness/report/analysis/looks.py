"""Seeds that were added until every comparison was decided: the level of each look, and what is still open at one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report.analysis.claims import LEVEL, Contest, main_contests
from harness.report.data.groups import aligned
from harness.report.data.rows import Loaded

if TYPE_CHECKING:
    from harness.stats import MethodComparison


def family_level(loaded: Loaded) -> float:
    """Return the level of a family: that of the last look where seeds were added, so that all looks keep 5 %."""
    return _level(loaded, LEVEL, None)


def claim_level(loaded: Loaded, claims: int) -> float:
    """Return the level of each of so many claims, with which all of them hold together over all looks."""
    return _level(loaded, loaded.claim_level / max(claims, 1), 2)


def _level(loaded: Loaded, level: float, methods: int | None) -> float:
    from harness.stats.sequential import look_levels

    tuning = loaded.sweep.tuning if loaded.sweep else None
    if tuning is None or tuning.looks is None:
        return level
    first, most = tuning.looks.first, tuning.looks.most
    look = min(max(len(tuning.final_seeds), first), most) - first
    return look_levels(first, most, methods or tuning.looks.methods, level)[look]


def undecided(loaded: Loaded) -> list[str]:
    """Return what has no verdict yet: of the claims where there are some, else of the comparisons that answer.

    Raises:
        ValueError: no method has a score that may be compared.
    """
    from harness.report.analysis.tested_claims import tested

    results = tested(loaded)
    if results:
        return [f"{one.record.claim}: {_why(one.evidence.why)}" for one in results if one.outcome == "undecided"]
    contests = [one for one in main_contests(loaded.groups, loaded.primary) if one.groups]
    if not contests:
        raise ValueError(f"no trained method has a score in {loaded.primary or 'a target task'}: nothing is decided")
    return [line for contest in contests for line in _open(contest, loaded)]


def compared(contest: Contest, margin: float, level: float) -> MethodComparison | None:
    """Return the families that answer a question: against the untouched model, and against the best."""
    from harness.stats import compare_methods

    sides = aligned(contest.members, contest.measure)
    if sides is None or len(sides.values) < 2:
        return None
    base = contest.base.label if contest.base and contest.base.label in sides.values else None
    return compare_methods(
        sides.values,
        baseline=base,
        families=("baseline", "best"),
        level=level,
        margin=margin,
        clusters=sides.clusters,
        weights=sides.weights,
        deterministic=sides.untouched,
        higher_is_better=contest.higher_is_better,
    )


def _open(contest: Contest, loaded: Loaded) -> list[str]:
    found = compared(contest, loaded.margin, family_level(loaded))
    if found is None:
        raise ValueError(f"{contest.title}: no items can be paired, so that nothing is decided")
    pairs = [pair for family in found.families.values() for pair in family.pairs]
    return [
        f"{pair.a} against {pair.b} on {contest.title}: {pair.verdict}" + (f" ({pair.why})" if pair.why else "")
        for pair in pairs
        if pair.verdict in ("not significant", "no verdict")
    ]


def line(loaded: Loaded) -> str:
    """Return how many seeds were taken and saved, at which level; "" where their number was fixed beforehand."""
    tuning = loaded.sweep.tuning if loaded.sweep else None
    if tuning is None or tuning.looks is None or tuning.choices is None:
        return ""
    looks, taken = tuning.looks, len(tuning.final_seeds)
    saved = (looks.most - taken) * looks.methods
    ended = "the last look" if taken >= looks.most else "every comparison was decided" if not undecided(loaded) else ""
    return (
        f"Seeds were added until it was decided, at most {looks.most}: {taken} for each of {looks.methods} "
        f"methods{f' ({ended})' if ended else ''}, saving {saved} runs. Looks after {looks.first} and each further "
        f"seed; the error of all looks together is {LEVEL:g}, spent by a function of Pocock's type. The level of this "
        f"look is {family_level(loaded):.4f}, and every interval of a comparison is drawn at it, so that it holds "
        "after stopping."
    )


def _why(why: str) -> str:
    return why or "its interval lies on both sides of a bound"
