"""Conversion of lm-eval's results into metrics of a task and one outcome per item, with graded outcomes.

A choice among answers is right or wrong. Its likelihoods say by how much, which the graded outcomes measure. `p_right`
is the probability of the right choice, a softmax over the choices' log-likelihoods, and `brier` the squared distance of
all probabilities from the truth (Brier, Monthly Weather Review 78, 1950: 0 is best). Where the task normalizes by the
choices' length (`acc_norm`), so do `p_right_norm` and `brier_norm`: nats per character, times the mean length of the
item's choices, so that a softmax sees the nats of whole answers. Of nats per character it is nearly flat: four choices
get about a quarter each, and few items with very short choices decide the mean. Graded outcomes vary less from item to
item than right and wrong does, and never replace it.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from harness.records.evaluation import GRADED
from harness.records.items import clusters, text_hash
from harness.records.record import Metric

_SHORTEST_QUESTION, _LONGEST_QUESTION = 24, 1000  # characters that are recorded for people to read
# Fields of a task's rows that put items into one cluster, the narrowest first
_SHARED = ("passage", "article", "context", "story", "paragraph", "document", "subject")
_UNREADABLE = ("", "[invalid]")  # what lm-eval's filters give where they find no answer
_ACCURACIES = ("acc", "acc_norm")
_ROUNDING = 1e-6  # of a score: the sum of its items in another order


def metrics(
    result: dict[str, Any], task: str, leaves: Collection[str], guessed: Mapping[str, float | None]
) -> dict[str, Metric]:
    """Return the metrics of a task by name; `guessed` holds the accuracies of guessing.

    The key `"acc,none"` of lm-eval becomes `acc`; `"exact_match,strict-match"` stays as it is. A metric of a group in
    whose tasks, `leaves`, it has opposite directions is left out: a mean of it has none.
    """
    scores = _scores(result, task)
    better = directions([result["higher_is_better"].get(name) or {} for name in (*leaves, task)])
    named = {}
    for key, value in ((key, _plain(value)) for key, value in scores.items()):
        name, _, selection = key.partition(",")
        if not selection or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        if (direction := better.get(name, True)) is None:
            continue
        stderr = _plain(scores.get(f"{name}_stderr,{selection}"))
        named[name if selection == "none" else key] = Metric(
            value=float(value),
            stderr=float(stderr) if isinstance(stderr, int | float) else None,
            higher_is_better=direction,
            chance=guessed.get(name),
        )
    return named


def _scores(result: dict[str, Any], task: str) -> Mapping[str, Any]:
    scores: Mapping[str, Any] = result["results"].get(task) or result["groups"][task]
    return scores


def directions(stated: Sequence[Mapping[str, bool | None]]) -> dict[str, bool | None]:
    """Return for each metric of several tasks whether a higher value is better; None where they disagree."""
    result: dict[str, bool | None] = {}
    for name, direction in (pair for entry in stated for pair in entry.items()):
        result[name] = direction if result.setdefault(name, direction) == direction else None
    return result


def columns(samples: dict[str, list[dict[str, Any]]], delimiters: Mapping[str, str]) -> dict[str, list[Any]]:
    """Return the items of every leaf task, one row per item, with one column per metric and filter.

    `delimiters` holds what stands before each choice of a leaf task, which is no part of its length. If filters extract
    the answer from the generated text, the column `parsed` is True for items where one found it.
    """
    items: dict[tuple[str, int], dict[str, Any]] = {}
    for leaf, entries in samples.items():
        for entry in entries:
            item = items.setdefault((leaf, entry["doc_id"]), _item(leaf, entry))
            if entry["filter"] != "none":
                item["parsed"] = bool(item.get("parsed")) or any(map(_is_answer, entry["filtered_resps"]))
            for metric in entry["metrics"]:
                value = _plain(entry[metric])
                if isinstance(value, int | float):
                    name = metric if entry["filter"] == "none" else f"{metric},{entry['filter']}"
                    item[f"metric/{name}"] = float(value)
            item.update(_graded(item, entry, delimiters.get(leaf, " ")))
    shared = clusters([item.pop("shared", None) for item in items.values()])
    names = sorted({name for item in items.values() for name in item})
    return {name: [item.get(name) for item in items.values()] for name in names} | shared


def _is_answer(response: Any) -> bool:
    return str(response).strip() not in _UNREADABLE


def _item(leaf: str, entry: dict[str, Any]) -> dict[str, Any]:
    item: dict[str, Any] = {
        "task": leaf,
        "item_id": f"{leaf}:{entry['doc_hash']}:{entry['doc_id']}",  # a few official items occur twice
        "prompt_hash": text_hash(json.dumps([list(map(str, arguments)) for arguments in entry["arguments"]])),
        "question": _question(str(entry["arguments"][0][0])),
        "target": str(entry["target"]),
        "shared": next((str(entry["doc"][key]) for key in _SHARED if entry.get("doc", {}).get(key)), None),
    }
    answers = entry["filtered_resps"]
    if answers and all(isinstance(answer, tuple | list) for answer in answers):
        nats = [float(answer[0]) for answer in answers]
        choices = [str(arguments[1]) for arguments in entry["arguments"]]
        if "acc_mutual_info" in entry:  # each choice stands there once more, without its question
            nats, choices = nats[: len(nats) // 2], choices[: len(choices) // 2]
        item["loglikelihoods"], item["choices"] = nats, choices
        item["answer"] = choices[nats.index(max(nats))]  # the likeliest continuation
        if isinstance(entry["target"], list | tuple):
            item["num_right"] = len({answer for answer in entry["target"] if _is_choice(answer, choices)})
        if item["target"].isdigit() and int(item["target"]) < len(choices) > 1:
            item["target_index"] = int(item["target"])
            item["target"] = choices[item["target_index"]]
    elif isinstance(entry["resps"][0][0], str):  # no answer is the likelihood of a whole text
        item["answer"] = entry["resps"][0][0]  # as generated, before a filter reads the answer out of it
    return item


def _plain(value: Any) -> Any:
    """Return a scalar of NumPy or torch, as a task's own functions may return it, as Python's own."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def _is_choice(target: Any, choices: Sequence[str]) -> bool:
    """Return whether one of a task's right answers is among the choices, as lm-eval looks it up."""
    if isinstance(target, int):
        return 0 <= target < len(choices)
    return str(target).strip() in [choice.strip() for choice in choices]  # a delimiter stands before a choice


