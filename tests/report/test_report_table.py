"""The flat table, as CSV, Parquet and a frame: exactly the promised columns, raw numbers, empty for unknown."""

import csv
import io
import json

import pytest
from conftest import BASE, LOOKS, LORA, TASK_ITEMS, add_evaluation, add_run, evaluation
from pyarrow import parquet

from harness.report import frame
from harness.report.data.load import load
from harness.report.writers.parquet import write as write_parquet
from harness.report.writers.table import columns, flat, to_csv

FIXED = [
    "method", "seed", "status", "reason", "recipe_id", "trainable_parameters", "total_parameters", "peak_memory_bytes",
    "tokens_per_second", "train_seconds", "flops_per_second", "utilisation", "train_energy_joules", "device_hours",
    "tuning_device_hours", "cost", "timing_doubts", "validation_loss", "test_loss",
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


def test_parquet_holds_the_flat_table_with_its_types(tree, tmp_path):
    rows = load([tree], "methods").rows
    table = parquet.read_table(write_parquet(rows, tmp_path / "records.parquet"))
    assert table.column_names[:6] == ["label", "method", "seed", "status", "reason", "recipe_id"]
    assert table.num_rows == 9
    for name in columns(rows):
        assert table[name].to_pylist() == [line[name] for line in flat(rows)], name
    assert json.loads(table["recipe"][1].as_py()) == rows[1].record.recipe
    assert str(table.schema.field("peak_memory_bytes").type) == "int64"


def test_a_frame_has_one_row_per_run(tree):
    found = frame(tree, "methods")
    assert len(found) == 9
    assert found.loc[1, "label"] == "lora lr=3e-4"
    assert found["train_seconds"].isna().tolist() == [True, False, False, False, False, True, True, True, True]
    assert found.groupby("method")["arc_easy/acc"].mean()["ia3"] == pytest.approx(found.loc[4, "arc_easy/acc"])


def test_a_frame_has_one_row_per_run_and_item(tree):
    found = frame([str(tree)], "methods", items=True)
    assert len(found) == 5 * sum(TASK_ITEMS.values())
    assert not found.duplicated(["recipe_id", "seed", "eval_id", "item_id"]).any()
    runs = frame(tree, "methods").set_index(["recipe_id", "seed"])
    scores = found[found["task"] == "arc_easy"].groupby(["recipe_id", "seed"])["metric/acc"].mean()
    assert len(scores) == 5
    for run, value in scores.items():
        assert runs.loc[run, "arc_easy/acc"] == pytest.approx(value)
    losses = found[found["role"] == "test"].groupby(["recipe_id", "seed"])[["metric/nll", "num_tokens"]].sum()
    for run, line in losses.iterrows():
        assert runs.loc[run, "test_loss"] == pytest.approx(line["metric/nll"] / line["num_tokens"])


def test_a_frame_names_what_could_not_be_read(runs):
    items = add_evaluation(add_run(runs, LORA), LORA, LOOKS[2]).with_suffix(".parquet")
    items.write_bytes(b"PAR1")
    found = frame(runs, items=True)
    assert found.empty
    assert found.attrs["unreadable"][0].startswith(items.relative_to(runs).as_posix())
