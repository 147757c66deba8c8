"""A table of results as CSV or LaTeX, as rows for the referee."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

from harness.report.analysis.comparable import UNKNOWN
from harness.report.analysis.facts import effective_scale
from harness.report.display import several
from harness.review import cells, latex
from harness.review.columns import (
    ALPHAS,
    ITEMS,
    MODELS,
    NAMES,
    RANKS,
    RATES,
    SEED,
    SEEDS,
    TUNED,
    Column,
    columns_of,
)
from harness.review.row import (
    Finding,
    Row,
    Score,
    Submission,
    is_base_name,
    joined_seeds,
    lacking,
    method_of_name,
    over_seeds,
    usual_rates,
    without_seed,
)

_ON_VALIDATION = {"yes", "true", "1", "validation", "valid", "val", "dev", "development"}
_LONGEST_FIELD = 2**31 - 1  # characters of a cell; csv's own limit is shorter than an answer


def read_tables(path: Path, items: Mapping[str, int]) -> list[tuple[str, Submission]]:
    """Return the name and the rows of each part of the tables of a file: one for each base model, or for all.

    Args:
        path: `*.csv`, `*.tsv` or `*.tex`.
        items: number of items of a column, where the table does not say; "" stands for every column.

    Raises:
        ValueError: there is no table in it, none of its columns holds scores, or `items` names another column.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8") from error
    suffix = path.suffix.lower()
    tables = latex.tables(content) if suffix == ".tex" else [_csv(content, _separator(content, suffix))]
    names = [str(path)] if len(tables) == 1 else [f"{path} (table {number})" for number in range(1, len(tables) + 1)]
    own = {key.lower(): number for key, number in items.items()}
    result: list[tuple[str, Submission]] = []
    problems: list[tuple[str, ValueError]] = []
    for name, lines in zip(names, tables, strict=True):
        try:
            result += _table(name, lines, own)
        except ValueError as error:
            problems.append((name, error))
    if not result:
        raise problems[0][1] if problems else ValueError(f"{path}: no table with a heading and rows")
    titles = dict.fromkeys(task for _, submission in result for row in submission.rows for task in row.scores)
    meant = {name.lower() for title in titles for name in (title, Column(title, title).name)}
    if unknown := [key for key in items if key and key.lower() not in meant]:
        raise ValueError(f"--items {unknown[0]}: no column of scores has this name; there is {', '.join(titles)}")
    return [*result, *((name, _unread(error)) for name, error in problems)]


class NoScoresError(ValueError):
    """A table without scores, which a file may hold beside its results."""


def _unread(error: ValueError) -> Submission:
    """Return what there is to say of a table beside others that cannot be reviewed."""
    severity = "note" if isinstance(error, NoScoresError) else "fault"
    finding = Finding(check="unreadable", text=f"not reviewed: {error}", severity=severity)
    return Submission(kind="table", rows=(), findings=(finding,))


def _table(name: str, lines: Sequence[list[str]], items: Mapping[str, int]) -> list[tuple[str, Submission]]:
    """Return the name and the rows of each part of one table.

    Raises:
        ValueError: it has no heading or rows, unequal lines, two columns of one name, or no scores.
    """
    columns, body = _turned(*_headed(lines))
    if not body:
        raise NoScoresError(f"{name}: no table with a heading and rows")
    parts = _parts(columns, body)
    if left := sum(len(line) != len(columns) for _, part in parts for line in part):
        raise ValueError(f"{name}: {left} of {len(body)} rows have another number of cells than the heading")
    layout = _Layout.of(columns, [line for _, part in parts for line in part])
    if not layout.scores:
        listed = ", ".join(column.title for column in columns)
        raise NoScoresError(f"{name}: no column of it holds scores; its heading is {listed}")
    titles = Counter(layout.scores.values())
    if twice := [title for title, number in titles.items() if number > 1]:
        raise ValueError(f"{name}: {titles[twice[0]]} columns of scores are named {twice[0]}; name them apart")
    return [(f"{name} ({part})" if part else name, _submission(layout, own, items)) for part, own in parts]


