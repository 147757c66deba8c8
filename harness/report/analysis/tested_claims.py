"""The claims of a sweep, tested on its records: each with an interval, all of them as one family.

Each interval misses with probability level / number of claims (Bonferroni), so that all of them hold together at 95 %.
A claim is confirmed where its interval lies inside the claimed range, refuted where it lies outside, and undecided
otherwise. Seeds may be added until nothing is undecided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from harness.records import claim_grammar
from harness.records.claim_grammar import Difference, Range, Ratio, Selector
from harness.records.record import ClaimRecord
from harness.report.analysis import axes, claim_words
from harness.report.analysis.claims import LEVEL, MetricComparison
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Group, Measure, aligned
from harness.report.data.items import clusters, matrix, same_items, weights
from harness.report.data.rows import Loaded, Row, claim_level, family_level
from harness.report.display import counted

if TYPE_CHECKING:
    from harness.report.data.items import ScoredEvaluation
    from harness.stats import Floats
    from harness.stats.best_rate import Profile
    from harness.stats.contrast import Contrast


Outcome = Literal["confirmed", "refuted", "undecided"]
TIMED = ("tokens_per_second", "train_seconds", "train_energy_joules", "device_hours")
_MOST_TIMES = 100  # of the seeds and items: what more would take, nobody runs
EXACT = ("trainable_parameters",)  # one run says it
_PROVEN = ("ok", "diverged")  # a trial that failed for another reason says nothing of its rate
_PLAIN_LOSSES = {"validation_loss": "validation", "test_loss": "test"}


@dataclass(frozen=True)
class Evidence:
    """Evidence of the records for the number of a claim.

    `why` gives the reason for a missing or open interval; `narrower` names what would make the interval narrower.
    """

    value: float | None
    interval: tuple[float, float] | None
    why: str = ""
    basis: str = ""  # seeds and items that it rests on
    narrower: str = ""


@dataclass(frozen=True)
class Tested:
    """A claim with its outcome and evidence on the records, and the report's names of its cells."""

    record: ClaimRecord
    claim: claim_grammar.Claim
    outcome: Outcome
    evidence: Evidence
    titles: Mapping[Selector, str] = field(default_factory=dict)


def tested(comparison: Comparison) -> list[Tested]:
    """Return every claim of the sweep, in its order; those that were registered, where it was registered."""
    loaded = comparison.loaded
    records = loaded.registration.claims if loaded.registration else loaded.sweep.claims if loaded.sweep else ()
    level = claim_level(loaded.sweep, loaded.claim_level, len(records))
    return [_tested(record, claim_grammar.parse(record.claim), comparison, level) for record in records]


def judge(limits: Range, interval: tuple[float, float]) -> Outcome:
    """Return what an interval says of a range."""
    low, high = interval
    above = limits.low is None or low > limits.low or (low == limits.low and not limits.is_open)
    below = limits.high is None or high < limits.high or (high == limits.high and not limits.is_open)
    if above and below:
        return "confirmed"
    under = limits.low is not None and (high < limits.low or (high == limits.low and limits.is_open))
    over = limits.high is not None and (low > limits.high or (low == limits.high and limits.is_open))
    return "refuted" if under or over else "undecided"


def _tested(record: ClaimRecord, claim: claim_grammar.Claim, comparison: Comparison, level: float) -> Tested:
    try:
        evidence = _evidence(claim, comparison, level)
    except ValueError as error:  # a cell that no run has, or outcomes that cannot be compared
        evidence = Evidence(None, None, why=str(error))
    outcome = judge(claim.range, evidence.interval) if evidence.interval else "undecided"
    titles = {cell: title for cell in claim.cells if (title := _title(cell, comparison))}
    return Tested(record, claim, outcome, evidence, titles)


def _title(cell: Selector, comparison: Comparison) -> str:
    """Return the name of the contestant or group that a cell selects, as the tables have it; "" where none is alone."""
    loaded = comparison.loaded
    contestants = {row.cell.contestant: row for row in reversed(loaded.trials) if row.cell}
    rows = [(entry.title, contestants.get(entry.name)) for entry in comparison.tuning]
    rows = rows or [(group.name, group.first) for group in comparison.groups if group.first.cell]
    chosen = [title for title, row in rows if row and cell.matches(row.method, _words(row, loaded))]
    return chosen[0] if len(chosen) == 1 else ""


def _evidence(claim: claim_grammar.Claim, comparison: Comparison, level: float) -> Evidence:
    if isinstance(claim, Ratio) and claim.metric is None:
        return _best_rates(claim, comparison, level)
    if claim.metric in claim_grammar.MEASURED:
        return _measured(claim, comparison, level)
    assert isinstance(claim, Difference), "the grammar has ratios of measured quantities alone"
    return _scores(claim, comparison, level)


