"""The usual questions of a reproducibility checklist, in our own words, answered from the records.

After the Machine Learning Reproducibility Checklist (Pineau and others, 2021, JMLR 22(164)), as far as runs can answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.data.groups import Group
from harness.report.data.labels import short
from harness.report.data.rows import Loaded
from harness.report.figures.sensitivity import rate_series
from harness.report.pages import notes, tuned
from harness.report.pages.summary import Table

UNKNOWN = "not recorded"


def checklist(loaded: Loaded, groups: Sequence[Group]) -> Table:
    """One line per question."""
    answers = {
        "Which models, at which revision?": _listed(notes.sources(loaded, "model")),
        "Which data, at which revision, under which license?": _listed(notes.sources(loaded, "data")),
        "How many rows were trained on, held out, tested on?": _rows(groups),
        "Which rows were left out, and why?": _left_out(groups),
        "How were hyperparameters chosen, and over which range?": tuned.how(loaded) or _range(groups),
        "Was the test set read to choose anything?": _test(loaded),
        "How many runs is each number made of?": _runs(groups),
        "What do the intervals mean?": "see Definitions",
        "Which measures, over which items, asked how?": "see Evaluations",
        "Which runs failed or are missing?": _failed(groups),
        "On what machine, and how long did it take?": "see Compute, and Versions and machines",
        "Which code made this?": _code(loaded),
        "Which command runs it again?": notes.command_of(loaded) or UNKNOWN,
    }
    return Table("Checklist", ("Question", "Answer"), tuple(answers.items()))


def _listed(lines: Sequence[str]) -> str:
    return "; ".join(lines) or UNKNOWN


def _data(groups: Sequence[Group]) -> list[Any]:
    found = [group.first.current.data for group in groups if group.ok and group.first.current]
    known = [one for one in found if one]
    return [one for index, one in enumerate(known) if one not in known[:index]]  # they hold lists: no hash


def _rows(groups: Sequence[Group]) -> str:
    counts = [
        f"{one.train_rows:,} to train, {one.validation_rows:,} for validation, {one.test_rows:,} to test"
        for one in _data(groups)
    ]
    return _listed(list(dict.fromkeys(counts)))


def _left_out(groups: Sequence[Group]) -> str:
    counts = [
        f"{one.removed_in_test:,} training rows whose prompt occurs in a test set, {one.removed_duplicates:,} "
        f"duplicates, {one.removed_too_long:,} too long"
        for one in _data(groups)
    ]
    return _listed(list(dict.fromkeys(counts)))


def _range(groups: Sequence[Group]) -> str:
    tried = [sorted({rate for rate, _ in one.groups} | {*one.bad}) for one in rate_series(groups)]
    if not tried:
        return "nothing was trained"
    if all(len(rates) == 1 for rates in tried):
        return "they were not: every recipe has one learning rate here; see Settings"
    low, high = min(min(rates) for rates in tried), max(max(rates) for rates in tried)
    return f"learning rates from {short(low)} to {short(high)}; see Tuning"


def _test(loaded: Loaded) -> str:
    """Describe when the test is read, from the sweep or the settings of the runs."""
    if loaded.sweep and loaded.sweep.tuning:
        return "no: trials looked at validation rows alone, and the test was read for what was chosen"
    specs = [row.record.config.get("eval") for row in loaded.rows if row.record]
    values = {str(spec["test"]) for spec in specs if isinstance(spec, Mapping) and spec.get("test")}
    said = {
        "always": "the test was read for every run, so whoever looked at it may have chosen by it",
        "selected": "no: it was read for the chosen recipes alone",
        "never": "no: it was not read",
    }
    return _listed([said.get(value, value) for value in sorted(values)])


def _runs(groups: Sequence[Group]) -> str:
    counts = sorted({len(group.rows) for group in groups if group.trained})
    return f"{' or '.join(map(str, counts))} seeds; see Seeds" if counts else "no run ended well"


def _failed(groups: Sequence[Group]) -> str:
    bad = [f"{group.label} ({group.first.status or 'missing'})" for group in groups if not group.ok]
    return ", ".join(bad) or "none"


def _code(loaded: Loaded) -> str:
    found = [row.current.provenance for row in loaded.rows if row.current]
    lines = [
        f"harness {one.get('harness', UNKNOWN)} at commit {one.get('commit') or UNKNOWN}"
        + (" with uncommitted changes" if one.get("uncommitted_changes") else "")
        for one in found
    ]
    return _listed(list(dict.fromkeys(lines)))
