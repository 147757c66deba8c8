"""The answer in a few computed sentences: nothing is claimed that the tests do not support."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.report.analysis.claims import Claims, Pair, claims, contests, main_contests
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.verdicts import detectable_line, families_line, words
from harness.report.data.groups import Group
from harness.report.data.rows import MARGIN
from harness.report.display import decimals, interval, several

MOST_NAMED = 8  # methods of one verdict


def answer_of(comparison: Comparison) -> list[str]:
    """Return `answer` to the question that was asked, with its margin."""
    return answer(comparison.groups, comparison.loaded.primary, comparison.loaded.margin)


def answer(groups: Sequence[Group], primary: str | None = None, margin: float = MARGIN) -> list[str]:
    """Return the sentences as plain text, those on the question first.

    Only ok runs take part, and only those of one model and one evaluation identity are compared with each other.

    Args:
        groups: the rows.
        primary: the column that answers the question; None: the first target task.
        margin: the largest difference that counts as none.
    """
    trained = [group for group in groups if group.trained]
    if not trained:
        looked = "Only the untouched model was evaluated" if any(group.ok for group in groups) else "No run ended well"
        return [f"{looked}: there are no methods to compare."]
    if all(group.random_weights for group in trained):
        return ["The weights are random: memory and speed are real, and nothing is said about quality."]
    main = [claims(contest, margin) for contest in main_contests(groups, primary)]
    asked = any(entry.contest.role == "target" for entry in main)
    stated = [sentence for entry in main for sentence in _contest(entry, groups)]
    tested = {entry.contest.measure for entry in main}
    losses = [entry for entry in contests(groups, "validation") if entry.groups and entry.measure not in tested]
    described = [_described(claims(entry, margin), groups) for entry in losses]
    scored = any(entry.contest.measure.metric != "loss" for entry in main)
    nothing = [] if asked or primary or scored else ["No target task was evaluated."]
    missing = [f"No trained method has a score in {primary}."] if primary and not main else []
    return [entry for entry in (*missing, *stated, *described, *nothing, _seed_remark(trained)) if entry]


def _contest(result: Claims, groups: Sequence[Group]) -> list[str]:
    """Return the best method, the base, the families and the minimum detectable difference of one contest."""
    left_out = [f"{group.label} ({reason})" for group, reason in result.contest.left_out]
    remark = f"Not ranked on {result.contest.title}: {several(left_out, 6)}." if left_out else ""
    lines = [_best(result, groups), _against_base(result)]
    if result.comparison is not None:
        lines += [families_line(result), detectable_line(result)]
    elif len(result.contest.members) > 1:
        lines.append(f"Differences on {result.contest.title} cannot be tested: no items can be paired.")
    if result.comparison is not None and result.unpaired:
        lines.append(f"Not compared, since the items or prompts differ: {several([g.label for g in result.unpaired])}.")
    return [entry for entry in (*lines, remark) if entry]


def _best(result: Claims, groups: Sequence[Group]) -> str:
    """Return the best score, and the other methods by their verdict against it."""
    contest = result.contest
    if not contest.groups:
        return ""
    best = contest.ranked[0]
    scored = f"{_value(contest.value(best), result)}{_base_remark(result, best, groups)}"
    if len(contest.ranked) == 1:
        return f"On {contest.title}, {best.label} reaches {scored}."
    named = result.best or best
    if named is not best:
        scored = f"{_value(contest.value(named), result)}{_base_remark(result, named, groups)}"
    kind = "lowest" if not contest.higher_is_better else "best"
    parts = [f"On {contest.title}, {named.label} has the {kind} score: {scored}"]
    if result.about_runs:
        parts.append("one seed per method, so that the following is about these runs and not about the methods")
    sides: dict[str, list[str]] = {}
    for pair in result.against_best:
        sides.setdefault(words(pair), []).append(_with_interval(pair, result))
    phrases = {
        "significantly better": "significantly better than it",
        "significantly worse": "significantly worse",
        "equivalent": f"equivalent to it within {result.margin:g}",
        "no significant difference": "not significantly different from it",
        "these runs differ": "different from it in these runs",
        "these runs do not differ significantly": "not significantly different from it in these runs",
        "no verdict": "no verdict",
    }
    parts += [f"{phrases[side]}: {several(names, MOST_NAMED)}" for side, names in sides.items()]
    return "; ".join(parts) + "."


def _against_base(result: Claims) -> str:
    """Return the methods by their verdict against the untouched model."""
    contest = result.contest
    sides: dict[str, list[str]] = {}
    for pair in result.against_base:
        gain = pair.result.difference if contest.higher_is_better else -pair.result.difference
        side = words(pair)
        if side == "these runs differ":
            side = "better" if gain > 0 else "worse"
        sides.setdefault(side, []).append(_with_interval(pair, result))
    phrases = {
        "significantly better": "significantly better than the base model",
        "significantly worse": "significantly worse than the base model",
        "equivalent": f"equivalent to the base model within {result.margin:g}",
        "no significant difference": "no significant difference from the base model",
        "better": "significantly better than the base model in these runs",
        "worse": "significantly worse than the base model in these runs",
        "these runs do not differ significantly": "no significant difference from the base model in these runs",
        "no verdict": "no verdict against the base model",
    }
    parts = [f"{phrases[side]}: {several(names, MOST_NAMED)}" for side, names in sides.items()]
    return f"On {contest.title}, {contest.num_items:,} items, {'; '.join(parts)}." if parts else ""


def _described(result: Claims, groups: Sequence[Group]) -> str:
    """Return the method with the lowest validation loss. It is not tested, since it is not the question."""
    contest = result.contest
    best = contest.ranked[0]
    base = contest.base or best.base(contest.measure.eval_id)
    against = f" (base model {_value(contest.value(base), result)})" if base else ""
    score = f"{_value(contest.value(best), result)} nats per answer token"
    if len(contest.ranked) == 1:
        return f"On {contest.title}, {best.label} reaches {score}{against}; not tested."
    second = contest.ranked[1]
    return (
        f"Lowest on {contest.title}: {best.label}, {score}{against}, before {second.label}, "
        f"{_value(contest.value(second), result)}; descriptive, not tested."
    )


def _base_remark(result: Claims, group: Group, groups: Sequence[Group]) -> str:
    base = result.contest.base or group.base(result.contest.measure.eval_id)
    return f" (base model {_value(result.contest.value(base), result)})" if base else ""


def _value(value: float, result: Claims) -> str:
    return decimals(value, result.contest.digits)


def _with_interval(pair: Pair, result: Claims) -> str:
    test, digits = pair.result, result.contest.digits
    if not math.isfinite(test.adjusted_interval[0]):
        return f"{pair.a.label} ({decimals(test.difference, digits, signed=True)})"
    return f"{pair.a.label} {interval(test.difference, test.adjusted_interval, digits, signed=True)}"


def _seed_remark(trained: Sequence[Group]) -> str:
    """Return which methods the intervals show no seed variance of."""
    single = [group.label for group in trained if len(group.rows) == 1]
    if not single:
        return ""
    if len(single) == len(trained):
        return "One seed per method: intervals reflect item sampling only, not variance across seeds."
    verb, whose = ("has", "its") if len(single) == 1 else ("have", "their")
    return f"{several(single)} {verb} one seed, so that {whose} own variance across seeds is unknown."
