"""Examples of answers: a few items with their reference and the answer of every method.

The items are drawn by the hash of their ids, so that nobody chooses them by the answers.
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any

from harness.records.untrusted import shortened
from harness.report import names
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import METHOD, Group, headline
from harness.report.data.items import Items, ScoredEvaluation, read_columns
from harness.report.document import Block, Cell, Column, Missing, Number, Table, Text

RULE = "Items are drawn by the hash of their ids, not by the answers. Answers are those of the first seed of a method."
MOST_ITEMS, MOST_METHODS = 3, 8
QUESTION_LENGTH, ANSWER_LENGTH = 500, 200
_TEXTS = ("question", "target", "answer")


def blocks(comparison: Comparison) -> Iterator[Block]:
    """Yield a table for each of a few items, with the answers of the best methods; nothing where no text is recorded.

    Generated answers are preferred, then those of the task that answers the question, then those of the other tasks.
    """
    for eval_id in _candidates(comparison):
        answers = _Answers(comparison, eval_id)
        if answers.texts:
            yield RULE
            yield from (answers.table(place, number) for number, place in enumerate(answers.drawn(), 1))
            return


def _candidates(comparison: Comparison) -> list[str]:
    """Return the identities of the evaluations in the order in which they are preferred."""
    every = {key: scored[0] for group in comparison.groups if group.ok for key, scored in group.evaluations.items()}
    primary = comparison.primary.eval_id if comparison.primary else ""

    def preference(key: str) -> tuple[bool, bool, bool]:
        scored = every[key]
        return scored.record.evaluation["kind"] != "generation", key != primary, scored.role != "target"

    return sorted(every, key=preference)


class _Answers:
    """Texts of one evaluation by method, as far as the methods have the same items."""

    def __init__(self, comparison: Comparison, eval_id: str) -> None:
        """Read the texts of the base model and of the best methods."""
        self.items: Items | None = None
        self.texts: list[tuple[Group, ScoredEvaluation, Mapping[str, list[Any]]]] = []
        methods = [cell.key for cell in comparison.main_table.cells("method") if isinstance(cell, Text)]
        by_label = {group.label: group for group in comparison.groups if group.ok and eval_id in group.evaluations}
        for group in [by_label[label] for label in methods if label in by_label][: MOST_METHODS + 1]:
            scored = group.evaluations[eval_id][0]
            columns = read_columns(scored.path, _TEXTS)
            if not scored.items or not any(columns.get("answer", ())):
                continue
            self.items = self.items or scored.items
            if scored.items.ids == self.items.ids:
                self.texts.append((group, scored, columns))

    def drawn(self) -> list[int]:
        """Return the places of the items that are shown."""
        ids = self.items.ids if self.items else ()
        return sorted(range(len(ids)), key=lambda place: sha256(ids[place].encode()).digest())[:MOST_ITEMS]

    def table(self, place: int, number: int) -> Table:
        """Return one item: its question, the reference and the answers."""
        _, first, columns = self.texts[0]
        metric = headline(first) or ""
        score = Column("score", names.metric(metric).short, digits=0 if metric.startswith("acc") else 2)
        rows: list[tuple[Cell, ...]] = [
            (Text(title), Text(shortened(_at(columns, key, place), QUESTION_LENGTH)), Missing("no answer", ""))
            for key, title in (("question", "Question"), ("target", "Reference"))
        ]
        for group, scored, texts in self.texts:
            outcomes = scored.items.outcomes.get(metric) if scored.items else None
            value = Missing("not recorded") if outcomes is None else Number(float(outcomes[place]))
            answer = Text(shortened(_at(texts, "answer", place), ANSWER_LENGTH))
            rows.append((group.cell, answer, value))
        title = f"Example {number} from {names.task(first.task).display}"
        heads = (METHOD, Column("answer", "Text", text=True), score)
        return Table(heads, tuple(rows), caption=f"{title}.", label=f"example-{number}", title=title, rules=(2,))


def _at(columns: Mapping[str, list[Any]], key: str, place: int) -> str:
    """Return the text of an item; "" where there is none."""
    values = columns.get(key)
    return str(values[place] or "") if values else ""
