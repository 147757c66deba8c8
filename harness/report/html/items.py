"""Data of the page's view of the items on which two methods disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.records.untrusted import printable, shortened
from harness.report.analysis.axes import Quality, qualities
from harness.report.data.groups import Group
from harness.report.data.items import Scored, read_texts
from harness.report.data.outcomes import NLL

MOST_CELLS = 400_000  # outcomes of all tasks; beyond, a task has its best methods alone, so that the page still opens
MOST_CHARACTERS = 50_000  # of the questions and answers of all tasks; beyond, items are shown without
TEXT_LENGTH, ANSWER_LENGTH = 220, 60
_TEXTS = ("question", "target", "answer")


def disagreements(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Per task and metric: the items' names, and every group's outcome on each, a mean over its seeds."""
    found: list[dict[str, Any]] = []
    cells, characters = 0, 0
    for quality in qualities(groups, ("target", "retention", "test")):
        task = _task(quality, groups)
        if task is None:
            continue
        task = _within(task, MOST_CELLS - cells)
        if len(task["groups"]) < 2:
            break
        cells += len(task["groups"]) * len(task["items"])
        texts = _texts(quality, groups, task["groups"])
        characters += sum(len(text) for column in texts.values() for text in column.values())
        found.append({**task, "texts": texts if characters <= MOST_CHARACTERS else {}})
    return found


def _within(task: dict[str, Any], cells: int) -> dict[str, Any]:
    """The task with as many of its groups as there is room for, the best ones, and how many were left out."""
    groups: dict[str, list[float]] = task["groups"]
    sign = -1 if task["higher"] else 1
    best = sorted(groups, key=lambda label: sign * sum(groups[label]))[: max(0, cells // max(1, len(task["items"])))]
    kept = {label: values for label, values in groups.items() if label in {*best}}
    return {**task, "groups": kept, "left_out": len(groups) - len(kept)}


def _task(quality: Quality, groups: Sequence[Group]) -> dict[str, Any] | None:
    """Return the outcomes of the groups on one task; None where fewer than two groups share its items."""
    outcomes: dict[str, list[float]] = {}
    names: list[str] = []
    first: str | None = None
    for group in groups if quality.role else ():
        scored = group.evaluations.get(quality.measure.eval_id, ()) if group.ok else ()
        key = _key(scored)
        items = scored[0].items if scored else None
        if key is None or items is None or (first is not None and key != first):
            continue
        values = _outcomes(scored, quality.measure.metric)
        if values is not None:
            first = key
            names = names or [_name(one) for one in items.ids]
            outcomes[printable(group.label)] = values
    if len(outcomes) < 2:
        return None
    return {"title": printable(quality.title), "higher": quality.higher_is_better, "items": names, "groups": outcomes}


def _key(scored: Sequence[Scored]) -> str | None:
    """Return the digest of the items and prompts of every seed; None unless all seeds share it."""
    keys = {one.items.asked_digest for one in scored if one.items}
    return keys.pop() if len(keys) == 1 and all(one.items for one in scored) else None


def _outcomes(scored: Sequence[Scored], metric: str) -> list[float] | None:
    """The mean over the seeds per item: whole numbers as such, which are shorter to write."""
    column = NLL if scored[0].heldout else metric
    seeds = [one.items.outcomes.get(column) for one in scored if one.items]
    known = [seed for seed in seeds if seed is not None]
    if not known or len(known) < len(seeds):
        return None
    means = [round(float(sum(values) / len(known)), 3) for values in zip(*known, strict=True)]
    return [int(value) if value == int(value) else value for value in means]


def _name(item_id: str) -> str:
    """Return the number at the end of an item's id, which a reader understands; of a bare hash its beginning."""
    *_, last = item_id.split(":")
    number = last.rpartition("-")[2]
    return f"#{number}" if number.isdigit() and len(item_id.split(":")) != 2 else shortened(item_id, 12)


def _texts(quality: Quality, groups: Sequence[Group], outcomes: dict[str, list[float]]) -> dict[str, dict[int, str]]:
    """Question, right answer and each group's answer of the items on which any two groups differ, by their place."""
    columns = list(outcomes.values())
    differing = [place for place in range(len(columns[0])) if len({column[place] for column in columns}) > 1]
    found: dict[str, dict[int, str]] = {}
    for group in groups:
        label = printable(group.label)
        if label not in outcomes:
            continue
        texts = read_texts(group.evaluations[quality.measure.eval_id][0].path, _TEXTS)
        for name in ("question", "target"):
            if name in texts and name not in found:
                found[name] = {i: shortened(texts[name][i][-TEXT_LENGTH:], TEXT_LENGTH) for i in differing}
        if "answer" in texts:
            found[f"answer of {label}"] = {i: shortened(texts["answer"][i], ANSWER_LENGTH) for i in differing}
    return found
