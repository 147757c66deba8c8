"""The official columns of rows that a package keeps under other names. Texts and answers are as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


def _truthfulqa(row: Row) -> Row:
    """truthfulqa/truthful_qa, multiple_choice: the right answer stands first."""
    labels = [int(label == row["answer"]) for label in row["labels"]]
    return {"question": row["question"], "mc1_targets": {"choices": row["choices"], "labels": labels}}


def _ifeval(row: Row) -> Row:
    """google/IFEval."""
    return {
        "key": int(row["task_id"].rpartition("/")[2]),
        "prompt": row["prompt"],
        "instruction_id_list": row["instruction_id_list"],
        "kwargs": row["kwargs"],
    }


def _boolq(row: Row) -> Row:
    """aps/super_glue, boolq."""
    number = int(row["task_id"].rpartition("/")[2])
    label = ("no", "yes").index(row["answer"])
    return {"question": row["question"], "passage": row["passage"], "idx": number, "label": label}


def _mbpp(row: Row) -> Row:
    """google-research-datasets/mbpp, full, without the published solution; what stands before three tests is setup."""
    lines = row["test"].split("\n")
    setup, tests = lines[:-3], lines[-3:]
    number = int(row["task_id"].rpartition("/")[2])
    return {
        "task_id": number, "text": row["prompt"], "test_list": tests, "test_setup_code": "\n".join(setup),
    }  # fmt: skip


OFFICIAL: dict[str, Callable[[Row], Row]] = {
    "truthfulqa": _truthfulqa,
    "ifeval": _ifeval,
    "boolq": _boolq,
    "mbpp": _mbpp,
}
