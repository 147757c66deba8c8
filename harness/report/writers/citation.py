"""`CITATION.cff` of a report: its title, commit and date, in the format that reference managers read.

Source: Citation File Format 1.2.0. People are not in the records, so the tool stands where the authors belong.
"""

from __future__ import annotations

import json

from harness.records.untrusted import printable
from harness.report.analysis.comparison import Comparison


def citation(comparison: Comparison, title: str) -> str:
    """The file's text; JSON strings are YAML strings, so nothing in a name can break it."""
    attempts = [row.current for row in comparison.loaded.rows if row.current]
    commits = dict.fromkeys(str(one.provenance.get("commit") or "") for one in attempts)
    dates = sorted(one.started_at[:10] for one in attempts)
    lines = [
        "cff-version: 1.2.0",
        f"message: {_text('Put your own names first: who made the runs is not in their records.')}",
        "type: dataset",
        f"title: {_text(title)}",
        f"abstract: {_text(' '.join(comparison.answer.lines))}",
        "authors:",
        f"  - name: {_text('harness')}",
        *([f"version: {_text(', '.join(one for one in commits if one))}"] if any(commits) else []),
        *([f"date-released: {dates[-1]}"] if dates else []),
        "keywords:",
        *(f"  - {_text(one)}" for one in ("fine-tuning", *_methods(comparison))),
    ]
    return "\n".join(lines) + "\n"


def _methods(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(group.first.method for group in comparison.groups))


def _text(value: str) -> str:
    return json.dumps(printable(value), ensure_ascii=False)
