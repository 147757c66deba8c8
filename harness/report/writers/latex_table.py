r"""Typed cells as LaTeX: text-mode numbers in right-aligned columns, which need no package beyond `booktabs`."""

from __future__ import annotations

from itertools import groupby

from harness.report.document import MINUS, Cell, Column, Missing, Table, Text, digits_of, fixed, value_text
from harness.report.writers.latex import breakable, escape

_LONG = 36  # characters beyond which a cell of words may break inside them
_ARROWS = {"higher": r"\,$\uparrow$", "lower": r"\,$\downarrow$", "": ""}
_EMPHASIS = {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}


def tabular(table: Table) -> str:
    """Return a bare tabular, from its first to its last rule."""
    body = [*header_lines(table), r"\midrule", *body_lines(table)]
    begin = rf"\begin{{tabular}}{{{specification(table)}}}"
    return "\n".join([begin, r"\toprule", *body, r"\bottomrule", r"\end{tabular}"])


def specification(table: Table) -> str:
    """Return the column specification: words to the left, numbers to the right."""
    return (
        "@{}" + "".join("l" if place == 0 or column.text else "r" for place, column in enumerate(table.columns)) + "@{}"
    )


def header_lines(table: Table) -> list[str]:
    """Return the lines of the head: spanning headings with their rules where there are any, the titles, the units."""
    titles = [escape(column.title) for column in table.columns]
    units = [f"({escape(column.unit)})" if column.unit else "" for column in table.columns]
    below = [f"{unit}{_ARROWS[column.better]}" for unit, column in zip(units, table.columns, strict=True)]
    lines = [titles, *([below] if any(below) else [])]
    return [*_spanners(table), *(" & ".join(line) + r" \\" for line in lines)]


def body_lines(table: Table) -> list[str]:
    r"""Return the rows, with `\midrule` above those that the table sets apart."""
    lines = []
    for index, row in enumerate(table.rows):
        if index in table.rules:
            lines.append(r"\midrule")
        cells = (cell_latex(cell, column) for cell, column in zip(row, table.columns, strict=True))
        lines.append(" & ".join(cells) + r" \\")
    return lines


def cell_latex(cell: Cell, column: Column) -> str:
    """Return one cell: the best value bold, the second underlined, the error smaller, marks raised."""
    if isinstance(cell, Missing):
        return "--" if cell.text == Missing().text else escape(cell.text)
    if isinstance(cell, Text):
        return f"{breakable(cell.text) if len(cell.text) > _LONG else escape(cell.text)}{_raised(cell.marks)}"
    text = _EMPHASIS[cell.emphasis].format(_number(value_text(cell, column)))
    digits = digits_of(cell, column)
    if cell.error is not None:
        text += rf"\,{{\scriptsize$\pm$\,{_number(fixed(cell.error * column.scale, digits))}}}"
    if cell.interval is not None:
        ends = (_number(fixed(end * column.scale, digits, cell.signed)) for end in cell.interval)
        text += f" ({' to '.join(ends)})"
    return f"{text}{_raised(cell.marks)}"


def _number(text: str) -> str:
    """Return a number in text mode, so that its digits are those of the text; signs are those of mathematics."""
    for character, written in ((MINUS, "$-$"), ("+", "$+$"), ("<", "$<$"), ("\N{INFINITY}", r"$\infty$")):
        text = text.replace(character, written)
    return text.replace("\N{NO-BREAK SPACE}", "~")


def _raised(marks: str) -> str:
    named = {"\N{DAGGER}": r"\dagger", "\N{DOUBLE DAGGER}": r"\ddagger"}
    written = "".join(named.get(mark, rf"\mathrm{{{escape(mark)}}}") for mark in marks)
    return f"$^{{{written}}}$" if marks else ""


def _spanners(table: Table) -> list[str]:
    """Return the line of shared headings and the rules below them."""
    if not any(column.spanner for column in table.columns):
        return []
    cells, rules, place = [], [], 1
    for spanner, members in groupby(table.columns, key=lambda column: column.spanner):
        count = len([*members])
        cells.append(rf"\multicolumn{{{count}}}{{c}}{{{escape(spanner)}}}" if spanner else " & " * (count - 1))
        rules += [rf"\cmidrule(lr){{{place}-{place + count - 1}}}"] if spanner else []
        place += count
    return [" & ".join(cells) + r" \\", "".join(rules)]
