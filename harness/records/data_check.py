"""Findings about a data set before anything is trained on it: schema of `runs/data/<check_id>.json`.

Needs the standard library and pydantic only. The data card in a report is made from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.records.base import Strict
from harness.records.files import FileName
from harness.records.record import SCHEMA, read

__all__ = ["SCHEMA", "Balance", "DataCheck", "Lengths", "Near", "Overlap", "Problem", "SourceRows", "path", "read"]


@dataclass(frozen=True, kw_only=True)
class Lengths(Strict):
    """Tokens per row of one part, before long rows are left out. `quantiles`: least, median, 95 %, 99 %, most."""

    part: str
    rows: int
    tokens: int
    quantiles: tuple[float, ...]
    max_length: int
    rows_over: int  # longer than max_length: left out
    tokens_over: int  # lost if these rows were cut at max_length
    bins: tuple[tuple[int, int, int], ...]  # from, below (the last: up to), rows


@dataclass(frozen=True, kw_only=True)
class SourceRows(Strict):
    """Rows of one file, or of one split of a data set."""

    place: str
    rows: int  # as read and formatted
    trained_on: int
    license: str | None


@dataclass(frozen=True, kw_only=True)
class SourceFormat(Strict):
    """The format that the rows of a source were recognized as, and the columns that it uses and leaves unused."""

    place: str
    format: str
    used: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Return the format and its columns as text."""
        unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        return f"{self.place}: read as {self.format}; used: {', '.join(self.used)}{unused}"


@dataclass(frozen=True, kw_only=True)
class ShownRow(Strict):
    """One training row as it is trained: its text in parts, each learned (True) or only seen (False)."""

    place: str
    parts: tuple[tuple[bool, str], ...]
    tokens: int
    learned_tokens: int


@dataclass(frozen=True, kw_only=True)
class Problem(Strict):
    """One kind of row that was found: how many, what the configuration does with it, and the first of them by line."""

    kind: str
    rows: int
    policy: str
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Near(Strict):
    """Pairs of training and validation rows that are nearly the same."""

    threshold: float  # Jaccard similarity of the sets of word triples
    rows_looked_at: int
    rows: int  # in all; where they are more than `rows_looked_at`, the others were not searched
    found: int  # rows that are nearly the same as one before
    across_validation: int  # of them, with one of the two in training and the other in validation
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Overlap(Strict):
    """Training rows that share a run of words with the items of a task, or with held-out rows."""

    name: str
    items: int
    items_without_words: int  # shorter than any run that is looked for
    items_found: int
    train_rows_found: int
    examples: tuple[str, ...]
    reason: str = ""  # why the items could not be looked at; "" where they were
    found_ids: tuple[str, ...] | None = None  # ids of the found items: `leaf task:number`; None in older checks


@dataclass(frozen=True, kw_only=True)
class Balance(Strict):
    """Distribution of the training rows over answers and topics."""

    answers: int  # distinct ones
    most_common: tuple[tuple[str, int], ...]  # answers, where some occur often
    topics: tuple[tuple[str, int], ...]  # values of the topic's column; () where none is named


@dataclass(frozen=True, kw_only=True)
class DataCheck(Strict):
    """The whole check. `refusals`: findings that the configuration calls errors, which keep runs from starting."""

    schema: int
    check_id: FileName
    data: str
    content: str | None
    model: str
    data_license: str | None
    model_license: str | None
    sources: tuple[SourceRows, ...]
    given_rows: int
    train_rows: int
    validation_rows: int
    test_rows: int
    removed: dict[str, int]  # kind -> rows left out
    problems: tuple[Problem, ...]
    contradictions: tuple[int, int]  # prompts with several answers, and their rows
    near: Near
    ngram: int  # words in a run that counts as an overlap
    shortest_ngram: int  # an item with fewer words than that is matched by all of its words
    overlaps: tuple[Overlap, ...]
    lengths: tuple[Lengths, ...]
    balance: Balance
    loss_on: str
    template: str | None  # the chat template: "model", a file's name, or None where there are none
    tokenizer: dict[str, str]
    notices: tuple[str, ...]  # traps of the tokenizer and the chat template
    refusals: tuple[str, ...]
    formats: tuple[SourceFormat, ...] = ()
    first_rows: tuple[ShownRow, ...] = ()
    changes: tuple[str, ...] = ()  # how the chat template changes messages, and what it adds to them

    @property
    def contaminated(self) -> list[Overlap]:
        """Return the tasks and held-out sets whose items occur in the training rows."""
        return [overlap for overlap in self.overlaps if overlap.items_found]


