"""The claims that a sweep was made for, a line for each, and the deviations from their registration."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.records import record
from harness.records.registration import Registration
from harness.report.analysis import claim_words
from harness.report.analysis.remarks import program_changes
from harness.report.analysis.tested_claims import Tested, judge
from harness.report.data.rows import MARGIN, Loaded, Row, claim_level
from harness.report.display import collected, several, short
from harness.report.document import Column, Table, fixed, key_of

_NAMED = 3  # runs or cells that a line names
_MORE_DIGITS = 6
EXPLORATORY = (
    "Everything below is exploratory: it was not claimed beforehand, and its error rates are those of its own families."
)


def table(results: Sequence[Tested]) -> Table:
    """Return a line for each claim: what came out first, so that the first part of a table cut in two holds it."""
    titles = ("Claim", "Metric", "Outcome", "Estimate", "Interval", "Based on", "What would decide it", "Source")
    columns = [Column(key_of(title), title, text=title not in ("Estimate", "Interval")) for title in titles]
    rows = []
    for tested in results:
        evidence, claim = tested.evidence, tested.claim
        open_ends = (evidence.why, evidence.narrower) if tested.outcome == "undecided" else ()
        named = (claim_words.text(claim, tested.titles), claim_words.metric(claim), tested.outcome)
        deciding = "; ".join(filter(None, open_ends))
        rows.append((*named, *_numbers(tested), evidence.basis, deciding, tested.record.source))
    return Table.of(columns, ([text or None for text in row] for row in rows), label="claims", title="Claims")


def _numbers(tested: Tested) -> tuple[str, str]:
    """Return the number of a claim and its interval in the metric's unit; "" for what is unknown.

    Two significant digits of the interval's half width are shown, or as many as the outcome can be seen by; four of a
    number without an interval.
    """
    evidence, scale = tested.evidence, claim_words.scale(tested.claim)
    low, high = evidence.interval or (0.0, math.inf)
    half, size = scale * (high - low) / 2, scale * abs(evidence.value or 0.0)
    uncertain = half if 0 < half < math.inf else size / 100
    fewest = max(0, 1 - math.floor(math.log10(uncertain))) if uncertain else 3
    digits = next(
        (
            digits
            for digits in range(fewest, fewest + _MORE_DIGITS)
            if _is_seen(tested, round(low * scale, digits) / scale, round(high * scale, digits) / scale)
        ),
        fewest,
    )
    value = "" if evidence.value is None else _number(evidence.value * scale, digits)
    return value, " to ".join(_number(end * scale, digits) for end in evidence.interval or ())


def _is_seen(tested: Tested, low: float, high: float) -> bool:
    """Return whether the ends of an interval, as they are shown, lead to the same outcome."""
    return tested.evidence.interval is None or judge(tested.claim.range, (low, high)) == tested.outcome


def _number(value: float, digits: int) -> str:
    return "unbounded" if math.isinf(value) else "0" if value == 0 else fixed(value, digits)


def explained(results: Sequence[Tested], loaded: Loaded) -> list[str]:
    """Return how to read the table, when the claims were written down, and what was done otherwise since."""
    lines = [_level(len(results), loaded) if results else "No claims were written down."]
    made = loaded.registration
    if made is None:
        lines.append("Not registered: nothing shows that these claims are older than the results.")
    else:
        lines.append(f"Registered at {made.registered_at}, sha256 {made.digest}. {made.exclusions}")
        lines += _code(made.made_with)
        since = [f"Deviation: {deviation}." for deviation in deviations(loaded)]
        lines += since or ["No deviation from the registration."]
    lines += _defined(results)
    noted = collected(
        (result.record.note, claim_words.text(result.claim, result.titles)) for result in results if result.record.note
    )
    return [*lines, *(f"{several(list(dict.fromkeys(claims)), _NAMED)}: {note}" for note, claims in noted.items())]


def _code(made_with: Mapping[str, Any]) -> list[str]:
    """Return what is not known of the code that a sweep was registered with; nothing where its digest is there."""
    if made_with.get("program"):
        return []
    commit = made_with.get("commit")
    if not commit:
        return ["It was registered without a commit of its code, so that a change of the code is not seen."]
    if not made_with.get("uncommitted_changes"):
        return []
    return [f"It was registered at commit {short(commit)} with uncommitted changes, which are not known."]


def _defined(results: Sequence[Tested]) -> Iterator[str]:
    """Yield what the quantities are that papers define in more than one way."""
    metrics = [result.claim.metric for result in results]
    if None in metrics:
        yield (
            "The best learning rate is the lowest point of a parabola through the lowest mean validation loss and the "
            "two losses beside it, over the logarithm of the rate, so that it may lie between two rates that were "
            "tried. Its interval is from a bootstrap of validation rows and seeds."
        )
    if any((metric or "").rpartition("/")[2].startswith("p_right") for metric in metrics):
        yield (
            "The probability of the right answer is a softmax over the log-likelihoods of an item's choices, and its "
            "mean over the items is compared."
        )


def _level(count: int, loaded: Loaded) -> str:
    level = loaded.claim_level
    share = 100 * (1 - claim_level(loaded.sweep, level, count))
    return (
        f"Intervals hold together at {100 * (1 - level):g} %: each of the {count} at {share:.4g} % (Bonferroni). A "
        "claim is confirmed where its interval lies inside the claimed range, and refuted where it lies outside."
    )


def deviations(loaded: Loaded) -> list[str]:
    """Return the deviations from the registration; none where the sweep was not registered."""
    made, sweep = loaded.registration, loaded.sweep
    if made is None or sweep is None:
        return []
    rows = [row for row in (*loaded.rows, *loaded.trials) if row.record]
    twice = [row.title for row in rows if any(old.evaluation["role"] in ("target", "test") for old in row.replaced)]
    read = [f"test read twice, since it was trained again: {several(twice, _NAMED)}"] if twice else []
    return [*_question(made, loaded), *_seeds(made, sweep), *_cells(made, sweep), *_runs(made, rows), *read]


def _question(made: Registration, loaded: Loaded) -> Iterator[str]:
    """Yield the parts of the question that have changed since, in its file or by an option of the report."""
    sweep = loaded.sweep
    assert sweep is not None, "only a sweep is registered"
    tuning = sweep.tuning
    now = {
        "question": sweep.question,
        "primary": sweep.primary,
        "margin": sweep.margin if loaded.margin == (sweep.margin or MARGIN) else loaded.margin,
        "claims": tuple(claim.claim for claim in sweep.claims),
        "rule": tuning.rule if tuning else None,
        "tuned": tuning.settings if tuning else (),
        "tuning_seeds": tuning.seeds if tuning else (),
    }
    then = {**{key: getattr(made, key) for key in now}, "claims": tuple(claim.claim for claim in made.claims)}
    for key, value in now.items():
        if then[key] != value:
            yield f"{key.replace('_', ' ')}: registered {_shown(then[key])}, now {_shown(value)}"
    if loaded.allowed:
        yield f"undeclared differences allowed by an option of the report (--allow): {', '.join(loaded.allowed)}"


def _seeds(made: Registration, sweep: record.SweepRecord) -> Iterator[str]:
    """Yield final seeds that were not planned, or were planned and left out."""
    taken = sweep.tuning.final_seeds if sweep.tuning else ()
    added = [seed for seed in taken if seed not in made.final_seeds]
    fewest = made.looks[0] if made.looks else len(made.final_seeds)
    left_out = [seed for seed in made.final_seeds[:fewest] if seed not in taken] if taken else []
    for what, seeds in (("added", added), ("left out", left_out)):
        if seeds:
            yield f"final seeds {what}: {', '.join(map(str, seeds))}"
    then, now = made.looks, sweep.tuning.looks if sweep.tuning else None
    if sweep.tuning and then != ((now.first, now.most) if now else None) and not added + left_out:
        yield f"looks: registered {_shown(then)}, now {_shown((now.first, now.most) if now else None)}"


def _cells(made: Registration, sweep: record.SweepRecord) -> Iterator[str]:
    """Yield the registered runs that have changed since: another recipe, or another evaluation of it."""
    then, now = (
        {(cell.recipe_id, cell.seed, cell.stage): cell for cell in cells} for cells in (made.cells, sweep.cells)
    )
    for what, ours, others in (("added", now, then), ("left out", then, now)):
        changed = [
            cell for key, cell in ours.items() if key not in others and cell.stage != "final"
        ]  # those come later
        if changed:
            yield f"cells {what}: {_listed(changed)}"
    evaluated = [now[key] for key in now.keys() & then.keys() if {*now[key].eval_ids} != {*then[key].eval_ids}]
    if evaluated:
        yield f"evaluations changed (tasks, limits or prompts): {_listed(evaluated)}"


def _listed(cells: Sequence[record.Cell]) -> str:
    return several([" ".join(words) for words in sorted(cell.overrides for cell in cells)], _NAMED)


def _runs(made: Registration, rows: Sequence[Row]) -> Iterator[str]:
    """Yield the runs that are older than the registration, or were trained or evaluated with other code or versions."""
    early = [row.title for row in rows if row.record and row.record.attempts[0].started_at < made.registered_at]
    if early:
        yield f"begun before the registration of {made.registered_at}: {several(early, _NAMED)}"
    moved = collected((text, row.title) for row in rows for text in _moved(made, row))
    for titles, texts in collected((tuple(titles), text) for text, titles in moved.items()).items():
        whose = f"all {len(rows)} runs" if len(titles) == len(rows) > 1 else several(titles, _NAMED)
        yield f"{', '.join(texts)}: {whose}"


def _moved(made: Registration, row: Row) -> Iterator[str]:
    """Return each difference of program or version under which a run was trained or evaluated, once."""
    versions = made.made_with.get("versions") or {}  # a method may bring libraries of its own
    programs = (
        {**facts, "versions": {name: version for name, version in facts["versions"].items() if name in versions}}
        for facts in (row.made_with, *(scored.record.provenance for scored in row.scored))
    )
    return iter(dict.fromkeys(text for program in programs for text in program_changes(made.made_with, program)))


def _shown(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{'; '.join(map(str, value))}]"
    return "nothing" if value is None else str(value)
