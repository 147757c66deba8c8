"""The answer in three lines: the best method, the methods that tie with it, and the cheapest that is good enough.

Every sentence is computed from the tests of the report: nothing is claimed that they do not support.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records.untrusted import NO_BREAK
from harness.report.analysis.axes import memory_spread
from harness.report.analysis.claims import FEWEST_ITEMS, Claims, Pair
from harness.report.analysis.recommend import Advice, Need, Option, advise, options
from harness.report.analysis.verdicts import seeds_of
from harness.report.data.groups import Group
from harness.report.display import GIBIBYTE, collected, counted, p_value, several

MOST_NAMED = 8  # methods of one verdict; further ones are counted
MOST_TIED = 12  # methods that are named as not significantly different from the best
MOST_LIMITS = 5  # memory limits that are named


@dataclass(frozen=True)
class Answer:
    """The answer to the question of a report, for one base model.

    Attributes:
        lines: three sentences or more as plain text; fewer where there is nothing to compare.
        result: the tests that it rests on; None where no method may be ranked.
        cheapest: the advice within the tolerance; None where nothing can be advised.
        ladder: (bytes, option): the best method from this memory on.
    """

    lines: tuple[str, ...]
    result: Claims | None = None
    cheapest: Advice | None = None
    ladder: tuple[tuple[float, Option], ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the answer as plain values, in the units of the records; an unknown value is null.

        `best` and each entry of `others` hold `method` (the label), `name`, `score` and `verdict` (against the best),
        `difference`, `low`, `high` (simultaneous) and `p_adjusted`; `best` has the same against the base model.
        """
        if self.result is None:
            return {"lines": list(self.lines), "task": None, "best": None, "others": [], "memory": []}
        contest = self.result.contest
        best = self.result.best or contest.ranked[0]
        against_base = {pair.a.label: pair for pair in self.result.against_base}
        others = {pair.a.label: pair for pair in self.result.against_best}
        reach = self.result.detectable
        return {
            "lines": list(self.lines),
            "task": contest.task,
            "metric": contest.measure.metric,
            "higher_is_better": contest.higher_is_better,
            "items": contest.num_items,
            "scope": "runs" if self.result.about_runs else "methods",
            "base": contest.value(contest.base) if contest.base else None,
            "best": _entry(best, self.result, against_base.get(best.label)),
            "others": [
                _entry(group, self.result, others.get(group.label)) for group in contest.ranked if group is not best
            ],
            "detectable": None if reach is None or math.isinf(reach) else reach,
            "tolerance": self.result.margin,
            "cheapest": self.cheapest.chosen.label if self.cheapest and self.cheapest.chosen else None,
            "memory": [
                {"method": option.label, "memory_bytes": used, "score": option.value} for used, option in self.ladder
            ],
        }


def answers(
    results: Sequence[Claims], groups: Sequence[Group], primary: str | None = None, trials: int = 0
) -> list[Answer]:
    """Return an answer for each base model, or a single one that says why there is nothing to compare.

    Args:
        results: the tests of the question, for each base model.
        groups: every row of the report.
        primary: the column that answers the question; None: the first target task.
        trials: runs of a tuning stage that completed.
    """
    trained = [group for group in groups if group.trained]
    if not trained:
        if trials:
            return [
                Answer(
                    (f"No final run completed: so far there are {counted(trials, 'completed trial')} of the tuning.",)
                )
            ]
        some = any(group.ok for group in groups)
        what = "Only the base model was evaluated" if some else "No run completed"
        return [Answer((f"{what}: there are no methods to compare.",))]
    if all(group.random_weights for group in trained):
        return [Answer(("The weights are random: memory and speed are real, scores mean nothing.",))]
    ranked = [result for result in results if result.contest.groups]
    if not ranked:
        reasons = [f"{g.name} ({why})" for result in results for g, why in result.contest.left_out]
        nothing = f"No trained method has a score in {primary}." if primary and not results else "No method is ranked"
        return [Answer((nothing if not reasons else f"{nothing}: {several(reasons, MOST_NAMED)}.",))]
    return [_answer(result, groups) for result in ranked]


def _answer(result: Claims, groups: Sequence[Group]) -> Answer:
    contest = result.contest
    if contest.num_items < FEWEST_ITEMS:
        return Answer(tuple(_decides_nothing(result)), result)
    every = options(contest, groups)
    methods = [option for option in every if not option.is_base]
    cheapest = advise(contest, methods, Need(tolerance=result.margin)) if len(methods) > 1 else None
    ladder = tuple(_ladder(result, methods))
    lines = (_best(result), _against_best(result), _cost(result, cheapest, ladder, methods))
    return Answer(tuple(line for line in lines if line), result, cheapest, ladder)