def _group(cell: Selector, comparison: Comparison) -> Group:
    """Return the group that a claim's cell names.

    Raises:
        ValueError: no group, several, or one without a result.
    """
    groups = [group for group in comparison.groups if group.first.cell is not None]
    words = [(group.first.method, _words(group.first, comparison.loaded)) for group in groups]
    tuned = _contestants(comparison)
    title = _title(cell, comparison) or claim_words.method(cell)
    missing = f"no {'final run' if comparison.loaded.is_tuned else 'run'} of {title} has been made"
    if any(cell.matches(*own) for own in tuned) and not any(cell.matches(*own) for own in words):
        raise ValueError(missing)
    group = groups[claim_grammar.select(cell, words)]
    if not group.ok:
        status = group.first.status
        raise ValueError(missing if status in (None, "missing") else f"no run of {title} completed: {status}")
    return group


def _words(row: Row, loaded: Loaded) -> tuple[str, ...]:
    """The overrides that tell a contestant from the others."""
    tuned = loaded.sweep.tuning.settings if loaded.sweep and loaded.sweep.tuning else ()
    free = ("seed", "eval.test", "force", *tuned)
    return tuple(word for word in row.overrides if word.lstrip("+~").partition("=")[0] not in free)


def _measure(metric: str, group: Group) -> Measure:
    """Return the measure that a claim's metric names.

    Raises:
        ValueError: the group was not asked it.
    """
    for scored in (evaluation[0] for evaluation in group.evaluations.values()):
        task, _, name = metric.partition("/")
        named = (scored.heldout and scored.role == _PLAIN_LOSSES.get(metric)) or (scored.task, name) == (task, name)
        wanted = "loss" if metric in _PLAIN_LOSSES else name
        if (named or f"{scored.task}/{wanted}" == metric) and wanted in scored.record.metrics:
            return Measure(scored.comparison_key, wanted)
    raise ValueError(f"{group.label} has no score in {metric}")


def _scores(claim: Difference, comparison: Comparison, level: float) -> Evidence:
    from harness.stats.contrast import contrast

    terms = [(term.factor, _group(term.cell, comparison)) for term in claim.terms]
    measure = _measure(claim.metric, terms[0][1])
    others = [group for group in comparison.groups if group.ok]  # their seeds show the noise that methods share
    sides = aligned(others, measure)
    missing = [group.label for _, group in terms if sides is None or group.label not in sides.values]
    if sides is None or missing:
        raise ValueError(f"{', '.join(missing)}: not the same items in {claim.metric}, so that nothing can be paired")
    factors: dict[str, float] = {}
    for factor, group in terms:
        factors[group.label] = factors.get(group.label, 0.0) + factor
    result = contrast(
        sides.values, factors, level, weights=sides.weights, clusters=sides.clusters, deterministic=sides.untouched
    )
    evidence = Evidence(
        result.value, result.interval, result.why, f"{counted(result.seeds, 'seed')}, {result.items:,} items"
    )
    if result.interval is None:
        return replace(evidence, narrower="two or more seeds of each method")
    return replace(evidence, narrower=_needed(claim.range, result))


def _needed(limits: Range, result: Contrast) -> str:
    """Return how many seeds or items would decide, were the value and the noise to stay as they are."""
    assert result.interval is not None, "it is asked for an interval that is too wide"
    seeds, items, item, seed = result.seeds, result.items, result.item_variance, result.seed_variance
    distance = min(abs(result.value - end) for end in (limits.low, limits.high) if end is not None)
    half = (result.interval[1] - result.interval[0]) / 2
    if distance < 1e-9:  # scores are sums of many items
        return "nothing: the value lies on the bound itself"
    if half <= 0 or not math.isfinite(half) or item + seed <= 0:
        return ""
    wanted = (distance / half) ** 2 * (item + seed)  # the variance at which the interval just stays on one side
    share = (item + seed) / wanted
    if share > _MOST_TIMES:
        return f"more than {_MOST_TIMES} times the seeds and the items: the value lies close to the bound"
    ways = []
    if seed > 0 and _MOST_TIMES * (wanted - item) > seed:
        ways.append(f"{_about(seeds * seed / (wanted - item)):,} seeds")
    if item > 0 and _MOST_TIMES * (wanted - seed) > item:
        ways.append(f"{_about(items * item / (wanted - seed)):,} items")
    return f"about {' or '.join(ways)}" if ways else f"{math.ceil(share)} times the seeds and the items"


def _about(number: float) -> int:
    """Return a number rounded up to two digits: it extrapolates an estimate."""
    step = int(10 ** max(0, len(str(math.ceil(number))) - 2))
    return math.ceil(number / step) * step


