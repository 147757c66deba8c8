"""The texts of every item that a run is evaluated on, as lm-eval shows them to the model."""

from __future__ import annotations

from typing import Any

from harness.evaluate import tasks
from harness.records.settings import EvalSpec


def evaluation_items(spec: EvalSpec) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return (the items of each task, ignoring limits; the reasons why other tasks have none, by task)."""
    found: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for name in spec.tasks:
        try:
            loaded = tasks.load(name, spec.source, spec.path, spec.include_path, spec.unsafe_code)
            found[name] = [_text(leaf, doc) for leaf in loaded["tasks"].values() for doc in leaf.eval_docs]
        except ValueError as error:  # the check of the tasks reports it; here the set is listed as missing
            reasons[name] = " ".join(str(error).split())
    return found, reasons


def _text(task: Any, doc: dict[str, Any]) -> str:
    """Return the item as a prompt; if the task gives no text for it, return all texts of its row."""
    text = task.doc_to_text(doc)
    if isinstance(text, str) and text.strip():
        return text
    return " ".join(value for value in doc.values() if isinstance(value, str))
