r"""`numbers.tex`: a LaTeX macro for every number of the tables, each with the records that it comes from.

The text of a paper writes `\resultMainLoraArcEasyAcc` where the table shows 61.9, so that both change together. Names
are made of the table, the row and the column, in letters alone: digits become words, since a macro's name has none. A
standard error ends in `Error`, the ends of an interval in `Low` and `High`. Numbers are printed as in the tables,
without their unit, in text and in mathematics alike.
"""

import re
from collections.abc import Iterator, Mapping

from harness.records.untrusted import one_line
from harness.report.analysis.axes import HOLDERS
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Group
from harness.report.document import Cell, Column, Number, Table, Text, digits_of, fixed, value_text
from harness.report.pages.tables import task_label
from harness.report.writers.tabular import signs

NAME = "numbers.tex"
_DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
_COSTS = ("trainable_parameters", "saved_bytes", "peak_memory_bytes", "tokens_per_second", "train_seconds")
_HEAD = "% Made from records by harness.report: a macro for each number of the tables, below its records."


def to_latex(comparison: Comparison, tables: Mapping[str, Table]) -> str:
    """Return the file's text: one `newcommand` a number, behind a comment with its records and its field."""
    groups = {group.label: group for group in comparison.groups}
    lines = [_HEAD]
    taken: set[str] = set()
    for label, table in tables.items():
        for row in table.rows:
            lines += _of_row(label, table, row, groups, taken)
    return "\n".join(lines) + "\n"


def _of_row(
    label: str, table: Table, row: tuple[Cell, ...], groups: Mapping[str, Group], taken: set[str]
) -> Iterator[str]:
    named = [cell.key or cell.text for cell in row if isinstance(cell, Text)]
    members = [name for name in named if name in groups]
    title = " ".join(members) or (named[0] if named else "")
    for column, cell in zip(table.columns, row, strict=True):
        if isinstance(cell, Number):
            compared = dict.fromkeys([*members, *([column.key] if column.key in groups else [])])
            sources = []
            for group in (groups[name] for name in compared):  # the field holds the number for each seed
                seeds = ",".join(str(row.seed) for row in group.every)
                sources.append(f"{group.first.recipe_id}/seed-{seeds}{_field(group, label, column.key)}")
            origin = "; ".join(sources) or "every run of the table"
            yield f"% {one_line(f'{label}, {title}, {column.key}: {origin}')}"
            for part, text in _parts(cell, column):
                yield rf"\newcommand{{\{_free(macro(label, title, column.key, part), taken)}}}{{{text}}}"


def _parts(cell: Number, column: Column) -> Iterator[tuple[str, str]]:
    """Yield each number of a cell as the tables print it, with the end of its macro's name."""
    digits = digits_of(cell, column)
    yield "", _anywhere(value_text(cell, column))
    if cell.shown_error is not None:
        yield "Error", _anywhere(fixed(cell.shown_error * column.scale, digits))
    for name, end in zip(("Low", "High"), cell.interval or (), strict=False):
        yield name, _anywhere(fixed(end * column.scale, digits, cell.signed))


def _anywhere(text: str) -> str:
    r"""Return a printed number that reads the same in text and in mathematics, as in $\resultX \pm \resultXError$."""
    return re.sub(r"\$(.*?)\$", r"\\ensuremath{\1}", signs(text)).replace(",", "{,}")


def macro(*parts: str) -> str:
    """Return a macro's name: every word of the parts with a capital, its digits as words."""
    words = re.findall(r"[A-Za-z]+|\d", " ".join(parts).encode("ascii", "ignore").decode())
    return "result" + "".join(_DIGITS[int(word)] if word.isdecimal() else word[:1].upper() + word[1:] for word in words)


def _free(name: str, taken: set[str]) -> str:
    """Return the name, or with letters behind it where two numbers have it."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = macro(name.removeprefix("result"), str(number))
    taken.add(free)
    return free


def _field(group: Group, label: str, key: str) -> str:
    """Return the field of a score in its evaluation, or of a cost in the record; "" for what is computed of several."""
    if key in _COSTS:
        part = next(part for part, quantities in HOLDERS.items() if key in quantities)
        return f"/record.json attempts[-1].{key if part == 'current' else f'{part}.{key}'}"
    for scored in (evaluations[0] for evaluations in group.evaluations.values()) if group.measured else ():
        table = task_label(scored.task)
        for metric in scored.record.metrics:
            if key in (f"{scored.task}/{metric}", f"{scored.role}_{metric}") or (label, key) == (table, metric):
                return f"/evaluations/{scored.record.eval_id}.json metrics.{metric}.value"
    return ""