def _best(result: Claims) -> str:
    """Return the best method with its gain over the base model."""
    contest = result.contest
    best = result.best or contest.ranked[0]
    claim = f"{best.name} on {contest.name}"
    if len(contest.ranked) > 1:
        first = [best, *_level_with(best, result)]
        claim = f"{several([group.name for group in first], MOST_NAMED)} {_rank(result, len(first))} {contest.name}"
        claim += " in these runs" if result.about_runs else ""
    value = contest.shown(contest.value(best))
    pair = next((pair for pair in result.against_base if pair.a is best), None)
    parts = [f"base model {contest.shown(contest.value(contest.base))}"] if contest.base else []
    if pair is not None:
        same = f"0 of {contest.num_items:,} answers differ" if pair.differing == 0 else ""
        parts.append(same or contest.gain_shown(pair.result.difference))
        if pair.interval:
            parts.append(f"simultaneous 95{NO_BREAK}% CI{_whose(pair, result)} {contest.ends_shown(pair.interval)}")
        verdict = _against_base(pair)
        parts += [verdict] if verdict else []
    sentence = f"{claim}: {value} ({', '.join(parts)})." if parts else f"{claim}: {value}."
    if result.about_runs:
        sentence += " One seed per method: intervals reflect item sampling only, not variance across seeds."
    if result.comparison is None and len(contest.members) > 1:
        sentence += " Differences cannot be tested: no items can be paired."
    return sentence


def _whose(pair: Pair, result: Claims) -> str:
    """Return whose interval it is, where methods with the score of the best have other ones; else ""."""
    level = _level_with(pair.a, result)
    ends = [other.interval for other in result.against_base if other.a in level]
    shown_ends = {result.contest.ends_shown(interval) for interval in (pair.interval, *ends) if interval}
    return f" of {pair.a.name}" if len(shown_ends) > 1 else ""


def _level_with(best: Group, result: Claims) -> list[Group]:
    """Return the other methods with exactly the same score as the best."""
    contest = result.contest
    return [g for g in contest.ranked if g is not best and contest.rounded(g) == contest.rounded(best)]


def _rank(result: Claims, number: int) -> str:
    """Return the predicate of the best methods: they are best where every other one is significantly worse."""
    is_open = not all(pair.significant for pair in result.against_best)
    if not result.contest.higher_is_better:
        return "had the lowest" if is_open else f"{'has' if number == 1 else 'have'} the lowest"
    return "scored highest on" if is_open else f"{'is' if number == 1 else 'are'} best on"


def _against_base(pair: Pair) -> str:
    """Return the verdict against the base model where the interval does not say it."""
    if pair.result.verdict == "no verdict" and pair.result.scope == "methods":
        return "no verdict"
    if pair.result.verdict == "equivalent":
        return "equivalent"
    differs = pair.result.runs_differ if pair.result.scope == "runs" else pair.significant
    return "" if differs else f"n.s., adjusted {p_value(pair.result.adjusted_p)}"


def _against_best(result: Claims) -> str:
    """Return the other methods by their verdict against the best, and what the design detects."""
    sides = collected((_side(pair), pair.a) for pair in result.against_best)
    parts = []
    alike = sides.get("alike", [])
    if alike:
        best = result.best or result.contest.ranked[0]
        it = best.name if _level_with(best, result) else "it"
        parts.append(f"Not significantly different from {it}: {_named(alike, result, MOST_TIED)}.")
    elif result.against_best:
        parts.append("No other method ties with it." if "none" not in sides else "")
    for side, phrase in (("worse", "Significantly worse"), ("none", "No verdict"), ("better", "Significantly better")):
        if side in sides:
            parts.append(f"{phrase}: {_named(sides[side], result, MOST_NAMED)}.")
    left_out = [f"{group.name} ({reason})" for group, reason in result.contest.left_out]
    parts += [f"Not ranked: {several(left_out, MOST_NAMED)}."] if left_out else []
    parts += [_design(result)]
    return " ".join(part for part in parts if part)


def _side(pair: Pair) -> str:
    if pair.result.scope == "runs":
        return "alike" if not pair.result.runs_differ else "worse"
    sides = {"better": "better", "worse": "worse", "equivalent": "alike", "not significant": "alike"}
    return sides.get(pair.result.verdict, "none")


