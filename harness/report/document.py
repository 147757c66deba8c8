"""Documents as data: sections, paragraphs, lists, and tables with typed cells.

An analysis builds tables of numbers; a writer formats them as Markdown, LaTeX, HTML, terminal text or CSV. Columns have
stable keys, and a number keeps the unit of its record: `Column.scale` and `Column.digits` decide how people read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from harness.records.untrusted import NO_BREAK
from harness.report.display import steady

PLUS_MINUS = f"{NO_BREAK}\N{PLUS-MINUS SIGN}{NO_BREAK}"
MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"
DAGGER = "\N{DAGGER}"
ARROWS = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}", "": ""}
P_FLOOR = 0.001  # smaller p-values are written as "< 0.001"
MOST_DIGITS = 6
LETTERS = "abcdefghijklmnoprstuvwxyz"  # q has no raised form
_RAISED = str.maketrans(
    LETTERS,
    "\u1d43\u1d47\u1d9c\u1d48\u1d49\u1da0\u1d4d\u02b0\u2071\u02b2\u1d4f\u02e1\u1d50\u207f\u1d52\u1d56\u02b3"
    "\u02e2\u1d57\u1d58\u1d5b\u02b7\u02e3\u02b8\u1dbb",
)


T = TypeVar("T")


@dataclass(frozen=True)
class Number:
    """A value in the unit of its record.

    Attributes:
        value: the number itself.
        error: one standard error, in the same unit.
        digits: decimals; None: those of the column, else two significant digits of the error.
        signed: whether a positive value has a plus sign.
        interval: the ends of a confidence interval, in the same unit.
        emphasis: `best` and `second` of a column.
        marks: footnote marks behind the number.
    """

    value: float
    error: float | None = None
    digits: int | None = None
    signed: bool = False
    interval: tuple[float, float] | None = None
    emphasis: Literal["", "best", "second"] = ""
    marks: str = ""

    @property
    def shown_error(self) -> float | None:
        """Return the error for people; None for zero but for rounding: items that are all alike say nothing of it."""
        return self.error if self.error is not None and steady(self.error) else None


ALIKE = "No error is given where all items are alike: that is no certainty."  # below tables with an error of zero


@dataclass(frozen=True)
class Text:
    """Words for people, and the identifier that stands for them in data files."""

    text: str
    key: str = ""
    marks: str = ""
    tone: Literal["", "good", "warn", "bad", "dim"] = ""


@dataclass(frozen=True)
class Missing:
    """A value that does not exist, with the reason; `text` is what a table shows in its place."""

    why: str = ""
    text: str = NOTHING


Cell = Number | Text | Missing
Value = Cell | str | float | None  # a cell, or what one is made of


def as_cell(value: Value, why: str = "") -> Cell:
    """Return words and numbers as cells; None is a missing value with the reason."""
    if value is None:
        return Missing(why)
    return Text(value) if isinstance(value, str) else Number(value) if isinstance(value, int | float) else value


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: its stable name, in data files and for `Table.cells`.
        title: its heading.
        unit: behind the heading, such as `%` or `GiB`.
        scale: factor from the value of a cell to the number that people read.
        digits: decimals of every cell that does not set its own.
        better: the direction of a quality, shown as an arrow.
        spanner: a heading that neighboring columns share.
        priority: 0 stays in every terminal; the highest number is dropped first where the line is too short.
        text: whether it holds words, which stand to the left.
        p_values: whether small values are written as `< 0.001`.
    """

    key: str
    title: str
    unit: str = ""
    scale: float = 1.0
    digits: int | None = None
    better: Literal["", "higher", "lower"] = ""
    spanner: str = ""
    priority: int = 0
    text: bool = False
    p_values: bool = False

    @property
    def heading(self) -> str:
        """Return the title with its unit and an arrow for its direction."""
        unit = f"{NO_BREAK}({self.unit})" if self.unit else ""
        arrow = f"{NO_BREAK}{ARROWS[self.better]}" if self.better else ""
        return f"{self.title}{unit}{arrow}"


@dataclass(frozen=True)
class Note:
    """A sentence below a table; with a mark, the footnote of the cells that carry it."""

    text: str
    mark: str = ""

    def __str__(self) -> str:
        """Return the note as one line of plain text."""
        return f"{raised(self.mark)} {self.text}" if self.mark else self.text


