"""Recommendation of a method for limits in memory and time, a tolerance in quality, and with or without overhead.

The rule: among the options within the limits, the best one and those that are non-inferior to it (margin = tolerance,
one-sided at 5 %, adjusted for all options, since the best is chosen from the same scores); of these the cheapest.
Few-shot prompting is one of the options. With one seed per method the seed variance is unknown, and the best score is
recommended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.report.analysis.axes import COSTS
from harness.report.analysis.claims import LEVEL, Contest
from harness.report.data.groups import Group, Measure, outcomes
from harness.report.display import DASH, MEBIBYTE, decimals, interval, p_value, quantity, several
from harness.report.pages.summary import Table, peak_mebibytes, required_mebibytes

if TYPE_CHECKING:
    from harness.stats import Floats
    from harness.stats import Pair as Result

Minimized = Literal["memory", "time", "parameters", "bytes"]

MOST_LIMITS = 6  # memory limits in a report: peaks of its own methods, evenly chosen if there are more


@dataclass(frozen=True, kw_only=True)
class Need:
    """Requirements on the recommended method. A limit of None is no limit."""

    memory_bytes: float | None = None
    seconds: float | None = None
    tolerance: float = 0.0  # in the unit of the metric
    overhead: bool = True  # whether inference may cost more than the base model's
    minimize: Minimized = "memory"


@dataclass(frozen=True)
class Option:
    """A method, or a way to prompt the untouched model, on the items of a contest."""

    label: str
    group: Group
    outcomes: Floats  # (seeds, items)
    value: float
    costs: dict[str, float | None]  # by criterion, in bytes and seconds; the memory is that which a device must have
    overhead: str  # why inference costs more than the base model's; "" where it does not

    def refused(self, need: Need) -> str:
        """Return the reason why the option does not meet the requirements; "" if it does."""
        for name, limit, unit, scale in (
            ("memory", need.memory_bytes, "MiB", MEBIBYTE),
            ("time", need.seconds, "s", 1),
        ):
            used = self.costs[name]
            if limit is not None and (used is None or used > limit):
                return f"{name} {'unknown' if used is None else f'{quantity(used / scale)} {unit}'}"
        return "" if need.overhead else self.overhead


@dataclass(frozen=True)
class Advice:
    """The recommended option and what it rests on; no option is recommended where none keeps the limits."""

    contest: Contest
    need: Need
    chosen: Option | None
    best: Option | None  # of those that keep the limits, by its score alone
    best_share: float | None  # of resamples of items and seeds in which none of them is better
    pair: Result | None  # the chosen one against the best; None where they are the same
    not_different: tuple[str, ...]  # not significantly different from the best
    withheld: str  # why no option can be shown to be non-inferior; ""
    refused: tuple[tuple[str, str], ...]


def options(contest: Contest, groups: Sequence[Group]) -> list[Option]:
    """Return the ranked methods and each prompting of the untouched model, on the same items."""
    found: list[Option] = []
    for group in contest.ranked:
        _add(found, group, contest.measure, group.label, _overhead(group))
    scored = [s for group in contest.groups for s in group.evaluations[contest.measure.eval_id]]
    for group in groups:
        if not (group.ok and group.first.is_base and group.model == contest.ranked[0].model) or not scored:
            continue
        for eval_id, looks in group.evaluations.items():
            same = looks[0].task == scored[0].task and contest.measure.metric in looks[0].record.metrics
            asked = [one.items.ids if one.items else None for one in (looks[0], scored[0])]
            if same and asked[0] is not None and asked[0] == asked[1]:
                shots = looks[0].record.num_fewshot
                label = group.label if not shots or "shot" in group.label else f"{group.label} ({shots}-shot)"
                longer = f"{shots} examples in every prompt" if shots else ""
                _add(found, group, Measure(eval_id, contest.measure.metric), label, longer)
    return list({option.label: option for option in found}.values())


def advise(contest: Contest, every: Sequence[Option], need: Need) -> Advice:
    """Apply the rule of recommendation."""
    from harness.stats import bootstrap

    sign = 1.0 if contest.higher_is_better else -1.0
    refused = tuple((option.label, reason) for option in every if (reason := option.refused(need)))
    left = [option for option in every if not option.refused(need)]
    if not left:
        return Advice(contest, need, None, None, None, None, (), "", refused)
    best = max(left, key=lambda option: sign * option.value)
    weights = _weights(contest)
    draws = sign * bootstrap([option.outcomes for option in left], weights)
    share = float((draws[left.index(best)] >= draws.max(axis=0)).mean())
    pairs = _against(best, left, weights, need.tolerance, contest.higher_is_better)
    good = [option for option in left if option is best or _not_worse(pairs.get(option.label)) < LEVEL]
    chosen = min(good, key=lambda option: (_price(option, need), -sign * option.value))
    alike = tuple(label for label, pair in pairs.items() if pair.verdict in ("not significant", "equivalent"))
    withheld = "; ".join(dict.fromkeys(pair.why for pair in pairs.values() if pair.why))
    return Advice(contest, need, chosen, best, share, pairs.get(chosen.label), alike, withheld, refused)


def _against(
    best: Option, left: Sequence[Option], weights: Floats | None, tolerance: float, higher_is_better: bool
) -> dict[str, Result]:
    """Return every other option's comparison with the best, by label, in one family."""
    from harness.stats import compare_methods

    if len(left) < 2 or best.outcomes.shape[1] < 2:
        return {}
    untouched = [option.label for option in left if option.group.first.is_base]
    compared = compare_methods(
        _by_seed(left),
        families=("best",),
        margin=tolerance or None,
        weights=weights,
        deterministic=untouched,
        higher_is_better=higher_is_better,
    )
    family = compared.families.get("best")
    return {pair.a: pair for pair in family.pairs} if family else {}


