"""Data of the page's view of single items: questions, choices, and what each method answered with each seed.

The data of a task is JSON, compressed and written as text, so that thousands of items fit into the page. The browser
unpacks a task when it is chosen.
"""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pvariance
from typing import Any

from harness.records.untrusted import printable, shortened
from harness.report import names
from harness.report.analysis.axes import Quality, qualities
from harness.report.data.groups import Group
from harness.report.data.items import NLL, ScoredEvaluation, read_columns, same_items

MOST_CELLS = 400_000  # outcomes of all tasks; beyond, each has its best methods alone, so that the page still opens
MOST_BYTES = 6_000_000  # of all tasks in the page; beyond, items on which methods agree most are shown without texts
QUESTION_LENGTH, CHOICE_LENGTH, ANSWER_LENGTH = 700, 200, 400
_SYMBOLS = "0123456789abcdefghijklmnopqrstuvwxyz"  # a count or the place of an answer, as one letter
_UNKNOWN = "~"
_TEXTS = ("question", "target", "choices")


@dataclass
class _Task:
    """Outcomes of the methods that answered the same items of one task, in the order of the items."""

    quality: Quality
    names: list[str]
    members: dict[str, Group] = field(default_factory=dict)
    outcomes: dict[str, list[list[float]]] = field(default_factory=dict)  # a list per seed

    def within(self, cells: int) -> _Task:
        """Return the task with its best methods alone, as many as there is room for."""
        sign = -1 if self.quality.higher_is_better else 1
        means = {label: sum(map(sum, seeds)) / len(seeds) for label, seeds in self.outcomes.items()}
        room = max(0, cells // max(1, len(self.names)))
        best = {*sorted(self.members, key=lambda label: sign * means[label])[:room]}
        members = {label: group for label, group in self.members.items() if label in best}
        return _Task(self.quality, self.names, members, {label: self.outcomes[label] for label in members})


def tasks(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return the title of each task with its compressed data; none where no two methods answered the same items.

    Where all outcomes are too many, each task keeps the same share of its own, so that none is missing.
    """
    chosen = []
    sizes = {quality: _cells(quality, groups) for quality in qualities(groups, ("target", "retention", "test"))}
    every = sum(sizes.values())
    for quality, cells in sizes.items():
        whole = _task(quality, groups)
        if whole is None:
            continue
        task = whole.within(cells if every <= MOST_CELLS else MOST_CELLS * cells // every)
        if len(task.members) > 1:
            chosen.append((task, len(whole.members) - len(task.members)))
    room = MOST_BYTES // max(1, len(chosen))
    packed = []
    for task, left_out in chosen:  # where a task has several settings the title holds the number of items
        metric = task.quality.measure.metric
        extra = task.quality.title.removeprefix(f"{task.quality.task} {metric}")
        title = f"{names.task(task.quality.task).display}, {names.metric(metric).display}{extra}"
        packed.append({"title": printable(title), "data": _packed(task, left_out, room)})
    return packed


def _cells(quality: Quality, groups: Sequence[Group]) -> int:
    """Return how many outcomes the methods have on a task, one for each item."""
    scored = [group.evaluations.get(quality.measure.eval_id, ()) for group in groups if group.ok]
    return sum(evaluations[0].record.num_items for evaluations in scored if evaluations)


def _task(quality: Quality, groups: Sequence[Group]) -> _Task | None:
    """Return the outcomes of the groups on one task; None where fewer than two groups share its items."""
    task: _Task | None = None
    first: str | None = None
    for group in groups if quality.role else ():
        scored = group.evaluations.get(quality.measure.eval_id, ()) if group.ok else ()
        items = scored[0].items if scored and same_items(scored) else None
        seeds = _outcomes(scored, quality.measure.metric)
        if items is None or seeds is None or first not in (None, items.asked_digest):
            continue
        first = items.asked_digest
        task = task or _Task(quality, [_name(item_id) for item_id in items.ids])
        task.members[printable(group.label)] = group
        task.outcomes[printable(group.label)] = seeds
    return task if task and len(task.members) > 1 else None


def _outcomes(scored: Sequence[ScoredEvaluation], metric: str) -> list[list[float]] | None:
    """Return the outcomes of each seed; None where a seed does not have them."""
    column = NLL if scored and scored[0].heldout else metric
    seeds = [evaluation.items.outcomes.get(column) for evaluation in scored if evaluation.items]
    if not seeds or len(seeds) < len(scored):
        return None
    return [values.tolist() for values in seeds if values is not None] if all(s is not None for s in seeds) else None


def _name(item_id: str) -> str:
    """Return the number at the end of an item's id, which a reader understands; of a bare hash its beginning."""
    *_, last = item_id.split(":")
    number = last.rpartition("-")[2]
    return f"#{number}" if number.isdigit() and len(item_id.split(":")) != 2 else shortened(item_id, 12)


def _packed(task: _Task, left_out: int, room: int) -> str:
    """Return the data of a task as base64 of gzip; where it is too large, fewer items have texts."""
    scores = {label: _scores(seeds) for label, seeds in task.outcomes.items()}
    texts = _Texts(task)
    order = _most_differing(task)
    count = len(order)
    while True:
        content = {
            "higher": task.quality.higher_is_better,
            "left_out": left_out,
            "ids": task.names,
            "groups": [
                {"label": label, "name": printable(group.name), "seeds": len(task.outcomes[label]), **scores[label]}
                for label, group in task.members.items()
            ],
            **texts.of({*order[:count]}),
        }
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))
        packed = b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
        if len(packed) <= room or not count:
            return packed
        count = min(count // 2, int(count * room / len(packed)))


def _scores(seeds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return in how many seeds each item is right, a letter an item; or the mean of each item where it is a number."""
    sums = [sum(values) for values in zip(*seeds, strict=True)]
    if len(seeds) < len(_SYMBOLS) and all(value in (0.0, 1.0) for values in seeds for value in values):
        return {"right": "".join(_SYMBOLS[int(value)] for value in sums)}
    return {"values": [round(value / len(seeds), 3) for value in sums]}


def _most_differing(task: _Task) -> list[int]:
    """Return the places of the items, those first on which the methods differ most."""
    by_group = [[fmean(values) for values in zip(*seeds, strict=True)] for seeds in task.outcomes.values()]

    def spread(place: int) -> float:
        return pvariance([column[place] for column in by_group])

    return sorted(range(len(task.names)), key=lambda place: (-spread(place), place))


class _Texts:
    """Questions, choices and answers of a task; equal answers to an item are written once."""

    def __init__(self, task: _Task) -> None:
        number = len(task.names)
        self._columns: dict[str, list[Any]] = {}
        self._distinct: list[dict[str, int]] = [{} for _ in range(number)]
        self._picks: list[list[str]] = []  # of each group, of each seed: a letter an item
        for group in task.members.values():
            evaluations = group.evaluations[task.quality.measure.eval_id]
            self._picks.append([self._picked(columns, number) for columns in self._read(evaluations, number)])

    def of(self, places: set[int]) -> dict[str, Any]:
        """Return the texts of the items at these places, and nothing for the others."""
        columns = {
            name: [value if i in places else "" for i, value in enumerate(values)]
            for name, values in self._columns.items()
        }
        answers = [[*distinct] if i in places else [] for i, distinct in enumerate(self._distinct)]
        return {**columns, **({"answers": answers, "picks": self._picks} if any(answers) else {})}

    def _read(self, evaluations: Sequence[ScoredEvaluation], number: int) -> Iterator[dict[str, list[Any]]]:
        """Yield the columns of each seed; the questions are those of the first that has them."""
        for evaluation in evaluations:
            missing = [name for name in _TEXTS if name not in self._columns]
            columns = read_columns(evaluation.path, (*missing, "answer"))
            for name in missing:
                values = columns.get(name)
                if values is not None and len(values) == number and any(value is not None for value in values):
                    self._columns[name] = [_text(name, value) for value in values]
            yield columns

    def _picked(self, columns: dict[str, list[Any]], number: int) -> str:
        answers = columns.get("answer") or [None] * number
        letters = []
        for distinct, answer in zip(self._distinct, answers, strict=True):
            if answer is None:
                letters.append(_UNKNOWN)
                continue
            place = distinct.setdefault(_short(str(answer), ANSWER_LENGTH), len(distinct))
            letters.append(_SYMBOLS[place] if place < len(_SYMBOLS) else _UNKNOWN)
        return "".join(letters)


def _text(name: str, value: Any) -> Any:
    if value is None:
        return ""
    if name == "choices":
        return [_short(str(choice), CHOICE_LENGTH) for choice in value]
    return _short(str(value)[-QUESTION_LENGTH:] if name == "question" else str(value), QUESTION_LENGTH)


def _short(text: str, length: int) -> str:
    """Return printable text of at most so many characters; its lines stay."""
    content = printable(text, keep="\n").strip()
    return content if len(content) <= length else f"{content[: length - 3]}..."
