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
from collections.abc import Iterator, Sequence
from typing import Any

from harness.records.evaluation import GRADED
from harness.records.items import clusters, text_hash
from harness.records.record import Metric

_SHORTEST_QUESTION, _LONGEST_QUESTION = 24, 1000  # characters that are recorded for people to read
# Fields of a task's rows that put items into one cluster, the narrowest first
_SHARED = ("passage", "article", "context", "story", "paragraph", "document", "subject")
_UNREADABLE = ("", "[invalid]")  # what lm-eval's filters give where they find no answer


def metrics(result: dict[str, Any], task: str, guessed: float | None = None) -> dict[str, Metric]:
    """Return the metrics of a task by name; `guessed` is the accuracy of guessing.

    The key `"acc,none"` of lm-eval becomes `acc`; `"exact_match,strict-match"` stays as it is.
    """
    scores = result["results"].get(task) or result["groups"][task]
    better = result["higher_is_better"].get(task, {})
    named = {}
    for key, value in ((key, _plain(value)) for key, value in scores.items()):
        name, _, selection = key.partition(",")
        if not selection or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = _plain(scores.get(f"{name}_stderr,{selection}"))
        named[name if selection == "none" else key] = Metric(
            value=float(value),
            stderr=float(stderr) if isinstance(stderr, int | float) else None,
            higher_is_better=bool(better.get(name, True)),
            chance=guessed if name in ("acc", "acc_norm") else None,
        )
    return named


def columns(samples: dict[str, list[dict[str, Any]]]) -> dict[str, list[Any]]:
    """Return the items of every leaf task, one row per item, with one column per metric and filter.

    If filters extract the answer from the generated text, the column `parsed` is True for items where one found it.
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
            item.update(_graded(item, entry))
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


def _graded(item: dict[str, Any], entry: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the graded outcomes of an item whose right choice is known, if they agree with lm-eval's verdict."""
    nats, right = item.get("loglikelihoods"), item.get("target_index")
    if nats is None or right is None:
        return
    lengths = [len(choice.removeprefix(" ")) for choice in item["choices"]]
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


def graded_metrics(columns: dict[str, list[Any]]) -> dict[str, Metric]:
    """Return the means of the graded outcomes that every item has. Chance level is that of equal probabilities."""
    sizes = [len(nats) if nats else 0 for nats in columns.get("loglikelihoods", [])]
    means = {}
    for name, higher in GRADED.items():
        values = columns.get(f"metric/{name}", [None])
        if None in values or 0 in sizes:
            continue
        guessed = [1 / size if higher else 1 - 1 / size for size in sizes]
        means[name] = Metric(
            value=statistics.fmean(values),
            stderr=statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
            higher_is_better=higher,
            chance=statistics.fmean(guessed),
        )
    return means


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


def chance(output_types: Sequence[str], columns: dict[str, list[Any]]) -> float | None:
    """Return the accuracy of guessing: the share of each item's choices that lm-eval counts as right, on average.

    None unless every task is multiple choice by its `output_type`, and none gives a share of an item, as MC2 of
    TruthfulQA does: it is the probability of all true answers.
    """
    if not output_types or any(output_type != "multiple_choice" for output_type in output_types):
        return None
    if any(value not in (None, 0, 1) for value in columns.get("metric/acc", [])):
        return None
    sizes = [len(nats) if nats else 0 for nats in columns.get("loglikelihoods", [])]
    right = columns.get("num_right", [None] * len(sizes))  # of items with several right choices
    shares = [(1 if few is None else few) / size for size, few in zip(sizes, right, strict=True) if size]
    return statistics.fmean(shares) if shares else None