def _by_seed(left: Sequence[Option]) -> dict[str, Floats]:
    """Return the options' outcomes with row s the same seed for all, NaN where an option lacks it."""
    import numpy as np

    seeds = sorted({seed for option in left if not option.group.first.is_base for seed in option.group.seeds})
    tables = {}
    for option in left:
        if option.group.first.is_base:
            tables[option.label] = option.outcomes[:1]
            continue
        tables[option.label] = np.full((len(seeds), option.outcomes.shape[1]), np.nan)
        tables[option.label][[seeds.index(seed) for seed in option.group.seeds]] = option.outcomes
    return tables


def _not_worse(pair: Result | None) -> float:
    """Return the p-value of non-inferiority; 1 without a tolerance, with which nothing but the best is good enough."""
    return 1.0 if pair is None or pair.noninferiority_p is None else pair.noninferiority_p


def sentences(advice: Advice) -> list[str]:
    """Return the advice in sentences, with the numbers behind it."""
    contest, chosen, best = advice.contest, advice.chosen, advice.best
    refused = [f"{label} ({reason})" for label, reason in advice.refused]
    out = f"Excluded by the limits: {several(refused, 8)}." if refused else ""
    if chosen is None or best is None:
        return [one for one in (f"No method on {contest.title} keeps the limits.", out) if one]
    required = required_mebibytes(chosen.group)
    costs = ", ".join(
        text
        for text in (
            _amount(chosen, "memory", MEBIBYTE, "MiB at the peak" if required is None else "MiB of a GPU"),
            _amount(chosen, "time", 1, "s of training"),
            _amount(chosen, "parameters", 1, "trained parameters"),
        )
        if text
    )
    score = f"{decimals(chosen.value, contest.digits)} on {contest.title}, {contest.num_items:,} items"
    lines = [f"Use {chosen.label}: {score}; {costs}." if costs else f"Use {chosen.label}: {score}."]
    share = f"bootstrap probability {advice.best_share or 0:.2f}"
    if chosen is best:
        lines.append(f"Best score within the limits ({share}).")
    elif advice.pair is not None:
        pair = advice.pair
        lines.append(
            f"{best.label} has the best score ({decimals(best.value, contest.digits)}, {share}); {chosen.label} is "
            f"non-inferior with a margin of {advice.need.tolerance:g} (adjusted {p_value(_not_worse(pair))}, "
            f"difference "
            f"{interval(pair.difference, pair.adjusted_interval, contest.digits, signed=True)}, simultaneous 95 % CI) "
            f"and needs the least {advice.need.minimize}."
        )
    if advice.not_different:
        lines.append(f"Not significantly different from {best.label}: {several(advice.not_different, 8)}.")
    if advice.withheld and advice.need.tolerance:
        lines.append(f"Non-inferiority is not claimed: {advice.withheld}.")
    return [one for one in (*lines, out) if one]