def delimiter(config: Mapping[str, Any], chat_template: bool) -> str:
    """Return what lm-eval puts before each choice of a task, by its configuration."""
    prefix = str(config.get("gen_prefix") or "")
    if chat_template and (not prefix or prefix[-1].isspace()):
        return ""
    return str(config.get("target_delimiter", " "))


def _graded(item: dict[str, Any], entry: dict[str, Any], delimiter: str) -> Iterator[tuple[str, float]]:
    """Yield the graded outcomes of an item whose right choice is known, if they agree with lm-eval's verdict."""
    nats, right = item.get("loglikelihoods"), item.get("target_index")
    if nats is None or right is None:
        return
    lengths = [len(choice.removeprefix(delimiter)) for choice in item["choices"]]
    mean = sum(lengths) / len(lengths)
    for metric, suffix, scores in (
        ("acc", "", nats),
        ("acc_norm", "_norm", [score / length * mean for score, length in zip(nats, lengths, strict=True) if length]),
    ):
        if entry.get(metric) not in (0, 1) or len(scores) < len(nats):
            continue
        if math.isnan(sum(scores)) or max(scores) == -math.inf:  # of a model that diverged
            continue
        if (scores.index(max(scores)) == right) == bool(entry[metric]):
            shares = _softmax(scores)
            yield f"metric/p_right{suffix}", shares[right]
            yield f"metric/brier{suffix}", sum((share - (i == right)) ** 2 for i, share in enumerate(shares))


def _softmax(scores: Sequence[float]) -> list[float]:
    highest = max(scores)
    powers = [math.exp(score - highest) for score in scores]
    return [power / sum(powers) for power in powers]


def graded_metrics(columns: dict[str, list[Any]], by_task: Collection[str] = ()) -> dict[str, Metric]:
    """Return the means of the graded outcomes that every item has. Chance level is that of equal probabilities.

    `by_task` names the accuracies that are means over the tasks of a group; so are then the outcomes that grade them.
    """
    sizes = [len(nats) if nats else 0 for nats in columns.get("loglikelihoods", [])]
    means = {}
    for name, higher in GRADED.items():
        values = columns.get(f"metric/{name}", [None])
        if None in values or 0 in sizes:
            continue
        guessed = [1 / size if higher else 1 - 1 / size for size in sizes]
        equal = ("acc_norm" if name.endswith("_norm") else "acc") in by_task
        tasks = columns["task"] if equal else [""] * len(values)
        means[name] = Metric(
            value=_mean(values, tasks),
            stderr=_standard_error(values, tasks),
            higher_is_better=higher,
            chance=_mean(guessed, tasks),
        )
    return means


