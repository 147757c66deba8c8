r"""The tabular of a typed table: numbers whose points stand below each other, and how wide the whole is.

Digits are those of the text and line up by invisible ones, so that a number may be bold, underlined or marked, and
nothing depends on the version of a package for numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby

from harness.report.document import (
    ARROWS,
    MINUS,
    Cell,
    Column,
    Missing,
    Number,
    Table,
    Text,
    digits_of,
    fixed,
    value_text,
)
from harness.report.writers.tex import UNBROKEN, breakable, escape

COLUMN, PAGE = 190.0, 388.0  # points of a line, in a class of 10 pt type
_SCRIPT = 7 / 8  # size of an error over that of its number, at most
_LONG = 34  # characters from which a cell of words breaks its lines
_EMPHASIS = {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
_SIGNS = {MINUS: "$-$", "+": "$+$", "<": "$<$", "\N{INFINITY}": r"$\infty$", "\N{NO-BREAK SPACE}": "~"}
_WIDTHS = {  # thousandths of an em, of Computer Modern, which is wider than Times
    **dict.fromkeys("ijl.,:;'|!", 280), **dict.fromkeys("ftrs-()[]I/ ", 390), **dict.fromkeys("mwMW%@+<=", 830),
    MINUS: 780, "\N{PLUS-MINUS SIGN}": 780, "\N{DAGGER}": 320, "\N{DOUBLE DAGGER}": 320,
}  # fmt: skip
_CAPITAL, _OTHER = 720, 520


def tabular(table: Table) -> str:
    """Return a bare tabular, from its first to its last rule."""
    columns = columns_of(table)
    specification = "@{}" + "".join(_specification(column, columns) for column in columns) + "@{}"
    lines = [rf"\begin{{tabular}}{{{specification}}}", r"\toprule", *_spanners(table), *_head(columns), r"\midrule"]
    for index, row in enumerate(table.rows):
        lines += [r"\midrule"] if index in table.rules else []
        lines.append(" & ".join(column.latex(cell) for column, cell in zip(columns, row, strict=True)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


@dataclass(frozen=True)
class Layout:
    """A way to set a table: in this type, on a line of so many points."""

    size: str
    points: float
    gap: float  # between two columns: twice \\tabcolsep
    line: float

    def width(self, columns: Sequence[_Column]) -> float:
        """Return the width of the columns in points."""
        return sum(column.width for column in columns) * self.points + self.gap * (len(columns) - 1)


_LAYOUTS = (
    Layout("small", 9.0, 8.0, COLUMN),
    Layout("small", 9.0, 8.0, PAGE),
    Layout("footnotesize", 8.0, 6.0, PAGE),
)


@dataclass(frozen=True)
class _Parts:
    """A number as it is printed. Decimals begin with their point."""

    whole: str
    decimals: str
    error_whole: str = ""
    error_decimals: str = ""
    interval: str = ""
    marks: str = ""

    @staticmethod
    def of(cell: Number, column: Column) -> _Parts:
        whole, decimals = _at_point(value_text(cell, column))
        digits = digits_of(cell, column)
        spread = cell.shown_error
        error = ("", "") if spread is None else _at_point(fixed(spread * column.scale, digits))
        ends = [fixed(end * column.scale, digits, cell.signed) for end in cell.interval or ()]
        return _Parts(whole, decimals, *error, f" ({' to '.join(ends)})" if ends else "", cell.marks)

    @property
    def behind(self) -> str:
        """Return everything behind the value."""
        return self.error_whole + self.interval + self.marks


@dataclass(frozen=True)
class _Column:
    """A column with its cells, and how they are set so that their points stand below each other."""

    column: Column
    cells: tuple[Cell, ...]
    first: bool
    shares_unit: bool = False  # with its neighbors below one heading, which shows it

    @cached_property
    def numbers(self) -> list[_Parts]:
        return [_Parts.of(cell, self.column) for cell in self.cells if isinstance(cell, Number)]

    @cached_property
    def widest(self) -> _Parts:
        """Return the longest of each part."""
        longest = [max((getattr(number, field.name) for number in self.numbers), key=len) for field in fields(_Parts)]
        return _Parts(*longest)

    @property
    def is_words(self) -> bool:
        return self.first or self.column.text

    @property
    def is_long(self) -> bool:
        """Return whether its words need several lines."""
        return any(not isinstance(cell, Number) and len(cell.text) > _LONG for cell in self.cells)

    @property
    def is_even(self) -> bool:
        """Return whether plain right alignment puts the points below each other."""
        return len({len(number.decimals) for number in self.numbers}) == 1 and not self.widest.behind

    @cached_property
    def heading(self) -> list[str]:
        """Return the lines of the heading, the unit in the last one, broken where they are wider than the cells."""
        words = [self.column.title] if self.is_words else self.column.title.split(" ")
        words += [] if self.shares_unit else _unit(self.column)
        room, lines = max(self.content, *map(_em, words)), words[:1]
        for word in words[1:]:
            if _em(f"{lines[-1]} {word}") <= room:
                lines[-1] += f" {word}"
            else:
                lines.append(word)
        return lines

    @cached_property
    def content(self) -> float:
        """Return the width of the widest cell in ems."""
        words = (
            cell.text + (cell.marks if isinstance(cell, Text) else "")
            for cell in self.cells
            if not isinstance(cell, Number)
        )
        return max([*map(_em, words), self._of_numbers() if self.numbers else 0.0], default=0.0)

    @property
    def longest_word(self) -> float:
        """Return the width in ems of the longest word that no line break cuts."""
        texts = (cell.text for cell in self.cells if not isinstance(cell, Number))
        return max((_em(word[:UNBROKEN]) for text in texts for word in text.split()), default=0.0)

    @cached_property
    def width(self) -> float:
        """Return the width of the column in ems; long words give way to the other columns."""
        return (
            max(_em("x" * (_LONG // 2)), self.longest_word)
            if self.is_long
            else max(self.content, *map(_em, self.heading))
        )

    def _of_numbers(self) -> float:
        widest = self.widest
        error = f"\N{PLUS-MINUS SIGN}{widest.error_whole}{widest.error_decimals}" if widest.error_whole else ""
        bold = 1.15 if any(isinstance(cell, Number) and cell.emphasis == "best" for cell in self.cells) else 1.0
        return (
            bold * _em(widest.whole + widest.decimals)
            + _SCRIPT * _em(error)
            + _em(widest.interval + widest.marks)
            + 0.17
        )

    def latex(self, cell: Cell) -> str:
        """Return one cell: the best value bold, the second underlined, the error smaller, marks raised."""
        if isinstance(cell, Missing):
            return "--" if cell.text == Missing().text else escape(cell.text)
        if isinstance(cell, Text):
            return (breakable if self.is_long else escape)(cell.text) + raised(cell.marks)
        parts, widest = _Parts.of(cell, self.column), self.widest
        value = _EMPHASIS[cell.emphasis].format(signs(parts.whole + parts.decimals))
        if self.is_even:
            return value
        return (
            _before(parts.whole, widest.whole)
            + value
            + _after(parts.decimals, widest.decimals)
            + _error(parts, widest)
            + signs(parts.interval)
            + (raised(parts.marks) or _invisible(raised(widest.marks)))
        )


def _at_point(text: str) -> tuple[str, str]:
    whole, point, decimals = text.partition(".")
    return whole, point + decimals


def _error(parts: _Parts, widest: _Parts) -> str:
    """Return the error of a number; where it has none, as much room as the widest of its column takes."""
    if not widest.error_whole:
        return ""
    written = "{}" if parts.error_whole else r"\phantom{{{}}}"
    part = parts if parts.error_whole else widest
    before = _before(part.error_whole, widest.error_whole)
    after = _after(part.error_decimals, widest.error_decimals)
    inside = f"{before}{part.error_whole}{part.error_decimals}{after}"
    return written.format(rf"\,{{\scriptsize$\pm${inside}}}")


def _before(text: str, widest: str) -> str:
    """Return the invisible characters before a text that make it as wide as the widest of its column."""
    return _invisible(signs(widest[: len(widest) - len(text)]))


def _after(text: str, widest: str) -> str:
    return _invisible(signs(widest[len(text) :]))


def _invisible(text: str) -> str:
    return rf"\phantom{{{text}}}" if text else ""


def signs(text: str) -> str:
    """Return a printed number with its signs as LaTeX."""
    for character, written in _SIGNS.items():
        text = text.replace(character, written)
    return text


def raised(marks: str) -> str:
    """Return footnote marks as superscripts."""
    named = {"\N{DAGGER}": r"\dagger", "\N{DOUBLE DAGGER}": r"\ddagger", "*": "*"}
    written = (named.get(mark) or rf"\mathrm{{{escape(mark)}}}" for mark in marks)
    return f"$^{{{''.join(written)}}}$" if marks else ""


def columns_of(table: Table) -> list[_Column]:
    """Return the columns with their cells, as they are set."""
    shared = {column.key for members in _spanned(table) if members[0].spanner for column in _of_one_unit(members)}
    return [
        _Column(column, table.cells(column.key), place == 0, column.key in shared)
        for place, column in enumerate(table.columns)
    ]


def _spanned(table: Table) -> list[list[Column]]:
    """Return the columns in runs of neighbors with the same shared heading."""
    return [[*members] for _, members in groupby(table.columns, key=lambda column: column.spanner)]


def _of_one_unit(members: list[Column]) -> list[Column]:
    """Return the members of a shared heading where all have the same unit and direction, else none."""
    return members if len({(column.unit, column.better) for column in members}) == 1 else []


def _unit(column: Column) -> list[str]:
    """Return the unit and the arrow for the direction of a column, as one word of its heading."""
    parts = [f"({column.unit})" if column.unit else "", ARROWS[column.better]]
    return [word] if (word := "\N{NO-BREAK SPACE}".join(part for part in parts if part)) else []


def _specification(column: _Column, columns: Sequence[_Column]) -> str:
    if not column.is_long:
        return "l" if column.is_words else "r" if column.numbers and column.is_even else "c"
    return rf">{{\raggedright\arraybackslash}}p{{{_shares(columns)[column.column.key]:.3f}\linewidth}}"


def _shares(columns: Sequence[_Column]) -> dict[str, float]:
    """Return the share of the line that each column of several lines takes: by its longest cell, and no word is cut."""
    layout, shares = layout_of(columns), {}
    others = layout.width([column for column in columns if not column.is_long]) + layout.gap * len(columns)
    room, wanting = 1 - others / PAGE, [column for column in columns if column.is_long]
    while wanting:
        total = sum(column.content for column in wanting)
        least = {column.column.key: max(0.1, column.longest_word * layout.points / PAGE) for column in wanting}
        narrow = [column for column in wanting if column.content / total * room < least[column.column.key]]
        for column in narrow or wanting:
            key = column.column.key
            shares[key] = least[key] if narrow else column.content / total * room
        room -= sum(least[column.column.key] for column in narrow)
        wanting = [column for column in wanting if narrow and column not in narrow]
    return shares


def _head(columns: Sequence[_Column]) -> list[str]:
    """Return the lines of the head; shorter headings stand at its foot."""
    height = max(len(column.heading) for column in columns)
    stacks = [[""] * (height - len(column.heading)) + column.heading for column in columns]
    return [" & ".join(escape(stack[line]) for stack in stacks) + r" \\" for line in range(height)]


def _spanners(table: Table) -> list[str]:
    """Return the line of shared headings and the rules below them."""
    if not any(column.spanner for column in table.columns):
        return []
    cells, rules, place = [], [], 1
    for members in _spanned(table):
        count, heading = len(members), members[0].spanner
        if heading:
            title = escape(" ".join([heading, *(_unit(members[0]) if _of_one_unit(members) else [])]))
            cells.append(rf"\multicolumn{{{count}}}{{c}}{{{title}}}")
            rules.append(rf"\cmidrule(lr){{{place}-{place + count - 1}}}")
        else:
            cells.append(" & " * (count - 1))
        place += count
    return [" & ".join(cells) + r" \\", "".join(rules)]


def layout_of(columns: Sequence[_Column]) -> Layout:
    """Return the first layout in which the columns fit, else the last; long words want the whole page."""
    wraps = any(column.is_long for column in columns)
    fitting = (
        layout for layout in _LAYOUTS if layout.width(columns) <= layout.line and not (wraps and layout.line == COLUMN)
    )
    return next(fitting, _LAYOUTS[-1])


def fits(table: Table) -> bool:
    """Return whether the table fits on a line in one of the layouts."""
    columns = columns_of(table)
    return (layout := layout_of(columns)).width(columns) <= layout.line


def _em(text: str) -> float:
    """Return the width of a text in ems."""
    return sum(_WIDTHS.get(character, _CAPITAL if character.isupper() else _OTHER) for character in text) / 1000