@dataclass(frozen=True)
class Table:
    """Rows of typed cells under columns with stable keys.

    Attributes:
        columns: the columns; the first one names the row.
        rows: cells in the order of the columns.
        notes: sentences that must stand below it.
        caption: what it shows, in sentences that need no other page.
        label: its stable name: the stem of its file and of its LaTeX label.
        title: its heading on a page.
        rules: indices of rows that have a rule above them.

    Raises:
        ValueError: a row is too short or too long, or two columns share a key.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[Note, ...] = ()
    caption: str = ""
    label: str = ""
    title: str = ""
    rules: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check that every row fits the columns."""
        keys = [column.key for column in self.columns]
        if len({*keys}) < len(keys):
            raise ValueError(f"table {self.label or self.title!r}: two columns share a key: {', '.join(keys)}")
        if any(len(row) != len(keys) for row in self.rows):
            raise ValueError(f"table {self.label or self.title!r}: a row does not have {len(keys)} cells")

    @staticmethod
    def of(columns: Sequence[Column], rows: Iterable[Iterable[Value]], why: str = "", **settings: Any) -> Table:
        """Return a table of values, of which None is a missing one for the reason `why`."""
        return Table(tuple(columns), tuple(tuple(as_cell(value, why) for value in row) for row in rows), **settings)

    @staticmethod
    def by_field(things: Sequence[T], fields: Sequence[tuple[Column, Callable[[T], Value]]], **settings: Any) -> Table:
        """Return a table with a row for each thing; a field is a column with the function of its cells."""
        rows = ([cell(thing) for _, cell in fields] for thing in things)
        return Table.of([column for column, _ in fields], rows, **settings)

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the keys of the columns in their order."""
        return tuple(column.key for column in self.columns)

    def cells(self, key: str) -> tuple[Cell, ...]:
        """Return the cells of a column from top to bottom.

        Raises:
            KeyError: no column has this key.
        """
        if key not in self.keys:
            raise KeyError(f"table {self.label!r} has no column {key!r}: {', '.join(self.keys)}")
        place = self.keys.index(key)
        return tuple(row[place] for row in self.rows)

    def select(self, keys: Iterable[str]) -> Table:
        """Return the table with these columns alone, in this order."""
        places = [self.keys.index(key) for key in keys]
        rows = tuple(tuple(row[i] for i in places) for row in self.rows)
        return replace(self, columns=tuple(self.columns[i] for i in places), rows=rows)

    @property
    def has_alike(self) -> bool:
        """Return whether a number has an error of zero, which is not shown."""
        numbers = (cell for row in self.rows for cell in row if isinstance(cell, Number))
        return any(number.error is not None and number.shown_error is None for number in numbers)

    def without_empty(self) -> Table:
        """Return the table without the columns in which every value is missing."""
        full = [key for key in self.keys if not all(isinstance(cell, Missing) for cell in self.cells(key))]
        return self.select(full)

    def records(self) -> list[dict[str, Any]]:
        """Return a mapping per row with raw values: `key`, `key_stderr`, `key_low`, `key_high`; None is unknown."""
        fields = [(place, column, _parts(self.cells(column.key))) for place, column in enumerate(self.columns)]
        return [
            {f"{column.key}{part}": _raw(row[place], part) for place, column, parts in fields for part in parts}
            for row in self.rows
        ]


@dataclass(frozen=True)
class Bullets:
    """A list of lines."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """Lines of a shell command."""

    text: str


@dataclass(frozen=True)
class Markup:
    """Markdown of our own, such as links to the files of a report; no text of records."""

    text: str


@dataclass(frozen=True)
class Figure:
    """A picture that lies below the report's folder, with its title and how to read it."""

    path: str
    title: str
    caption: str


Block = str | Bullets | Command | Table | Figure | Markup


