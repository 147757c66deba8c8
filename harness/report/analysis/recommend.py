"""Recommendation of a method for limits in memory and time, a tolerance in quality, and with or without overhead.

The rule: among the options within the limits, the best one and those that are non-inferior to it (margin = tolerance,
one-sided at the level of the report's families, adjusted for all options, since the best is chosen from the same
scores); of these the cheapest. Few-shot prompting is one of the options. With one seed per method the seed variance is
unknown, and the best score is recommended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.records.untrusted import NO_BREAK
from harness.report.analysis.axes import PARAMETERS, SAVED, TRAIN_SECONDS, memory, memory_spread, required_memory
from harness.report.analysis.claims import MetricComparison
from harness.report.data.groups import EQUAL, Aligned, Group, Measure, aligned, outcomes
from harness.report.display import GIBIBYTE, p_value, quantity, several

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
    name: str
    group: Group
    outcomes: Floats  # (seeds, items)
    value: float
    costs: dict[str, float | None]  # by criterion, in bytes and seconds; the memory is that which a device must have
    overhead: str  # why inference costs more than the base model's; "" where it does not

    @property
    def is_base(self) -> bool:
        """Return whether it prompts the untouched model."""
        return self.group.first.is_base

    def refused(self, need: Need) -> str:
        """Return the reason why the option does not meet the requirements; "" if it does."""
        limits = (("memory", need.memory_bytes, "GiB", GIBIBYTE), ("time", need.seconds, "s", 1))
        for name, limit, unit, scale in limits:
            used = self.costs[name]
            if limit is not None and (used is None or used > limit):
                return f"{name} {'unknown' if used is None else f'{quantity(used / scale)} {unit}'}"
        return "" if need.overhead else self.overhead


@dataclass(frozen=True)
class Advice:
    """The recommended option and what it rests on; no option is recommended where none keeps the limits."""

    contest: MetricComparison
    need: Need
    chosen: Option | None
    best: Option | None  # of those that keep the limits, by its score alone
    best_share: float | None  # of resamples of items and seeds in which none of them is better
    pair: Result | None  # the chosen one against the best; None where they are the same
    not_different: tuple[Option, ...]  # not significantly different from the best
    withheld: str  # why no option can be shown to be non-inferior; ""
    refused: tuple[tuple[Option, str], ...]


def options(contest: MetricComparison, groups: Sequence[Group]) -> list[Option]:
    """Return the ranked methods and each prompting of the untouched model, on the same items."""
    listed: list[Option] = []
    for group in contest.ranked:
        _add(listed, group, contest.measure, (group.label, group.name), _overhead(group))
    scored = [s for group in contest.groups for s in group.evaluations[contest.measure.eval_id]]
    for group in groups:
        if not (group.ok and group.first.is_base and group.model == contest.ranked[0].model) or not scored:
            continue
        for eval_id, looks in group.evaluations.items():
            same = looks[0].task == scored[0].task and contest.measure.metric in looks[0].record.metrics
            ids = [look.items.ids if look.items else None for look in (looks[0], scored[0])]
            if same and ids[0] is not None and ids[0] == ids[1]:
                shots = looks[0].record.num_fewshot
                prompting = "" if not shots or "shot" in group.label else f" ({shots}-shot)"
                label = (f"{group.label}{prompting}", f"{group.name}{prompting}")
                longer = f"{shots} examples in every prompt" if shots else ""
                _add(listed, group, Measure(eval_id, contest.measure.metric), label, longer)
    return list({option.label: option for option in listed}.values())


def advise(contest: MetricComparison, every: Sequence[Option], need: Need) -> Advice:
    """Apply the rule of recommendation."""
    from harness.stats import bootstrap, clustered

    sign = 1.0 if contest.higher_is_better else -1.0
    refused = tuple((option, reason) for option in every if (reason := option.refused(need)))
    left = [option for option in every if not option.refused(need)]
    if not left:
        return Advice(contest, need, None, None, None, None, (), "", refused)
    best = max(left, key=lambda option: sign * option.value)
    table = aligned(contest.ranked[:1], contest.measure)
    sizes, shared = (table.weights, table.clusters) if table else (None, None)
    tables = [clustered(option.outcomes, sizes, shared) for option in left]
    draws = sign * bootstrap([values for values, _ in tables], tables[0][1])
    share = float((draws[left.index(best)] >= draws.max(axis=0)).mean())
    pairs = _against(best, left, contest, table, need.tolerance)
    level = contest.groups[0].level
    good = [option for option in left if option is best or _not_worse(pairs.get(option.label)) < level]
    chosen = min(good, key=lambda option: (_known(option.costs[need.minimize]), -sign * option.value))
    by_label = {option.label: option for option in left}
    alike = tuple(by_label[label] for label, pair in pairs.items() if pair.verdict in ("not significant", "equivalent"))
    withheld = "; ".join(dict.fromkeys(pair.why for pair in pairs.values() if pair.why))
    return Advice(contest, need, chosen, best, share, pairs.get(chosen.label), alike, withheld, refused)


def _not_worse(pair: Result | None) -> float:
    """Return the p-value of non-inferiority; 1 without a tolerance, with which nothing but the best is good enough."""
    return 1.0 if pair is None or pair.noninferiority_p is None else pair.noninferiority_p


def _known(price: float | None) -> float:
    return float("inf") if price is None else price


def _against(
    best: Option, left: Sequence[Option], contest: MetricComparison, table: Aligned | None, tolerance: float
) -> dict[str, Result]:
    """Return every other option's comparison with the best, by label, in one family.

    Row s of the outcomes is the same seed for all options, NaN where an option lacks it.
    """
    import numpy as np

    from harness.stats import compare_methods

    if len(left) < 2 or best.outcomes.shape[1] < 2:
        return {}
    seeds = sorted({seed for option in left if not option.is_base for seed in option.group.seeds})
    tables = {option.label: option.outcomes[:1] for option in left}
    for option in left:
        if not option.is_base:
            tables[option.label] = np.full((len(seeds), option.outcomes.shape[1]), np.nan)
            tables[option.label][[seeds.index(seed) for seed in option.group.seeds]] = option.outcomes
    compared = compare_methods(
        tables,
        families=("best",),
        level=contest.groups[0].level,
        margin=tolerance or None,
        weights=table.weights if table else None,
        clusters=table.clusters if table else None,
        deterministic=[option.label for option in left if option.is_base],
        higher_is_better=contest.higher_is_better,
    )
    family = compared.families.get("best")
    return {pair.a: pair for pair in family.pairs} if family else {}


def sentences(advice: Advice) -> list[str]:
    """Return the advice in sentences, with the numbers behind it."""
    contest, chosen, best = advice.contest, advice.chosen, advice.best
    refused = [f"{option.name} ({reason})" for option, reason in advice.refused]
    excluded = f"Excluded by the limits: {several(refused, 8)}." if refused else ""
    if chosen is None or best is None:
        return [line for line in (f"No method on {contest.name} keeps the limits.", excluded) if line]
    required = required_memory(chosen.group)
    amounts = [("memory", GIBIBYTE, "GiB at the peak" if required is None else "GiB of a GPU")]
    amounts += [] if chosen.is_base else [("time", 1, "s of training"), ("parameters", 1, "trained parameters")]
    costs = ((chosen.costs[name], scale, unit) for name, scale, unit in amounts)
    costs_of = ", ".join(f"{quantity(cost / scale)} {unit}" for cost, scale, unit in costs if cost is not None)
    score = f"{contest.shown(chosen.value)} on {contest.name}, {contest.num_items:,} items"
    lines = [f"Use {chosen.name}: {score}{f'; {costs_of}' if costs_of else ''}."]
    share = f"bootstrap probability {advice.best_share or 0:.2f}"
    if chosen is best:
        lines.append(f"Best score within the limits ({share}).")
    elif advice.pair is not None:
        pair = advice.pair
        lines.append(
            f"{best.name} has the best score ({contest.shown(best.value)}, {share}); {chosen.name} is non-inferior "
            f"with a margin of {contest.gain_shown(advice.need.tolerance, signed=False)} (adjusted "
            f"{p_value(_not_worse(pair))}, difference {contest.gain_shown(pair.difference)}, simultaneous "
            f"95{NO_BREAK}% CI {contest.ends_shown(pair.adjusted_interval)}) and needs the least "
            f"{advice.need.minimize}."
        )
    if advice.not_different:
        alike = [option.name for option in advice.not_different]
        lines.append(f"Not significantly different from {best.name}: {several(alike, 8)}.")
    if advice.withheld and advice.need.tolerance:
        lines.append(f"Non-inferiority is not claimed: {advice.withheld}.")
    return [line for line in (*lines, excluded) if line]


def record(advice: Advice) -> dict[str, Any]:
    """Return the advice as plain values in the units of the records; an unknown value is null."""
    chosen, best, pair = advice.chosen, advice.best, advice.pair
    low, high = pair.adjusted_interval if pair else (None, None)
    return {
        "task": advice.contest.task,
        "metric": advice.contest.measure.metric,
        "lines": sentences(advice),
        "method": chosen.label if chosen else None,
        "score": chosen.value if chosen else None,
        "costs": chosen.costs if chosen else None,
        "best": best.label if best else None,
        "best_score": best.value if best else None,
        "best_probability": advice.best_share,
        "difference": pair.difference if pair else None,
        "low": low,
        "high": high,
        "noninferiority_p": _not_worse(pair) if pair else None,
        "tolerance": advice.need.tolerance,
        "not_significantly_different": [option.label for option in advice.not_different],
        "excluded": [{"method": option.label, "reason": reason} for option, reason in advice.refused],
    }


def recommendations(contest: MetricComparison, groups: Sequence[Group], tolerance: float) -> list[str]:
    """Return a sentence for each need that a reader may have: no limit, no overhead, and less and less memory."""
    every = options(contest, groups)
    if len(every) < 2:
        return []
    needs = [("No limit", Need(tolerance=tolerance))]
    needs += (
        [("No inference overhead", Need(tolerance=tolerance, overhead=False))]
        if any(option.overhead and not option.is_base for option in every)
        else []
    )
    peaks = _apart(every)[1:]
    limits = peaks[:: -(-len(peaks) // MOST_LIMITS)] if peaks else []
    needs += [
        (f"Within {limit / GIBIBYTE:.2f}{NO_BREAK}GiB", Need(tolerance=tolerance, memory_bytes=limit))
        for limit in limits
    ]
    lines: dict[str, str] = {}
    for name, need in needs:
        advice = advise(contest, every, need)
        chosen = advice.chosen
        if chosen is not None and chosen.label not in lines and (chosen.overhead or not chosen.is_base):
            lines[chosen.label] = f"{name}: {_reason(advice)}"
    return list(lines.values())


def _apart(every: Sequence[Option]) -> list[float]:
    """Return the methods' memories from the largest down, without those that runs of one method would tell apart."""
    spread, apart = memory_spread(option.group for option in every), list[float]()
    for used in sorted({used for option in every if (used := option.costs["memory"]) is not None}, reverse=True):
        if not apart or apart[-1] - used > spread:
            apart.append(used)
    return apart