def _submission(layout: _Layout, lines: Sequence[list[str]], items: Mapping[str, int]) -> Submission:
    named = _named(lines, layout.named)
    rows = [joined_seeds(row) for row in _in_one_unit([_row(layout, line, items) for line in named], layout)]
    findings: list[Finding] = []
    if any(layout.cell(line, SEED) for line in named):
        rows, findings = _over_seeds(rows, layout, named)
    return Submission(kind="table", rows=tuple(rows), findings=(*findings, *_not_read(layout, named)))


@dataclass(frozen=True)
class _Layout:
    """Columns of a table by what they hold.

    Attributes:
        columns: all of them.
        named: place of the column that names the methods.
        settings: places of the settings.
        scores: places of the scores, each with its name.
        errors: places of scores, each with that of its errors.
    """

    columns: Sequence[Column]
    named: int
    settings: tuple[int, ...]
    scores: Mapping[int, str]
    errors: Mapping[int, int]

    @classmethod
    def of(cls, columns: Sequence[Column], lines: Sequence[Sequence[str]]) -> _Layout:
        """Return the layout of columns with these lines below."""
        keys = [column.key for column in columns]
        methods = [place for place, column in enumerate(columns) if column.is_method]
        named = next(iter(methods), next((keys.index(key) for key in NAMES if key in keys), 0))
        below = [[line[place] for line in lines] for place in range(len(columns))]
        places = [place for place in range(len(columns)) if place != named]
        numeric = {place for place in places if place and any(map(cells.score, below[place]))}  # the first names rows
        settings = [place for place in places if _is_setting(columns[place], below[place])]
        scores = [place for place in places if place in numeric - {*settings} and columns[place].may_be_score]
        errors: dict[int, int] = {}
        for place in places:
            beside = columns[place].error_of
            if beside is None and cells.are_errors(below[place]):
                beside = ""
            target = keys.index(beside) if beside and beside in keys else place - 1 if beside == "" else None
            if target is not None and target in scores and target != place:
                errors[target] = place
        return cls(columns, named, tuple(settings), dict(_names(columns, scores)), errors)

    def cell(self, line: Sequence[str], keys: Sequence[str]) -> str:
        """Return the first cell of a line that holds something, of the columns with these keys; "" without one."""
        by_key = {column.key: cell for column, cell in zip(self.columns, line, strict=True)}
        return next((by_key[key] for key in keys if not cells.is_empty(by_key.get(key, ""))), "")

    def items(self, line: Sequence[str], column: Column) -> int | None:
        """Return the number of items in the column that names the one of these scores; None without one."""
        beside = [place for place, other in enumerate(self.columns) if column.key.startswith(other.items_of or "\n")]
        return cells.whole(line[beside[0]]) if beside else None

    def number(self, line: Sequence[str], keys: Sequence[str]) -> float | None:
        """Return that cell as a number, times the power of ten in its heading."""
        value = cells.number(self.cell(line, keys))
        factors = [column.factor for column in self.columns if column.key in keys]
        return None if value is None else float(f"{value * (factors[0] if factors else 1.0):.12g}")


def _is_setting(column: Column, below: Sequence[str]) -> bool:
    """Return whether a column holds a setting: a model's name, or a setting by its heading.

    Precision is a metric where its numbers have decimals.
    """
    if column.key in MODELS:
        return not any(map(cells.score, below))
    return column.is_setting and not (column.key == "precision" and any("." in cell for cell in below))