def scenarios(contest: Contest, groups: Sequence[Group], tolerance: float) -> Table | None:
    """Return the advice without limits, without overhead, and for the memory limits at which it changes."""
    every = options(contest, groups)
    if len(every) < 2:
        return None
    needs = [Need(), Need(tolerance=tolerance), Need(tolerance=tolerance, overhead=False)]
    peaks = sorted({used for one in every if (used := one.costs["memory"]) is not None}, reverse=True)[1:]
    limits = peaks[:: -(-len(peaks) // MOST_LIMITS)] if peaks else []
    lines, last = [], ""
    for need in (*needs, *(Need(tolerance=tolerance, memory_bytes=limit) for limit in limits)):
        advice = advise(contest, every, need)
        name = advice.chosen.label if advice.chosen else DASH
        if need.memory_bytes is None or name != last:
            lines.append(_scenario(advice))
        last = name
    on_gpu = any(required_mebibytes(one.group) is not None for one in every)
    limit = "GPU memory up to" if on_gpu else "Peak memory up to"
    header = (limit, "Tolerance", "Overhead", "Method", contest.title, "Difference to the best", "Best")
    return Table("Which method should I use?", header, tuple(lines))


def _scenario(advice: Advice) -> tuple[str, ...]:
    need, chosen, contest = advice.need, advice.chosen, advice.contest
    limit = DASH if need.memory_bytes is None else f"{quantity(need.memory_bytes / MEBIBYTE)} MiB"
    cells = (limit, f"{need.tolerance:g}", "allowed" if need.overhead else "none")
    if chosen is None or advice.best is None:
        return (*cells, DASH, DASH, DASH, DASH)
    gap = DASH
    if advice.pair is not None:
        gap = interval(advice.pair.difference, advice.pair.adjusted_interval, contest.digits, signed=True)
    best = f"{advice.best.label} ({advice.best_share or 0:.2f})"
    return (*cells, chosen.label, decimals(chosen.value, contest.digits), gap, best)


def _add(found: list[Option], group: Group, measure: Measure, label: str, overhead: str) -> None:
    known = outcomes(group, measure)
    if known is None or (found and known[0].shape[1] != found[0].outcomes.shape[1]):
        return
    values, weights = known
    value = values.mean() if weights is None else float((values.sum(axis=1) / weights.sum()).mean())
    found.append(Option(label, group, values, float(value), _costs(group), overhead))


def _costs(group: Group) -> dict[str, float | None]:
    memory = _memory(group)
    if group.first.is_base:
        return {"memory": memory, "time": 0.0, "parameters": 0.0, "bytes": 0.0}
    found = {cost.key: cost.of(group) for cost in COSTS}
    return {
        "memory": memory,
        "time": found["train_seconds"],
        "parameters": found["trainable_parameters"],
        "bytes": found["saved_megabytes"],
    }


def _memory(group: Group) -> float | None:
    """Return the bytes that a device must have: on a GPU what its allocator held and the context, else the peak."""
    required = required_mebibytes(group)
    mebibytes = peak_mebibytes(group) if required is None else required
    return None if mebibytes is None else mebibytes * MEBIBYTE


def _overhead(group: Group) -> str:
    prints = [row.current.fingerprint for row in group.rows if row.current]
    merged = [one.mergeable if one else None for one in prints]
    if all(merged):
        return ""
    return "inference overhead unknown" if None in merged else "cannot be merged into the base"


def _price(option: Option, need: Need) -> float:
    found = option.costs[need.minimize]
    return float("inf") if found is None else found


def _weights(contest: Contest) -> Floats | None:
    known = outcomes(contest.ranked[0], contest.measure)
    return known[1] if known else None


def _amount(option: Option, name: str, scale: float, unit: str) -> str:
    found = option.costs[name]
    return (
        ""
        if found is None or (option.group.first.is_base and name != "memory")
        else f"{quantity(found / scale)} {unit}"
    )
