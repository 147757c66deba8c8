"""`index.html`: one file that opens offline, to sort, filter, hover and look into single items.

The charts and their scripts are Vega-Lite's, written by Altair and bundled by vl-convert. The page allows no
request, no script but its own two, which its policy lists by hash, and no evaluation of text as code, so that text of a
record can only be shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.records.record import write_text
from harness.records.untrusted import printable
from harness.report.analysis.axes import qualities
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Group
from harness.report.figures.others import external_caption
from harness.report.html import charts, items
from harness.report.html.bundle import bundle, script_hash
from harness.report.pages import notes
from harness.report.pages.answer import answer_of
from harness.report.pages.summary import cost, quality

_FOLDER = Path(__file__).parent


def write(comparison: Comparison, title: str, path: Path) -> Path:
    """Write the page."""
    return write_text(page(comparison, title), path)


def page(comparison: Comparison, title: str) -> str:
    """The page's text."""
    import jinja2

    loaded, groups = comparison.loaded, comparison.groups
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    parts = {name: jinja2.utils.markupsafe.Markup((_FOLDER / name).read_text()) for name in ("page.css", "page.js")}
    text: str = environment.get_template("page.html").render(
        title=printable(title),
        question=printable(loaded.sweep.question or "") if loaded.sweep else "",
        answer=[printable(one) for one in answer_of(comparison)],
        command=printable(notes.command_of(loaded)),
        origin=[printable(line) for line in notes.origin(loaded)],
        style=parts["page.css"],
        script=parts["page.js"],
        bundle=jinja2.utils.markupsafe.Markup(bundle()),
        script_hashes=jinja2.utils.markupsafe.Markup(" ".join(map(script_hash, (bundle(), parts["page.js"])))),
        content=jinja2.utils.markupsafe.Markup(_json(_content(comparison))),
        others=printable(external_caption(loaded.external, [one.task for one in qualities(groups)])),
    )
    return text


def _content(comparison: Comparison) -> dict[str, Any]:
    """Return the data for the page's script."""
    groups = comparison.groups
    return {
        "table": _table(groups),
        "frontier": charts.frontier(groups, comparison.loaded.external, comparison.primary),
        "curves": charts.curves(groups),
        "tasks": items.disagreements(groups),
    }


def _table(groups: Sequence[Group]) -> dict[str, Any]:
    """The cells of the two main tables of `report.md`, side by side, with the status as a column of its own."""
    scores, costs = quality(groups), cost(groups)
    shown = [index for index, name in enumerate(scores.header) if index and name != "Status"]
    header = ["Method", "Status", *(scores.header[index] for index in shown), *costs.header[1:]]
    lines = [
        [printable(cell) for cell in (group.label, _status(group), *(line[index] for index in shown), *prices[1:])]
        for group, line, prices in zip(groups, scores.lines, costs.lines, strict=True)
    ]
    return {
        "header": header,
        "lines": lines,
        "reasons": ["" if group.ok else printable(group.first.reason) for group in groups],
    }


def _status(group: Group) -> str:
    return group.first.status or "missing"


def _json(content: Any) -> str:
    """Return JSON for a script element. Every `<` is escaped, so that no text in it can close the element."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
