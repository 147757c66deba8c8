"""`CITATION.cff` of a report: its title, commit and date, in the format that reference managers read.

Source: Citation File Format 1.2.0. Records do not name people: the list of authors is empty, and a checker of the
format refuses the file until it is filled in.
"""

from __future__ import annotations

import json

from harness.records.untrusted import printable
from harness.report import names
from harness.report.analysis.comparison import Comparison


def citation(comparison: Comparison, title: str) -> str:
    """The file's text; JSON strings are YAML strings, so nothing in a name can break it."""
    attempts = [row.current for row in comparison.loaded.rows if row.current]
    commits = dict.fromkeys(str(attempt.provenance.get("commit") or "") for attempt in attempts)
    dates = sorted(attempt.started_at[:10] for attempt in attempts)
    lines = [
        "cff-version: 1.2.0",
        f"message: {_text('If you use these results, please cite them.')}",
        "type: dataset",
        f"title: {_text(title)}",
        f"abstract: {_text(' '.join(comparison.answer.lines))}",
        "authors: []  # of the study: records do not name them",
        *([f"version: {_text(', '.join(commit for commit in commits if commit))}"] if any(commits) else []),
        *([f"date-released: {dates[-1]}"] if dates else []),
        "keywords:",
        *(f"  - {_text(keyword)}" for keyword in ("fine-tuning", *_methods(comparison))),
    ]
    return "\n".join(lines) + "\n"


def _methods(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(names.method(group.first.method).display for group in comparison.groups))


def _text(value: str) -> str:
    return json.dumps(printable(value), ensure_ascii=False)
