"""The flat table: exactly the promised columns, raw numbers, empty for unknown."""

import csv
import io

from conftest import BASE, LOOKS, LORA, add_evaluation, add_run, evaluation

from harness.report.load import load
from harness.report.table import columns, flat, to_csv

FIXED = [
    "method", "seed", "status", "reason", "recipe_id", "trainable_parameters", "total_parameters", "peak_memory_bytes",
    "tokens_per_second", "train_seconds", "validation_loss", "test_loss",
]  # fmt: skip


def test_the_columns_are_the_promised_ones(tree):
    text = to_csv(load([tree], "methods").rows)
    header = next(csv.reader(io.StringIO(text)))
    tasks = ["arc_easy/acc", "arc_easy/acc_norm", "hellaswag/acc", "hellaswag/acc_norm"]
    assert header == [*FIXED, *tasks]
    assert len(list(csv.DictReader(io.StringIO(text)))) == 9


def test_numbers_are_raw_and_unknown_is_empty(tree):
    rows = list(csv.DictReader(io.StringIO(to_csv(load([tree], "methods").rows))))
    lora, full, vera = rows[1], rows[5], rows[8]
    assert (lora["peak_memory_bytes"], lora["trainable_parameters"]) == (str(1400 * 2**20), "4884480")
    assert float(lora["tokens_per_second"]) == 185.0
    assert (full["status"], full["train_seconds"], full["test_loss"]) == ("oom", "", "")
    assert (vera["status"], vera["reason"][:9]) == ("", "no record")
    assert rows[6]["reason"].startswith("</td><script>")
    assert rows[0]["train_seconds"] == ""


def test_a_limit_is_named_only_where_one_task_has_several(runs):
    folder = add_run(runs, LORA)
    add_evaluation(folder, LORA, evaluation("hellaswag"))
    add_evaluation(folder, LORA, evaluation("arc_easy"))
    assert columns(load([runs]).rows)[len(FIXED) :] == (
        "arc_easy/acc", "arc_easy/acc_norm", "hellaswag/acc", "hellaswag/acc_norm",
    )  # fmt: skip
    add_evaluation(folder, LORA, evaluation("arc_easy", limit=50))
    assert columns(load([runs]).rows)[len(FIXED) :] == (
        "arc_easy[limit=50]/acc", "arc_easy[limit=50]/acc_norm", "arc_easy[limit=300]/acc",
        "arc_easy[limit=300]/acc_norm", "hellaswag/acc", "hellaswag/acc_norm",
    )  # fmt: skip


def test_rows_that_differ_in_few_shot_say_so(runs):
    folder = add_run(runs, BASE)
    for look in (*LOOKS, evaluation("arc_easy", num_fewshot=5)):
        add_evaluation(folder, BASE, look)
    table = flat(load([runs]).rows)
    assert [row["arc_easy/num_fewshot"] for row in table] == [5, 0]
    assert [row["hellaswag/acc"] is None for row in table] == [True, False]
    assert table[0]["validation_loss"] == table[1]["validation_loss"] is not None