def _named(groups: Sequence[Group], result: Claims, limit: int) -> str:
    """Return the methods with their scores, the best first; of many the first ones, and how many more."""
    place = {group.label: index for index, group in enumerate(result.contest.ranked)}
    ordered = sorted(groups, key=lambda group: place[group.label])
    contest = result.contest
    return several([f"{group.name} ({contest.shown(contest.value(group))})" for group in ordered], limit)


def _design(result: Claims) -> str:
    """Return the difference that the design detects; "" where no test was made."""
    if result.detectable is None:
        return ""
    contest = result.contest
    if math.isinf(result.detectable):
        return f"{contest.num_items:,} items and {seeds_of(result)} detect no difference (80{NO_BREAK}% power)."
    return (
        f"{contest.num_items:,} items and {seeds_of(result)} detect a difference of "
        f"{contest.gain_shown(result.detectable, signed=False)} (80{NO_BREAK}% power)."
    )


def _cost(
    result: Claims, cheapest: Advice | None, ladder: Sequence[tuple[float, Option]], methods: Sequence[Option]
) -> str:
    """Return the cheapest method within the tolerance, and the best from each memory on."""
    contest, parts = result.contest, []
    tolerance = contest.gain_shown(result.margin, signed=False)
    tolerance = "1 point" if tolerance == "1.0 points" else tolerance
    if cheapest and cheapest.chosen and cheapest.best:
        chosen = cheapest.chosen
        used = _gibibytes(chosen.costs["memory"])
        if chosen is not cheapest.best:
            inner = ", ".join(part for part in (contest.shown(chosen.value), used) if part)
            parts.append(f"Cheapest that is not worse by more than {tolerance}: {chosen.group.name} ({inner}).")
        elif _is_cheapest(chosen, methods):
            parts.append("No other method needs less memory.")
        elif not cheapest.withheld:
            parts.append(f"No cheaper method is shown to be within {tolerance} of it.")
    if len(ladder) > 1:
        steps = [
            f"from {_gibibytes(used)} {option.group.name} ({contest.shown(option.value)})" for used, option in ladder
        ]
        parts.append(f"Best score at each memory limit: {several(steps, MOST_LIMITS)}.")
    return " ".join(parts)


def _is_cheapest(chosen: Option, methods: Sequence[Option]) -> bool:
    """Return whether the memory of every method is known, and no other one needs less than the chosen one."""
    used = [memory for option in methods if (memory := option.costs["memory"]) is not None]
    return len(used) == len(methods) and chosen.costs["memory"] == min(used)


def _ladder(result: Claims, methods: Sequence[Option]) -> Iterator[tuple[float, Option]]:
    """Yield the best method from each memory on: the Pareto front of the point estimates.

    Memories that are closer than those of two runs of one method are one.
    """
    sign = 1 if result.contest.higher_is_better else -1
    measured = [(used, option) for option in methods if (used := option.costs["memory"]) is not None]
    measured.sort(key=lambda entry: (entry[0], -sign * entry[1].value))
    spread = memory_spread(option.group for _, option in measured)
    best = float("-inf")
    while measured:
        near = [entry for entry in measured if entry[0] - measured[0][0] <= spread]
        used, option = max(near, key=lambda entry: sign * entry[1].value)
        if sign * option.value > best:
            best = sign * option.value
            yield used, option
        measured = measured[len(near) :]


def _decides_nothing(result: Claims) -> Iterator[str]:
    """Yield what a few items show, without any claim."""
    contest = result.contest
    yield (
        f"This comparison decides nothing: {contest.name} was evaluated on {contest.num_items} items, and a comparison "
        f"of methods takes at least {FEWEST_ITEMS}."
    )
    groups = (*([contest.base] if contest.base else []), *contest.ranked)
    scores = [f"{group.name} {contest.shown(contest.value(group))}" for group in groups]
    yield f"Scores without a test: {several(scores, MOST_NAMED)}."


def _gibibytes(used: float | None) -> str:
    return "" if used is None else f"{used / GIBIBYTE:.2f}{NO_BREAK}GiB"


def _entry(group: Group, result: Claims, pair: Pair | None) -> dict[str, Any]:
    low, high = (pair.interval if pair else None) or (None, None)
    return {
        "method": group.label,
        "name": group.name,
        "score": result.contest.value(group),
        "verdict": pair.result.verdict if pair else None,
        "difference": pair.result.difference if pair else None,
        "low": low,
        "high": high,
        "p_adjusted": pair.result.adjusted_p if pair and pair.interval else None,
    }