def path(runs_dir: str | Path, check_id: str) -> Path:
    """Return the path of a data check below a runs folder."""
    return Path(runs_dir) / "data" / f"{check_id}.json"


def noticed(check: DataCheck, task_name: Callable[[str], str]) -> str:
    """Return the numbers of rows and everything that the check noticed, with tasks by these names."""
    parts = [
        _used(check),
        *(f"{number:,} {kind.replace('_', ' ')} left out" for kind, number in check.removed.items()),
        *([f"{check.near.found:,} near duplicates"] if check.near.found else []),
        *([f"conflicting answers to {_counted(check.contradictions[0], 'prompt')}"] if check.contradictions[0] else []),
        *(
            f"{part.items_found:,} of {part.items:,} items of {task_name(part.name)} in the training rows"
            for part in check.contaminated
        ),
        *(f"{part.rows_over:,} {part.part} rows too long" for part in check.lengths if part.rows_over),
        *unused_columns(check),
        *check.changes,
        *check.notices,
    ]
    return "; ".join(parts)


def lines(check: DataCheck) -> tuple[str, ...]:
    """Return lines for the start of a sweep: rows used, contamination, columns unused, and how chats are written."""
    unused = unused_columns(check)
    return (
        f"data        {_sizes(check)}",
        f"overlap     {_contamination(check)}",
        *([f"not used    {'; '.join(unused)}"] if unused else []),
        *([f"chats       {'; '.join(check.changes)}"] if check.changes else []),
    )


def unused_columns(check: DataCheck) -> list[str]:
    """Return a line for each source in a recognized format that has columns which the format does not use."""
    return [
        f"{source.place}: read as {source.format} without the columns {', '.join(source.unused)}"
        for source in check.formats
        if source.unused and source.format != "templates"
    ]


def _used(check: DataCheck) -> str:
    return f"{check.train_rows:,} training, {check.validation_rows:,} validation, {check.test_rows:,} test rows"


def _sizes(check: DataCheck) -> str:
    """Return the numbers of rows that are used, and of those that are not."""
    removed = [f"{number:,} {kind.replace('_', ' ')}" for kind, number in check.removed.items() if number]
    too_long = [
        f"{_counted(part.rows_over, 'row')} of {part.part} too long" for part in check.lengths if part.rows_over
    ]
    left_out = f"; left out: {', '.join(removed)}" if removed else ""
    over = f"; {', '.join(too_long)}" if too_long else ""
    return f"{check.data}: {_used(check)}{left_out}{over}"


def _contamination(check: DataCheck) -> str:
    """Return how many evaluation items occur in the training rows, and what is done about it."""
    if check.contaminated:
        items = [
            f"{overlap.items_found:,} of {_counted(overlap.items, 'item')} of {overlap.name}"
            for overlap in check.contaminated
        ]
        policy = "kept in both, so these scores may be too high; data.on_contamination=error refuses such data"
        return f"{', '.join(items)} in the training rows: {policy}"
    checked = [overlap for overlap in check.overlaps if not overlap.reason]
    if not checked:
        return "no evaluation items to compare with the training rows"
    number = _counted(sum(overlap.items for overlap in checked), "evaluation item")
    return f"none of {number} in the training rows (runs of {check.ngram} words)"


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