@dataclass(frozen=True)
class Section:
    """A heading with its content."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def has_content(self) -> bool:
        """Return whether any block shows something."""
        return any(map(_shows, self.blocks))

    @property
    def tables(self) -> list[Table]:
        """Return its tables that have rows."""
        return [block for block in self.blocks if isinstance(block, Table) and block.rows]


def _shows(block: Block) -> bool:
    if isinstance(block, Table):
        return bool(block.rows)
    if isinstance(block, Bullets):
        return bool(block.lines)
    return bool(block if isinstance(block, str) else True if isinstance(block, Figure) else block.text)


def key_of(title: str) -> str:
    """Return a stable name made of a title: lower case, words joined by underscores."""
    return "_".join("".join(c if c.isascii() and c.isalnum() else " " for c in title.lower()).split())


def plain(cell: Cell, column: Column, errors: bool = True) -> str:
    """Return a cell as people read it, without emphasis: 63.0 +- 0.9, +13.5 (+12.0 to +14.8), < 0.001."""
    if isinstance(cell, Text):
        return f"{cell.text}{raised(cell.marks)}"
    if isinstance(cell, Missing):
        return cell.text
    return f"{value_text(cell, column)}{spread_text(cell, column) if errors else ''}{raised(cell.marks)}"


def raised(marks: str) -> str:
    """Return footnote marks for plain text, their letters raised."""
    return marks.translate(_RAISED)


def value_text(cell: Number, column: Column) -> str:
    """Return the value of a number in the unit of its column: 63.0."""
    if column.p_values and cell.value < P_FLOOR:
        return p_text(cell.value)
    return fixed(cell.value * column.scale, digits_of(cell, column), cell.signed)


def p_text(p: float) -> str:
    """Return a p-value as every table writes it: 0.523, < 0.001."""
    return f"<{NO_BREAK}{P_FLOOR}" if p < P_FLOOR else fixed(p, 3)


def spread_text(cell: Number, column: Column) -> str:
    """Return the error of a number and its interval, with the decimals of the value; "" where it has neither."""
    digits = digits_of(cell, column)
    text = ""
    if cell.shown_error is not None:
        text += f"{PLUS_MINUS}{fixed(cell.shown_error * column.scale, digits)}"
    if cell.interval is not None:
        ends = (fixed(end * column.scale, digits, cell.signed) for end in cell.interval)
        text += f" ({f'{NO_BREAK}to{NO_BREAK}'.join(ends)})"
    return text


def digits_of(cell: Number, column: Column) -> int:
    """Return the decimals of a number in the unit of its column: two significant digits of the error."""
    for own in (cell.digits, column.digits):
        if own is not None:
            return own
    if column.p_values:
        return 3
    if cell.shown_error:
        return decimals_of_error(cell.shown_error * column.scale)
    size = abs(cell.value * column.scale)
    return 0 if size >= 100 or size == 0 else 1 if size >= 10 else 2 if size >= 1 else 3


def decimals_of_error(error: float) -> int:
    """Return how many decimals show two significant digits of an error."""
    exponent = int(f"{abs(error):.1e}".partition("e")[2])
    return min(max(0, 1 - exponent), MOST_DIGITS)


def fixed(value: float, digits: int, signed: bool = False) -> str:
    """Return a number with fixed decimals, thousands apart and a real minus; never a negative zero."""
    if math.isinf(value):
        return f"{MINUS if value < 0 else '+' if signed else ''}\N{INFINITY}"
    text = f"{steady(value):{'+' if signed else ''},.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.replace("-", "+" if signed else "")
    return text.replace("-", MINUS)


def ranked(table: Table, key: str, among: Iterable[int] | None = None) -> Table:
    """Return the table with the best and the second number of a column marked, as they are shown.

    Equal shown numbers share a place. `among` holds the indices of the rows that compete; None: all.
    """
    place = table.keys.index(key)
    column = table.columns[place]
    sign = -1 if column.better == "higher" else 1
    competing = range(len(table.rows)) if among is None else [*among]
    values = {i: cell for i in competing if isinstance(cell := table.rows[i][place], Number)}
    rounded = {
        i: sign * round(steady(cell.value * column.scale), digits_of(cell, column)) for i, cell in values.items()
    }
    places = sorted({*rounded.values()})
    if len(places) < 2:
        return table
    names: dict[float, Literal["best", "second"]] = {places[0]: "best"}
    if sum(value == places[0] for value in rounded.values()) == 1:
        names[places[1]] = "second"
    rows = [list(row) for row in table.rows]
    for i, value in rounded.items():
        rows[i][place] = replace(values[i], emphasis=names.get(value, ""))
    return replace(table, rows=tuple(tuple(row) for row in rows))


def _parts(cells: Sequence[Cell]) -> list[str]:
    """Return the suffixes of a column in a data file: its value, and its error and interval where any cell has one."""
    numbers = [cell for cell in cells if isinstance(cell, Number)]
    ends = ["_low", "_high"] if any(cell.interval for cell in numbers) else []
    return ["", *(["_stderr"] if any(cell.error is not None for cell in numbers) else []), *ends]


def _raw(cell: Cell, part: str) -> Any:
    if isinstance(cell, Text):
        return (cell.key or cell.text) if not part else None
    if isinstance(cell, Missing):
        return None
    low, high = cell.interval or (None, None)
    value = {"": cell.value, "_stderr": cell.error, "_low": low, "_high": high}[part]
    return value if value is None or math.isfinite(value) else None