def _names(columns: Sequence[Column], places: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Yield each place with its name: the shortest form of its heading that no other of these columns has."""
    for place in places:
        forms = [(own.name, own.title, own.whole) for own in (columns[other] for other in places)]
        own = (columns[place].name, columns[place].title, columns[place].whole)
        yield place, next((form for kind, form in enumerate(own) if [f[kind] for f in forms].count(form) == 1), own[-1])


def _headed(lines: Sequence[list[str]]) -> tuple[list[Column], list[list[str]]]:
    """Return the columns and the lines below their heading, which may have several lines, all above a number."""
    width = max(map(len, lines), default=0)
    above = list(takewhile(lambda line: not any(map(cells.is_number, line)), lines))
    head = [line for line in above if len(line) == width and any(line[1:]) and len({*line}) > 1]
    if not head:
        return [], []
    return columns_of(head), list(lines[max(place for place, line in enumerate(above) if line is head[-1]) + 1 :])


def _turned(columns: list[Column], body: list[list[str]]) -> tuple[list[Column], list[list[str]]]:
    """Return a table whose columns are methods with a row for each of them; any other as it is."""
    names, firsts = [column.title for column in columns[1:]], [line[0] for line in body if line]
    is_square = all(len(line) == len(columns) for line in body)
    if len(names) < 2 or not is_square or not all(map(_is_method, names)) or any(map(_is_method, firsts)):
        return columns, body
    return columns_of([["method", *firsts]]), [list(line) for line in zip(names, *(ln[1:] for ln in body), strict=True)]


def _is_method(name: str) -> bool:
    return method_of_name(name) in usual_rates() or is_base_name(name)


def _parts(columns: Sequence[Column], body: Sequence[list[str]]) -> list[tuple[str, list[list[str]]]]:
    """Return the lines of each base model: below a line that names it alone, or with it in a column beside the method.

    Unless two models have several lines each, they are not compared within themselves and stay one part.
    """
    keys = [column.key for column in columns]
    place = next((keys.index(key) for key in MODELS if key in keys), None)
    if place is not None and any(place < len(line) and cells.score(line[place]) for line in body):
        place = None
    has_methods = any(column.is_method or column.key in {*NAMES} - {*MODELS} for column in columns)
    parts: dict[str, list[list[str]]] = {}
    name = ""
    for line in body:
        filled = {*filter(None, line)}
        if len(filled) == 1 and not any(map(cells.score, filled)) and len(line) in (1, len(columns)):
            [name] = filled
            continue
        if place is not None and has_methods and len(line) == len(columns):
            name = line[place] or name
        parts.setdefault(name, []).append(line)
    if sum(len(part) > 1 for part in parts.values()) < 2:
        return [("", [line for part in parts.values() for line in part])]
    return list(parts.items())


def _named(lines: Sequence[list[str]], place: int) -> list[list[str]]:
    """Return the lines with the name above where one cell spans several lines."""
    result: list[list[str]] = []
    for line in lines:
        name = line[place] or (result[-1][place] if result else "")
        name = (line[0] or name) if cells.is_empty(name) else name  # a model without a method
        result.append([*line[:place], name, *line[place + 1 :]])
    return result


def _separator(content: str, suffix: str) -> str:
    """Return the separator of cells: a spreadsheet with decimal commas writes semicolons."""
    if suffix == ".tsv":
        return "\t"
    first = next((line for line in content.splitlines() if line.strip()), "")
    return max((",", ";", "\t"), key=first.count)


def _csv(content: str, separator: str) -> list[list[str]]:
    csv.field_size_limit(_LONGEST_FIELD)
    return [
        [" ".join(cell.split()) for cell in line]
        for line in csv.reader(io.StringIO(content, newline=""), delimiter=separator)
        if any(line)
    ]


def _row(layout: _Layout, line: Sequence[str], items: Mapping[str, int]) -> Row:
    own = line[layout.named].lstrip("*")
    count = cells.whole(layout.cell(line, ITEMS))
    scores: dict[str, Score] = {}
    for place, name in layout.scores.items():
        column = layout.columns[place]
        error = line[layout.errors[place]] if place in layout.errors else ""
        if score := cells.score(line[place], error):
            meant = (items.get(form.lower()) for form in (name, column.name, without_seed(name)))
            given = next(filter(None, meant), None)
            number = column.items or layout.items(line, column) or given or count or items.get("")
            scores[name] = replace(
                score, items=number if column.is_counted else None, share=column.is_share,
                printed_in_percent=score.printed_in_percent and column.is_share,
            )  # fmt: skip
    method = method_of_name(own)
    settings = {
        "r": layout.number(line, RANKS),
        "lora_alpha": layout.number(line, ALPHAS),
        "use_rslora": "rslora" in own.lower(),
    }
    # "validation, never test" is chosen on validation
    tuned = re.sub(r"\b(?:not|never|no)\s+(?:on\s+)?(?:the\s+)?test\b", "", layout.cell(line, TUNED), flags=re.I)
    words = {*re.findall(r"[a-z0-9]+", tuned.lower())}
    return Row(
        name=own,
        method=method,
        settings={layout.columns[place].key: _setting(line[place]) for place in layout.settings},
        rate=layout.number(line, RATES),
        scale=effective_scale(settings),
        seeds=cells.whole(layout.cell(line, SEEDS)),
        scores=scores,
        is_base=is_base_name(own),
        rate_was_tuned=bool(words & _ON_VALIDATION) and not words & {"test", "no", "not", "never"} if tuned else None,
        chosen_on=tuned,
    )


def _setting(cell: str) -> str:
    return UNKNOWN if cells.is_empty(cell) else cell


def _over_seeds(
    rows: Sequence[Row], layout: _Layout, lines: Sequence[Sequence[str]]
) -> tuple[list[Row], list[Finding]]:
    """Return rows of single runs, whose seeds stand in a column, as rows of methods; other rows stay as they are."""
    runs: dict[object, list[tuple[Row, str]]] = {}
    for place, (row, line) in enumerate(zip(rows, lines, strict=True)):
        seed, variant = layout.cell(line, SEED), (layout.cell(line, RANKS), layout.cell(line, ALPHAS))
        same = (row.name, row.rate, variant, row.chosen_on, tuple(sorted(row.settings.items())))
        runs.setdefault(same if seed.isdigit() else place, []).append((row, seed))
    made: list[Row] = []
    findings: list[Finding] = []
    for own in runs.values():
        row, seed = own[0]
        if not seed.isdigit():
            made.append(row)
            continue
        members, numbers = [run for run, _ in own], {number for _, number in own}
        made.append(replace(over_seeds(row.name, members), seeds=len(numbers)))
        findings += lacking(row.name, members)
        if len(numbers) < len(own):
            text = f"{row.name} has several rows of one seed: which of them counts?"
            findings.append(Finding(check="twice", text=text, rows=(row.name,)))
    return made, findings


def _not_read(layout: _Layout, lines: Sequence[Sequence[str]]) -> Iterator[Finding]:
    """Yield the cells with a digit among scores that are not read as one."""
    for place, name in layout.scores.items():
        odd = [line for line in lines if re.search(r"\d", line[place]) and cells.score(line[place]) is None]
        if odd:
            listed = several([f"{line[place]!r} of {line[layout.named]}" for line in odd], 4)
            text = f"{name}: not read as scores, and left out: {listed}"
            rows = tuple(line[layout.named] for line in odd)
            yield Finding(check="unreadable", text=text, rows=rows, severity="note")


def _in_one_unit(rows: Sequence[Row], layout: _Layout) -> list[Row]:
    """Return the rows with shares of 1, by what each column is printed in."""
    titled = {name for place, name in layout.scores.items() if layout.columns[place].is_in_percent}
    above = {
        task: [row.scores[task] for row in rows if task in row.scores and abs(row.scores[task].value) > 1]
        for task in {task for row in rows for task in row.scores}
    }
    return [
        replace(
            row,
            scores={
                task: _as_share(score) if score.share and _is_percent(score, above[task], task in titled) else score
                for task, score in row.scores.items()
            },
        )
        for row in rows
    ]


def _is_percent(score: Score, above: Sequence[Score], is_titled: bool) -> bool:
    """Return whether a score is in percent, beside those of its column that are above 1.

    A number up to 1 is a share among percents where it has more decimals and is about a hundredth of them.
    """
    if score.printed_in_percent or not above or score.value == 0:
        return score.printed_in_percent or bool(above) or is_titled
    middle = sorted(other.value for other in above)[len(above) // 2]
    is_finer = (score.decimals or 0) > max(other.decimals or 0 for other in above)
    return not (is_finer and middle / 4 <= 100 * score.value <= 4 * middle)


def _as_share(score: Score) -> Score:
    ends = (score.interval[0] / 100, score.interval[1] / 100) if score.interval else None
    return replace(
        score,
        value=score.value / 100,
        decimals=(score.decimals or 0) + 2,
        error=None if score.error is None else score.error / 100,
        interval=ends,
        printed_in_percent=True,
    )
