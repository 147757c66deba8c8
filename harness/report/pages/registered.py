"""The claims that a sweep was made for, on top of its report: a line for each, and what was done otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.report.analysis.deviations import deviations
from harness.report.analysis.tested_claims import Tested
from harness.report.data.levels import claim_level
from harness.report.data.rows import Loaded
from harness.report.document import Cell, Column, Missing, Table, Text, key_of

EXPLORATORY = (
    "Everything below is exploratory: it was not claimed beforehand, and its error rates are those of its own families."
)


def table(results: Sequence[Tested]) -> Table:
    """Return a line for each claim."""
    titles = ("Claim", "Source", "Outcome", "Value", "Interval", "Rests on", "What would decide it")
    columns = tuple(Column(key_of(title), title, text=title not in ("Value", "Interval")) for title in titles)
    return Table(columns, tuple(map(_row, results)), label="claims", title="Claims")


def explained(results: Sequence[Tested], loaded: Loaded) -> list[str]:
    """Return how to read the table, when the claims were written down, and what was done otherwise since."""
    count, level = len(results), loaded.claim_level
    share = 100 * (1 - claim_level(loaded.sweep, level, count))
    lines = [
        f"Intervals hold together at {100 * (1 - level):g} %: each of the {count} at {share:.4g} % (Bonferroni). A "
        "claim is confirmed where its interval lies inside the claimed range, and refuted where it lies outside.",
    ]
    if loaded.registration is None:
        lines.append("Not registered: nothing shows that these claims are older than the results.")
        return [*lines, *_notes(results)]
    made = loaded.registration
    lines.append(f"Registered at {made.registered_at}, sha256 {made.digest}. {made.exclusions}")
    since = deviations(loaded)
    lines += [f"Deviation: {deviation}." for deviation in since] or ["No deviation from the registration."]
    return [*lines, *_notes(results)]


def sentence(tested: Tested) -> str:
    """Return a claim in one line: confirmed, with its number and interval."""
    interval = "no interval" if tested.evidence.interval is None else _interval(tested)
    value = "unknown" if tested.evidence.value is None else _number(tested.evidence.value)
    return f"{tested.outcome}: {tested.record.claim}: {value} ({interval})"


def _row(tested: Tested) -> tuple[Cell, ...]:
    evidence = tested.evidence
    decide = (
        "; ".join(part for part in (evidence.why, evidence.narrower) if part) if tested.outcome == "undecided" else ""
    )
    value = "" if evidence.value is None else _number(evidence.value)
    interval = "" if evidence.interval is None else _interval(tested)
    texts = (tested.record.claim, tested.record.source, tested.outcome, value, interval, evidence.basis, decide)
    return tuple(Text(text) if text else Missing() for text in texts)


def _interval(tested: Tested) -> str:
    assert tested.evidence.interval is not None
    return " to ".join(map(_number, tested.evidence.interval))


def _number(value: float) -> str:
    """Return a score with four decimals, a large amount with four digits, an open end as text."""
    if math.isinf(value):
        return "unbounded"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.4g}"


def _notes(results: Sequence[Tested]) -> list[str]:
    return [f"{result.record.claim}: {result.record.note}" for result in results if result.record.note]