def _mean(values: Sequence[float], tasks: Sequence[str]) -> float:
    """Return the mean over the tasks of the mean over their items."""
    return statistics.fmean(map(statistics.fmean, _of_tasks(values, tasks)))


def _standard_error(values: Sequence[float], tasks: Sequence[str]) -> float | None:
    """Return the standard error of `_mean`, as lm-eval's `unweighted_mean_stderr`; None where a task has one item."""
    parts = _of_tasks(values, tasks)
    if min(map(len, parts)) < 2:
        return None
    return math.sqrt(sum(statistics.variance(part) / len(part) for part in parts)) / len(parts)


def _of_tasks(values: Sequence[float], tasks: Sequence[str]) -> list[list[float]]:
    parts: dict[str, list[float]] = {}
    for value, task in zip(values, tasks, strict=True):
        parts.setdefault(task, []).append(value)
    return list(parts.values())


def _question(prompt: str) -> str:
    """Return the end of a prompt, without the few-shot examples before it, which blank lines separate."""
    last = prompt.rstrip().rpartition("\n\n")[2]
    return (last if len(last) > _SHORTEST_QUESTION else prompt)[-_LONGEST_QUESTION:].strip()


def num_unparsable(columns: dict[str, list[Any]]) -> int | None:
    """Return the number of items whose answer could not be extracted; None if the task extracts none.

    They count as wrong in lm-eval.
    """
    parsed = [value for value in columns.get("parsed", []) if value is not None]
    return sum(not value for value in parsed) if parsed else None


def chance(
    output_types: Sequence[str], columns: dict[str, list[Any]], by_task: Collection[str] = ()
) -> dict[str, float | None]:
    """Return the accuracies of guessing: the share of each item's choices that lm-eval counts as right, on average.

    Every task of a group weighs the same in those that `by_task` names, and otherwise every item. There is none unless
    every task is multiple choice by its `output_type`, and none gives a share of an item, as MC2 of TruthfulQA does: it
    is the probability of all true answers.
    """
    if not output_types or any(output_type != "multiple_choice" for output_type in output_types):
        return {}
    if any(value not in (None, 0, 1) for value in columns.get("metric/acc", [])):
        return {}
    return {name: _guessed(columns, name, name in by_task) for name in _ACCURACIES}


def _guessed(columns: dict[str, list[Any]], name: str, by_task: bool) -> float | None:
    """Return the accuracy of guessing on the items that have this accuracy."""
    sizes = [len(nats) if nats else 0 for nats in columns.get("loglikelihoods", [])]
    right = columns.get("num_right", [None] * len(sizes))  # of items with several right choices
    outcomes = columns.get(f"metric/{name}", [1] * len(sizes))  # of a filter's answers, all items
    rows = zip(sizes, right, columns["task"], outcomes, strict=True)
    shares = [
        ((1 if few is None else few) / size, task if by_task else "")
        for size, few, task, outcome in rows
        if size and outcome is not None
    ]
    return _mean(*zip(*shares, strict=True)) if shares else None


def means_over_tasks(result: dict[str, Any], task: str, columns: dict[str, list[Any]]) -> list[str]:
    """Return the accuracies of a group in a log that are means over its tasks and not over their items.

    A log does not say how its groups weigh their tasks (`weight_by_size`): the items tell it.
    """
    names = []
    for name in _ACCURACIES:
        stated, leaves = _scores(result, task).get(f"{name},none"), columns["task"]
        column = columns.get(f"metric/{name}", [None] * len(leaves))
        outcomes = [(value, task) for value, task in zip(column, leaves, strict=True) if value is not None]
        if outcomes and isinstance(stated, int | float):
            values, tasks = zip(*outcomes, strict=True)
            if abs(_mean(values, [""] * len(values)) - stated) > _ROUNDING >= abs(_mean(values, tasks) - stated):
                names.append(name)
    return names
