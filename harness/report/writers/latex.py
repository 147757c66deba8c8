r"""Tables and foreign text as LaTeX: booktabs rules, numbers aligned by siunitx, nothing that a name can break.

A file of `tables/` is one `tabular`, never wider than the line, to be `\input` into a `table`. Its first lines say what
the preamble needs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from harness.records.record import write_text
from harness.records.untrusted import printable
from harness.report.display import DASH, OOM, PLUS_MINUS
from harness.report.pages.summary import Table

PREAMBLE = r"\usepackage{array,booktabs,graphicx,siunitx}"
_MANY = 7  # columns that fit on a page
_SETUP = (
    r"\sisetup{uncertainty-mode=separate, table-align-uncertainty=false, retain-explicit-plus, group-digits=integer, "
    r"group-separator={,}, group-minimum-digits=4}"
)
_NUMBER = re.compile(
    rf"([+-]?)(\d+(?:,\d{{3}})*)(?:\.(\d+))?(?: {PLUS_MINUS} ((\d+(?:,\d{{3}})*)(?:\.(\d+))?))?(?: (.+))?"
)
_NOTHING = {DASH: "{--}", OOM: "{OOM}", "": ""}  # cells without a number, in a column of numbers
_UNBROKEN = 16  # characters of a word that stay together
_LONG, _CROWDED = 36, 18  # characters beyond which a column of text breaks its lines, and where a line is too short
_LINE = 95  # characters of a line
_WIDE = {True: 0.28, False: 0.36}  # of the line, a first column and another
_NARROW = 0.2  # of the line, where it is too short
_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
    "-": "{-}", "[": "{[}", "]": "{]}", "*": "{*}", PLUS_MINUS: r"\ensuremath{\pm}",
}  # fmt: skip
_SPELT = set("\u00df\u00f8\u00d8\u00e6\u00c6\u0153\u0152\u0142\u0141")  # letters that pdflatex has without an accent


@dataclass(frozen=True)
class _Column:
    """A column as LaTeX sets it; a numeric one may carry words behind its numbers, in a column of their own."""

    specification: str
    header: str
    cells: tuple[str, ...]


def escape(text: str) -> str:
    """Foreign text as one line of LaTeX that shows it and does nothing else; other scripts by their code points."""
    return "".join(_character(one) for one in " ".join(printable(text).split()))


def breakable(text: str) -> str:
    """`escape`, with line breaks allowed inside long words: after a comma, an underscore or a slash, else anywhere."""
    return " ".join(_breakable(word) for word in " ".join(printable(text).split()).split(" "))


def _breakable(word: str) -> str:
    pieces = [piece for part in re.findall(r"[^,_/]*[,_/]|[^,_/]+", word) for piece in wrap(part, _UNBROKEN)]
    return r"\allowbreak{}".join(map(escape, pieces)) if len(word) > _UNBROKEN else escape(word)


def write(tables: dict[str, Table], folder: Path) -> list[Path]:
    """Write each table to <name>.tex, delete files of tables that no longer exist, and return the paths."""
    for path in folder.glob("*.tex"):
        if path.stem not in tables:
            path.unlink()
    return [write_text(tabular(table), folder / f"{name}.tex") for name, table in tables.items()]


def tabular(table: Table) -> str:
    """Return one table with its note below. A table wider than the line is scaled down."""
    specification, body = _lines(table)
    return "\n".join(
        [
            f"% {escape(table.title)}",
            f"% made from records by harness.report; the preamble needs {PREAMBLE}",
            r"\begingroup",
            _SETUP,
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{specification}}}",
            *body,
            r"\end{tabular}}",
            r"\endgroup",
            *([rf"\par\smallskip{{\footnotesize\raggedright {breakable(table.note)}\par}}"] if table.note else []),
            "",
        ]
    )


def longtable(table: Table) -> str:
    r"""One table that may go over several pages; the preamble needs `\usepackage{longtable}` too."""
    is_crowded = _width(table) > _LINE
    specification, body = _lines(table, is_crowded)
    head, rest = body[:3], body[3:]
    begin = rf"\begin{{longtable}}{{{specification}}}"
    is_narrow = is_crowded or len(table.header) > _MANY
    narrow = r"\footnotesize\setlength{\tabcolsep}{3pt}" if is_narrow else r"\small"
    return "\n".join(
        [rf"\begingroup{narrow}", _SETUP, begin, *head, r"\endhead", *rest, r"\end{longtable}", r"\endgroup"]
    )


def _width(table: Table) -> int:
    """Return the width of a line of the table in characters, with two between columns."""
    longest = [max(map(len, word.split(" "))) for word in table.header]
    cells = [max((min(len(line[i]), _LONG) for line in table.lines), default=0) for i in range(len(longest))]
    return sum(2 + max(pair) for pair in zip(longest, cells, strict=True))


def _lines(table: Table, is_crowded: bool = False) -> tuple[str, list[str]]:
    """The columns' specification and the lines from rule to rule."""
    columns = [one for index in range(len(table.header)) for one in _columns(table, index, is_crowded)]
    lines = [" & ".join(one.cells[i] for one in columns) + r" \\" for i in range(len(table.lines))]
    header = " & ".join(one.header for one in columns if one.header != _SPANNED) + r" \\"
    specification = "@{}" + "".join(one.specification for one in columns) + "@{}"
    return specification, [r"\toprule", header, r"\midrule", *lines, r"\bottomrule"]


