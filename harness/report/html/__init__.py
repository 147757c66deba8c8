"""`index.html`: one file that opens offline, to sort, filter, hover and look into single items.

The page allows no request, and no script but its own, which the policy names by its hash. Text of a record can only be
shown: a template or a script writes it as text, never as markup. A cell of a table has its text, and as data the raw
value that the script sorts by.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from harness.records.record import write_text
from harness.records.untrusted import printable
from harness.report.analysis.comparison import Comparison
from harness.report.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Command,
    Figure,
    Markup,
    Missing,
    Number,
    Section,
    Table,
    key_of,
    plain,
    spread_text,
    value_text,
)
from harness.report.figures.canvas import Figure as Drawn
from harness.report.html import items, overview

_FOLDER = Path(__file__).parent
_FILES = {
    "report.md": "Report", "appendix.md": "Appendix", "setup.md": "Experimental setup", "checklist.md": "Checklists",
    "records.csv": "records.csv",
    "records.parquet": "records.parquet", "tuning.csv": "tuning.csv",
    "tables": "Tables (LaTeX)", "figures": "Figures (PDF, SVG, PNG)",
    "update.md": "Shape of the updates",
}  # fmt: skip
_LATER = ("report.md", "appendix.md")  # which are written after the page
_OWN = ("Answer", "Results", "Figures")  # sections of the report that the page shows in its own way
_OPEN = ("Claims", "Recommendation", "What was compared", "Failed runs", "Statistical comparison")
_ANCHORS = {"results": "Results", "figures": "Figures", "items-title": "Single items"}
_TAGS = {"": "{}", "best": "<strong>{}</strong>", "second": "<u>{}</u>"}


def write(
    comparison: Comparison, title: str, path: Path, figures: Sequence[Drawn], sections: Sequence[Section]
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
         "content": markup(f'<div class="blocks">{body}</div>')}
        for section in sections
        if section.title not in _OWN and (body := section_html(section))
    ]  # fmt: skip
    present = {"results": True, "figures": bool(figures), "items-title": bool(data["tasks"])}
    anchors = [(anchor, name) for anchor, name in _ANCHORS.items() if present[anchor]]
    text: str = environment.get_template("page.html").render(
        title=printable(title),
        question=printable(loaded.sweep.question or "") if loaded.sweep else "",
        answer=[printable(sentence) for answer in comparison.answers for sentence in answer.lines],
        contents=[*anchors, *((part["id"], part["title"]) for part in parts)],
        links=[(name, title) for name, title in _FILES.items() if name in _LATER or (path.parent / name).exists()],
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


def _drawn(figure: Drawn, folder: Path) -> str:
    """Return a figure as an element with its caption and a link to its file for papers."""
    title, caption = escape(printable(figure.title)), escape(printable(figure.caption))
    file = f"figures/{escape(figure.stem)}.pdf"
    return (
        f'<figure id="figure-{escape(figure.stem)}">{figure.element(folder)}\n'
        f'<figcaption><b>{title}.</b> {caption} <a href="{file}">PDF</a></figcaption></figure>'
    )


def _json(data: Any) -> str:
    """Return JSON for a script element. Every `<` is escaped, so that no text in it can close the element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def table_html(table: Table) -> str:
    """Return a `table` element with its caption, its head, its rows and its notes as the foot."""
    head = ""
    for place, column in enumerate(table.columns):
        kind = "" if column.text or not place else " class=number"
        better = f' data-better="{column.better}"' if column.better else ""
        head += f'<th scope="col"{kind} data-key="{escape(column.key)}"{better}>{_escaped(column.heading)}</th>'
    body = []
    for index, row in enumerate(table.rows):
        pairs = enumerate(zip(row, table.columns, strict=True))
        cells = "".join(_html_cell(cell, column, place == 0) for place, (cell, column) in pairs)
        body.append(f"<tr{' class=rule' if index in table.rules else ''}>{cells}</tr>")
    notes = "<br>".join(_escaped(str(note)) for note in table.notes)
    foot = f'<tfoot><tr><td colspan="{len(table.columns)}">{notes}</td></tr></tfoot>' if notes else ""
    identity = f' id="table-{escape(table.label)}"' if table.label else ""
    caption = f"<caption>{_escaped(table.caption)}</caption>" if table.caption else ""
    rows = "\n".join(body)
    return f"<table{identity}>{caption}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>{foot}</table>"


def section_html(section: Section) -> str:
    """Return the paragraphs, lists, commands and tables of a section; "" without any."""
    return "\n".join(text for block in section.blocks if (text := _html_block(block, section.title)))


def _html_block(block: Block, title: str) -> str:
    if isinstance(block, str):
        return f"<p>{_escaped(block)}</p>" if block else ""
    if isinstance(block, Bullets):
        return f"<ul>{''.join(f'<li>{_escaped(line)}</li>' for line in block.lines)}</ul>" if block.lines else ""
    if isinstance(block, Command):
        return f"<pre>{escape(printable(block.text, keep=chr(10)))}</pre>" if block.text else ""
    if isinstance(block, (Figure, Markup)):
        return ""  # links and pictures of report.md; the page has its own
    if not block.rows:
        return ""
    heading = f"<h3>{_escaped(block.title)}</h3>\n" if block.title not in ("", title) and not block.caption else ""
    name = _escaped(block.title or block.label)
    return f'{heading}<div class="scroll" role="region" aria-label="{name}" tabindex="0">{table_html(block)}</div>'


def cell_html(cell: Cell, column: Column) -> str:
    """Return the content of a cell, escaped, with its emphasis and its marks."""
    if not isinstance(cell, Number):
        return _escaped(plain(cell, column))
    value = _TAGS[cell.emphasis].format(_escaped(value_text(cell, column)))
    marks = f"<sup>{_escaped(cell.marks)}</sup>" if cell.marks else ""
    return f"{value}{_escaped(spread_text(cell, column))}{marks}"


def _html_cell(cell: Cell, column: Column, names_the_row: bool) -> str:
    tag = 'th scope="row"' if names_the_row else "td"
    value = f' data-value="{cell.value!r}"' if isinstance(cell, Number) else ""
    why = f' title="{_escaped(cell.why)}"' if isinstance(cell, Missing) and cell.why else ""
    words = "" if column.text or names_the_row else ' class="number"'
    return f"<{tag}{words}{value}{why}>{cell_html(cell, column)}</{tag.split()[0]}>"


def _escaped(text: str) -> str:
    return escape(printable(text))
