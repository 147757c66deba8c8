"""The claims that a sweep was made for, on top of its report: a line for each, and what was done otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.report.analysis.deviations import deviations
from harness.report.analysis.tested_claims import Tested
from harness.report.data.levels import claim_level
from harness.report.data.rows import Loaded
from harness.report.display import DASH
from harness.report.document import Table, text_table

HEADER = ("Claim", "Source", "Outcome", "Value", "Interval", "Rests on", "What would decide it")
TEXT = ("Claim", "Source", "Outcome", "Rests on", "What would decide it")  # columns to the left
EXPLORATORY = (
    "Everything below is exploratory: it was not claimed beforehand, and its error rates are those of its own families."
)


def table(results: Sequence[Tested]) -> Table:
    """Return a line for each claim."""
    return text_table("Claims", HEADER, (_line(one) for one in results), TEXT)


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
    lines += [f"Deviation: {one}." for one in since] or ["No deviation from the registration."]
    return [*lines, *_notes(results)]


def sentence(one: Tested) -> str:
    """Return a claim in one line: confirmed, with its number and interval."""
    interval = "no interval" if one.evidence.interval is None else _interval(one)
    value = "unknown" if one.evidence.value is None else _number(one.evidence.value)
    return f"{one.outcome}: {one.record.claim}: {value} ({interval})"


def _line(one: Tested) -> tuple[str, ...]:
    evidence = one.evidence
    decide = (
        DASH if one.outcome != "undecided" else "; ".join(part for part in (evidence.why, evidence.narrower) if part)
    )
    return (
        one.record.claim,
        one.record.source or DASH,
        one.outcome,
        DASH if evidence.value is None else _number(evidence.value),
        DASH if evidence.interval is None else _interval(one),
        evidence.basis or DASH,
        decide or DASH,
    )


def _interval(one: Tested) -> str:
    assert one.evidence.interval is not None
    return " to ".join(map(_number, one.evidence.interval))


def _number(value: float) -> str:
    """Return a score with four decimals, a large amount with four digits, an open end as text."""
    if math.isinf(value):
        return "unbounded"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.4g}"


def _notes(results: Sequence[Tested]) -> list[str]:
    return [f"{one.record.claim}: {one.record.note}" for one in results if one.record.note]
