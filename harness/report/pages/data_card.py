"""The data card: the findings of a data check, as Markdown for a report and as a table for the terminal."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text as Styled

from harness.records.data_check import DataCheck, Lengths, noticed
from harness.records.record import write_text
from harness.records.untrusted import echo, escaped, printable
from harness.report import names
from harness.report.display import counted
from harness.report.document import Bullets, Column, Command, Markup, Section, Table, Text, key_of
from harness.report.writers.markdown import to_markdown

_BAR = "\u2588"
_WIDEST = 40
KINDS = {
    "malformed": "cannot be read or formatted",
    "not_utf8": "not UTF-8",
    "empty": "empty",
    "duplicate": "exact duplicate",
    "near_duplicate": "near duplicate",
    "contradiction": "conflicting answers to one prompt",
    "in_test": "occurs in a test set",
}
_SOURCES = ("Source", "Rows", "Training rows", "License")
_ISSUES = ("Issue", "Rows", "Treatment", "Examples")
_OVERLAPS = ("Evaluation set", "Items", "Contaminated items", "Training rows", "Examples")
_LENGTHS = ("Split", "Rows", "Minimum", "Median", "95 %", "99 %", "Maximum", "Over the limit", "Truncated tokens")
_WORDS = ("Source", "License", "Issue", "Treatment", "Evaluation set", "Split", "Examples")  # columns of words
_TOKENIZER = {"tokens known": "vocabulary size", "rows of the embedding": "embedding rows"}
_DONE = {"drop": "left out", "keep": "kept", "error": "refused"}


def write(check: DataCheck, folder: Path) -> Path:
    """Write the card into a folder; returns its path."""
    return write_text(card(check), folder / file_name(check))


def file_name(check: DataCheck) -> str:
    """Return the name of the card's file."""
    safe = "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in check.data)
    return f"{safe}-{check.check_id}.md"


def lines(checks: Sequence[DataCheck]) -> list[str]:
    """Return a line per check for the page of a report: its findings and the licenses."""
    return [
        f"{names.identified('data', check.data).display}: {noticed(check, lambda task: names.task(task).display)}. "
        f"License of the data: {check.data_license or 'not stated'}; of "
        f"{names.identified('model', check.model).display}: {check.model_license or 'not stated'}."
        for check in checks
    ]


def links(checks: Sequence[DataCheck]) -> str:
    """Return links to the cards, as Markdown; "" without any."""
    named = [(names.identified("data", check.data).display, check) for check in checks]
    cards = ", ".join(f"[{escaped(name)}](data/{file_name(check)})" for name, check in named)
    return f"Data cards: {cards}" if cards else ""


def card(check: DataCheck) -> str:
    """Return the whole card."""
    refused = f"**Refused.** {escaped(' '.join(check.refusals))}" if check.refusals else ""
    histograms = (Command(f"{length.part}\n{histogram(length)}") for length in check.lengths)
    facts = (f"{_TOKENIZER.get(name, name)}: {value}" for name, value in check.tokenizer.items())
    shared = [(names.task(name).display, *others) for name, *others in overlaps(check)]
    sections = (
        Section("Data", (Bullets(tuple(_head(check))), Markup(refused))),
        Section("Sources", (_table(_SOURCES, _sources(check)),)),
        Section("Format", (Bullets((*(source.sentence for source in check.formats), *check.changes)),)),
        Section("Data quality", (_table(_ISSUES, findings(check)),)),
        Section("Contamination", (_rule(check), _table(_OVERLAPS, shared))),
        Section("Sequence length (tokens)", (_table(_LENGTHS, lengths(check)), *histograms)),
        Section("Answer distribution", (Bullets(tuple(_balance(check))),)),
        Section("Tokenizer", (Bullets((*facts, *check.notices)),)),
    )
    return to_markdown(f"Data card: {names.identified('data', check.data).display}", sections)