def _measured(claim: claim_grammar.Claim, comparison: Comparison, level: float) -> Evidence:
    """Evidence on a quantity that runs are measured by: Welch's interval over the runs, of logarithms for a ratio."""
    from harness.stats.welch import welch

    assert claim.metric is not None
    sides = [_group(cell, comparison) for cell in claim.cells]
    values, doubtful = zip(*(_values(group, claim.metric) for group in sides), strict=True)
    basis = f"{' and '.join(str(len(values_of)) for values_of in values)} runs"
    left_out = f"{sum(doubtful)} of the runs were timed in company and do not count" if sum(doubtful) else ""
    fewest = 1 if claim.metric in EXACT else 2
    if any(len(values_of) < fewest for values_of in values):
        why = left_out or f"{claim.metric}: known of {basis}, and two of each are needed"
        return Evidence(None, None, why, basis, "two or more quiet runs of each" if left_out else "more runs")
    if isinstance(claim, Ratio):
        logs = [[math.log(value) for value in values_of] for values_of in values]
        difference, half = welch(logs[0], logs[1], level)
        ends = (math.exp(difference - half), math.exp(difference + half))
        return Evidence(math.exp(difference), ends, left_out, basis, "more runs")
    scaled = [[term.factor * value for value in values_of] for term, values_of in zip(claim.terms, values, strict=True)]
    difference, half = welch(scaled[0], [-value for value in scaled[1]], level)
    return Evidence(difference, (difference - half, difference + half), left_out, basis, "more runs")


def _values(group: Group, name: str) -> tuple[list[float], int]:
    """(the quantity of each run, how many runs are left out because of the company in which they were timed)."""
    values, doubtful = [], 0
    for row in group.rows:
        value = axes.QUANTITIES[name](row)
        if value is None:
            continue
        if name in TIMED and row.current is not None and axes.timing_doubts(row.current):
            doubtful += 1
            continue
        values.append(float(value))
    return values, doubtful


def _best_rates(claim: Ratio, comparison: Comparison, level: float) -> Evidence:
    from harness.stats.best_rate import rate_ratio

    first, second = (_profile(cell, comparison) for cell in (claim.above, claim.below))
    if not same_items([first[2], second[2]]):
        raise ValueError("the trials of the two were not validated on the same rows")
    result = rate_ratio(first[0], second[0], weights([first[2]]), level, clusters([first[2]]))
    seeds = min(first[1], second[1])
    basis = f"{counted(seeds, 'seed')} and {len(first[0].rates)} and {len(second[0].rates)} rates"
    if seeds < 2:
        why = "one tuning seed shows nothing of the noise between seeds"
        return Evidence(result.value, None, why, basis, "two or more tuning seeds")
    if not result.inside:
        narrower = "rates beyond the grid"
    else:  # at an end of the grid in some resamples alone
        narrower = "more tuning seeds" + ("" if result.why else ", or rates closer to each other")
    return Evidence(result.value, (result.low, result.high), result.why, basis, narrower)


def _profile(cell: Selector, comparison: Comparison) -> tuple[Profile, int, ScoredEvaluation]:
    """(validation losses over the rates of a contestant, its tuning seeds, any of its validations)."""
    from harness.stats.best_rate import Profile

    contestants = _contestants(comparison)
    wanted = contestants[claim_grammar.select(cell, contestants)]
    rows: dict[str, list[Row]] = {}
    for row in comparison.loaded.trials:
        if (row.method, _words(row, comparison.loaded)) == wanted and row.status in _PROVEN:
            rows.setdefault(row.recipe_id, []).append(row)
    validations = [
        scored for seeds in rows.values() for row in seeds for scored in row.scored if scored.role == "validation"
    ]
    if not validations:
        raise ValueError(f"no trial of {claim_words.method(cell)} has a validation loss")
    points = [(rate, _losses(seeds)) for seeds in rows.values() if (rate := _rate(seeds)) is not None]
    points.sort(key=lambda point: point[0])
    profile = Profile(tuple(rate for rate, _ in points), tuple(losses for _, losses in points))
    return profile, min(map(len, rows.values())), validations[0]


def _contestants(comparison: Comparison) -> list[tuple[str, tuple[str, ...]]]:
    """Return (method, overrides) of everything that was tuned, as a claim's cell selects it."""
    trials = (row for row in comparison.loaded.trials if row.cell is not None)
    return list(dict.fromkeys((row.method, _words(row, comparison.loaded)) for row in trials))


def _rate(rows: Sequence[Row]) -> float | None:
    rates = [(row.record.recipe.get("train") or {}).get("lr") for row in rows if row.record]
    return next((float(rate) for rate in rates if rate is not None), None)


def _losses(rows: Sequence[Row]) -> Floats | None:
    scored = [
        score
        for row in rows
        if row.status == "ok"
        for score in row.scored
        if score.heldout and score.role == "validation"
    ]
    return matrix(scored, "loss") if len(scored) == len(rows) else None


def undecided(comparison: Comparison) -> list[str]:
    """Return a line for each claim without a verdict; without claims, for each main comparison without one.

    Raises:
        ValueError: no method has a score that may be compared.
    """
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


def looks_line(comparison: Comparison) -> str:
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
