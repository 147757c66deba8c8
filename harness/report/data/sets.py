"""Sets of runs outside of any sweep: the rows of one set may stand in one table."""

import json
from dataclasses import replace
from typing import Any

from harness.report.analysis.comparable import METHOD_AND_RATE, covered
from harness.report.analysis.facts import Facts, recipe_facts, stack_facts
from harness.report.data.labels import labeled
from harness.report.data.rows import Loaded, Row


def comparable_sets(loaded: Loaded) -> list[Loaded]:
    """Return the sets, in the order of their first rows.

    Trained rows of one set share all but the method, its settings and the rate. The untouched model joins every set
    that shares an evaluation with it. A run without a result joins every set with its recipe's other settings.
    """
    sets: dict[str, list[Row]] = {}
    for row in loaded.rows:
        if row.status == "ok" and not row.is_base:
            sets.setdefault(_key(row, loaded, full=True), []).append(row)
    trained = {key: tuple(rows) for key, rows in sets.items()}
    for row in loaded.rows:
        if row.status == "ok" and not row.is_base:
            continue
        fits = [key for key, rows in trained.items() if _fits(row, rows[0], loaded)]
        for key in fits or [_key(row, loaded, full=False)]:
            sets.setdefault(key, []).append(row)
    found = []
    for rows in sets.values():
        members = [row for row in loaded.rows if row in rows]
        found.append(replace(loaded, rows=tuple(labeled(members, by_value=True))))
    return found


def _fits(row: Row, other: Row, loaded: Loaded) -> bool:
    """Return whether a base model or a run without a result belongs beside a trained run."""
    if not row.is_base:
        return _key(row, loaded, full=False) == _key(other, loaded, full=False)
    if row.status != "ok":
        return row.record is not None and _model(row) == _model(other)
    looks = {scored.comparison_key for scored in row.scored} & {scored.comparison_key for scored in other.scored}
    return bool(looks) and _kept(stack_facts(row), loaded) == _kept(stack_facts(other), loaded)


def _key(row: Row, loaded: Loaded, full: bool) -> str:
    """Return the facts that the rows of a set share, as JSON; "" without a record.

    Without `full` the machine and the evaluations are left out: a run without a result is placed by its recipe.
    """
    if row.record is None:
        return ""
    facts: dict[str, Any] = {**_kept(recipe_facts(row), loaded), "model": _model(row)}
    if full:
        facts.update(_kept(stack_facts(row), loaded))
        facts.update({key: value for key, value in row.setting.items() if not covered(key, loaded.allowed)})
    return json.dumps(facts, sort_keys=True)


def _kept(facts: Facts, loaded: Loaded) -> Facts:
    free = (*METHOD_AND_RATE, *loaded.allowed)
    return {key: value for key, value in facts.items() if not covered(key, free)}


def _model(row: Row) -> Any:
    return (row.record.recipe.get("model") or {}).get("content") if row.record else None