def show(check: DataCheck, card: Path, console: Console | None = None) -> None:
    """Print the check as a table, and where its card lies."""
    console = console or Console(width=None if Console().is_terminal else 120, highlight=False)
    console.print(Styled(printable(f"{check.data} for {check.model}"), style="bold"))
    grid = Grid(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("Check", "Number", "Detail", "Example"):
        grid.add_column(name, justify="right" if name == "Number" else "left", overflow="fold")
    for cells in _terminal(check):
        grid.add_row(*(Styled(printable(cell)) for cell in cells))
    console.print(grid)
    _show_rows(check, console)
    for notice in (*check.changes, *check.notices):
        console.print(Styled(printable(f"note: {notice}"), style="yellow"))
    for refusal in check.refusals:
        console.print(Styled(f"refused: {printable(refusal)}", style="red"))
    echo(f"card: {card}", file=console.file)


def _show_rows(check: DataCheck, console: Console) -> None:
    """Print how the rows are read, and the first of them with the text that is learned.

    Each part begins with LEARN or see, so that it is told apart without colors as well.
    """
    for source in check.formats:
        console.print(Styled(printable(source.sentence)))
    for row in check.first_rows:
        console.print(Styled(printable(f"{row.place}: {row.learned_tokens:,} of {row.tokens:,} tokens are learned")))
        for is_learned, text in row.parts:
            line_of_part = Styled("  LEARN " if is_learned else "  see   ", style="bold green" if is_learned else "dim")
            console.print(line_of_part.append(printable(json.dumps(text, ensure_ascii=False))))


def _terminal(check: DataCheck) -> list[tuple[str, str, str, str]]:
    rows = [
        ("training rows", f"{check.train_rows:,}", f"of {check.given_rows:,} given", ""),
        ("validation rows", f"{check.validation_rows:,}", "", ""),
        ("test rows", f"{check.test_rows:,}", "", ""),
    ]
    rows += [(what, number, done, example) for what, number, done, example in findings(check)]
    rows += [
        (f"items of {name} in training rows", items_found, f"of {items}, {rows_found} training rows", example)
        for name, items, items_found, rows_found, example in overlaps(check)
    ]
    for length in check.lengths:
        least, median, high, _, most = (f"{value:,.0f}" for value in length.quantiles)
        left_out = (
            f"{length.rows_over:,} over {length.max_length:,}: left out ({length.tokens_over:,} tokens cut otherwise)"
        )
        rows.append((f"tokens per {length.part} row", median, f"{least} to {most}, 95 % {high}", left_out))
    rows.append(("distinct answers", f"{check.balance.answers:,}", "", _common(check.balance.most_common[:3])))
    if check.balance.topics:
        rows.append(("topics", f"{len(check.balance.topics):,}", "", _common(check.balance.topics[:5])))
    return rows


def findings(check: DataCheck) -> list[tuple[str, str, str, str]]:
    """Return (finding, rows, their treatment, an example) for every kind of finding among the rows."""
    by_kind = {problem.kind: problem for problem in check.problems}
    lines = []
    for kind, name in KINDS.items():
        problem = by_kind.get(kind)
        if problem is not None:
            examples = "; ".join(problem.examples[:3])
            lines.append((name, f"{problem.rows:,}", _DONE[problem.policy], examples))
        elif kind == "near_duplicate":
            near = check.near
            sampled = near.rows_looked_at < near.rows
            looked = f"; looked for in a sample of {near.rows_looked_at:,} of {near.rows:,}" if sampled else ""
            across = f", {near.across_validation:,} across training and validation" if near.across_validation else ""
            lines.append((name, f"{near.found:,}", f"kept{looked}{across}", "; ".join(near.examples[:2])))
        elif kind == "contradiction":
            prompts, rows = check.contradictions
            lines.append((name, f"{rows:,}", f"kept, {counted(prompts, 'prompt')}" if prompts else "", ""))
        else:
            lines.append((name, "0", "", ""))
    return lines


def overlaps(check: DataCheck) -> list[tuple[str, str, str, str, str]]:
    """Return (name, items, items in training rows, such rows, an example) of each task and held-out set."""
    return [
        (
            overlap.name,
            f"{overlap.items:,}",
            f"{overlap.items_found:,}",
            f"{overlap.train_rows_found:,}",
            "; ".join(overlap.examples[:2]),
        )
        if not overlap.reason
        else (overlap.name, "-", "-", "-", overlap.reason)
        for overlap in check.overlaps
    ]


def lengths(check: DataCheck) -> list[tuple[str, ...]]:
    """One line per part."""
    return [
        (length.part, f"{length.rows:,}", *(f"{value:,.0f}" for value in length.quantiles),
         f"{length.rows_over:,} over {length.max_length:,}", f"{length.tokens_over:,}")
        for length in check.lengths
    ]  # fmt: skip


def histogram(lengths: Lengths) -> str:
    """Rows by length, one bar per bin."""
    most = max((rows for _, _, rows in lengths.bins), default=0) or 1
    wide = len(f"{lengths.bins[-1][1]:,}") if lengths.bins else 1
    last = len(lengths.bins) - 1
    return "\n".join(
        f"{low:>{wide},} - {high - (place < last):>{wide},} {_BAR * -(-rows * _WIDEST // most)} {rows:,}"
        for place, (low, high, rows) in enumerate(lengths.bins)
    )


def _head(check: DataCheck) -> list[str]:
    loss = {"completion": "the last answer", "assistant": "every answer of the assistant", "all": "everything"}
    return [
        f"rows: {check.train_rows:,} training, {check.validation_rows:,} validation, {check.test_rows:,} test; "
        f"{check.given_rows:,} before filtering and splitting",
        f"data license: {check.data_license or 'not stated'}",
        f"base model: {names.identified('model', check.model).display}, license {check.model_license or 'not stated'}",
        f"identifier: {check.data}, content hash: {check.content or 'not recorded'}, check: {check.check_id}",
        f"loss computed on: {loss[check.loss_on]}",
        f"chat template: {check.template or 'none (plain text)'}",
    ]


def _rule(check: DataCheck) -> str:
    return (
        f"An item is contaminated if {check.ngram} of its words in a row occur in a training row (case and punctuation "
        f"ignored), or all of its words if it has {check.shortest_ngram} to {check.ngram - 1}; shorter items are not "
        "checked. Word sequences that more than 1 % of a set's items share count as its template and are ignored."
    )


def _sources(check: DataCheck) -> list[tuple[str, ...]]:
    return [
        (source.place, f"{source.rows:,}", f"{source.trained_on:,}", source.license or "not stated")
        for source in check.sources
    ]


def _balance(check: DataCheck) -> list[str]:
    lines = [f"distinct answers: {check.balance.answers:,}"]
    if check.balance.most_common:
        lines.append(f"most common: {_common(check.balance.most_common)}")
    if check.balance.topics:
        lines.append(f"topics: {_common(check.balance.topics)}")
    return lines


def _common(pairs: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{text} ({number:,})" for text, number in pairs)


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    columns = tuple(Column(key_of(title), title, text=title in _WORDS) for title in titles)
    return Table(columns, tuple(tuple(map(Text, line)) for line in lines))