def _reason(advice: Advice) -> str:
    """Return the chosen option with its score, and why it stands before the best one."""
    chosen, best, contest = advice.chosen, advice.best, advice.contest
    assert chosen is not None and best is not None, "an option was chosen"
    score = contest.shown(chosen.value)
    if chosen is best:
        share = advice.best_share or 0.0
        within = " within this limit" if advice.need.memory_bytes is not None else ""
        return f"{chosen.name} ({score}), the best score{within} (bootstrap probability of being best {share:.2f})."
    assert advice.pair is not None, "an option was compared with the best"
    gap = contest.gain_shown(advice.pair.difference)
    ends = contest.ends_shown(advice.pair.adjusted_interval)
    return (
        f"{chosen.name} ({score}), non-inferior to {best.name} ({contest.shown(best.value)}; difference {gap}, "
        f"simultaneous 95{NO_BREAK}% CI {ends}) and cheaper in {advice.need.minimize}."
    )


def _add(listed: list[Option], group: Group, measure: Measure, label: tuple[str, str], overhead: str) -> None:
    table = outcomes(group, measure)
    if table is None or (listed and table[0].shape[1] != listed[0].outcomes.shape[1]):
        return
    values, weights = table
    value = values.mean() if weights is None else float((values.sum(axis=1) / weights.sum()).mean())
    trained = {"time": TRAIN_SECONDS, "parameters": PARAMETERS, "bytes": SAVED}
    costs = {key: 0.0 if group.first.is_base else cost.of(group) for key, cost in trained.items()}
    listed.append(
        Option(*label, group, values, round(float(value), EQUAL), {"memory": memory(group), **costs}, overhead)
    )


def _overhead(group: Group) -> str:
    prints = [row.current.fingerprint for row in group.rows if row.current]
    merged = [fingerprint.mergeable if fingerprint else None for fingerprint in prints]
    if all(merged):
        return ""
    return "inference overhead unknown" if None in merged else "cannot be merged into the base"
