"""`index.html`: one file that opens offline, to sort, filter, hover and look into single items.

The page allows no request, and no script but its own, which the policy names by its hash. Text of a record can only be
shown: a template or a script writes it as text, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.records.record import write_text
from harness.records.untrusted import printable
from harness.report.analysis.comparison import Comparison
from harness.report.document import Section, key_of
from harness.report.html import items, overview
from harness.report.writers.markup import section_html

_FOLDER = Path(__file__).parent
_FILES = {
    "report.md": "Report", "appendix.md": "Appendix", "records.csv": "records.csv",
    "records.parquet": "records.parquet", "tuning.csv": "tuning.csv",
    "tables": "Tables (LaTeX)", "figures": "Figures (PDF, SVG, PNG)",
    "update.md": "Shape of the updates",
}  # fmt: skip
_OWN = ("Answer", "Results", "Figures")  # sections of the report that the page shows in its own way
_OPEN = ("Claims", "Recommendation", "What was compared", "Failed runs", "Statistical comparison")
_ANCHORS = {"results": "Results", "figures": "Figures", "items-title": "Single items"}


class Figure(Protocol):
    """A figure whose SVG lies in the report's folder `figures`."""

    @property
    def stem(self) -> str:
        """Return the name of its files without the suffix."""

    @property
    def title(self) -> str:
        """Return what it shows."""

    @property
    def caption(self) -> str:
        """Return how to read it."""


def write(
    comparison: Comparison, title: str, path: Path, figures: Sequence[Figure], sections: Sequence[Section]
) -> Path:
    """Write the page beside the other files of the report, which it links to and whose figures it shows."""
    import jinja2

    markup = jinja2.utils.markupsafe.Markup
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    loaded = comparison.loaded
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    data = content(comparison)
    parts = [
        {"id": f"section-{key_of(section.title)}", "title": section.title, "folded": section.title not in _OPEN,
         "content": markup(f'<div class="blocks">{shown}</div>')}
        for section in sections
        if section.title not in _OWN and (shown := section_html(section))
    ]  # fmt: skip
    text: str = environment.get_template("page.html").render(
        title=printable(title),
        question=printable(loaded.sweep.question or "") if loaded.sweep else "",
        answer=[printable(sentence) for answer in comparison.answers for sentence in answer.lines],
        contents=[*_anchors(bool(figures), bool(data["tasks"])), *((part["id"], part["title"]) for part in parts)],
        links=_links(path.parent),
        caption=printable(comparison.main_table.caption),
        notes=data["table"].pop("notes"),
        figures=figures,
        drawn=lambda figure: markup(_drawn(figure, path.parent / "figures")),
        sections=parts,
        style=markup(style),
        script=markup(script),
        script_hash=markup(script_hash(script)),
        content=markup(_json(data)),
    )
    return write_text(text, path)


def content(comparison: Comparison) -> dict[str, Any]:
    """Return the data for the page's script."""
    return {"table": overview.content(comparison), "tasks": items.tasks(comparison.groups)}


def script_hash(script: str) -> str:
    """Return the source of an inline script as a Content-Security-Policy lists it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _anchors(has_figures: bool, has_items: bool) -> Iterable[tuple[str, str]]:
    present = {"results": True, "figures": has_figures, "items-title": has_items}
    return ((anchor, name) for anchor, name in _ANCHORS.items() if present[anchor])


def _links(folder: Path) -> list[tuple[str, str]]:
    """Return the files beside the page. The Markdown pages are written after it."""
    always = ("report.md", "appendix.md")
    return [(name, shown) for name, shown in _FILES.items() if name in always or (folder / name).exists()]


def _drawn(figure: Figure, folder: Path) -> str:
    """Return a figure as an element with its caption and a link to its file for papers."""
    from html import escape

    svg = (folder / f"{figure.stem}.svg").read_text(encoding="utf-8")
    title, caption = escape(printable(figure.title)), escape(printable(figure.caption))
    file = f"figures/{escape(figure.stem)}.pdf"
    return (
        f'<figure id="figure-{escape(figure.stem)}">{svg[svg.index("<svg") :]}\n'
        f'<figcaption><b>{title}.</b> {caption} <a href="{file}">PDF</a></figcaption></figure>'
    )


def _json(data: Any) -> str:
    """Return JSON for a script element. Every `<` is escaped, so that no text in it can close the element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