_SPANNED = "spanned"  # the header of the column of words behind numbers, which the numbers' header covers


def _columns(table: Table, index: int, is_crowded: bool) -> Iterator[_Column]:
    """The column of a table, or two where words follow its numbers."""
    cells = [line[index] for line in table.lines]
    header = _stacked(table.header[index], index == 0)
    found = [None if cell in _NOTHING else _NUMBER.fullmatch(cell) for cell in cells]
    known = [one for one, cell in zip(found, cells, strict=True) if cell not in _NOTHING]
    if index == 0 or not known or any(one is None for one in known):
        yield _words(header, cells, index, is_crowded)
        return
    numbers = tuple(_NOTHING[cell] if one is None else _number(one) for one, cell in zip(found, cells, strict=True))
    specification = _format([one for one in found if one])
    tails = [escape(one.group(7)) if one and one.group(7) else "" for one in found]
    if not any(tails):
        yield _Column(specification, "{" + header + "}", numbers)
        return
    yield _Column(specification, rf"\multicolumn{{2}}{{c}}{{{header}}}", numbers)
    yield _Column(r"@{\,}l", _SPANNED, tuple(tails))


def _words(header: str, cells: Sequence[str], index: int, is_crowded: bool) -> _Column:
    longest = max((len(cell) for cell in cells), default=0)
    share = _NARROW if is_crowded and longest <= _LONG else _WIDE[index == 0]
    width = rf">{{\raggedright\arraybackslash}}p{{{share}\linewidth}}"
    wraps = longest > (_CROWDED if is_crowded else _LONG)
    shown = tuple("--" if cell == DASH else breakable(cell) if wraps else escape(cell) for cell in cells)
    return _Column(width if wraps else "l", header, shown)


def _number(found: re.Match[str]) -> str:
    sign, whole, decimals, error = found.group(1, 2, 3, 4)
    value = f"{sign}{whole.replace(',', '')}" + (f".{decimals}" if decimals else "")
    return value + (rf" \pm {error.replace(',', '')}" if error else "")


def _format(found: Sequence[re.Match[str]]) -> str:
    """S[table-format=+1.3(2)]: a place for a sign, digits before and after the point, digits of the uncertainty."""
    sign = "+" if any(one.group(1) for one in found) else ""
    whole = max(len(one.group(2).replace(",", "")) for one in found)
    decimals = max(len(one.group(3) or "") for one in found)
    errors = [f"{one.group(5)}{one.group(6) or ''}".replace(",", "").lstrip("0") for one in found if one.group(4)]
    error = f"({max(1, *map(len, errors))})" if errors else ""
    return f"S[table-format={sign}{whole}{f'.{decimals}' if decimals else ''}{error}]"


def _stacked(header: str, first: bool) -> str:
    """Return a header broken over several lines, so that the column is as wide as its numbers."""
    words = escape(header).split(" ")
    if first or len(words) == 1:
        return " ".join(words)
    return r"\begin{tabular}[b]{@{}c@{}}" + r"\\".join(words) + r"\end{tabular}"


def _character(one: str) -> str:
    if one in _SPECIAL:
        return _SPECIAL[one]
    if one.isascii() or one in _SPELT:
        return one
    parts = unicodedata.normalize("NFKD", one)
    letter, accents = parts[0], parts[1:]
    if "\u00c0" <= one <= "\u017f" and letter.isascii() and letter.isalpha() and len(accents) == 1:
        return one
    return rf"\texttt{{U+{ord(one):04X}}}"
